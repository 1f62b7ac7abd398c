"""Seconds of each part of the model in the forward pass of the packed update: attention, MLP, vision, logits.

    python benchmarks/breakdown.py --json benchmarks/results/breakdown.json
    python benchmarks/breakdown.py --device cuda --size 7b --json benchmarks/results/breakdown_7b.json

The model and the batch are those of packed.py. To time a part, the script waits for the device before and after it.
That makes the whole a little slower; the shares are of this slower whole. The backward pass of a part costs about twice
as much as its forward pass.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from common import Row, finish, row
from packed import Update, update_parser
from torch import nn

PARTS = ("attention", "MLP", "vision", "logits")


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules to be timed, with the part that each belongs to."""
    yield "vision", model.model.visual
    yield "logits", model.lm_head
    for layer in model.model.language_model.layers:
        yield "attention", layer.self_attn
        yield "MLP", layer.mlp


@contextmanager
def timed_parts(update: Update) -> Iterator[dict[str, float]]:
    """A dictionary that is filled, while the block runs, with the seconds of each part and of the whole."""
    seconds: dict[str, float] = defaultdict(float)
    starts: dict[nn.Module, float] = {}

    def now() -> float:
        if update.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(module: nn.Module, _: object) -> None:
        starts[module] = now()

    hooks = []
    for name, module in parts(update.model):

        def after(module: nn.Module, _: object, output: object, name: str = name) -> None:
            seconds[name] += now() - starts.pop(module)

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    started = now()
    try:
        yield seconds
        seconds["whole"] = now() - started
    finally:
        for hook in hooks:
            hook.remove()


def measure(update: Update, case: str, repeats: int) -> list[Row]:
    """Median seconds of each part, and its share of the whole."""
    times: dict[str, list[float]] = defaultdict(list)
    for attempt in range(repeats + 1):
        with timed_parts(update) as seconds, torch.no_grad():
            update.log_probabilities("packed")
        if attempt:  # the first one warms up
            for name, value in seconds.items():
                times[name].append(value)
    median = {name: statistics.median(values) for name, values in times.items()}
    median["everything else"] = median["whole"] - sum(median[name] for name in PARTS)
    order = (*PARTS, "everything else", "whole")
    return [
        row(f"{case}: {name}", median[name], None, "s", share=median[name] / median["whole"])
        for name in order
    ]


def main() -> None:
    options = update_parser(__doc__)
    options.add_argument("--images", type=int, default=4, help="images of the batch")
    args = options.parse_args()
    rows = []
    for side in args.sides:
        update = Update(args.size, args.device, args.images, side, args.tokens)
        rows += measure(update, f"{side}², {args.tokens} tokens", 1 if args.short else 5)
    finish("Forward pass of the packed update, by part", rows, args, args.device)


if __name__ == "__main__":
    main()
