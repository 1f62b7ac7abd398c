"""RL2R on TRL's `GRPOTrainer`.

TRL carries the loop: optimizer, schedule, LoRA, mixed precision, several devices, checkpoints, logging. What RL2R
needs is overridden here, and read from top to bottom it is the method: batches whose comparisons stay within a data
set, K responses for each image from a prompt that is encoded once, rewards from all devices' scores (Eq. 1-3),
advantages (Eq. 4), packed objective (Eq. 5-6).

Where this departs from the paper: the answer of an unreadable response is never replaced by a number (its fidelity and
format reward are 0); comparisons see the images of all devices, unless `compare_within` bounds them; each batch is used
for one update, so that the ratio of Eq. 5 is 1 and nothing is clipped, as in the authors' code.
"""

import logging
import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.models.utils import prepare_deepspeed

from .. import response, rl2r
from ..models.generate import Completion, decode, eos_token_ids, prefill, sample_completions
from ..models.prompt import collate, pad
from ..seeds import uniform_streams
from .adapters import as_it_started
from .base import RunTrainer
from .examples import Example, PromptEncoder
from .logs import Answers, write_answers
from .packed import packed_log_probabilities
from .recipe import Recipe
from .ref_model import frozen_twin, take_weights

log = logging.getLogger(__name__)

# After so many steps in a row without a readable answer, the log says that something is wrong.
UNREADABLE_STEPS = 5


