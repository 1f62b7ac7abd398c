"""RL2R on TRL's `GRPOTrainer`.

TRL carries the loop: optimizer, schedule, LoRA, mixed precision, several devices, checkpoints, logging. What RL2R
needs is overridden here, and read from top to bottom it is the method: batches of one data set, K responses for each
image from a prompt that is encoded once, rewards from all devices' scores (Eq. 1-3), advantages (Eq. 4), packed
objective (Eq. 5-6).

Where this departs from the paper: the answer of an unreadable response is never replaced by a number (its fidelity and
format reward are 0); comparisons see the images of all devices; each batch is used for one update, so that the ratio of
Eq. 5 is 1 and nothing is clipped, as in the authors' code.
"""

import copy
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import prepare_deepspeed

from .. import response, rl2r
from ..io import append_jsonl
from ..models.generate import Completion, decode, eos_token_ids, prefill, sample_completions
from ..models.load import VisionLanguageModel
from ..models.prompt import collate, pad
from ..seeds import uniform_streams
from .examples import Example, FeatureCache, PromptEncoder
from .logs import Probes, step_record
from .packed import packed_log_probabilities
from .recipe import Recipe
from .resume import ExactResume
from .supervised import order_dataset

log = logging.getLogger(__name__)

UNREADABLE_STEPS = 5  # in a row: then something is wrong, and the user is told


