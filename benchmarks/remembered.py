"""Scoring images whose features a frozen tower has given before, by any model that has this tower."""

from collections.abc import Sequence

from visualquality.score.expect import begun

from visualquality.data.manifest import Row
from visualquality.score.rating import Rating
from visualquality.score.reading import Prepared
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder


def rate(scorer: Scorer, encode: PromptEncoder, rows: Sequence[Row]) -> list[Rating]:
    """A rating for each row, in order; what is drawn depends on the file's name instead of its pixels."""
    (question,) = scorer.preparation.questions
    found: list[Rating] = []
    for at in range(0, len(rows), 64):
        part = rows[at : at + 64]
        prompts = encode([((row.image,), question.text) for row in part])
        found += scorer.rate_prepared(
            Prepared(row.image.name, row.image.name, (begun(prompt, question.opening),))
            for row, prompt in zip(part, prompts, strict=True)
        )
    return found
