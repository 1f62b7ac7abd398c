"""What the reader of a benchmark's table must know, in sentences: whose numbers these are, and of which images."""

from collections.abc import Sequence

from .agreement import COEFFICIENTS
from .benchmark import Column, Results
from .paper import paper_tables

PLCC = {
    "raw": "PLCC is that of the scores as they are, with no mapping",
    "logistic": "PLCC is that of the scores after the 4-parameter logistic mapping",
}

SHOWN = {"raw": "PLCC", "logistic": "PLCC (logistic)"}


def notes_of(results: Results, columns: Sequence[Column]) -> list[str]:
    """The sentences under a table whose data sets are `columns`, in the order of their weight."""
    notes = [
        f"{result.name} is unavailable: {result.problem}"
        for result in results.methods
        if result.problem
    ]
    for result in results.methods:
        for name, cell in result.measured.items():
            if cell.agreement is None:
                notes.append(f"{result.name} has no number on {name}: {cell.problem}")
            elif cell.agreement.n_unreadable:
                left, n = cell.agreement.n_unreadable, cell.agreement.n
                notes.append(
                    f"{result.name} on {name}: {left} of {left + n} images have no score: {cell.problem}"
                )
    hidden = tuple(
        f"{name}:" for name in COEFFICIENTS.values() if name not in ("SRCC", SHOWN[results.plcc])
    )
    for result in results.methods:
        found = {name: cell.agreement for name, cell in result.measured.items() if cell.agreement}
        notes += [
            f"{result.name} on {name}: {problem}"
            for name, each in found.items()
            for problem in each.problems
            if not problem.startswith(hidden)
        ]
    notes.append(
        f"{PLCC[results.plcc]}{'; the paper does not say which its PLCC is' if results.paper else ''}. "
        "Best in bold, second underlined."
    )
    if results.paper:
        notes += _about_published(columns)
    if len(columns) > 1:
        notes.append(
            f"Avg is the plain mean over the {len(columns)} data sets, given where all of them are there."
        )
    return notes


def _about_published(columns: Sequence[Column]) -> list[str]:
    tables = {column.name: column for column in paper_tables().columns}
    other = [
        column
        for column in columns
        if column.column is not None and column.n != tables[column.column].images
    ]
    notes = [
        "Rows marked “paper” are the numbers that the paper prints, of its own runs: they were not measured here."
    ]
    if other:
        sizes = ", ".join(
            f"{c.name} {c.n} of {tables[c.column].images}" for c in other if c.column is not None
        )
        notes.append(
            f"The images here are not all, or not only, those of the paper: {sizes}. Where they differ by "
            "more than 1 %, published numbers are shown beside the measured ones but not ranked with them."
        )
    return notes
