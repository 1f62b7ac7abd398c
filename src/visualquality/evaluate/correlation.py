"""How well scores agree with mean opinion scores on a data set: coefficients with bootstrap intervals.

What is undefined is NaN, with a sentence in `problems`; it is never replaced by another number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table
from rich.text import Text

from visualquality.errors import UserError
from visualquality.evaluate.coefficients import (
    Array,
    LogisticFit,
    krcc,
    logistic4,
    pair,
    plcc,
    plcc_logistic4,
    srcc,
    unit,
    weighted_plcc,
    weighted_srcc,
    why_undefined,
)

__all__ = [
    "Agreement",
    "Estimate",
    "LogisticFit",
    "agreement",
    "average",
    "krcc",
    "logistic4",
    "plcc",
    "plcc_logistic4",
    "srcc",
    "table",
    "why_undefined",
]

COEFFICIENTS = {"srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "plcc_logistic": "PLCC (logistic)"}
NAN = float("nan")

# KRCC and the logistic fit take milliseconds a resample and cannot be vectorised: they get the first ones.
SLOW_RESAMPLES = 200
CHUNK_ELEMENTS = 2_000_000  # bounds the memory of the bootstrap to some hundred MB at any n


@dataclass(frozen=True)
class Estimate:
    """A coefficient in [-1, 1] and its 95 % interval [low, high]; NaN where undefined."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON-safe: NaN becomes None."""
        return {key: None if np.isnan(value) else value for key, value in vars(self).items()}


