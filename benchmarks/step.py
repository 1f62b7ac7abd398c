"""Seconds of a whole RL2R step against stock TRL: generate K responses for each image, reward them, update.

    python benchmarks/step.py --json benchmarks/results/step.json

Ours is `visualquality train`. Theirs is TRL's unchanged `GRPOTrainer`, with our two rewards (format, and fidelity on
the batch) as its `reward_funcs`. Both have the same randomly initialised Qwen2.5-VL of 10 M parameters, the same
images, prompt and settings (K = 6, temperature 1, beta 0.04, loss "grpo", AdamW, one update per batch, no vLLM, no
checkpointing of layers), and all responses have the same length. The two take turns. The first step of a run is left
out, and the result is the median of the others.
"""

import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from common import Row, finish, parser, row
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image
from qwen import save
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from visualquality import response, rl2r
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

K = 6
LEARNING_RATE = 1e-6


def rated_images(folder: Path, count: int, side: int) -> list[tuple[Path, float]]:
    """Images of noise with random MOS, listed in `ratings.csv`."""
    generator = np.random.default_rng(0)
    rated = [(folder / f"{i}.png", float(generator.uniform(1, 5))) for i in range(count)]
    for path, _ in rated:
        Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    (folder / "ratings.csv").write_text(
        "image,mos\n" + "".join(f"{path.name},{mos}\n" for path, mos in rated)
    )
    return rated


def our_steps(folder: Path, run: int, images: int, tokens: int, steps: int) -> list[float]:
    """Seconds of each step but the first."""
    recipe = {
        "model": str(folder / "model"),
        "data": [{"manifest": str(folder / "ratings.csv")}],
        "rl2r": {"responses": K, "max_new_tokens": tokens},
        "optimizer": {
            "steps": steps + 1,
            "images_per_device": images,
            "learning_rate": LEARNING_RATE,
        },
        "checkpoint_every": 10_000,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    output = folder / f"ours{run}"
    # No token ends a response, so all of them have the full length, as theirs have.
    with patch("visualquality.train.trainer.eos_token_ids", lambda *_: [-1]):
        train(read_recipe(file, output=output), console=Console(quiet=True))
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    _check_lengths([m["completion_tokens"] for m in metrics], tokens)
    return [b["time"] - a["time"] for a, b in pairwise(metrics)]


class StepTimes(TrainerCallback):
    """When each step was logged (`metrics.jsonl` has the same of ours), and the mean length of its responses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.lengths: list[float] = []

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "completions/mean_length" in logs:
            self.times.append(time.time())
            self.lengths.append(logs["completions/mean_length"])


def fidelity(completions: list, mos: list[float], **_: Any) -> list[float]:
    """Eq. 3 on the batch, in which each K consecutive rows are of one image."""
    read = [response.read(messages[0]["content"]) for messages in completions]
    scores = torch.tensor([float("nan") if r.score is None else r.score for r in read]).view(-1, K)
    return rl2r.reward(scores, torch.tensor(mos[::K])).flatten().tolist()


def well_formed(completions: list, **_: Any) -> list[float]:
    """The format reward: 1 or 0."""
    return [float(response.well_formed(messages[0]["content"])) for messages in completions]


def stock_steps(
    folder: Path, rated: list[tuple[Path, float]], tokens: int, steps: int, images: int
) -> list[float]:
    """Seconds of each step but the first."""
    question = response.prompt_text("paper", True)
    data = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": question}]] * len(rated),
            "image": [str(path) for path, _ in rated],
            "mos": [mos for _, mos in rated],
        }
    ).cast_column("image", ImageColumn())
    args = GRPOConfig(
        output_dir=str(folder / "stock"),
        per_device_train_batch_size=images * K,
        num_generations=K,
        max_completion_length=tokens,
        max_steps=steps + 1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        temperature=1.0,
        beta=0.04,
        loss_type="grpo",
        use_bias_correction_kl=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        # No response ends early.
        generation_kwargs={"min_new_tokens": tokens},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    vlm = load(str(folder / "model"), device="cpu")
    step_times = StepTimes()
    trainer = GRPOTrainer(
        model=vlm.model,
        reward_funcs=[fidelity, well_formed],
        args=args,
        train_dataset=data,
        processing_class=vlm.processor,
        callbacks=[step_times],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    _check_lengths(step_times.lengths, tokens)
    return [b - a for a, b in pairwise(step_times.times)]


def _check_lengths(lengths: list[float], tokens: int) -> None:
    if any(length != tokens for length in lengths):
        raise AssertionError(
            f"responses of {lengths} tokens, but all must have {tokens}: the steps cannot be compared"
        )


def measure(images: int, side: int, tokens: int, steps: int, rounds: int) -> Row:
    """Median seconds of a step of both, over `rounds` runs each."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder / "model")
        rated = rated_images(folder, images * (steps + 1), side)
        for run in range(rounds):
            ours += our_steps(folder, run, images, tokens, steps)
            theirs += stock_steps(folder, rated, tokens, steps, images)
    case = f"B = {images}, {side}², K = {K}, {tokens} tokens: generate, reward, update"
    return row(
        case, statistics.median(ours), statistics.median(theirs), "s a step", steps=len(ours)
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=4, help="B, images per step")
    options.add_argument(
        "--sides",
        type=int,
        nargs="+",
        help="pixels a side; by default 336 and 672, with --short 336",
    )
    options.add_argument("--tokens", type=int, default=80, help="length of each response")
    options.add_argument(
        "--steps", type=int, help="timed steps per run; by default 3, with --short 2"
    )
    options.add_argument("--rounds", type=int, help="runs of each; by default 3, with --short 1")
    args = options.parse_args()
    quiet_libraries()
    steps = args.steps or (2 if args.short else 3)
    sides = args.sides or ([336] if args.short else [336, 672])
    rounds = args.rounds or (1 if args.short else 3)
    rows = [measure(args.images, side, args.tokens, steps, rounds) for side in sides]
    finish("A whole RL2R step: ours against stock GRPOTrainer", rows, args)


if __name__ == "__main__":
    main()
