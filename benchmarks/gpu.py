"""All figures that need a GPU, in one process with one model: a randomly initialised Qwen2.5-VL 7B in bfloat16.

    benchmarks/gpu.sh                                                              # on the machine with the card
    python benchmarks/gpu.py --device cpu --size 10m --json runs/gpu/gpu.json       # a rehearsal

Each figure is written to the JSON as soon as it is there. One that fails has its error in its place, and what is left
when `--seconds` are over is listed as skipped. Layers are checkpointed in every update. The optimizer is plain SGD on
all weights in bfloat16, since AdamW's states of 8.3 billion weights do not fit one card. K = 6 responses of 256 tokens.

- update: seconds, peak memory and share of the card's bfloat16 peak, packed (ours) against a row for each response
- logits: peak memory of the update in chunks (ours) against all logits at once
- attention: seconds and memory of the update, with flex_attention (ours; the first call compiles) against copied
- step: seconds of generation, reward, frozen policy and update; tokens drawn a second
- scoring: images a second of `expect` against the authors' recipe, whose answers have 128 tokens (half of --tokens)
- reward: milliseconds of the reward of 128 images, on the CPU as in training

Memory is what PyTorch has allocated on the card at its highest beside the weights, gradients included.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from authors_recipe import score
from common import parser, seconds_of
from packed import PEAK, K, as_batch
from PIL import Image
from qwen import SIZES, processor, prompts, random_qwen
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recipes.nano.measure import this_command, write_result
from visualquality import Scorer, rl2r
from visualquality.models.generate import prefill, sample_completions
from visualquality.models.load import VisionLanguageModel
from visualquality.process import quiet_libraries
from visualquality.seeds import uniform_streams
from visualquality.train import packed
from visualquality.train.attention import PACKED, PACKED_FLEX
from visualquality.train.chosen import log_probabilities_of
from visualquality.train.packed import packed_log_probabilities, repeated_log_probabilities

LEARNING_RATE = 1e-6


@contextmanager
def whole_logits(head: nn.Module, tokens: Tensor, temperature: float) -> Iterator[None]:
    """In place of `head_gives_log_probabilities`: all logits at once."""
    forward = head.forward

    def log_probabilities(hidden: Tensor) -> Tensor:
        logits = forward(hidden).flatten(0, 1)
        return log_probabilities_of(logits, tokens.flatten(), temperature).view(tokens.shape)

    head.forward = log_probabilities
    try:
        yield
    finally:
        del head.forward


def noise(folder: Path, count: int, side: int) -> list[str]:
    """Paths of images: what is in them does not matter, and photos would need another package."""
    generator = np.random.default_rng(0)
    paths = [str(folder / f"{i}.png") for i in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    return paths


class Bench:
    """The model, and the figures that were measured with it."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.cuda = args, args.device.startswith("cuda")
        self.started = time.perf_counter()
        self.figures: dict[str, Any] = {}
        self.model = random_qwen(args.size, args.device)
        self.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        packed.allow_packing(self.model)
        self.wait()
        self.figures["model"] = {
            "size": args.size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds to make": time.perf_counter() - self.started,
        }
        self.peak: float | None = None
        if self.cuda:
            name = torch.cuda.get_device_name()
            self.peak = next((p for known, p in PEAK.items() if known in name), None)
        self.write()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def write(self) -> None:
        if self.args.json:
            write_result(
                self.args.json, this_command(), {"figures": self.figures}, self.args.device
            )

    def measure(self, name: str, figure: Callable[[], Any]) -> None:
        """Run `figure` and write what it gives, or its error, under `name`."""
        if time.perf_counter() - self.started > self.args.seconds:
            self.figures[name] = {"skipped": "no time was left"}
        else:
            began = time.perf_counter()
            try:
                found = figure()
            # One figure that fails must not take the others with it: cards are lent for minutes.
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            self.figures[name] = found | {"seconds of the figure": time.perf_counter() - began}
        print(name, json.dumps(self.figures[name]), flush=True)
        self.model.zero_grad()
        if self.cuda:
            torch.cuda.empty_cache()
        self.write()

    def batch(self, side: int) -> tuple[Any, Tensor]:
        """Prompts with an image of side², and responses."""
        shape = (self.args.images, K, self.args.tokens)
        ids = torch.randint(20, 500, shape, generator=torch.Generator().manual_seed(2))
        found = as_batch(prompts(self.args.images, side, self.args.device))
        return found, ids.to(self.args.device)

    def update(self, side: int, layout: Any = packed_log_probabilities) -> Tensor:
        """Log-probabilities, gradients, and a step of SGD."""
        batch, ids = self.batch(side)
        self.model.train()
        log_p = layout(self.model, self.model, batch, ids)
        log_p.mean().backward()
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight -= LEARNING_RATE * weight.grad
        self.model.zero_grad()
        self.wait()
        return log_p.detach()

    def cost(self, run: Callable[[], Any]) -> dict[str, float | None]:
        """Seconds of the faster of two runs after a first one, and MB of the first."""
        before = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        run()
        peak = (torch.cuda.max_memory_allocated() - before) / 1e6 if self.cuda else None
        return {"seconds": min(seconds_of(run) for _ in range(2)), "peak MB": peak}

    # The figures.

    def packed_against_repeated(self, side: int) -> dict[str, Any]:
        ours = self.cost(lambda: self.update(side))
        with FlopCounterMode(display=False) as counter:
            self.update(side)
        rate = counter.get_total_flops() / float(ours["seconds"] or 1)
        found: dict[str, Any] = {"images": self.args.images, "ours": ours}
        found["operations a second"] = rate
        found["share of peak"] = rate / self.peak if self.peak else None
        self.partly(f"update, {side}²", found)
        found["theirs"] = self.cost(lambda: self.update(side, repeated_log_probabilities))
        found["times faster"] = found["theirs"]["seconds"] / float(ours["seconds"] or 1)
        return found

    def partly(self, name: str, found: dict[str, Any]) -> None:
        """Write the part of a figure that is there, in case the rest of it fails."""
        self.figures[name + ", ours"] = dict(found)
        self.write()

    def chunks_against_whole(self, side: int) -> dict[str, Any]:
        ours = self.cost(lambda: self.update(side))
        with patch.object(packed, "head_gives_log_probabilities", whole_logits):
            theirs = self.cost(lambda: self.update(side))
        return {"images": self.args.images, "ours": ours, "theirs": theirs}

    def flex_against_copied(self, side: int) -> dict[str, Any]:
        text = self.model.config.get_text_config()
        theirs = self.cost(lambda: self.update(side))
        batch, ids = self.batch(side)
        with torch.no_grad():
            expected = packed_log_probabilities(self.model, self.model, batch, ids)
        text._attn_implementation = PACKED_FLEX
        try:
            with torch.no_grad():
                began = time.perf_counter()
                found = packed_log_probabilities(self.model, self.model, batch, ids)
                self.wait()
                first = time.perf_counter() - began
            difference = float((found - expected).abs().max())
            self.partly("attention", {"difference": difference, "first call": first})
            ours = self.cost(lambda: self.update(side))
        finally:
            text._attn_implementation = PACKED
        return {"difference": difference, "first call": first, "ours": ours, "theirs": theirs}

    def whole_step(self, side: int) -> dict[str, Any]:
        """Generation, reward, frozen policy (here the policy itself, without a gradient), update."""
        images, length = self.args.images, self.args.tokens
        batch, ids = self.batch(side)
        self.model.eval()
        uniforms = uniform_streams(0, [str(i) for i in range(images)], K, length)

        def generate() -> None:
            with torch.no_grad():
                sample_completions(
                    prefill(self.model, batch),
                    uniforms=uniforms,
                    temperature=1.0,
                    eos_token_ids=[-1],  # no token ends a response: all have the full length
                )
            self.wait()

        def ref_policy() -> None:
            with torch.no_grad():
                packed_log_probabilities(self.model, self.model, batch, ids)
            self.wait()

        parts = {"generate": seconds_of(generate)}
        parts["reward"] = self.reward(images)["seconds"]
        parts["frozen policy"] = min(seconds_of(ref_policy) for _ in range(2))
        parts["update"] = min(seconds_of(lambda: self.update(side)) for _ in range(2))
        drawn = images * K * length / parts["generate"]
        whole = sum(parts.values())
        return {
            "images": images,
            "optimizer": "SGD on all weights",
            **parts,
            "whole": whole,
            "tokens drawn a second": drawn,
            "images a second": images / whole,
        }

    def reward(self, images: int) -> dict[str, float]:
        """As in training: in float64 on the CPU."""
        generator = torch.Generator().manual_seed(0)
        mos = 1 + 4 * torch.rand(images, generator=generator, dtype=torch.float64)
        scores = mos[:, None] + torch.randn(images, K, generator=generator)
        settings = SimpleNamespace(
            reward="fidelity", format_weight=1.0, length_weight=0.0, max_new_tokens=256
        )
        formed, lengths = torch.ones(images, K, dtype=torch.bool), torch.full((images, K), 256)
        groups = torch.zeros(images, dtype=torch.long)

        def run() -> None:
            total, _ = rl2r.total_reward(scores, mos, groups, formed, lengths, settings)
            rl2r.advantage(total)

        run()
        return {"images": images, "seconds": min(seconds_of(run) for _ in range(5))}

    def expect_against_authors(self) -> dict[str, Any]:
        self.model.eval()
        vlm = VisionLanguageModel("random", self.model, processor(self.args.size))
        vlm.processor.tokenizer.padding_side = "left"
        # A hash of all weights, which nothing here needs, would take minutes.
        vars(vlm)["digest"] = "random"
        scorer = Scorer(vlm, mode="expect", batch=8)
        # A random model ends no answer. A rehearsal need not take long.
        answer, count = self.args.tokens // 2, 32 if self.cuda else 4
        with tempfile.TemporaryDirectory() as folder:
            paths = noise(Path(folder), count, 336)
            list(scorer.rate(paths[:4]))
            ours = seconds_of(lambda: list(scorer.rate(paths)))
            theirs = seconds_of(lambda: score(vlm, paths, max_new_tokens=answer))
        return {
            "images": count,
            "side": 336,
            "tokens of theirs": answer,
            "ours, images/s": count / ours,
            "theirs, images/s": count / theirs,
        }


def main() -> None:
    options = parser(__doc__, short=False)
    options.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    options.add_argument("--size", choices=SIZES, default="7b", help="parameters of the model")
    options.add_argument("--images", type=int, default=4, help="images of a batch")
    options.add_argument("--tokens", type=int, default=256, help="length of each response")
    options.add_argument("--sides", type=int, nargs=2, default=[336, 672], help="pixels a side")
    options.add_argument(
        "--seconds", type=float, default=360, help="no figure is begun after so many"
    )
    args = options.parse_args()
    quiet_libraries()
    bench = Bench(args)
    small, large = args.sides
    bench.measure("reward", lambda: bench.reward(128))
    bench.measure(f"update, {small}²", lambda: bench.packed_against_repeated(small))
    bench.measure(f"step, {small}²", lambda: bench.whole_step(small))
    bench.measure("scoring", bench.expect_against_authors)
    bench.measure(f"update, {large}²", lambda: bench.packed_against_repeated(large))
    bench.measure(f"logits, {small}²", lambda: bench.chunks_against_whole(small))
    bench.measure(f"attention, {large}²", lambda: bench.flex_against_copied(large))
    print(f"{time.perf_counter() - bench.started:.0f} s in all")


if __name__ == "__main__":
    main()
