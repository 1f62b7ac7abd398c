"""RL2R on TRL's `GRPOTrainer`.

TRL carries the loop: optimizer, schedule, LoRA, mixed precision, several devices, checkpoints, logging. What RL2R
needs is overridden here, and read from top to bottom it is the method: batches of one data set, K responses for each
image from a prompt that is encoded once, rewards from all devices' scores (Eq. 1-3, rl2r.total_reward), advantages
(Eq. 4, rl2r.advantage), packed objective (Eq. 5-6, rl2r.policy_objective).

Where this departs from the paper: the answer of an unreadable response is never replaced by a number (its fidelity and
format reward are 0); comparisons see the images of all devices; each batch is used for one update, so that the ratio of
Eq. 5 is 1 and the clip idle, as in the authors' code.
"""

import copy
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import prepare_deepspeed

from .. import response, rl2r
from ..models.encode import collate, pad_right
from ..models.generate import (
    Completion,
    decode,
    eos_token_ids,
    prefill,
    random_streams,
    sample_completions,
)
from ..models.load import VisionLanguageModel
from .examples import Example, PromptEncoder
from .packed import packed_log_probabilities
from .probes import Probes
from .recipe import Recipe
from .resume import ExactResume

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
        names: list[str],
        recipe: Recipe,
        order: list[tuple[int, int]],
        args: GRPOConfig,
        samples: Path,
        probes: Probes | None = None,
        **kwargs: Any,
    ):
        self.settings, self.recipe, self.samples, self.probes = recipe.rl2r, recipe, samples, probes
        self.examples, self.dataset_names = examples, names
        self.question = response.prompt_text(
            recipe.prompt, recipe.reasoning, reference=recipe.reference
        )
        self.encode = PromptEncoder(vlm, remember=recipe.freeze_vision)
        self.vlm = vlm
        self._unreadable_steps = 0  # in a row
        # Copied before TRL patches the policy's forward: a copy of the patched one would call the policy's.
        frozen = self.settings.kl_weight > 0 and recipe.lora is None
        reference = copy.deepcopy(vlm.model).requires_grad_(False).eval() if frozen else None
        super().__init__(
            model=vlm.model,
            reward_funcs=[_not_called],  # type: ignore[list-item]  # list[float] is a list[float | None]
            args=args,
            train_dataset=Dataset.from_dict({"row": [row for row, _ in order]}),
            processing_class=vlm.processor,
            **kwargs,
        )
        self.eos = eos_token_ids(vlm.model, vlm.processor)
        self.reference = self._place(reference)

    def _place(self, reference: PreTrainedModel | None) -> Any:
        """The frozen copy of the starting policy, on its device; under LoRA there is none (see below)."""
        if reference is None:
            return None
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    # Batches: each row is an image (TRL's rows are responses), and all that are compared are of one data set.

    def _images_per_device(self) -> int:
        return self.recipe.optimizer.images_per_device * self.args.gradient_accumulation_steps

    def get_train_dataloader(self) -> DataLoader:
        return self._get_dataloader(
            dataset=self.train_dataset,  # type: ignore[arg-type]
            description="Training",
            batch_size=self._images_per_device(),
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
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
        module.eval()  # without dropout, and with a cache, which gradient checkpointing forbids in training mode
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as policy:
            self._ask_probes(policy)
            batches = [
                self._sample(policy, examples[i : i + size]) for i in range(0, len(examples), size)
            ]
        generated = time.perf_counter()
        for batch in batches:
            batch["reference"] = self._reference_log_probabilities(batch)
        module.train()
        texts = [text for batch in batches for text in batch.pop("texts")]
        truncated = [flag for batch in batches for flag in batch.pop("truncated")]
        lengths = torch.cat([batch["completion_mask"].sum(-1) for batch in batches])
        advantages = self._advantages(examples, texts, truncated, lengths)
        for batch, part in zip(batches, advantages.split(size), strict=True):
            batch["advantages"] = part
        self._watch("seconds/generate", generated - started)
        self._watch("seconds/rollout", time.perf_counter() - started)
        return batches

    def _ask_probes(self, policy: PreTrainedModel) -> None:
        """Every process asks all of them, as all must take part where weights are sharded; the first one writes."""
        step, size = self.state.global_step, self.recipe.optimizer.images_per_device
        if self.probes is None or step % self.recipe.probe_every:
            return
        for at in range(0, len(self.probes.examples), size):
            part = self.probes.examples[at : at + size]
            texts = self._sample(policy, part, draw="probe")["texts"]
            if self.accelerator.is_main_process:
                self.probes.write(step, part, texts)

    def _sample(
        self, policy: PreTrainedModel, examples: list[Example], draw: str | None = None
    ) -> dict[str, Any]:
        """K responses for each image, and what the update needs of them. Probes are always asked with one `draw`."""
        pad = self._tokenizer.pad_token_id
        prompts = collate(self.encode([(e.images, self.question) for e in examples]), pad)
        prompts = {k: v.to(self.accelerator.device) for k, v in prompts.items()}
        uniforms = random_streams(
            self.recipe.seed,
            [f"{self.state.global_step if draw is None else draw}/{e.key}" for e in examples],
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
        shape = (len(examples), self.settings.responses, -1)
        ids = pad_right([torch.tensor(c.ids) for c in flat], pad).view(shape)
        mask = pad_right([torch.ones(len(c.ids), dtype=torch.long) for c in flat], 0).view(shape)
        return {
            "prompts": prompts,
            "completion_ids": ids.to(self.accelerator.device),
            "completion_mask": mask.to(self.accelerator.device),
            "texts": [decode(self.vlm.processor, c) for c in flat],
            "truncated": [c.truncated for c in flat],
        }

    def _log_probabilities(self, model: Any, batch: dict[str, Any]) -> Tensor:
        core = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            return packed_log_probabilities(
                model, core, batch["prompts"], batch["completion_ids"], self.settings.temperature
            )

    def _reference_log_probabilities(self, batch: dict[str, Any]) -> Tensor | None:
        if self.settings.kl_weight == 0:
            return None
        if self.reference is not None:
            return self._log_probabilities(self.reference, batch)
        policy = self.accelerator.unwrap_model(self.model)
        with (
            policy.disable_adapter()
        ):  # LoRA: without its adapter the policy is the one it started from
            return self._log_probabilities(policy, batch)

    def _advantages(
        self,
        examples: list[Example],
        texts: list[str],
        truncated: list[bool],
        lengths: Int[Tensor, "images k"],
    ) -> Float[Tensor, "images k"]:
        """Eq. 1-4 (rl2r.total_reward, rl2r.advantage) on the responses of all processes; returns those of this one."""
        k = self.settings.responses
        read = [response.read(t, truncated=c) for t, c in zip(texts, truncated, strict=True)]
        nan = float("nan")
        scores = torch.tensor(
            [nan if r.score is None else r.score for r in read], dtype=torch.float64
        ).view(-1, k)
        if self.recipe.reasoning:
            formed = torch.tensor([response.well_formed(t) for t in texts]).view(-1, k)
        else:
            formed = ~scores.isnan()
        rows = gather_object(
            list(zip(examples, scores.tolist(), formed.tolist(), lengths.tolist(), strict=True))
        )  # rank order, which is the order of the sampler: the same on every process
        everyone = [row[0] for row in rows]
        scores = torch.tensor([row[1] for row in rows], dtype=torch.float64)
        formed = torch.tensor([row[2] for row in rows])
        tokens = torch.tensor([row[3] for row in rows], dtype=torch.float64)
        mos = torch.tensor([e.mos for e in everyone], dtype=torch.float64)
        datasets = torch.tensor([e.dataset for e in everyone])
        if (
            self.settings.compare_within is not None
        ):  # every batch is of one data set: groups take its place
            datasets = torch.arange(len(everyone)) // self.settings.compare_within
        rewards, ranking = rl2r.total_reward(scores, mos, datasets, formed, tokens, self.settings)
        self._watch_rewards(scores, ranking, formed, rewards)
        self._write_samples(everyone, scores, rewards, gather_object(texts))
        own = slice(self.accelerator.process_index * len(examples), None)
        return rl2r.advantage(rewards)[own][: len(examples)].float().to(self.accelerator.device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Eq. 5 with Eq. 6 (rl2r.policy_objective)."""
        log_p = self._log_probabilities(model, inputs).flatten(0, 1)
        reference = inputs["reference"]
        result = rl2r.policy_objective(
            log_p,
            log_p.detach(),
            None if reference is None else reference.flatten(0, 1),
            inputs["advantages"].flatten(),
            inputs["completion_mask"].flatten(0, 1),
            epsilon=self.settings.clip,
            beta=self.settings.kl_weight,
        )
        self._watch("kl", self.accelerator.gather(result.kl).mean().item())
        lengths = inputs["completion_mask"].sum(-1).float()
        self._watch("completion_tokens", self.accelerator.gather(lengths.mean()).mean().item())
        if not result.loss.isfinite():
            raise FloatingPointError(
                f"the loss is {result.loss.item()} at step {self.state.global_step}"
            )
        return result.loss / self.current_gradient_accumulation_steps

    # What a person watches.

    def _watch(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _watch_rewards(
        self, scores: Tensor, ranking: Tensor, formed: Tensor, rewards: Tensor
    ) -> None:
        self._unreadable_steps = self._unreadable_steps + 1 if scores.isnan().all() else 0
        if self._unreadable_steps == UNREADABLE_STEPS:
            log.warning(
                "not one answer of the last %d steps could be read, so there is nothing to learn from: stop, teach the "
                "model the form first (method: sft), or give it more max_new_tokens",
                UNREADABLE_STEPS,
            )
        mean, variance = rl2r.sample_moments(scores)
        several = (~scores.isnan()).sum(1) > 1  # one readable answer has no spread
        self._watch("reward", rewards.mean().item())
        self._watch(f"reward/{self.settings.reward}", ranking.mean().item())
        self._watch("reward/format", formed.double().mean().item())
        self._watch("reward_std", rewards.std(1).mean().item())
        self._watch("readable", 1 - scores.isnan().double().mean().item())
        self._watch("score_mean", mean.nanmean().item())
        self._watch("score_std", variance[several].sqrt().mean().item())

    def _write_samples(
        self, examples: list[Example], scores: Tensor, rewards: Tensor, texts: list[str]
    ) -> None:
        """One line a step: every score and reward, and the words of the first image's responses."""
        if not self.accelerator.is_main_process:
            return
        k = self.settings.responses
        record = {
            "step": self.state.global_step + 1,
            "dataset": self.dataset_names[examples[0].dataset],
            "images": [e.path.name for e in examples],
            "mos": [round(e.mos, 6) for e in examples],
            "scores": [[None if s != s else s for s in row] for row in scores.tolist()],
            "rewards": [[round(r, 6) for r in row] for row in rewards.tolist()],
            "texts": texts[:k],
        }
        with self.samples.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _not_called(**kwargs: Any) -> list[float]:
    """TRL wants a reward function; RL2R's rewards are those of a batch, see `_advantages`."""
    raise AssertionError("rewards are computed by RL2RTrainer._advantages")
