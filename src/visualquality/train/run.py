"""From a recipe to a trained model."""

import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..errors import UserError, first_line, missing_extra

try:
    # All of the extra are asked for here, before any is used elsewhere.
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    from trl import GRPOConfig, SFTConfig
except ModuleNotFoundError as error:
    raise missing_extra("training", "train", error) from error

from ..io import progress_bar
from ..models.families import family_of
from ..models.folder import whole_model
from ..models.limits import size_refusal
from ..models.load import EMBEDDED_NAMES, VisionLanguageModel, load
from ..process import is_main, keep_freed_memory
from .adapters import adapter_to_go_on_with, add_adapter, go_on, new_adapter
from .base import RunTrainer
from .checkpoints import (
    FINAL,
    Start,
    checkpoint_step,
    cut_logs_back,
    last_checkpoint,
    where_to_start,
)
from .examples import FeatureCache, PromptEncoder, run_order
from .expected import ExpectedScoreTrainer
from .faults import Usable, usable_examples, write_left_out
from .launch import backend, check_launch, meet
from .logs import METRICS, StepLog, last_number
from .packed import allow_packing
from .plan import count_steps
from .recipe import Recipe, check_reward
from .stops import LastWholeStep, Stopped, StopSignals, where_it_stands
from .supervised import SupervisedTrainer
from .trainer import RL2RTrainer
from .validation import ValidationDue
from .weights import go_back

