"""How well scores agree with mean opinion scores on a data set: coefficients with bootstrap intervals.

Every interval of this package comes from `resampled`. What is undefined is NaN, with a sentence in `problems`; it is
never replaced by another number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table
from rich.text import Text

from ..coefficients import (
    NAN,
    Array,
    krcc,
    pair,
    plcc,
    srcc,
    unit,
    weighted_plcc,
    weighted_srcc,
    why_undefined,
)
from ..errors import UserError
from ..terminal import shown, shown_line
from .logistic import logistic4, weighted_plcc_logistic

COEFFICIENTS = {"srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "plcc_logistic": "PLCC (logistic)"}

RESAMPLES = 1000
# KRCC and the logistic fit take milliseconds a resample.
SLOW_RESAMPLES = 200
# Resamples x images at a time: bounds the memory of the bootstrap to some hundred MB.
CHUNK_ELEMENTS = 2_000_000
# Decimals that are kept of a coefficient. The sums of NumPy depend in their last bits on where arrays lie in memory,
# so that two runs on the same inputs would otherwise write different files.
DECIMALS = 12


class JsonReady:
    """Base of the dataclasses here that are written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name in their order, those of inner dataclasses too. NaN, which is not JSON, becomes None."""
        return asdict(
            self,  # type: ignore[call-overload]
            dict_factory=lambda fields: {
                # Only NaN is not equal to itself.
                name: None if value != value else value
                for name, value in fields
            },
        )


@dataclass(frozen=True)
class Estimate(JsonReady):
    """A coefficient in [-1, 1] and its 95 % interval [low, high], rounded to `DECIMALS`; NaN where undefined."""

    value: float = NAN
    low: float = NAN
    high: float = NAN

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            # The way around the frozen dataclass that its own __init__ takes.
            object.__setattr__(self, name, round(float(number), DECIMALS))


@dataclass(frozen=True)
class Agreement(JsonReady):
    """The agreement of scores with MOS on one data set, or the average of several.

    `n` images were used; `n_unreadable` were left out because they have no score. `bootstrap` resamples made the
    intervals of SRCC and PLCC, `bootstrap_slow` those of KRCC and PLCC (logistic). `problems` names what is
    undefined, and why. `answers`: how many answers each reading reads (`matching.answers_read`), where it is known.
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
    answers: dict[str, int] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """As `JsonReady` has it, without `answers` where they are not known."""
        found = super().to_dict()
        if self.answers is None:
            del found["answers"]
        return found


def answers_line(name: str, found: Agreement) -> str | None:
    """One sentence about the answers on the data set `name`; None where nothing is known of them."""
    if found.answers is None:
        return None
    drawn, strict, authors = (found.answers[key] for key in ("drawn", "strict", "authors"))
    return f"{name}: of {drawn:,} answers the reading strict reads {strict:,} and the reading authors {authors:,}"


def resampled(
    statistic: Callable[[Array], ArrayLike], n: int, resamples: int, seed: int = 0
) -> Array:
    """`statistic` on each resample of n images, drawn with replacement: (resamples,).

    `statistic` takes counts (R, n), how often each image is drawn in each of R resamples, and gives (R,) numbers.
    The resamples depend on `n` and `seed` alone, so every statistic of the same images is computed on the same ones,
    and a smaller number of resamples is the beginning of a larger one.
    """
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // max(n, 1))
    values = [np.empty(0)]
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        # Each row gets numbers of its own, so that one bincount counts all rows.
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        values.append(np.asarray(statistic(counts.astype(np.float64)), dtype=np.float64))
    return np.concatenate(values)


def _estimate(value: float, drawn: Array) -> Estimate:
    """A value and its percentile interval over `drawn`, of which NaN are left out."""
    kept = drawn[~np.isnan(drawn)]
    if not len(kept):
        return Estimate(value)
    low, high = np.percentile(kept, [2.5, 97.5])
    return Estimate(value, low, high)


def srcc_estimate(x: Array, y: Array) -> Estimate:
    """SRCC of `x` (n,) and `y` (n,) with its 95 % interval; undefined where `why_undefined` says why.

    The same numbers as the SRCC that `agreement` gives for these images.
    """
    if why_undefined(x, y):
        return Estimate()
    drawn = resampled(lambda counts: weighted_srcc(counts, x, y), len(x), RESAMPLES)
    return _estimate(srcc(x, y), drawn)


