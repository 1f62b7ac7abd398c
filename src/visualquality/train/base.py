"""What the trainers of all methods share, beside what they inherit from TRL."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel
from transformers.trainer_utils import rotate_checkpoints
from trl.models import unwrap_model_for_generation

from ..errors import UserError, first_line
from ..io import write_text
from ..models.folder import check_folder
from ..models.load import TRAINED_WITH, VisionLanguageModel, load_strictly
from ..models.prompt import prompt_opening
from ..process import first_decides
from .examples import Example, PromptEncoder
from .recipe import Recipe
from .validation import SCORED, Validator, agreement, to_beat
from .weights import Kept, drop_weights, is_kept, kept_weights, point_to_best, write_measured

# In the folder of a run: what is being written and has no name yet.
PART = ".saving"


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What is raised where a folder cannot be written, as on a full disk, as one UserError."""
    try:
        yield
    # Of a full disk, safetensors and torch.save raise errors of their own.
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{folder} cannot be written ({first_line(error)}): make room, and continue with --resume"
        ) from error


@contextmanager
def readable_checkpoint(checkpoint: str | None) -> Iterator[None]:
    """What PyTorch raises about a file of a checkpoint, as one UserError.

    transformers opens these pickles with `weights_only`, so that code in them is refused and not run.
    """
    try:
        yield
    except (pickle.UnpicklingError, EOFError, RuntimeError, LookupError, TypeError) as error:
        reason = first_line(error)
        # PyTorch then advises to open it all the same.
        if isinstance(error, pickle.UnpicklingError):
            reason = "a file in it is damaged or holds code"
        raise UserError(
            f"{checkpoint} cannot be read ({reason}): delete it, and --resume takes the one before"
        ) from error


