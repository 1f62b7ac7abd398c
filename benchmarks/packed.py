"""Seconds and memory of an update with shared prompts (one row per image) against stock TRL's (one row per response).

    python benchmarks/packed.py --json benchmarks/results/packed.json
    python benchmarks/packed.py --device cuda --size 7b --images 4 --json benchmarks/results/packed_7b.json

Both compute log-probabilities and gradients of the same K completions of the same prompts (an image and 78 tokens of
text), with the same randomly initialised Qwen2.5-VL. Theirs is what `GRPOTrainer` does with a batch, with its own fused
head for log-probabilities and entropies. The two take turns. Memory is the peak during the update minus what was in use
before it: the resident memory of a fresh process on a CPU, the allocator's on CUDA. On CUDA the weights are bfloat16
and the layers are checkpointed; "share of peak" is the operations per second of ours over the card's published peak.
"""

import argparse

import torch
from common import Row, finish, in_fresh_process, medians, parser, peak_megabytes, row
from qwen import SIZES, prompts, random_qwen
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from visualquality.models.prompt import PromptBatch
from visualquality.process import quiet_libraries
from visualquality.train.packed import allow_packing, packed_log_probabilities

K = 6
# Dense bfloat16 operations per second, from NVIDIA's data sheets.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def stock_log_probabilities(
    model: PreTrainedModel, batch: dict[str, Tensor], ids: Tensor
) -> Tensor:
    """Log-probabilities (B, K, C) as `GRPOTrainer._get_per_token_logps_and_entropies` computes them."""
    images, responses, length = ids.shape
    # The patches of an image are consecutive: they are repeated image by image.
    patches = (
        batch["pixel_values"]
        .unflatten(0, (images, -1))
        .repeat_interleave(responses, 0)
        .flatten(0, 1)
    )
    rows = {k: v.repeat_interleave(responses, 0) for k, v in batch.items() if k != "pixel_values"}
    flat = ids.flatten(0, 1)
    rows["input_ids"] = torch.cat([rows["input_ids"], flat], 1)
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    rows["mm_token_type_ids"] = torch.cat([rows["mm_token_type_ids"], torch.zeros_like(flat)], 1)
    # -100: only the completion is scored.
    labels = rows["input_ids"].clone()
    labels[:, :-length] = -100
    output = model(**rows, pixel_values=patches, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -length:].view(ids.shape)


def as_batch(inputs: dict[str, Tensor]) -> PromptBatch:
    """The inputs of a model, as `qwen.prompts` has them, as a batch of this package."""
    tokens = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids")}
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    return PromptBatch(tokens, inputs["attention_mask"], images)


class Update:
    """A model and a batch. `run` does the forward and backward pass of an update in either layout."""

    def __init__(self, size: str, device: str, images: int, side: int, tokens: int):
        quiet_libraries()
        self.model = random_qwen(size, device).train()
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy"))
        if device.startswith("cuda"):
            self.model.gradient_checkpointing_enable()
        allow_packing(self.model)
        self.batch = prompts(images, side, device)
        self.prompts = as_batch(self.batch)
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(20, 500, (images, K, tokens), generator=generator).to(device)
        self.device = device

    def log_probabilities(self, layout: str) -> Tensor:
        if layout == "stock":
            return stock_log_probabilities(self.model, self.batch, self.ids)
        return packed_log_probabilities(self.model, self.model, self.prompts, self.ids)

    def run(self, layout: str) -> None:
        self.model.zero_grad()
        self.log_probabilities(layout).mean().backward()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def resident_peak(layout: str, threads: int, *arguments: object) -> float:
    """MB that the update adds to this process. A new process does not inherit the number of threads."""
    torch.set_num_threads(threads)
    update = Update(*arguments)  # type: ignore[arg-type]
    return peak_megabytes(lambda: update.run(layout))


def allocated_peak(update: Update, layout: str) -> float | None:
    """MB that the update adds on the card; None where it runs out of memory."""
    update.model.zero_grad()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        update.run(layout)
    except torch.OutOfMemoryError:
        return None
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(size: str, device: str, images: int, side: int, tokens: int, repeats: int) -> list[Row]:
    """Seconds and peak memory of an update in both layouts, whose log-probabilities are compared on a CPU."""
    case = f"{side}², {tokens} tokens"
    arguments = (size, device, images, side, tokens)
    threads = torch.get_num_threads()
    update = Update(*arguments)
    cuda = device.startswith("cuda")
    # What follows also warms up: each layout runs once before any time is taken.
    if cuda:
        peaks = [allocated_peak(update, layout) for layout in ("packed", "stock")]
    else:
        with torch.no_grad():
            packed, stock = (update.log_probabilities(layout) for layout in ("packed", "stock"))
        torch.testing.assert_close(packed, stock, atol=1e-4, rtol=0)
        for layout in ("packed", "stock"):
            update.run(layout)
        peaks = [
            in_fresh_process(resident_peak, layout, threads, *arguments)
            for layout in ("packed", "stock")
        ]
    fits = None not in peaks
    # Where one layout does not fit, ours alone is timed.
    ours, theirs = medians(
        lambda: update.run("packed"), lambda: update.run("stock" if fits else "packed"), repeats
    )
    more: dict[str, object] = {"images": images, "responses": K, "model": size}
    if not fits:
        more["missing"] = "out of memory"
    if cuda:
        more |= {"share of peak": share_of_peak(update, ours)}
    seconds = row(f"{case}: forward + backward", ours, theirs if fits else None, "s", **more)
    return [seconds, row(f"{case}: peak memory of the update", peaks[0], peaks[1], "MB", **more)]


def share_of_peak(update: Update, seconds: float) -> float | None:
    """Operations per second of ours over the card's peak; None for a card that `PEAK` lacks."""
    peak = next((p for name, p in PEAK.items() if name in torch.cuda.get_device_name()), None)
    if peak is None:
        return None
    with FlopCounterMode(display=False) as counter:
        update.run("packed")
    return counter.get_total_flops() / seconds / peak


def update_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of packed.py and breakdown.py."""
    options = parser(description)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--size", choices=SIZES, default="10m", help="parameters of the model")
    options.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[336, 672],
        help="pixels a side of the images, multiples of 28",
    )
    options.add_argument("--tokens", type=int, default=80, help="length of each completion")
    return options


def main() -> None:
    options = update_parser(__doc__)
    options.add_argument("--images", type=int, help="B; by default 4, with --short 2")
    options.add_argument("--repeats", type=int, help="by default 5, with --short 2")
    args = options.parse_args()
    images = args.images or (2 if args.short else 4)
    repeats = args.repeats or (2 if args.short else 5)
    rows = []
    for side in args.sides:
        rows += measure(args.size, args.device, images, side, args.tokens, repeats)
    title = f"K = {K} responses of {images} images: one row per image against one per response"
    finish(title, rows, args, args.device)


if __name__ == "__main__":
    main()
