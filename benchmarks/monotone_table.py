"""What monotone.py prints: a table of the families, tables of JPEG and borders, and whether what should hold does."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from visualquality.data.distort import LEVELS

# What should hold, in units of the score where it is no share.
FALLING = 0.95  # share of the steps in which the score falls, at least
ALLOWED = 0.02  # how far JPEG may be above the photo
MOVED = 0.15  # by how much borders may move a score on average
WORST = 5  # families that are named under the table


def percent(share: float | None) -> str:
    """Without the sign, so that the table fits into 100 columns."""
    return "–" if share is None else f"{100 * share:.1f}"


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def worst_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of families by the share of falling steps, those without any score last."""
    return sorted(rows, key=lambda row: 2.0 if row["falling"] is None else row["falling"])


def family_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Steps in which the score falls, in %, worst first")
    table.add_column("family", no_wrap=True)
    steps = [f"{level}→{level + 1}" for level in range(len(LEVELS))]
    for header in ("photos", "all", *steps, "pairs", "SRCC"):
        table.add_column(header, justify="right")
    for row in worst_first(rows):
        shares = map(percent, (row["falling"], *row["by_step"], row["in_order"]))
        correlation = "–" if row["srcc"] is None else f"{row['srcc']:.3f}"
        table.add_row(row["family"], str(row["photos"]), *shares, correlation)
    return table


def change_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title)
    table.add_column("variant")
    for header in ("n", "not above, %", "mean change", "mean size of change", "largest"):
        table.add_column(header, justify="right")
    for row in rows:
        size, largest = (row[name] for name in ("mean_absolute", "largest"))
        sizes = ["–" if value is None else f"{value:.3f}" for value in (size, largest)]
        cells = (percent(row["not_above"]), signed(row["mean"]), *sizes)
        table.add_row(row["variant"], str(row["n"]), *cells)
    return table


def interval(found: dict[str, Any], form: str) -> str:
    """A mean and its interval, such as "93.1% [90.8%, 94.6%]"."""
    value, low, high = (format(found[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def verdicts(found: dict[str, Any]) -> list[str]:
    """A sentence for each thing that should hold, and whether it does."""
    falling, pairs, ranks, moved = (
        found[name] for name in ("falling", "in_order", "srcc", "border_change")
    )
    sentences = []
    if falling["n"]:
        reached = "reached" if falling["value"] >= FALLING else "missed"
        worst = [row["family"] for row in worst_first(found["families"])]
        sentences += [
            f"The score falls in {interval(falling, '.1%')} of {falling['n']} steps "
            f"({falling['photos']} photos); {FALLING:.0%} should: {reached}.",
            f"Of two levels, the stronger has the lower score in {interval(pairs, '.1%')} of the pairs.",
            f"The worst families: {', '.join(worst[:WORST])}.",
        ]
    if ranks["n"]:
        sentences.append(f"Mean SRCC of score and level: {interval(ranks, '.3f')}.")
    for row in found["jpeg"]:
        if row["n"]:
            sentences.append(
                f"JPEG of {row['variant']} is at most {ALLOWED} above the photo in "
                f"{row['not_above']:.1%} of {row['n']} photos."
            )
    if moved["n"]:
        reached = "reached" if moved["value"] <= MOVED else "missed"
        sentences.append(
            f"A plain border moves a score by {interval(moved, '.3f')} on average; "
            f"at most {MOVED} should be: {reached}."
        )
    if found["without_score"]:
        sentences.append(f"{found['without_score']} images have no score and are left out.")
    return sentences
