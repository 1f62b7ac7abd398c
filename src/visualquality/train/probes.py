"""Images that a run is asked about along the way: Fig. 3 (std over K on several sets) and Fig. 4 (one image's words)
are drawn from. Nothing is learnt from them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import response
from .examples import Example, read_source
from .recipe import Recipe


@dataclass(frozen=True)
class Probes:
    """`file` gets a line an image and step, in the form of `samples.jsonl`, without rewards."""

    examples: list[Example]
    names: list[str]
    file: Path

    def write(self, step: int, examples: Sequence[Example], texts: Sequence[str]) -> None:
        k = len(texts) // len(examples)
        with self.file.open("a", encoding="utf-8") as file:
            for index, example in enumerate(examples):
                own = list(texts[index * k : (index + 1) * k])
                record = {
                    "step": step,
                    "dataset": self.names[example.dataset],
                    "images": [example.path.name],
                    "mos": [round(example.mos, 6)],
                    "scores": [[response.read(text).score for text in own]],
                    "texts": own,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_probes(recipe: Recipe, file: Path) -> Probes | None:
    """The probes of a recipe, if it names any. Raises UserError for a faulty manifest."""
    if recipe.probes is None:
        return None
    names: list[str] = []
    return Probes(
        read_source(recipe.probes, names, on_1_to_5=False, reference=recipe.reference), names, file
    )
