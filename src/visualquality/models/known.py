"""Released models that we know: what each was asked when it was trained, and where its files are.

| weights | prompt | chat | answer | scale |
| --- | --- | --- | --- | --- |
| TianheWu/VisualQuality-R1-7B, and its other releases | released | image, text | a number | 1 to 5 |
| ByteDance/Q-Insight, subfolder score_degradation | q-insight | system, text, image | JSON, key "rating" | 1 to 5 |
| Qwen/Qwen2.5-VL-…-Instruct, zero-shot | paper (it was trained with none) | image, text | a number | 1 to 5 |

How a prompt is put to a model and how its answer is read belong to the prompt, in `response.py`. The facts are from
the inference code that each team published.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ..response import PromptName


@dataclass(frozen=True)
class KnownModel:
    """`name`: the model's name on the hub without its owner, in lower case, as a regular expression; it holds for a
    copy on disk too. `subfolder`: where in its repository the weights are."""

    name: str
    prompt: PromptName
    subfolder: str = ""


KNOWN_MODELS = (
    KnownModel(r"visualquality-r1[^/\\]*", "released"),
    KnownModel(r"q-insight", "q-insight", "score_degradation"),
    KnownModel(r"qwen2\.5-vl[^/\\]*", "paper"),
)


def known_model(name: str) -> KnownModel | None:
    """The entry of a hub name, of a folder named like it, or of a path inside that or the hub's cache; None for others.

    >>> known_model("ByteDance/Q-Insight").prompt, known_model("models/VisualQuality-R1-7B/").prompt
    ('q-insight', 'released')
    >>> known_model("nano") or known_model("runs/q-insight-mine/final")
    """
    for model in KNOWN_MODELS:
        # "--": the hub's cache has folders such as models--ByteDance--Q-Insight.
        if re.search(rf"(^|[/\\]|--){model.name}($|[/\\])", name.lower()):
            return model
    return None


def trained_prompt(name: str) -> PromptName | None:
    """The prompt that the model of this name was trained with, where it is a known one.

    >>> trained_prompt("TianheWu/VisualQuality-R1-7B"), trained_prompt("nano")
    ('released', None)
    """
    model = known_model(name)
    return model.prompt if model else None


def subfolder_of(name: str) -> str:
    """The subfolder of a hub name or folder that holds its model; "" is the top, where a folder may have it too.

    >>> subfolder_of("ByteDance/Q-Insight"), subfolder_of("Qwen/Qwen2.5-VL-7B-Instruct")
    ('score_degradation', '')
    """
    model = known_model(name)
    if model is None or (Path(name).is_dir() and not (Path(name) / model.subfolder).is_dir()):
        return ""
    return model.subfolder
