"""What is known of released weights: how they are asked, where they lie, and how their authors score with them.

| released weights | prompt | chat | answer | scale |
| --- | --- | --- | --- | --- |
| TianheWu/VisualQuality-R1-7B, and its other releases | released | image, text | a number | 1 to 5 |
| ByteDance/Q-Insight, subfolder score_degradation | q-insight | system, text, image | JSON, key "rating" | 1 to 5 |
| Qwen/Qwen2.5-VL-…-Instruct, zero-shot | paper (it was trained with none) | image, text | a number | 1 to 5 |

How a prompt is put to a model and how its answer is read belong to the prompt, in `response.py`. The facts are from
the inference code that each team published.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..response import PromptName

# Scoring options (`score.settings.ScoreSettings`) by name.
Preset = Mapping[str, Any]

# The script "single image quality rating" of their README (github.com/TianheWu/VisualQuality-R1 at a16dcdb).
# Temperature and repetition penalty are not in it: they come from the weights' generation_config.json, whose top_k and
# top_p the script overrides.
VISUALQUALITY_R1: Preset = {
    "mode": "reason",
    "add_vision_id": True,
    "samples": 1,
    "temperature": 0.1,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.05,
    "max_new_tokens": 2048,
    "reading": "authors",
}
# demo_score.py (github.com/bytedance/Q-Insight at 08308fd), as its GenerationConfig has it. transformers 4.50 and newer
# put values of the weights' generation_config.json in place of those that equal its own defaults (temperature 1, top_k
# 50, no penalty) if the weights were saved by such a version: what the demo then draws with is not what it says.
Q_INSIGHT: Preset = {
    "mode": "reason",
    "add_vision_id": False,
    "samples": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.0,
    "max_new_tokens": 1024,
    "reading": "authors",
}


@dataclass(frozen=True)
class Release:
    """Released weights.

    name: their name on the hub without its owner, in lower case, as a regular expression (it holds for a copy on disk
    too). prompt: the one that they were trained with. subfolder: of the repository, which has them. authors: the
    scoring options that their authors' script uses (`--preset authors`); None where no script of theirs rates images.
    """

    name: str
    prompt: PromptName
    subfolder: str = ""
    authors: Preset | None = None


RELEASES = (
    Release(r"visualquality-r1[^/\\]*", "released", authors=VISUALQUALITY_R1),
    Release(r"q-insight", "q-insight", "score_degradation", authors=Q_INSIGHT),
    Release(r"qwen2\.5-vl[^/\\]*", "paper"),
)


def release_of(name: str) -> Release | None:
    """The entry of a hub name, of a folder named like it, or of a path inside that or the hub's cache; None for others.

    >>> release_of("ByteDance/Q-Insight").prompt, release_of("models/VisualQuality-R1-7B/").prompt
    ('q-insight', 'released')
    >>> release_of("nano") or release_of("runs/q-insight-mine/final")
    """
    for release in RELEASES:
        # "--": the hub's cache has folders such as models--ByteDance--Q-Insight.
        if re.search(rf"(^|[/\\]|--){release.name}($|[/\\])", name.lower()):
            return release
    return None


def trained_prompt(name: str) -> PromptName | None:
    """The prompt that released weights of this name were trained with; None for other names.

    >>> trained_prompt("TianheWu/VisualQuality-R1-7B"), trained_prompt("nano")
    ('released', None)
    """
    release = release_of(name)
    return None if release is None else release.prompt


def subfolder_of(name: str) -> str:
    """The subfolder of a hub name or folder that holds its model; "" is the top, where a folder may have it too.

    >>> subfolder_of("ByteDance/Q-Insight"), subfolder_of("Qwen/Qwen2.5-VL-7B-Instruct")
    ('score_degradation', '')
    """
    release = release_of(name)
    if release is None:
        return ""
    folder = Path(name)
    # A copy on disk may be of the subfolder alone.
    if folder.is_dir() and not (folder / release.subfolder).is_dir():
        return ""
    return release.subfolder
