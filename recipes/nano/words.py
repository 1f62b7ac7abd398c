"""The sentences that `nano` learns to say about an image.

They are made from the faults that are known to be there, their strength and place, and from plain measures of the
pixels. They never say what the image shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from visualquality.models.nano.tones import Tones, tones_of


@dataclass(frozen=True)
class Fault:
    """A fault as it is named.

    noun: without an article; `article` is "a", "an", "" for what cannot be counted, or "are" for a plural.
    effect: what it does to the image, a whole sentence without its full stop.
    """

    noun: str
    article: str
    effect: str

    def phrase(self, strength: str) -> str:
        """The noun with its strength and article: "a slight low resolution", "slight noise"."""
        article = {"a": "a", "an": "a"}.get(self.article, "")
        if article and strength[0] in "aeiou":
            article = "an"
        return f"{article} {strength} {self.noun}".strip()

    @property
    def verb(self) -> str:
        return "are" if self.article == "are" else "is"


# Family of distortion -> the fault that it is named as.
FAULTS = {
    "gaussian_blur": Fault("blur", "", "edges are soft and fine detail is lost"),
    "lens_blur": Fault("defocus blur", "", "the scene looks out of focus"),
    "motion_blur": Fault("motion blur", "", "detail is smeared in one direction"),
    "color_diffusion": Fault("colour bleeding", "", "colours run over their edges"),
    "color_shift": Fault("colour fringing", "", "colours are displaced beside the edges"),
    "color_quantization": Fault("colour banding", "", "smooth tones break into few colours"),
    "color_saturation_hsv": Fault("loss of colour", "a", "colours look washed out"),
    "color_saturation_lab": Fault("oversaturation", "", "colours look unnaturally strong"),
    "jpeg2000": Fault("wavelet compression", "", "texture is smeared and edges ring"),
    "jpeg": Fault("JPEG blocking", "", "block edges are visible"),
    "white_noise": Fault("noise", "", "grain covers the image"),
    "color_noise": Fault("colour noise", "", "coloured speckles cover the image"),
    "impulse_noise": Fault("impulse noise", "", "single pixels are black or white"),
    "multiplicative_noise": Fault("speckle noise", "", "bright areas are grainy"),
    "denoise": Fault("oversmoothing", "", "texture looks like plastic"),
    "brighten": Fault("overexposure", "", "bright areas lose detail"),
    "darken": Fault("underexposure", "", "dark areas lose detail"),
    "mean_shift": Fault("brightness shift", "a", "the tone is off as a whole"),
    "jitter": Fault("jitter", "", "pixels are displaced at random"),
    "non_eccentricity_patch": Fault("misplaced patches", "are", "small parts do not fit in"),
    "pixelate": Fault("pixelation", "", "the image falls into coarse squares"),
    "quantization": Fault("posterization", "", "smooth tones break into steps"),
    "color_block": Fault("colour blocks", "are", "flat coloured blocks cover parts of the image"),
    "high_sharpen": Fault("oversharpening", "", "edges have halos"),
    "contrast_change": Fault("wrong contrast", "", "tones are pushed together or apart"),
    "resize": Fault("low resolution", "a", "it looks enlarged from a small image"),
    # Of damages.py.
    "haze": Fault("haze", "", "a pale veil lies over the scene"),
    "cast": Fault("colour cast", "a", "all colours lean to one side"),
    "hevc": Fault("compression smear", "", "texture is wiped away in patches"),
}
STRENGTHS = ("faint", "slight", "noticeable", "strong", "severe")
UNSURE = ("No single fault stands out.", "No one fault stands out from the rest.")
CRISP = (
    "No distortion is visible, and detail is crisp.",
    "Detail is crisp, and no distortion is visible.",
)
LEVELS = ("bad", "poor", "fair", "good", "excellent")
# Of a fault that is in one part of the image only.
PLACES = {
    (0, 0): "in the upper left",
    (0, 1): "in the upper right",
    (1, 0): "in the lower left",
    (1, 1): "in the lower right",
}
# Where one word ends and the next begins; set by hand.
EXPOSURE = ((50, "dark"), (80, "rather dark"), (150, "balanced"), (190, "rather bright"))
BRIGHT = "bright"
CONTRAST = ((32, "low"), (60, "moderate"))
HIGH = "high"
COLOURS = ((8, "nearly grey"), (25, "muted"), (60, "natural"))
VIVID = "vivid"


@dataclass(frozen=True)
class Named:
    """A fault of an image: its family, its level from 1 to 5, and where it is if not everywhere (a key of PLACES)."""

    family: str
    level: int
    place: tuple[int, int] | None = None


def quality_word(score: float) -> str:
    """The word of ITU-R BT.500 for a score from 1 to 5."""
    return LEVELS[min(4, max(0, round(score) - 1))]


def word(value: float, bounds: Sequence[tuple[float, str]], above: str) -> str:
    """The word of the first bound that the value is below."""
    for bound, name in bounds:
        if value < bound:
            return name
    return above


def tone_words(tones: Tones) -> tuple[str, str, str]:
    """Words for exposure, contrast and colours."""
    return (
        word(tones.brightness, EXPOSURE, BRIGHT),
        word(tones.contrast, CONTRAST, HIGH),
        word(tones.colourfulness, COLOURS, VIVID),
    )


def tones_in(image: Image.Image) -> Tones:
    """The measures of an RGB image."""
    rgb = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32).copy())
    return tones_of(rgb.permute(2, 0, 1))


def tone_sentence(tones: Tones, pattern: int) -> str:
    """The sentence about exposure, contrast and colours, in one of two patterns."""
    exposure, contrast, colours = tone_words(tones)
    if pattern % 2:
        return f"It is {exposure} in exposure, with {contrast} contrast and {colours} colours."
    return f"The exposure is {exposure}, the contrast is {contrast}, and colours are {colours}."


def fault_sentence(faults: Sequence[Named], pattern: int) -> str:
    """The sentences about one or two faults, the stronger one first, in one of three patterns."""
    first = FAULTS[faults[0].family]
    phrase = first.phrase(STRENGTHS[faults[0].level - 1])
    where = f" {PLACES[faults[0].place]}" if faults[0].place is not None else ""
    if pattern % 3 == 0:
        said = f"There {first.verb} {phrase}{where}: {first.effect}."
    elif pattern % 3 == 1:
        said = f"{phrase[0].upper()}{phrase[1:]} {first.verb} visible{where}: {first.effect}."
    else:
        said = f"The main fault {first.verb} {phrase}{where}: {first.effect}."
        if first.verb == "are":
            said = said.replace("The main fault are", "The main faults are")
    for other in faults[1:]:
        second = FAULTS[other.family]
        also = f" {PLACES[other.place]}" if other.place is not None else ""
        said += f" There {second.verb} also {second.phrase(STRENGTHS[other.level - 1])}{also}."
    return said


def reasoning(fault: str, tones: Tones, score: float, pattern: int) -> str:
    """The sentence about faults, the tones, and the quality."""
    quality = quality_word(score)
    if pattern % 2:
        return f"{fault} {tone_sentence(tones, pattern)} Overall, the quality is {quality}."
    return f"{fault} {tone_sentence(tones, pattern)} The quality is {quality}."


def example_responses() -> list[tuple[float, str]]:
    """(score, reasoning) with every sentence there is, from which the vocabulary is learnt."""
    examples = []
    rng = np.random.default_rng(0)
    families, places = list(FAULTS), [None, None, None, *PLACES]
    for number in range(4000):
        tones = Tones(*(float(rng.uniform(0, most)) for most in (255, 90, 100)))
        score = float(rng.uniform(1, 5))
        first, second = rng.choice(len(families), 2, replace=False)
        faults = [
            Named(families[i], int(rng.integers(1, 6)), places[rng.integers(len(places))])
            for i in (first, second)
        ]
        kind = number % 5
        said = fault_sentence(faults[: 1 + (kind == 1)], number)
        if kind == 0:
            said = (*UNSURE, *CRISP)[number // 5 % 4]
        examples.append((score, reasoning(said, tones, score, number)))
    return examples