class RL2RTrainer(ExactResume, GRPOTrainer):
    """Trains `vlm` on `examples` as `recipe` says, in the `order` of `run_order`.

    `samples` is the file that each step's responses are appended to.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        examples: list[Example],
        recipe: Recipe,
        order: list[tuple[int, int]],
        args: GRPOConfig,
        samples: Path,
        probes: Probes | None,
        cache: FeatureCache | None,
        **kwargs: Any,
    ):
        self.settings, self.recipe, self.samples, self.probes = recipe.rl2r, recipe, samples, probes
        self.examples = examples
        # The same for every image: an image is compared with others under one question.
        self.question = response.prompt_text(
            recipe.prompt, recipe.reasoning, reference=recipe.reference
        )
        self.encode = PromptEncoder(vlm, cache)
        self.vlm = vlm
        self._unreadable_steps = 0  # in a row
        # Under LoRA the policy without its adapter is the one it started from, and no copy is needed.
        frozen = None
        if self.settings.kl_weight > 0 and recipe.lora is None:
            # Copied before TRL patches the policy's forward: a copy of the patched one would call the policy's.
            frozen = copy.deepcopy(vlm.model).requires_grad_(False).eval()
        super().__init__(
            model=vlm.model,
            # TRL scores its own process's responses; ours needs those of all (see `_advantages`).
            reward_funcs=[_not_called],  # type: ignore[list-item]  # list[float] is a list[float | None]
            args=args,
            train_dataset=order_dataset(order),
            processing_class=vlm.processor,
            **kwargs,
        )
        self.eos = eos_token_ids(vlm.model, vlm.processor)
        self.ref_policy = None if frozen is None else self._place(frozen)

    def _place(self, frozen: PreTrainedModel) -> Any:
        """The frozen copy of the starting policy, on its device, or sharded as the policy is."""
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(frozen, self.accelerator)
        return self.accelerator.prepare_model(frozen, evaluation_mode=True)

    # Batches: each row is an image (TRL's rows are responses), and all that are compared are of one data set.

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
            self._micro_batches = self._roll_out(
                [self.examples[row["row"]] for row in generation_batch]
            )
        return self._micro_batches[turn]

    # A step.

    @torch.no_grad()
    def _roll_out(self, examples: list[Example]) -> list[dict[str, Any]]:
        """K responses for each image, their rewards and advantages; a dictionary for each `images_per_device`."""
        started = time.perf_counter()
        size = self.recipe.optimizer.images_per_device
        module: Any = self.model
        # Without dropout, and with a cache, which gradient checkpointing forbids in training mode.
        module.eval()
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as policy:
            self._score_probes(policy)
            batches = [
                self._sample(policy, examples[i : i + size]) for i in range(0, len(examples), size)
            ]
        generated = time.perf_counter()
        # While the model is in evaluation mode: the frozen policy's numbers are without dropout, too.
        for batch in batches:
            batch["ref_logp"] = self._ref_logp(batch)
        module.train()
        texts = [text for batch in batches for text in batch.pop("texts")]
        truncated = [flag for batch in batches for flag in batch.pop("truncated")]
        lengths = torch.cat([batch["completion_mask"].sum(-1) for batch in batches])
        advantages = self._advantages(examples, texts, truncated, lengths)
        for batch, part in zip(batches, advantages.split(size), strict=True):
            batch["advantages"] = part
        self._log_metric("seconds/generate", generated - started)
        self._log_metric("seconds/rollout", time.perf_counter() - started)
        return batches

    def _score_probes(self, policy: PreTrainedModel) -> None:
        """Every process scores all probes, as all must take part where weights are sharded; the first one writes."""
        step, size = self.state.global_step, self.recipe.optimizer.images_per_device
        if self.probes is None or step % self.recipe.probe_every:
            return
        k = self.settings.responses
        for start in range(0, len(self.probes.examples), size):
            part = self.probes.examples[start : start + size]
            texts = self._sample(policy, part, draw="probe")["texts"]
            if self.accelerator.is_main_process:
                for index, example in enumerate(part):
                    own = texts[index * k : (index + 1) * k]
                    scores = [response.read(text).score for text in own]
                    self.probes.write(step, example, scores, own)

    def _sample(
        self, policy: PreTrainedModel, examples: list[Example], draw: str | None = None
    ) -> dict[str, Any]:
        """K responses for each image, and what the update needs of them.

        draw: what the random streams depend on beside seed and image; by default the step. Probes always have the same.
        """
        pad_token_id = self._tokenizer.pad_token_id
        prompts = collate(self.encode([(e.images, self.question) for e in examples]), pad_token_id)
        prompts = prompts.to(self.accelerator.device)
        # By step and image: a resumed run draws what the uninterrupted one drew.
        name = str(self.state.global_step) if draw is None else draw
        uniforms = uniform_streams(
            self.recipe.seed,
            [f"{name}/{e.key}" for e in examples],
            self.settings.responses,
            self.settings.max_new_tokens,
        )
        with self.accelerator.autocast():
            groups = sample_completions(
                prefill(policy, prompts),
                uniforms=uniforms,
                temperature=self.settings.temperature,
                eos_token_ids=self.eos,
            )
        flat: list[Completion] = [completion for group in groups for completion in group]
        ids = pad([torch.tensor(c.ids) for c in flat], pad_token_id, side="right")
        mask = pad([torch.ones(len(c.ids), dtype=torch.long) for c in flat], 0, side="right")
        shape, device = (len(examples), self.settings.responses, -1), self.accelerator.device
        return {
            "prompts": prompts,
            "completion_ids": ids.view(shape).to(device),
            "completion_mask": mask.view(shape).to(device),
            "texts": [decode(self.vlm.processor, c) for c in flat],
            "truncated": [c.truncated for c in flat],
        }

    def _logp(self, model: Any, batch: dict[str, Any]) -> Float[Tensor, "b k c"]:
        # A wrapped model (DDP, DeepSpeed) must be called as a whole, but only the bare one tells positions.
        core = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            return packed_log_probabilities(
                model, core, batch["prompts"], batch["completion_ids"], self.settings.temperature
            )

    def _ref_logp(self, batch: dict[str, Any]) -> Float[Tensor, "b k c"] | None:
        """Log-probabilities under the policy that training started from, for the KL term; None without one."""
        if self.settings.kl_weight == 0:
            return None
        if self.ref_policy is not None:
            return self._logp(self.ref_policy, batch)
        policy = self.accelerator.unwrap_model(self.model)
        with policy.disable_adapter():
            return self._logp(policy, batch)

    def _advantages(
        self,
        examples: list[Example],
        texts: list[str],
        truncated: list[bool],
        lengths: Int[Tensor, "images k"],
    ) -> Float[Tensor, "images k"]:
        """Eq. 1-4 (rl2r.total_reward, rl2r.advantage) on the responses of all processes; this one's are returned."""
        k = self.settings.responses
        scores, well_formed = [], []
        for text, cut_off in zip(texts, truncated, strict=True):
            score = response.read(text, truncated=cut_off).score
            scores.append(float("nan") if score is None else score)
            # Without reasoning there is no form to keep but the answer's.
            formed = response.well_formed(text) if self.recipe.reasoning else score is not None
            well_formed.append(formed)
        own = [
            (example, scores[i * k : (i + 1) * k], well_formed[i * k : (i + 1) * k], tokens)
            for i, (example, tokens) in enumerate(zip(examples, lengths.tolist(), strict=True))
        ]
        # In rank order, which is the order of the sampler: the same on every process.
        rows = gather_object(own)
        everyone = [row[0] for row in rows]
        all_scores = torch.tensor([row[1] for row in rows], dtype=torch.float64)
        all_formed = torch.tensor([row[2] for row in rows])
        all_tokens = torch.tensor([row[3] for row in rows], dtype=torch.float64)
        mos = torch.tensor([e.mos for e in everyone], dtype=torch.float64)
        # A batch is of one data set; groups, where the recipe asks for them, take the place of data sets.
        groups = torch.zeros(len(everyone), dtype=torch.long)
        if self.settings.compare_within is not None:
            groups = torch.arange(len(everyone)) // self.settings.compare_within
        rewards, ranking = rl2r.total_reward(
            all_scores, mos, groups, all_formed, all_tokens, self.settings
        )
        self._log_rewards(all_scores, ranking, all_formed, rewards)
        self._write_samples(everyone, all_scores, rewards, gather_object(texts))
        # In float64 up to here: two equal rewards must stay equal, since Eq. 4 divides by their deviation.
        first = self.accelerator.process_index * len(examples)
        advantages = rl2r.advantage(rewards)[first : first + len(examples)]
        return advantages.float().to(self.accelerator.device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Eq. 5 with Eq. 6 (rl2r.policy_objective)."""
        logp = self._logp(model, inputs).flatten(0, 1)
        ref_logp = inputs["ref_logp"]
        # The update follows its rollout at once, so the policy that wrote the responses is this one: the ratio is 1.
        result = rl2r.policy_objective(
            logp,
            logp.detach(),
            None if ref_logp is None else ref_logp.flatten(0, 1),
            inputs["advantages"].flatten(),
            inputs["completion_mask"].flatten(0, 1),
            epsilon=self.settings.clip,
            beta=self.settings.kl_weight,
        )
        lengths = inputs["completion_mask"].sum(-1).float()
        self._log_metric("kl", self.accelerator.gather(result.kl).mean().item())
        self._log_metric("completion_tokens", self.accelerator.gather(lengths.mean()).mean().item())
        if not result.loss.isfinite():
            raise FloatingPointError(
                f"the loss is {result.loss.item()} at step {self.state.global_step}"
            )
        # TRL's trainer, unlike transformers' own, does not divide by the accumulation.
        return result.loss / self.current_gradient_accumulation_steps

    # Logs.

    def _log_metric(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _log_rewards(
        self, scores: Tensor, ranking: Tensor, well_formed: Tensor, rewards: Tensor
    ) -> None:
        self._unreadable_steps = self._unreadable_steps + 1 if scores.isnan().all() else 0
        if self._unreadable_steps == UNREADABLE_STEPS:
            log.warning(
                "not one answer of the last %d steps could be read, so there is nothing to learn from: stop, teach the "
                "model the form first (method: sft), or give it more max_new_tokens",
                UNREADABLE_STEPS,
            )
        mean, variance = rl2r.sample_moments(scores)
        several = (~scores.isnan()).sum(1) > 1  # one readable answer has no standard deviation
        self._log_metric("reward", rewards.mean().item())
        self._log_metric(f"reward/{self.settings.reward}", ranking.mean().item())
        self._log_metric("reward/format", well_formed.double().mean().item())
        self._log_metric("reward_std", rewards.std(1).mean().item())
        self._log_metric("readable", 1 - scores.isnan().double().mean().item())
        self._log_metric("score_mean", mean.nanmean().item())
        self._log_metric("score_std", variance[several].sqrt().mean().item())

    def _write_samples(
        self, examples: list[Example], scores: Tensor, rewards: Tensor, texts: list[str]
    ) -> None:
        """One line a step: every score and reward, and the words of the first image's responses."""
        if self.accelerator.is_main_process:
            record = step_record(
                self.state.global_step + 1,
                examples,
                [
                    [None if s != s else s for s in row] for row in scores.tolist()
                ],  # NaN: unreadable
                rewards=[[round(r, 6) for r in row] for row in rewards.tolist()],
                texts=texts[: self.settings.responses],
            )
            append_jsonl(self.samples, record)


def _not_called(**kwargs: Any) -> list[float]:
    """TRL wants a reward function; RL2R's rewards are those of a batch, see `_advantages`."""
    raise AssertionError("rewards are computed by RL2RTrainer._advantages")
