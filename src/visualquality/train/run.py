"""From a recipe to a trained model."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig
from rich.console import Console
from transformers import PrinterCallback
from trl import GRPOConfig, SFTConfig

from ..errors import UserError
from ..io import progress_bar, read_yaml, write_text
from ..models.families import family_of
from ..models.load import EMBEDDED_NAMES, TRAINED_WITH, VisionLanguageModel, load
from ..parsing import parse_json
from ..process import keep_freed_memory
from .base import RunTrainer
from .examples import Example, FeatureCache, PromptEncoder, read_examples, run_order
from .expected import ExpectedScoreTrainer
from .logs import StepLog, cut_back
from .packed import allow_packing
from .plan import count_steps
from .recipe import Recipe, check_reward
from .supervised import SupervisedTrainer
from .trainer import RL2RTrainer

FINAL = "final"
TRAINERS: dict[str, type[RunTrainer]] = {
    "rl2r": RL2RTrainer,
    "sft": SupervisedTrainer,
    "expect": ExpectedScoreTrainer,
}


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    console: Console | None = None,
    cache: FeatureCache | None = None,
) -> Path:
    """Run a recipe and return the folder of the trained model, `output/final`.

    `output` gets `recipe.yaml`, `metrics.jsonl`, `samples.jsonl` (RL2R), checkpoints, and `final`. With `resume` an
    interrupted run continues from its last checkpoint (or its start, if it had none yet), to the same weights as if it
    had not been interrupted. Run it under torchrun or accelerate for several processes.
    `cache`: what a frozen vision tower gives for images, shared by several runs of one process.
    Raises UserError for faulty data, for an unknown reward, for an output that holds another run, or where there is
    nothing to resume.
    """
    check_reward(recipe)
    _check_launch(recipe)
    checkpoint = _claim(recipe, resume)
    if not torch.cuda.is_available():
        keep_freed_memory()
    # Faults of the data are found before the model is loaded, which may take minutes.
    examples = read_examples(recipe)
    vlm = _load_policy(recipe)
    trained_with: dict[str, Any] = {"prompt": recipe.prompt, "reference": recipe.reference}
    # The embedded models change with the package, so an adapter of one says which weights it is for.
    adapts_embedded = recipe.lora and recipe.model in EMBEDDED_NAMES
    trained_with["base"] = vlm.digest if adapts_embedded else None
    # A tower that is trained gives something else at every step.
    encode = PromptEncoder(vlm, (cache or FeatureCache()) if recipe.freeze_vision else None)
    # Only now: a resumption that fails before this must not lose what the run has logged.
    if resume and is_main():
        _cut_logs_back(recipe.output, checkpoint)
    bar = progress_bar(console or Console(stderr=True), transient=False)
    trainer = _make_trainer(recipe, examples, encode, StepLog(recipe.output / "metrics.jsonl", bar))
    try:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    finally:
        bar.stop()  # an interrupt must not leave the terminal without its cursor
    final = recipe.output / FINAL
    trainer.save_model(str(final))
    if is_main():
        write_text(final / TRAINED_WITH, json.dumps(trained_with) + "\n")
    return final


def is_main() -> bool:
    """Whether this is the only process of the run, or the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def _check_launch(recipe: Recipe) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.devices != world:
        raise UserError(
            f"the recipe is for {recipe.devices} processes and this is {world}: launch it with "
            f"torchrun --nproc_per_node {recipe.devices} -m visualquality train ..., or --set devices={world}"
        )
    # The rollout calls parts of the model by themselves, which nobody has run on FSDP's flat parameters.
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise UserError(
            "FSDP is not supported yet: launch with DeepSpeed (recipes/zero3.yaml) or with torchrun"
        )


def _load_policy(recipe: Recipe) -> VisionLanguageModel:
    """The model to train. On CUDA full training keeps float32 weights under bfloat16 autocast: at a learning rate of
    1e-6 an update would be lost in a bfloat16 weight. LoRA and DeepSpeed (which keeps its own copy) start in bfloat16.
    """
    dtype = recipe.dtype
    if dtype == "auto":
        small = recipe.lora is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        dtype = "bfloat16" if small and torch.cuda.is_available() else "float32"
    vlm = load(recipe.model, device="cpu", dtype=dtype, max_pixels=recipe.max_pixels)
    # What a LoRA adapter will name as its base.
    name = str(Path(recipe.model).resolve()) if Path(recipe.model).is_dir() else recipe.model
    vlm.model.config._name_or_path = vlm.model.name_or_path = name
    if recipe.freeze_vision:
        # nano's EfficientNet, or the whole vision transformer of a Qwen-VL.
        tower = family_of(vlm.model.config).vision_tower(vlm.model)
        if tower is None:
            raise UserError(
                f"freeze_vision: {vlm.name} has no vision tower that is known here; set freeze_vision: false"
            )
        tower.requires_grad_(False)
    allow_packing(vlm.model)
    vlm.model.train()
    return vlm


