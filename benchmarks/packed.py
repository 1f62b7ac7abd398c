"""Shared-prefix log-probabilities with their gradients against stock TRL's: a row for each of the K responses.

    python benchmarks/packed.py --json benchmarks/results/packed.json
    python benchmarks/packed.py --device cuda --size 7b --images 4 --json benchmarks/results/packed_7b.json

Both take the same prompts (pixels and 78 tokens of text) and the same completions through the same randomly initialised
Qwen2.5-VL, forward and backward. Theirs is what `GRPOTrainer` does with a batch: its own fused head, which gives the
log-probabilities and the entropies that it logs. Times are taken in turns. Memory is the peak above what there was
before the update: of a process of its own on a CPU, of the allocator on CUDA. On CUDA weights are bfloat16, layers are
checkpointed, and the share of the card's peak is of the operations that ours needs.
"""

import torch
from common import Row, finish, in_fresh_process, interleaved, parser, peak_megabytes, row
from qwen import SIZES, prompts, random_qwen
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from visualquality.process import quiet_libraries
from visualquality.train.packed import packed_log_probabilities

K = 6
PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}  # dense bfloat16 operations a second, from the makers' sheets


def stock_log_probabilities(
    model: PreTrainedModel, batch: dict[str, Tensor], ids: Tensor
) -> Tensor:
    """As `GRPOTrainer._get_per_token_logps_and_entropies` does: (B, K, C)."""
    images, responses, length = ids.shape
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
    labels = rows["input_ids"].clone()
    labels[:, :-length] = -100
    output = model(**rows, pixel_values=patches, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -length:].view(ids.shape)


class Update:
    """A model, a batch, and one update's forward and backward in either layout."""

    def __init__(self, size: str, device: str, images: int, side: int, tokens: int):
        quiet_libraries()
        self.model = random_qwen(size, device).train()
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy"))
        if device.startswith("cuda"):
            self.model.gradient_checkpointing_enable()
        self.batch = prompts(images, side, device)
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(20, 500, (images, K, tokens), generator=generator).to(device)
        self.device = device

    def log_probabilities(self, layout: str) -> Tensor:
        if layout == "stock":
            return stock_log_probabilities(self.model, self.batch, self.ids)
        return packed_log_probabilities(self.model, self.model, self.batch, self.ids)

    def run(self, layout: str) -> None:
        self.model.zero_grad()
        self.log_probabilities(layout).mean().backward()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def resident_peak(layout: str, threads: int, *arguments: object) -> float:
    torch.set_num_threads(threads)
    update = Update(*arguments)  # type: ignore[arg-type]
    return peak_megabytes(lambda: update.run(layout))


def allocated_peak(update: Update, layout: str) -> float | None:
    """MB on the card; None where it does not fit."""
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
    case = f"{side}², {tokens} tokens"
    arguments = (size, device, images, side, tokens)
    threads = torch.get_num_threads()
    update = Update(*arguments)
    cuda = device.startswith("cuda")
    # Each side runs once before any time is taken.
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
    ours, theirs = interleaved(
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
    """Operations of ours a second, over the card's peak where it is known."""
    peak = next((p for name, p in PEAK.items() if name in torch.cuda.get_device_name()), None)
    if peak is None:
        return None
    with FlopCounterMode(display=False) as counter:
        update.run("packed")
    return counter.get_total_flops() / seconds / peak


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--size", choices=SIZES, default="10m")
    options.add_argument("--images", type=int, help="B; 4, or 2 in the short form")
    options.add_argument(
        "--sides", type=int, nargs="+", default=[336, 672], help="pixels a side, multiples of 28"
    )
    options.add_argument("--tokens", type=int, default=80, help="of each completion")
    options.add_argument("--repeats", type=int, help="5, or 2 in the short form")
    args = options.parse_args()
    images = args.images or (2 if args.short else 4)
    repeats = args.repeats or (2 if args.short else 5)
    rows = [
        line
        for side in args.sides
        for line in measure(args.size, args.device, images, side, args.tokens, repeats)
    ]
    finish(
        f"K = {K} responses of {images} images: one row an image against one a response",
        rows,
        args,
        args.device,
    )


if __name__ == "__main__":
    main()