__all__ = ["FINAL", "TRAINERS", "last_checkpoint", "train"]

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

    SIGINT, SIGTERM and SIGUSR1 end the run with a checkpoint after the step in progress, and raise `Stopped`. An error
    leaves a checkpoint of the last whole step, where there is one process; a note on the exception names it.
    Raises UserError for faulty data, for an unknown reward, for an output that holds another run, or where there is
    nothing to resume.
    """
    check_reward(recipe)
    _check_reports(recipe)
    adapter_to_go_on_with(recipe)
    check_launch(recipe)
    console = console or Console(stderr=True)
    if not torch.cuda.is_available():
        keep_freed_memory()
    meet()
    start = where_to_start(recipe, resume, console)
    with StopSignals() as signals:
        try:
            return _train(recipe, start, resume, console, cache, signals)
        except Stopped as stop:
            stop.args = (f"{stop}: {where_it_stands(recipe)}",)
            raise


def _train(
    recipe: Recipe,
    start: Start,
    resume: bool,
    console: Console,
    cache: FeatureCache | None,
    signals: StopSignals,
) -> Path:
    """`train` without its last words: from where it starts to `final`."""
    checkpoint, metrics = start.checkpoint, recipe.output / METRICS
    # Faults of the data are found before the model is loaded, which may take minutes.
    usable = usable_examples(
        recipe,
        size_refusal(recipe.model, recipe.max_pixels),
        console=console,
        left_out_before=start.left_out,
    )
    steps = count_steps(recipe, usable.examples)
    vlm = _load_policy(recipe)
    # A tower that is trained gives something else at every step.
    encode = PromptEncoder(vlm, (cache or FeatureCache()) if recipe.freeze_vision else None)
    if is_main():
        # Only now: a resumption that fails before this must not lose what the run has logged.
        _prepare_logs(recipe.output, checkpoint, usable)
        if resume:
            console.print(_where_it_goes_on(recipe.output, checkpoint, steps), soft_wrap=True)
    bar = progress_bar(console, transient=False)
    whole_step = LastWholeStep()
    callbacks = [StepLog(metrics, bar), signals, whole_step]
    if recipe.validation is not None:
        callbacks.append(ValidationDue(recipe.validation.every))
    trainer = _make_trainer(recipe, usable, steps, encode, callbacks)
    if checkpoint is not None and is_main():
        # SFT's trainer counts all tokens of a run, and does not put the count into a checkpoint.
        trainer._total_train_tokens = last_number(metrics, "num_tokens")
    try:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        # A signal in the last step comes too late to stop anything.
        if signals.agreed and trainer.state.global_step < steps:
            raise Stopped(signals.agreed)
        with trainer.saved_weights(FINAL):
            pass
    except Exception as error:
        try:
            whole_step.keep(trainer)
        except Exception as second:  # the first one is what ends the run
            error.add_note(f"no checkpoint could be written after it: {first_line(second)}")
        error.add_note(f"after this error: {where_it_stands(recipe)}")
        raise
    finally:
        bar.stop()  # an interrupt must not leave the terminal without its cursor
    return recipe.output / FINAL


def _prepare_logs(output: Path, checkpoint: Path | None, usable: Usable) -> None:
    """Logs that end where the run goes on, and begin with what was left out."""
    cut_logs_back(output, checkpoint)
    if checkpoint is None:
        metrics = output / METRICS
        metrics.unlink(missing_ok=True)
        write_left_out(metrics, usable.left_out)
    go_back(output, checkpoint_step(checkpoint) if checkpoint else 0)


def _where_it_goes_on(output: Path, checkpoint: Path | None, steps: int) -> str:
    if checkpoint is None:
        return f"there is no checkpoint in {output}: starting from the beginning"
    return f"going on from step {checkpoint_step(checkpoint)} of {steps} ({checkpoint})"


def _check_reports(recipe: Recipe) -> None:
    """Raises UserError for a name of report_to that Trainer does not know, or whose package is not here."""
    here = get_available_reporting_integrations()
    for name in recipe.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            names = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"report_to: {name!r} gives no report: choose of {names}")
        if name not in here:
            raise UserError(f"report_to: {name} is not installed here: pip install {name}")


def _load_policy(recipe: Recipe) -> VisionLanguageModel:
    """The model to train. On CUDA full training keeps float32 weights under bfloat16 autocast: at a learning rate of
    1e-6 an update would be lost in a bfloat16 weight. LoRA and DeepSpeed (which keeps its own copy) start in bfloat16.
    """
    dtype = recipe.dtype
    if dtype == "auto":
        small = recipe.lora is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        dtype = "bfloat16" if small and torch.cuda.is_available() else "float32"
    # A LoRA stage goes on with the adapter of the stage before, which then must not be merged.
    merge = recipe.lora is None
    vlm = load(recipe.model, device="cpu", dtype=dtype, max_pixels=recipe.max_pixels, adapted=merge)
    # What a LoRA adapter will name as its base.
    name = whole_model(recipe.model)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    vlm.model.config._name_or_path = vlm.model.name_or_path = name
    if recipe.freeze_vision:
        # nano's EfficientNet, or the whole vision transformer of a Qwen-VL.
        tower = family_of(vlm.model.config).vision_tower(vlm.model)
        if tower is None:
            raise UserError(
                f"freeze_vision: {vlm.name} has no vision tower that is known here; set freeze_vision: false"
            )
        tower.requires_grad_(False)
    allow_packing(vlm.model, recipe.packed_attention)
    vlm.model.train()
    return vlm


def _make_trainer(
    recipe: Recipe, usable: Usable, steps: int, encode: PromptEncoder, callbacks: list[Any]
) -> Any:
    args = _arguments(recipe, steps)
    policy = peft_config = None
    before = adapter_to_go_on_with(recipe)
    if recipe.lora is not None and before is not None:
        zero = args.deepspeed_plugin.zero_stage if args.deepspeed_plugin is not None else 0
        policy = go_on(
            encode.vlm.model,
            before,
            recipe.lora,
            keep_start=recipe.method == "rl2r" and recipe.rl2r.kl_weight > 0,
            # As TRL makes a new adapter: ZeRO-3 wants one number format for all weights.
            own_dtype=zero != 3,
        )
    elif recipe.lora is not None and recipe.quantization is not None:
        # Not left to TRL, which would round what it makes to bfloat16 (`RunTrainer`).
        policy = add_adapter(encode.vlm.model, recipe.lora, recipe.seed)
    elif recipe.lora is not None:
        peft_config = new_adapter(recipe.lora)
    # The embedded models change with the package, so an adapter of one says which weights it is for.
    adapts_embedded = recipe.lora and whole_model(recipe.model) in EMBEDDED_NAMES
    trained_with = {
        "prompt": recipe.prompt,
        "reference": recipe.reference,
        "base": encode.vlm.digest if adapts_embedded else None,
    }
    trainer: Any = TRAINERS[recipe.method](
        recipe,
        usable.examples,
        run_order(recipe, usable.examples, steps),
        encode,
        probes=usable.probes,
        policy=policy,
        validation=usable.validation,
        trained_with=trained_with,
        args=args,
        callbacks=callbacks,
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
        # The curve of a validation begins before the first step.
        "eval_on_start": recipe.validation is not None,
        "report_to": list(recipe.report_to),
        "run_name": recipe.output.name,  # in wandb, for instance
        "use_cpu": not cuda,
        "bf16": cuda,  # autocast over float32 weights; slower than float32 on a CPU
        "ddp_find_unused_parameters": False,
        "ddp_backend": backend(),
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
        top_k=recipe.rl2r.top_k,
        beta=0.0,  # `RL2RTrainer` keeps the frozen policy itself
        loss_type="grpo",
        disable_dropout=True,
    )
