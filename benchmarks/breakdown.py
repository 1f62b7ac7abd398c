"""Which part of the model the packed update's forward pass spends its time in: attention, MLP, vision, logits.

    python benchmarks/breakdown.py --json benchmarks/results/breakdown.json
    python benchmarks/breakdown.py --device cuda --size 7b --json benchmarks/results/breakdown_7b.json

The model and the batch are those of packed.py. Each part is timed with the device waited for before and after it, which
makes the whole a little slower than it is; the shares are of that whole. The backward pass costs about twice each.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from common import Row, finish, parser, row
from packed import Update
from qwen import SIZES
from torch import nn

PARTS = ("attention", "MLP", "vision", "logits")


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield "vision", model.model.visual
    yield "logits", model.lm_head
    for layer in model.model.language_model.layers:
        yield "attention", layer.self_attn
        yield "MLP", layer.mlp


@contextmanager
def timed_parts(update: Update) -> Iterator[dict[str, float]]:
    """Seconds of each part while the block runs."""
    seconds: dict[str, float] = defaultdict(float)
    began: dict[nn.Module, float] = {}

    def now() -> float:
        if update.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(module: nn.Module, _: object) -> None:
        began[module] = now()

    hooks = []
    for name, module in parts(update.model):

        def after(module: nn.Module, _: object, output: object, name: str = name) -> None:
            seconds[name] += now() - began.pop(module)

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    started = now()
    try:
        yield seconds
        seconds["whole"] = now() - started
    finally:
        for hook in hooks:
            hook.remove()


def measure(update: Update, case: str, repeats: int) -> list[Row]:
    found: dict[str, list[float]] = defaultdict(list)
    for attempt in range(repeats + 1):
        with timed_parts(update) as seconds, torch.no_grad():
            update.log_probabilities("packed")
        if attempt:  # the first one warms up
            for name, value in seconds.items():
                found[name].append(value)
    median = {name: statistics.median(values) for name, values in found.items()}
    median["everything else"] = median["whole"] - sum(median[name] for name in PARTS)
    order = (*PARTS, "everything else", "whole")
    return [
        row(f"{case}: {name}", median[name], None, "s", share=median[name] / median["whole"])
        for name in order
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--size", choices=SIZES, default="10m")
    options.add_argument("--images", type=int, default=4)
    options.add_argument(
        "--sides", type=int, nargs="+", default=[336, 672], help="pixels a side, multiples of 28"
    )
    options.add_argument("--tokens", type=int, default=80, help="of each completion")
    args = options.parse_args()
    rows = []
    for side in args.sides:
        update = Update(args.size, args.device, args.images, side, args.tokens)
        rows += measure(update, f"{side}², {args.tokens} tokens", 1 if args.short else 5)
    finish("Forward pass of the packed update, by part", rows, args, args.device)


if __name__ == "__main__":
    main()