def checkpoint_step(checkpoint: Path) -> int:
    """The number of steps that were done when a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    # The trainer's state is written last, so a checkpoint without it, or with a part of it, was interrupted.
    found = []
    for path in output.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError):
            parse_json(path.read_bytes())
            found.append(path.parent)
    return max(found, key=checkpoint_step, default=None)


def _claim(recipe: Recipe, resume: bool) -> Path | None:
    """Make `output` this run's: its recipe is written there, or is the one that stands there already.

    Returns the last checkpoint, if there is one. Raises UserError where `output` is another run's.
    """
    output = recipe.output
    # What does not change the weights may differ between a run and its resumption.
    resolved = recipe.model_dump(
        mode="json", exclude={"output", "checkpoint_every", "keep_checkpoints", "tensorboard"}
    )
    record = output / "recipe.yaml"
    if resume:
        if not record.is_file():
            raise UserError(f"nothing to resume: {output} holds no run")
        before = read_yaml(record, "recipe")
        before.setdefault("reference", False)  # runs of version 0.1 did not have the field
        changed = [key for key in resolved if before.get(key) != resolved[key]]
        if changed:
            raise UserError(
                f"the run in {output} had other settings ({', '.join(changed)}): resume with the same recipe"
            )
        return last_checkpoint(output)
    if (output / "metrics.jsonl").exists() or last_checkpoint(output) or (output / FINAL).exists():
        raise UserError(
            f"{output} already holds a run: continue it with --resume, or give another --output"
        )
    write_text(record, yaml.safe_dump(resolved, sort_keys=False))
    return None


def _cut_logs_back(output: Path, checkpoint: Path | None) -> None:
    """Drop the lines of the steps after `checkpoint`, which the run will write again."""
    done = checkpoint_step(checkpoint) if checkpoint else 0
    # Probes are scored before a step, under the number of steps done; the other files are written after it.
    for name, last in (("metrics", done), ("samples", done), ("probes", done - 1)):
        cut_back(output / f"{name}.jsonl", last)


def _make_trainer(
    recipe: Recipe, examples: list[Example], encode: PromptEncoder, steps_log: StepLog
) -> Any:
    steps = count_steps(recipe, examples)
    peft_config = None
    if lora := recipe.lora:
        peft_config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
        )
    trainer: Any = TRAINERS[recipe.method](
        recipe,
        examples,
        run_order(recipe, examples, steps),
        encode,
        args=_arguments(recipe, steps),
        callbacks=[steps_log],
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)  # it would print each step a second time
    return trainer


def _arguments(recipe: Recipe, steps: int) -> GRPOConfig | SFTConfig:
    """The settings of TRL's trainer."""
    optimizer = recipe.optimizer
    cuda = torch.cuda.is_available()
    common: dict[str, Any] = {
        "output_dir": str(recipe.output),
        "seed": recipe.seed,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": optimizer.warmup,  # below 1, so a share of the steps
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "max_steps": steps,
        "per_device_train_batch_size": optimizer.images_per_device,
        "gradient_accumulation_steps": optimizer.accumulation,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        # A checkpoint holds all that an exact resume needs: optimizer, schedule and random states too.
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every,
        "save_total_limit": recipe.keep_checkpoints,
        "logging_steps": 1,
        "report_to": ["tensorboard"] if recipe.tensorboard else [],
        "use_cpu": not cuda,
        "bf16": cuda,  # autocast over float32 weights; slower than float32 on a CPU
        "ddp_find_unused_parameters": False,
        # Several processes on a CPU, as the tests have them: NCCL is for GPUs alone.
        "ddp_backend": "gloo" if not cuda and "WORLD_SIZE" in os.environ else None,
        "disable_tqdm": True,
        # The columns are row numbers, which no model's forward takes.
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        # A loss that is not finite must be seen, not replaced by the average.
        "logging_nan_inf_filter": False,
    }
    if recipe.method != "rl2r":
        # Our rows are numbers, of which `make_batch` makes prompts: there is nothing for TRL to prepare or to cut.
        dataset = {"skip_prepare_dataset": True}
        return SFTConfig(**common, max_length=None, dataset_kwargs=dataset, packing=False)
    k = recipe.rl2r.responses
    # TRL counts responses where we count images; otherwise its own checks of divisibility would fail.
    common["per_device_train_batch_size"] *= k
    return GRPOConfig(
        **common,
        num_generations=k,
        max_completion_length=recipe.rl2r.max_new_tokens,
        temperature=recipe.rl2r.temperature,
        beta=0.0,  # `RL2RTrainer` keeps the frozen policy itself
        loss_type="grpo",
        disable_dropout=True,
    )
