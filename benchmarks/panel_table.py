"""What panel.py measures, and its table: a block of lines for each set, a column for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from panel_sets import RatedSet
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from visualquality.evaluate.agreement import COEFFICIENTS, Agreement, Estimate, average

SHOWN = ("srcc", "plcc")
NOT_SHOWN = tuple(f"{name}:" for key, name in COEFFICIENTS.items() if key not in SHOWN)


@dataclass(frozen=True)
class Coverage:
    """How many MOS lie in the intervals of a model.

    share: of the n ratings that have an interval. width: of the intervals on average, in units of the score.
    stated: the coverage that the intervals should have, or None where the ratings do not say.
    """

    share: float
    width: float
    n: int
    stated: float | None


@dataclass(frozen=True)
class Measured:
    """A model on a set."""

    agreement: Agreement
    coverage: Coverage | None = None


# A model: set -> what was measured there. Sets that it has no scores of are left out.
Column = dict[str, Measured]


def mean_away(sets: Sequence[RatedSet], column: Column) -> Agreement | None:
    """The mean over all sets away from home; None where there is none, or the column lacks one of them."""
    away = [column.get(each.name) for each in sets if each.role == "away"]
    found = [measured.agreement for measured in away if measured]
    return average(found) if found and len(found) == len(away) else None


def panel_table(sets: Sequence[RatedSet], columns: Mapping[str, Column]) -> Table:
    """A block of lines for each set, and for the mean away from home; a column for each model."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in ("set", "", *columns):
        table.add_column(Text(header), overflow="fold")
    for each in sets:
        count = f"n = {len(each.images)}" + (f", {each.role}" if each.role != "away" else "")
        found = [column.get(each.name) for column in columns.values()]
        agreements = [measured and measured.agreement for measured in found]
        covered = [measured and measured.coverage for measured in found]
        _add_block(table, each.name, count, agreements, covered)
    if away := sum(each.role == "away" for each in sets):
        means = [mean_away(sets, column) for column in columns.values()]
        _add_block(table, "mean away", f"sets: {away}", means, [None] * len(means))
    return table


def _add_block(
    table: Table,
    name: str,
    count: str,
    agreements: Sequence[Agreement | None],
    covered: Sequence[Coverage | None],
) -> None:
    """Two lines for SRCC and PLCC each, the second one with the interval; one for coverage where there is any."""
    lines = []
    for key in SHOWN:
        found = [getattr(each, key) if each else None for each in agreements]
        lines.append((COEFFICIENTS[key], *(_value(estimate) for estimate in found)))
        lines.append(("", *(_interval(estimate) for estimate in found)))
    if any(covered):
        cells = [f"{each.share:.1%}, {each.width:.2f}" if each else "–" for each in covered]
        lines.append(("covered", *map(Text, cells)))
    for i, line in enumerate(lines):
        table.add_row(Text((name, count, "", "", "")[i]), *line, end_section=i + 1 == len(lines))


def _value(estimate: Estimate | None) -> Text:
    if estimate is None:
        return Text("–")
    if np.isnan(estimate.value):
        return Text("undefined", style="yellow")
    return Text(f"{estimate.value:.3f}")


def _interval(estimate: Estimate | None) -> Text:
    if estimate is None or np.isnan(estimate.low):
        return Text("")
    # Two decimals, so that five models fit into 100 columns. The JSON has all.
    return Text(f"[{estimate.low:.2f}, {estimate.high:.2f}]", style="dim")


def notes(sets: Sequence[RatedSet], columns: Mapping[str, Column]) -> list[str]:
    """A sentence for all that was left out, and for what the coverage should be."""
    found = [
        f"{each.name}: {each.missing} rated images have no file and are left out"
        for each in sets
        if each.missing
    ]
    stated = set()
    for model, column in columns.items():
        for name, measured in column.items():
            none, scored = measured.agreement.n_unreadable, measured.agreement.n
            if none:
                found.append(
                    f"{model} on {name}: {none} of {none + scored} images have no score and are left out"
                )
            # The others are of coefficients that are not in the table.
            shown = [p for p in measured.agreement.problems if not p.startswith(NOT_SHOWN)]
            found += [f"{model} on {name}: {problem}" for problem in shown]
            if measured.coverage and measured.coverage.stated:
                stated.add(f"{measured.coverage.stated:.0%}")
    if stated:
        found.append(
            f"covered: share of the MOS in the interval of {' or '.join(sorted(stated))}, and its mean width"
        )
    return found
