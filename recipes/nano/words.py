"""The sentences that `nano` learns to say, made from what is known of an image: the distortion that was applied to it
and its strength, and plain statistics of its pixels. Nothing is said of what the image shows.
"""

import numpy as np
from PIL import Image

# What each distortion looks like: a noun for the fault and what it does to the picture.
FAULTS = {
    "gaussian_blur": ("blur", "edges are soft and fine detail is lost"),
    "lens_blur": ("defocus blur", "the scene looks out of focus"),
    "motion_blur": ("motion blur", "detail is smeared in one direction"),
    "color_diffusion": ("colour bleeding", "colours run over their edges"),
    "color_shift": ("colour fringing", "colours are displaced beside the edges"),
    "color_quantization": ("colour banding", "smooth tones break into few colours"),
    "color_saturation_hsv": ("a loss of colour", "colours look washed out"),
    "color_saturation_lab": ("oversaturation", "colours look unnaturally strong"),
    "jpeg2000": ("wavelet compression", "texture is smeared and edges ring"),
    "jpeg": ("JPEG blocking", "block edges are visible"),
    "white_noise": ("noise", "grain covers the image"),
    "color_noise": ("colour noise", "coloured speckles cover the image"),
    "impulse_noise": ("impulse noise", "single pixels are black or white"),
    "multiplicative_noise": ("speckle noise", "bright areas are grainy"),
    "denoise": ("oversmoothing", "texture looks like plastic"),
    "brighten": ("overexposure", "bright areas lose detail"),
    "darken": ("underexposure", "dark areas lose detail"),
    "mean_shift": ("a brightness shift", "the tone is off as a whole"),
    "jitter": ("jitter", "pixels are displaced at random"),
    "non_eccentricity_patch": ("misplaced patches", "small patches do not fit their surroundings"),
    "pixelate": ("pixelation", "the image falls into coarse squares"),
    "quantization": ("posterization", "smooth tones break into steps"),
    "color_block": ("colour blocks", "flat coloured blocks cover parts of the image"),
    "high_sharpen": ("oversharpening", "edges have halos"),
    "contrast_change": ("wrong contrast", "tones are pushed together or apart"),
    "resize": ("a low resolution", "it looks enlarged from a small image"),
}
STRENGTHS = ("faint", "slight", "noticeable", "strong", "severe")
UNSURE = "No single fault stands out."
LEVELS = ("bad", "poor", "fair", "good", "excellent")


def overall(mos: float) -> str:
    """The word of ITU-R BT.500 for a score on 1 to 5."""
    return LEVELS[min(4, max(0, round(mos) - 1))]


def pixel_words(image: Image.Image) -> tuple[str, str, str]:
    """Words for exposure, contrast and colour, from luma and chroma of the pixels."""
    rgb = np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BOX), dtype=np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    # Colourfulness of Hasler and Suesstrunk 2003.
    rg, yb = rgb[..., 0] - rgb[..., 1], (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    colour = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    exposure = ("dark", "rather dark", "balanced", "rather bright", "bright")[
        int(np.digitize(luma.mean(), (50, 80, 150, 190)))
    ]
    contrast = ("low", "moderate", "high")[int(np.digitize(luma.std(), (32, 60)))]
    colours = ("nearly grey", "muted", "natural", "vivid")[int(np.digitize(colour, (8, 25, 60)))]
    return exposure, contrast, colours


def tones(image: Image.Image) -> str:
    """The sentence about exposure, contrast and colour."""
    exposure, contrast, colours = pixel_words(image)
    return f"The exposure is {exposure}, the contrast is {contrast}, and colours are {colours}."


def fault(distortion: str | None, level: int) -> str:
    """The sentence about a distortion of some strength, or about none."""
    if distortion is None:
        return "No distortion is visible, and detail is crisp."
    noun, effect = FAULTS[distortion]
    article = "There is a" if noun.startswith("a ") else "There is"
    return f"{article} {STRENGTHS[level - 1]} {noun.removeprefix('a ')}: {effect}."


def reasoning(image: Image.Image, about_fault: str, score: float) -> str:
    """Three short sentences: about the fault, the tones, the verdict."""
    return f"{about_fault} {tones(image)} The quality is {overall(score)}."