class RL2RTrainer(RunTrainer, GRPOTrainer):
    """Trains by RL2R, and appends each step's answers to `samples.jsonl`, and those about probes to `probes.jsonl`."""

    def __init__(
        self,
        recipe: Recipe,
        examples: list[Example],
        order: list[tuple[int, int]],
        encode: PromptEncoder,
        **kwargs: Any,
    ):
        self.settings = recipe.rl2r
        # The same for every image: scores can only be compared when the question was the same.
        self.question = response.prompt_text(
            recipe.prompt, recipe.reasoning, reference=recipe.reference
        )
        self._unreadable_steps = 0  # in a row
        # Under LoRA the policy that it started from is a matter of its adapters, and no copy of the model is needed.
        ref_model = None
        if self.settings.kl_weight > 0 and recipe.lora is None:
            # Copied before TRL patches the policy's forward: a copy of the patched one would call the policy's.
            ref_model = frozen_twin(encode.vlm.model)
        super().__init__(
            recipe,
            examples,
            order,
            encode,
            # TRL wants a reward function, but never calls it, since `_prepare_inputs` is overridden: TRL gives a
            # function the responses of one process, and RL2R compares those of all.
            reward_funcs=[rl2r.total_reward],
            **kwargs,
        )
        self.eos = eos_token_ids(self.vlm.model, self.vlm.processor)
        on_cpu = self.accelerator.device.type == "cpu"
        # DeepSpeed moves each weight to the GPU by itself. Elsewhere the policy is on its device by now, so that a copy
        # is made there, and the machine's memory holds one model a process and not two.
        if ref_model is not None and (on_cpu or not self.is_deepspeed_enabled):
            take_weights(ref_model, encode.vlm.model)
        # On its device, and sharded where the policy is.
        if ref_model is not None and self.is_deepspeed_enabled:
            ref_model = prepare_deepspeed(ref_model, self.accelerator)
        elif ref_model is not None:
            ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        # Not named `ref_model`: that is an attribute of TRL's, which stays None here.
        self.ref_policy: Any = ref_model

    # Batches: each row is an image (TRL's rows are responses). Those that are compared are of one data set.

    def get_train_dataloader(self) -> DataLoader:
        images = self.recipe.optimizer.images_per_device * self.args.gradient_accumulation_steps
        return self._get_dataloader(
            dataset=self.train_dataset,  # type: ignore[arg-type]
            description="Training",
            batch_size=images,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL calls this for each part of an accumulated batch; the whole of it is rolled out at its first part."""
        turn = self._step % self.args.gradient_accumulation_steps
        if turn == 0:
            examples = [self.examples[row["row"]] for row in generation_batch]
            self._micro_batches = self._roll_out(examples)
        return self._micro_batches[turn]

    # A step.

    @torch.no_grad()
    def _roll_out(self, examples: list[Example]) -> list[dict[str, Any]]:
        """K responses for each image, their rewards and advantages; a dictionary for each `images_per_device`."""
        started = time.perf_counter()
        size = self.recipe.optimizer.images_per_device
        module: Any = self.model
        batches, answers = [], []
        with self.answering() as policy:
            self._score_probes(policy)
            for start in range(0, len(examples), size):
                # A resumed run is at the same step, and so draws what the uninterrupted one drew.
                stream = str(self.state.global_step)
                batch, read = self._sample(policy, examples[start : start + size], stream)
                batches.append(batch)
                answers += read
        generated = time.perf_counter()
        # While the model is in evaluation mode: the frozen policy's numbers are without dropout, too.
        for batch in batches:
            batch["ref_logp"] = self._ref_logp(batch)
        module.train()
        for batch, part in zip(batches, self._advantages(answers).split(size), strict=True):
            batch["advantages"] = part.flatten()
        self.log_metrics({"seconds/generate": generated - started})
        self.log_metrics({"seconds/rollout": time.perf_counter() - started})
        return batches

    def _score_probes(self, policy: PreTrainedModel) -> None:
        """Every process scores all probes, as all must take part where weights are sharded; the first one writes."""
        step, size = self.state.global_step, self.recipe.optimizer.images_per_device
        if step % self.recipe.probe_every:
            return
        for start in range(0, len(self.probes), size):
            # Always the same random numbers, so that only the weights make answers differ along the run.
            _, answers = self._sample(policy, self.probes[start : start + size], "probe")
            if self.accelerator.is_main_process:
                for each in answers:
                    file = self.recipe.output / "probes.jsonl"
                    write_answers(file, step, [each], texts=each.texts)

    def _sample(
        self, policy: PreTrainedModel, examples: list[Example], stream: str
    ) -> tuple[dict[str, Any], list[Answers]]:
        """K responses for each image: the tensors that the update needs, and what was answered.

        The random numbers depend on the seed, the image and `stream`.
        """
        pad_token_id, device = self._tokenizer.pad_token_id, self.accelerator.device
        prompts = collate(self.encode([(e.images, self.question) for e in examples]), pad_token_id)
        prompts = prompts.to(device)
        uniforms = uniform_streams(
            self.recipe.seed,
            [f"{stream}/{e.key}" for e in examples],
            self.settings.responses,
            self.settings.max_new_tokens,
        )
        with self.accelerator.autocast():
            groups = sample_completions(
                prefill(policy, prompts),
                uniforms=uniforms,
                temperature=self.settings.temperature,
                top_k=self.settings.top_k,
                eos_token_ids=self.eos,
            )
        rows = [torch.tensor(completion.ids) for group in groups for completion in group]
        ids = pad(rows, pad_token_id, side="right")
        # Not read from the ids: a model may use one token to pad and to end a response.
        mask = pad([torch.ones_like(row) for row in rows], 0, side="right")
        batch = {
            "prompts": prompts,
            "completion_ids": ids.view(len(examples), self.settings.responses, -1).to(device),
            "completion_mask": mask.to(device),
        }
        return batch, [self._read(*pair) for pair in zip(examples, groups, strict=True)]

    def _read(self, example: Example, completions: list[Completion]) -> Answers:
        texts = [self.opening + decode(self.vlm.processor, each) for each in completions]
        reading = self.settings.reading
        scores = [response.READINGS[reading](text).score for text in texts]
        if self.recipe.reasoning:
            well_formed = [response.well_formed(text, reading) for text in texts]
        else:  # there is no form to keep but the answer's
            well_formed = [score is not None for score in scores]
        tokens = [len(completion.ids) for completion in completions]
        return Answers(example, texts, scores, well_formed, tokens)

    def _logp(self, model: Any, batch: dict[str, Any]) -> Float[Tensor, "bk c"]:
        # A wrapped model (DDP, DeepSpeed) must be called as a whole, but only the bare one tells positions, and has
        # the head that is used: `model` may be the frozen policy.
        core = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            return packed_log_probabilities(
                model, core, batch["prompts"], batch["completion_ids"], self.settings.temperature
            ).flatten(0, 1)

    def _ref_logp(self, batch: dict[str, Any]) -> Float[Tensor, "bk c"] | None:
        """Log-probabilities under the policy that training started from, for the KL term; None without one."""
        if self.settings.kl_weight == 0:
            return None
        if self.ref_policy is not None:
            return self._logp(self.ref_policy, batch)
        policy = self.accelerator.unwrap_model(self.model)
        with as_it_started(policy):
            return self._logp(policy, batch)

    def _advantages(self, own: list[Answers]) -> Float[Tensor, "images k"]:
        """Eq. 1-4 (rl2r.total_reward, rl2r.advantage) on the answers of all processes; this one's are returned."""
        # In rank order, which is the order of the sampler: the same on every process.
        answers = gather_object(own)
        # In float64: two equal rewards must stay equal, since Eq. 4 divides by their deviation. None becomes NaN.
        scores = torch.from_numpy(np.array([each.scores for each in answers], dtype=np.float64))
        mos = torch.tensor([each.example.mos for each in answers], dtype=torch.float64)
        well_formed = torch.tensor([each.well_formed for each in answers])
        tokens = torch.tensor([each.tokens for each in answers], dtype=torch.float64)
        names = [each.example.dataset for each in answers]
        datasets = torch.from_numpy(np.unique(names, return_inverse=True)[1])
        groups = rl2r.comparison_groups(datasets, self.settings.compare_within)
        rewards, ranking = rl2r.total_reward(
            scores, mos, groups, well_formed, tokens, self.settings
        )
        self._log_rewards(scores, ranking, well_formed, rewards)
        if self.accelerator.is_main_process:
            self._write_samples(answers, rewards)
        first = self.accelerator.process_index * len(own)
        weight = rl2r.variance_weight(scores, self.settings.variance_weight)
        advantages = (rl2r.advantage(rewards) * weight)[first : first + len(own)]
        return advantages.float().to(self.accelerator.device)

    def _write_samples(self, answers: list[Answers], rewards: Tensor) -> None:
        """A line for each data set of the step."""
        earned = [[round(r, 6) for r in row] for row in rewards.tolist()]
        for name in dict.fromkeys(each.example.dataset for each in answers):
            rows = [i for i, each in enumerate(answers) if each.example.dataset == name]
            write_answers(
                self.recipe.output / "samples.jsonl",
                self.state.global_step + 1,
                [answers[i] for i in rows],
                rewards=[earned[i] for i in rows],
                texts=answers[rows[0]].texts,  # those of one image, to keep the file small
            )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Eq. 5 with Eq. 6 (rl2r.policy_objective)."""
        logp = self._logp(model, inputs)
        # The update follows its rollout at once, so the policy that wrote the responses is this one: the ratio is 1.
        result = rl2r.policy_objective(
            logp,
            logp.detach(),
            inputs["ref_logp"],
            inputs["advantages"],
            inputs["completion_mask"],
            epsilon=self.settings.clip,
            beta=self.settings.kl_weight,
        )
        tokens = inputs["completion_mask"].sum(-1).float().mean()
        for name, value in (("kl", result.kl), ("completion_tokens", tokens)):
            self.log_metrics({name: self.accelerator.gather(value).mean()})
        self.check_loss(result.loss)
        # TRL's trainer, unlike transformers' own, does not divide by the accumulation.
        return result.loss / self.current_gradient_accumulation_steps

    # Logs.

    def _log_rewards(
        self, scores: Tensor, ranking: Tensor, well_formed: Tensor, rewards: Tensor
    ) -> None:
        unreadable = scores.isnan()
        self._unreadable_steps = self._unreadable_steps + 1 if unreadable.all() else 0
        if self._unreadable_steps == UNREADABLE_STEPS:
            log.warning(
                "not one answer of the last %d steps could be read, so there is nothing to learn from: stop, teach the "
                "model the form first (method: sft), or give it more max_new_tokens",
                UNREADABLE_STEPS,
            )
        mean, variance = rl2r.sample_moments(scores)
        several = (~unreadable).sum(1) > 1  # one readable answer has no standard deviation
        self.log_metrics(
            {
                "reward": rewards.mean(),
                f"reward/{self.settings.reward}": ranking.mean(),
                "reward/format": well_formed.double().mean(),
                "reward_std": rewards.std(1).mean(),
                "readable": 1 - unreadable.double().mean(),
                "score_mean": mean.nanmean(),
                "score_std": variance[several].sqrt().mean(),
            }
        )