class RunTrainer:
    """Stands before a trainer of TRL in a class's bases.

    `examples` are trained on in the `order` of `run_order`; `encode` makes their prompts, and `encode.vlm` is the
    model that is trained, or `policy`, where that is given: the same model with an adapter. `probes` are scored along
    the way (RL2R), and `validation` with all methods. `trained_with` is written beside all weights. TRL's trainer gets
    `kwargs`.
    """

    vlm: VisionLanguageModel
    examples: list[Example]
    probes: list[Example]
    recipe: Recipe
    encode: PromptEncoder
    opening: str  # of each response, that the chat template has written already

    def __init__(
        self: Any,
        recipe: Recipe,
        examples: list[Example],
        order: list[tuple[int, int]],
        encode: PromptEncoder,
        probes: list[Example],
        validation: list[Example],
        trained_with: dict[str, Any],
        policy: Any = None,
        **kwargs: Any,
    ):
        self.recipe, self.examples, self.probes = recipe, examples, probes
        self.encode, self.vlm, self.trained_with = encode, encode.vlm, trained_with
        self.validator = Validator(recipe, validation, encode.vlm) if validation else None
        self.opening = prompt_opening(self.vlm.processor)
        rows, visits = zip(*order, strict=True)
        # Numbers only: images are opened when a batch is made.
        dataset = Dataset.from_dict({"row": rows, "visit": visits})
        kwargs |= {"train_dataset": dataset, "processing_class": self.vlm.processor}
        policy = self.vlm.model if policy is None else policy
        small = [p for p in policy.parameters() if p.requires_grad] if recipe.quantization else []
        before = [(p, p.data) for p in small]
        super().__init__(model=policy, **kwargs)  # type: ignore[call-arg]  # TRL's, not object's
        # TRL has rounded the adapter of a base in 4 bits to bfloat16, in which small updates would be lost.
        for parameter, data in before:
            parameter.data = data

    def _get_train_sampler(self: Any, dataset: Any = None) -> SequentialSampler:
        # `run_order` has shuffled. Skipping to a step is then all that it takes to resume in the same order.
        return SequentialSampler(self.train_dataset)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        check_folder(Path(resume_from_checkpoint))
        if self.is_deepspeed_enabled or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        # `Trainer` ignores keys that do not fit. Where a checkpoint has older key names, as those of Qwen2.5-VL do, it
        # would load nothing, and the run would go on from the start without a word.
        saved = load_strictly(type(model), resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict(), strict=True)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        with readable_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        with readable_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def _get_output_dir(self: Any, trial: Any = None) -> str:
        # Where the trainer writes a checkpoint.
        return str(Path(self.args.output_dir) / PART)

    def _save_checkpoint(self: Any, model: Any, trial: Any = None) -> None:
        with self.whole_folder(f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.accelerator.is_main_process:
            # Only now: until then the checkpoint before is the newest.
            rotate_checkpoints(self.args.output_dir, self.args.save_total_limit)
            if self.recipe.validation is not None:
                # Only now, too: a run that goes on from the checkpoint before needs its best weights.
                drop_weights(self.recipe.output, self.recipe.validation.keep)

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation part and keep the weights that the recipe asks for.

        Trainer calls this before the first step too, and where `ValidationDue` asks for it. Of a step that was
        validated before the run went on from it, nothing is done again.
        """
        step, settings = self.state.global_step, self.recipe.validation
        if any(line["step"] == step and SCORED in line for line in self.state.log_history):
            return {}
        started = time.perf_counter()
        with torch.no_grad(), self.answering():
            scores = self.validator.scores(self.accelerator)
        self.model.train()
        found = agreement(settings.metric, scores, self.validator.examples)
        # The weights that training starts from are there already.
        if step:
            self._keep_weights(Kept(step, settings.metric, to_beat(settings.metric, found)), found)
        self.log({**found, "seconds/validation": round(time.perf_counter() - started, 3)})
        return found

    @contextmanager
    def answering(self: Any) -> Iterator[PreTrainedModel]:
        """The policy, whole on each process and in evaluation mode, in which it stays afterwards.

        That is without dropout, and with a cache, which gradient checkpointing forbids in training mode.
        """
        self.model.eval()
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            # Checkpointing is off meanwhile, and then on again: in the kind that it was.
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as policy:
            yield policy

    def _keep_weights(self: Any, new: Kept, found: dict[str, float]) -> None:
        output, keep = self.recipe.output, self.recipe.validation.keep
        main = self.accelerator.is_main_process
        # One process looks at the disk, and all write, as each may have a part of the weights.
        if not first_decides(lambda: is_kept(new, kept_weights(output), keep)):
            return
        with self.saved_weights(f"weights-{new.step}") as folder:
            if main:
                write_measured(folder, new, found)
        if main:
            with disk_errors(output):
                point_to_best(output)

    @contextmanager
    def saved_weights(self: Any, name: str) -> Iterator[Path]:
        """The weights alone, in the folder `name` of the run, with what a later use must know of them.

        What the block writes to the folder becomes a part of it.
        """
        with self.whole_folder(name) as folder:
            self.save_model(str(folder))
            if self.accelerator.is_main_process:
                write_text(folder / TRAINED_WITH, json.dumps(self.trained_with) + "\n")
            yield folder

    @contextmanager
    def whole_folder(self: Any, name: str) -> Iterator[Path]:
        """A folder to write to, for all processes, which becomes `name` in the run's when the block ends.

        Whatever ends the run meanwhile, a power cut too, the folder is there whole or not at all, or still the old one.
        Raises UserError where it cannot be written, as on a full disk.
        """
        output, main = Path(self.args.output_dir), self.accelerator.is_main_process
        part = output / PART
        if main:
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        try:
            with disk_errors(output / name):
                yield part / name
            self.accelerator.wait_for_everyone()
            if main:
                with disk_errors(output / name):
                    _sync(part)
                    if (output / name).exists():
                        os.replace(output / name, part / "old")
                    os.replace(part / name, output / name)
        finally:
            # After an error too: what is left over would fill the disk.
            if main:
                shutil.rmtree(part, ignore_errors=True)

    def log_metrics(self: Any, metrics: dict[str, Any]) -> None:
        """Add to the step's line of metrics.jsonl; TRL averages what comes several times in a step."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(value.item() if torch.is_tensor(value) else value)

    def check_loss(self: Any, loss: Tensor) -> None:
        """Raises FloatingPointError for a loss that is not finite: an update with it would destroy all weights."""
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step}")


def _sync(folder: Path) -> None:
    """Have the disk confirm all files of a folder: older ones are deleted once these count."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