def agreement(
    scores: Sequence[float | None] | Array,
    mos: ArrayLike,
    *,
    bootstrap: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """SRCC, KRCC, PLCC raw and mapped of `scores` (n,) with `mos` (n,), with percentile 95 % intervals.

    Rows whose score is None or NaN are left out and counted. Images are resampled with replacement `bootstrap` times
    (0: no intervals). KRCC and the logistic fit use the first 200 resamples, and each fit starts at that of all
    images. Resamples in which a coefficient is undefined are left out of its interval and counted in `problems`. The
    mapped PLCC of scores that are unrelated to MOS lies slightly away from 0, because the fit follows the noise. The
    same input and seed give the same result. Raises `UserError` where lengths differ or a MOS is not finite.
    """
    x, y = pair([NAN if score is None else score for score in scores], mos)
    finite = np.isfinite(y)
    if not finite.all():
        row = int(np.argmin(finite)) + 1
        raise UserError(f"mos {row} of {len(y)} is not a finite number; fix that row")
    readable = ~np.isnan(x)
    x, y = x[readable], y[readable]
    n, slow = len(x), min(bootstrap, SLOW_RESAMPLES)
    estimates: dict[str, Any] = dict.fromkeys(COEFFICIENTS, Estimate())
    problems = []
    if reason := why_undefined(x, y):
        problems.append(reason)
    else:
        fit = logistic4(x, y)
        # The order of the sentences: the fit first, then the coefficients.
        if fit.problem:
            problems.append(f"PLCC (logistic): {fit.problem}")
        # `weighted_plcc` needs values near 1; ranks are so by themselves.
        unit_x, unit_y = unit(x), unit(y)

        # Coefficient -> its value, its values in resamples given as counts, and the number of resamples.
        computed: dict[str, tuple[float, Callable[[Array], ArrayLike], int]] = {
            "srcc": (srcc(x, y), lambda counts: weighted_srcc(counts, x, y), bootstrap),
            "krcc": (krcc(x, y), lambda counts: _one_by_one(krcc, counts, x, y), slow),
            "plcc": (plcc(x, y), lambda counts: weighted_plcc(counts, unit_x, unit_y), bootstrap),
            "plcc_logistic": (
                fit.plcc(x, y),
                lambda counts: weighted_plcc_logistic(counts, x, y, fit),
                0 if fit.problem else slow,
            ),
        }
        for key, (value, statistic, resamples) in computed.items():
            drawn = resampled(statistic, n, resamples, seed)
            estimates[key] = _estimate(value, drawn)
            if undefined := int(np.isnan(drawn).sum()):
                problems.append(
                    f"{COEFFICIENTS[key]}: undefined in {undefined} of the {resamples} resamples"
                )
    return Agreement(
        n=n,
        n_unreadable=int((~readable).sum()),
        **estimates,
        bootstrap=bootstrap,
        bootstrap_slow=slow,
        problems=tuple(problems),
    )


def _one_by_one(
    coefficient: Callable[[Array, Array], float], counts: Array, x: Array, y: Array
) -> list[float]:
    """A coefficient that has no weighted form: each resample is written out, an image as often as it is drawn."""
    values = []
    for row in counts.astype(int):
        drawn = np.repeat(np.arange(len(x)), row)
        values.append(coefficient(x[drawn], y[drawn]))
    return values


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
    m = len(value)
    mean = value.mean()
    below = np.sqrt(((value - low) ** 2).sum()) / m
    above = np.sqrt(((value - high) ** 2).sum()) / m
    # np.maximum, unlike max, keeps NaN.
    return Estimate(mean, np.maximum(-1, mean - below), np.minimum(1, mean + above))


def average(agreements: Iterable[Agreement]) -> Agreement:
    """The plain mean over data sets, as the paper's column "Avg.", whatever their sizes; the counts are sums.

    Data sets are independent, so the half-widths h of the intervals (each side by itself) add as squares: sqrt(sum h²)
    / m for m sets. A coefficient that is undefined for one set is undefined here, and `problems` says so. Raises
    `UserError` where there is no data set.
    """
    sets = list(agreements)
    if not sets:
        raise UserError("there is no data set to average; evaluate at least one")
    estimates: dict[str, Any] = {}
    problems = []
    for key, name in COEFFICIENTS.items():
        each = [getattr(found, key) for found in sets]
        estimates[key] = _mean(each)
        if missing := sum(np.isnan(estimate.value) for estimate in each):
            problems.append(f"{name}: undefined for {missing} of {len(sets)} data sets")
    return Agreement(
        n=sum(each.n for each in sets),
        n_unreadable=sum(each.n_unreadable for each in sets),
        **estimates,
        bootstrap=min(each.bootstrap for each in sets),
        bootstrap_slow=min(each.bootstrap_slow for each in sets),
        problems=tuple(problems),
    )


def with_average(rows: Mapping[str, Agreement]) -> dict[str, Agreement]:
    """The agreements by data set and, where there are several, their average under this name."""
    return {**rows, "average": average(rows.values())} if len(rows) > 1 else dict(rows)


def table(rows: Mapping[str, Agreement]) -> Table:
    """A table for the terminal: a row for each data set by name, their average, and the problems below."""
    lines = with_average(rows)
    problems = [f"{name}: {problem}" for name, row in lines.items() for problem in row.problems]
    caption = shown("\n".join(problems), style="yellow") if problems else None
    drawn = Table(caption=caption, caption_justify="left")
    drawn.add_column("data set")
    for header in ("n", *COEFFICIENTS.values(), "no score"):
        drawn.add_column(header, justify="right")
    for name, row in lines.items():
        if name not in rows:
            drawn.add_section()
        cells = []
        for key in COEFFICIENTS:
            estimate = getattr(row, key)
            cell = Text(f"{estimate.value:.3f}")
            if np.isnan(estimate.value):
                cell = Text("undefined", style="yellow")
            elif not np.isnan(estimate.low):
                cell.append(f" [{estimate.low:.3f}, {estimate.high:.3f}]", "dim")
            cells.append(cell)
        drawn.add_row(shown_line(name), str(row.n), *cells, str(row.n_unreadable))
    return drawn
