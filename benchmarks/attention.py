"""Seconds and memory of attention over packed rows, without copies of the prompt's keys and values against with them.

    python benchmarks/attention.py --json benchmarks/results/attention.json
    python benchmarks/attention.py --device cuda --json benchmarks/results/attention_gpu.json

One layer, forward and backward, K = 6 responses an image. Theirs is copied attention (`train/attention.py`), which was
the only one before. Ours is the joined one on a CPU, in float32 with the 5 heads of the 10 M model; on CUDA it is
flex_attention in bfloat16 with the 28 heads and 4 groups of a 7B model, whose first call compiles. The two take turns.
Memory is what PyTorch allocates at its highest beside the inputs. Outputs and gradients are compared.
"""

from collections.abc import Callable

import torch
from common import Row, allocated_megabytes, finish, medians, parser, row
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv

from visualquality.train.attention import (
    copied_attention,
    row_blocks,
    row_mask,
    shared_prefix_attention,
)

K = 6
# heads, groups, width of a head
CPU, CUDA = (5, 5, 64), (28, 4, 128)


class Layer:
    """Queries, keys and values of a batch; `run` gives output and gradients."""

    def __init__(self, device: str, images: int, prompt: int, length: int):
        self.device, self.cuda = device, device.startswith("cuda")
        heads, groups, width = CUDA if self.cuda else CPU
        dtype = torch.bfloat16 if self.cuda else torch.float32
        torch.manual_seed(0)
        side = prompt + K * length
        self.qkv = [
            torch.randn(images, count, side, width, device=device, dtype=dtype, requires_grad=True)
            for count in (heads, groups, groups)
        ]
        real = torch.ones(images, prompt, dtype=torch.long, device=device)
        self.mask = row_mask(real, length, dtype)
        self.blocks = row_blocks(real, K, length) if self.cuda else None
        self.slopes = torch.randn(images, side, heads, width, device=device, dtype=dtype)

    def run(self, side: str) -> list[Tensor]:
        query, key, value = self.qkv
        if side == "copied":
            times = query.shape[1] // key.shape[1]
            wide = repeat_kv(key, times), repeat_kv(value, times)
            output = copied_attention(query, *wide, self.mask, K, None).transpose(1, 2)
        else:
            output, _ = shared_prefix_attention(
                nn.Module(), *self.qkv, self.mask, packed_responses=K, packed_blocks=self.blocks
            )
        found = [output.detach(), *torch.autograd.grad((output * self.slopes).sum(), self.qkv)]
        if self.cuda:
            torch.cuda.synchronize()
        return found

    def peak(self, side: str) -> float:
        """MB."""
        if not self.cuda:
            return allocated_megabytes(lambda: self.run(side))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.run(side)
        return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(device: str, images: int, prompt: int, length: int, repeats: int) -> list[Row]:
    layer = Layer(device, images, prompt, length)
    tolerance = 0.05 if layer.cuda else 1e-5
    for ours, theirs in zip(layer.run("ours"), layer.run("copied"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)

    def side(name: str) -> Callable[[], list[Tensor]]:
        return lambda: layer.run(name)

    seconds = medians(side("ours"), side("copied"), repeats)
    case = f"{images} images, prompt {prompt}, K = {K} of {length}"
    more = {"way": "flex" if layer.cuda else "joined"}
    return [
        row(f"{case}: forward + backward", *seconds, "s", **more),
        row(f"{case}: peak memory", layer.peak("ours"), layer.peak("copied"), "MB", **more),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    args = options.parse_args()
    shapes = [(222, 80)] if args.short else [(222, 80), (654, 80), (654, 256)]
    rows = []
    for prompt, length in shapes:
        rows += measure(args.device, 2, prompt, length, 2 if args.short else 5)
    finish("Attention over packed rows: without copies against with them", rows, args, args.device)


if __name__ == "__main__":
    main()