@dataclass(frozen=True)
class Agreement:
    """The agreement of scores with MOS on one data set, or the average of several.

    `n` images were used and `n_unreadable` left out for want of a score. `bootstrap` resamples made the
    intervals of SRCC and PLCC, `bootstrap_slow` those of KRCC and PLCC (logistic). `problems` names what is
    undefined, and why.
    """

    n: int
    n_unreadable: int
    srcc: Estimate
    krcc: Estimate
    plcc: Estimate
    plcc_logistic: Estimate
    bootstrap: int
    bootstrap_slow: int
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, in the order of the fields: NaN becomes None."""
        estimates = {key: getattr(self, key).to_dict() for key in COEFFICIENTS}
        return {**vars(self), **estimates, "problems": list(self.problems)}


def _replicates(
    x: Array, y: Array, fit: LogisticFit, bootstrap: int, seed: int
) -> dict[str, Array]:
    """The coefficients of resamples of the images: (bootstrap,) each, or as many as the slow ones get."""
    rng = np.random.default_rng(seed)
    n, unit_x, unit_y = len(x), unit(x), unit(y)
    found: dict[str, list[float]] = {key: [] for key in COEFFICIENTS}
    chunk = max(1, CHUNK_ELEMENTS // n)
    for done in range(0, bootstrap, chunk):
        rows = min(chunk, bootstrap - done)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        found["srcc"].extend(weighted_srcc(counts, x, y))
        found["plcc"].extend(weighted_plcc(counts, unit_x, unit_y))
        for row in counts[: max(0, SLOW_RESAMPLES - done)]:
            take = np.repeat(np.arange(n), row.astype(int))
            found["krcc"].append(krcc(x[take], y[take]))
            if fit.problem is None:
                found["plcc_logistic"].append(
                    logistic4(x[take], y[take], start=fit).plcc(x[take], y[take])
                )
    return {key: np.array(values) for key, values in found.items()}


def agreement(
    scores: Sequence[float | None] | Array, mos: ArrayLike, *, bootstrap: int = 1000, seed: int = 0
) -> Agreement:
    """SRCC, KRCC, PLCC raw and mapped of `scores` (n,) with `mos` (n,), with percentile 95 % intervals.

    Rows whose score is None or NaN are left out and counted. Images are resampled with replacement
    `bootstrap` times (0: no intervals); KRCC and the logistic fit use the first 200 resamples, each fit
    starting at that of all images. Resamples where a coefficient is undefined are left out of its interval
    and counted in `problems`. The mapped PLCC of scores that have nothing to do with MOS is a little away
    from 0, since the fit follows the noise. The same input and seed give the same result. Raises
    `UserError` where lengths differ or a MOS is not finite.
    """
    x, y = pair([NAN if score is None else score for score in scores], mos)
    if not np.isfinite(y).all():
        raise UserError(
            f"mos {int(np.argmin(np.isfinite(y))) + 1} of {len(y)} is not a finite number; mend that row"
        )
    readable = ~np.isnan(x)
    x, y = x[readable], y[readable]
    values, replicates, problems = dict.fromkeys(COEFFICIENTS, NAN), {}, []
    if reason := why_undefined(x, y):
        problems.append(reason)
    else:
        fit = logistic4(x, y)
        if fit.problem:
            problems.append(f"PLCC (logistic): {fit.problem}")
        values = {
            "srcc": srcc(x, y),
            "krcc": krcc(x, y),
            "plcc": plcc(x, y),
            "plcc_logistic": fit.plcc(x, y),
        }
        replicates = _replicates(x, y, fit, bootstrap, seed)
    estimates = {}
    for key, value in values.items():
        drawn = replicates.get(key, np.array([]))
        kept = drawn[~np.isnan(drawn)]
        if len(kept) < len(drawn):
            lost = len(drawn) - len(kept)
            problems.append(
                f"{COEFFICIENTS[key]}: undefined in {lost} of the {len(drawn)} resamples"
            )
        low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (NAN, NAN)
        estimates[key] = Estimate(value, float(low), float(high))
    return Agreement(
        n=len(x),
        n_unreadable=int((~readable).sum()),
        srcc=estimates["srcc"],
        krcc=estimates["krcc"],
        plcc=estimates["plcc"],
        plcc_logistic=estimates["plcc_logistic"],
        bootstrap=bootstrap,
        bootstrap_slow=min(bootstrap, SLOW_RESAMPLES),
        problems=tuple(problems),
    )


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
    below, above = (float(np.sqrt(((value - end) ** 2).sum())) / len(value) for end in (low, high))
    mean = float(value.mean())
    return Estimate(mean, float(np.maximum(-1, mean - below)), float(np.minimum(1, mean + above)))


def average(agreements: Iterable[Agreement]) -> Agreement:
    """The plain mean over data sets, as the paper's column "Avg.", whatever their sizes; the counts are sums.

    Data sets are independent, so the half-widths h of the intervals (each side by itself) add as squares:
    sqrt(sum h²) / m for m sets. A coefficient that is undefined for one set is undefined here, and
    `problems` says so. Raises `UserError` where there is no data set.
    """
    sets = list(agreements)
    if not sets:
        raise UserError("there is no data set to average; evaluate at least one")
    problems = []
    for key, name in COEFFICIENTS.items():
        if missing := sum(np.isnan(getattr(each, key).value) for each in sets):
            problems.append(f"{name}: undefined for {missing} of {len(sets)} data sets")
    return Agreement(
        n=sum(each.n for each in sets),
        n_unreadable=sum(each.n_unreadable for each in sets),
        srcc=_mean([each.srcc for each in sets]),
        krcc=_mean([each.krcc for each in sets]),
        plcc=_mean([each.plcc for each in sets]),
        plcc_logistic=_mean([each.plcc_logistic for each in sets]),
        bootstrap=min(each.bootstrap for each in sets),
        bootstrap_slow=min(each.bootstrap_slow for each in sets),
        problems=tuple(problems),
    )


def _cell(estimate: Estimate) -> Text:
    if np.isnan(estimate.value):
        return Text("undefined", style="yellow")
    cell = Text(f"{estimate.value:.3f}")
    return (
        cell
        if np.isnan(estimate.low)
        else cell.append(f" [{estimate.low:.3f}, {estimate.high:.3f}]", "dim")
    )


def table(rows: Mapping[str, Agreement]) -> Table:
    """A table for the terminal: a row for each data set by name, their average, and the problems below."""
    lines = dict(rows)
    if len(rows) > 1:
        lines["average"] = average(rows.values())
    told = [f"{name}: {problem}" for name, row in lines.items() for problem in row.problems]
    caption = (
        Text("\n".join(told), style="yellow") if told else None
    )  # Text, since a name may hold markup
    drawn = Table(caption=caption, caption_justify="left")
    drawn.add_column("data set")
    for header in ("n", *COEFFICIENTS.values(), "unreadable"):
        drawn.add_column(header, justify="right")
    for name, row in lines.items():
        cells = [_cell(getattr(row, key)) for key in COEFFICIENTS]
        drawn.add_row(
            Text(name),
            str(row.n),
            *cells,
            str(row.n_unreadable),
            end_section=name == list(rows)[-1],
        )
    return drawn
