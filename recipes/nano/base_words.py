"""The sentences that `nano-base` learnt to say about an image. (Those of nano are in words.py.)

They are made from the distortion that was applied, its strength, and plain statistics of the pixels. They never say
what the image shows.
"""

import numpy as np
from PIL import Image

# Family of distortion -> a noun for the fault, and what it does to the image.
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
LEVELS = ("bad", "poor", "fair", "good", "excellent")


def quality_word(mos: float) -> str:
    """The word of ITU-R BT.500 for a score from 1 to 5."""
    return LEVELS[min(4, max(0, round(mos) - 1))]


def pixel_words(image: Image.Image) -> tuple[str, str, str]:
    """Words for exposure, contrast and colour, from luma and chroma of the pixels (values 0 to 255)."""
    rgb = np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BOX), dtype=np.float32)
    # Luma of ITU-R BT.601.
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    # Colourfulness of Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images".
    rg, yb = rgb[..., 0] - rgb[..., 1], (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    colour = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    # The thresholds were set by hand.
    exposure = ("dark", "rather dark", "balanced", "rather bright", "bright")[
        int(np.digitize(luma.mean(), (50, 80, 150, 190)))
    ]
    contrast = ("low", "moderate", "high")[int(np.digitize(luma.std(), (32, 60)))]
    colours = ("nearly grey", "muted", "natural", "vivid")[int(np.digitize(colour, (8, 25, 60)))]
    return exposure, contrast, colours


def tone_sentence(image: Image.Image) -> str:
    """The sentence about exposure, contrast and colour."""
    exposure, contrast, colours = pixel_words(image)
    return f"The exposure is {exposure}, the contrast is {contrast}, and colours are {colours}."


def fault_sentence(distortion: str | None, level: int) -> str:
    """The sentence about a distortion of a level from 1 to 5, or about there being none."""
    if distortion is None:
        return "No distortion is visible, and detail is crisp."
    noun, effect = FAULTS[distortion]
    article = "There is a" if noun.startswith("a ") else "There is"
    return f"{article} {STRENGTHS[level - 1]} {noun.removeprefix('a ')}: {effect}."


def reasoning(image: Image.Image, fault: str, score: float) -> str:
    """Three short sentences: the given one about the fault, the tones, and the quality."""
    return f"{fault} {tone_sentence(image)} The quality is {quality_word(score)}."
