"""The HTML page about an RL2R run: its curves, and how its answers about the same images changed.

The words of the page are in `run.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from ..errors import UserError
from ..io import read_jsonl
from ..rl2r import description
from ..train.examples import read_examples, read_probes
from ..train.faults import Fault, read_left_out
from ..train.logs import METRICS
from ..train.recipe import RECIPE, Recipe, read_recipe
from ..train.validation import SCORED
from .page import LIGHT, Panel, draw, pick_evenly, write_page
from .run_images import (
    Answers,
    RunImage,
    followed_images,
    read_answers,
    with_words,
    words_along,
)

# Answers about a probe image whose words are shown; there are words at every step.
WORDS_OF_A_PROBE = 5
# Images that were left out, and are named.
LEFT_OUT_NAMED = 5
# A long run gets a running mean over one part in this many of its steps.
MEANS = 15
# The metrics of the parts of a reward begin with this.
PART = "reward/"
STROKES = [
    (LIGHT["blue"], "-"),
    (LIGHT["violet"], "--"),
    (LIGHT["green"], ":"),
    (LIGHT["orange"], "-."),
]


def report_run(run: Path, output: Path, *, notes: Sequence[str] = (), console: Console) -> None:
    """Write the page about the training run in the folder `run` to the file `output`.

    notes: sentences to stand under the title, after those about the recipe. Where the images of the run cannot be
    found, the page has no pictures, and `console` says why. Raises UserError where `run` is no RL2R run, or `output`
    cannot be written.
    """
    _refuse_without(run, "metrics.jsonl", "is no training run")
    _refuse_without(run, RECIPE, "is no whole run")
    recipe = read_recipe(run / RECIPE, output=run)
    if recipe.method != "rl2r":
        raise UserError(
            f"{run} is a run of method {recipe.method}, without rewards: this page is about RL2R runs"
        )
    _refuse_without(run, "samples.jsonl", "is no whole RL2R run")
    metrics = read_metrics(run / "metrics.jsonl")
    # The same images at many steps show best how the answers change, so probes are preferred.
    probed = (run / "probes.jsonl").is_file()
    answers = read_answers(run / ("probes.jsonl" if probed else "samples.jsonl"))
    settings, optimizer = recipe.rl2r, recipe.optimizer
    length = f"{optimizer.steps} steps"
    if optimizer.steps is None:
        length = f"{optimizer.epochs:g} epochs"
    all_notes = [
        f"Trained from {recipe.model} for {length}; this page was written after step {len(metrics)}.",
        f"{settings.responses} answers for each image, {recipe.compared} images in a batch, "
        f"reward {settings.reward}, learning rate {optimizer.learning_rate:g}, seed {recipe.seed}.",
        *_about_left_out(read_left_out(run / "metrics.jsonl")),
        *notes,
    ]
    try:
        # Later lines first: where the files were moved between two parts of a run, the later path counts.
        pictures = _pictures(recipe, {each.image for each in reversed(answers)})
        # An image that no manifest has, or several, may be any image.
        answers = [each for each in answers if each.image in pictures]
    except UserError as error:
        console.print(f"no pictures: {error}", soft_wrap=True, markup=False)
        pictures = {}
        all_notes.append(
            "Images have no pictures here, since the run’s manifests could not be read when this was written."
        )
    write_run_page(
        output,
        title=f"Training run {'/'.join(run.resolve().parts[-2:])}",
        metrics=metrics,
        answers=answers,
        probed=probed,
        pictures=pictures,
        notes=all_notes,
        validations=read_validations(run / METRICS),
    )


def _about_left_out(faults: Sequence[Fault]) -> list[str]:
    """A sentence about the images that the recipe's `skip_bad` left out of the run, if there are any."""
    if not faults:
        return []
    names = ", ".join(Path(fault.image).name for fault in faults[:LEFT_OUT_NAMED])
    more = f" and {len(faults) - LEFT_OUT_NAMED} more" if len(faults) > LEFT_OUT_NAMED else ""
    count = "1 image was" if len(faults) == 1 else f"{len(faults)} images were"
    return [
        f"{count} left out, which could not be read or which the model cannot take: {names}{more}."
    ]


def _refuse_without(run: Path, name: str, meaning: str) -> None:
    if not (run / name).is_file():
        raise UserError(
            f"{run} {meaning}, since it has no {name}: give the whole folder that train wrote, or results"
        )


def _pictures(recipe: Recipe, images: set[RunImage]) -> dict[RunImage, Path]:
    """Where the images of a run are: as its files say, or else as the manifests of its recipe say.

    Images of older files that agree in data set, name and MOS with another one are left out. Raises UserError where
    the manifests are needed and cannot be read.
    """
    # Newer runs write the paths themselves, and then the manifests need not be there any more.
    found = {image: Path(image.path) for image in images if image.path}
    if len(found) == len(images):
        return found
    examples = read_examples(recipe) + read_probes(recipe)
    ambiguous = set()
    for e in examples:
        image = RunImage(e.dataset, e.path.name, round(e.mos, 6))
        if found.setdefault(image, e.path) != e.path:
            ambiguous.add(image)
    return {image: path for image, path in found.items() if image not in ambiguous}


def write_run_page(
    output: Path,
    *,
    title: str,
    metrics: Sequence[dict[str, Any]],
    answers: Sequence[Answers],
    probed: bool,
    pictures: Mapping[RunImage, Path],
    notes: Sequence[str],
    validations: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the page about a run to the file `output`; its folder is made.

    Args:
        metrics: the objects of `metrics.jsonl` (`read_metrics`); where one has no number, the page says so.
        answers: those of `samples.jsonl`, or of `probes.jsonl` if `probed` (`read_answers`).
        pictures: where the images are; an image that is not in it has no picture.
        notes: sentences to stand under the title.
        validations: the validations of `metrics.jsonl` (`read_validations`).

    Raises UserError where `output` cannot be written.
    """
    steps = {each.step for each in answers}
    # All charts have the same ends, so that they can be compared.
    ends = (min(steps, default=0), max(steps, default=1))
    followed = []
    for number, (image, of_image) in enumerate(followed_images(answers).items()):
        worded = with_words(of_image)
        if probed:
            worded = pick_evenly(worded, WORDS_OF_A_PROBE)
        followed.append((image, len(of_image), _score_chart(of_image, number, ends), worded))
    write_page(
        output,
        "run.html.jinja",
        title=title,
        notes=notes,
        **_curves(metrics),
        agreement=_validation_curve(validations),
        followed=followed,
        probed=probed,
        words_of_steps=words_along(answers),
        steps=len(steps),
        pictures=pictures,
    )


def _score_chart(answers: Sequence[Answers], number: int, ends: tuple[int, int]) -> Markup | None:
    """Mean and standard deviation of the scores of one image over the steps; None where none was readable."""
    read = [(a.step, a.score, a.std or 0.0) for a in answers if a.score is not None]
    if not read:
        return None
    step, score, std = zip(*read, strict=True)

    def plot(axes: Axes) -> None:
        axes.errorbar(step, score, std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.9)
        axes.plot(step, score, "o-", color=LIGHT["blue"], markersize=4, linewidth=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        # The whole scale of scores, so that small changes look small.
        axes.set_yticks([1, 2, 3, 4, 5])

    margin = max(1, (ends[1] - ends[0]) * 0.03)
    points = "; ".join(f"{s:.2f} at step {n}" for n, s, _ in read)
    return draw(
        f"image-{number}",
        f"Score over the training steps: {points}.",
        (4.2, 1.5),
        plot,
        xlabel="training step",
        ylabel="score",
        xlim=(ends[0] - margin, ends[1] + margin),
        ylim=(0.8, 5.2),
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps in a run's `metrics.jsonl`, in order. Raises UserError as `io.read_jsonl` does."""
    # The first line may say which images were left out (`read_left_out`), and validations have lines of their own.
    other = {"left_out", SCORED}
    return [line.record for line in read_jsonl(path) if not other & line.record.keys()]


def read_validations(path: Path) -> list[dict[str, Any]]:
    """The validations in a run's `metrics.jsonl`, in order. Raises UserError as `io.read_jsonl` does."""
    return [line.record for line in read_jsonl(path) if SCORED in line.record]


def _validation_curve(validations: Sequence[dict[str, Any]]) -> Panel | None:
    """The agreement with the MOS over the steps, in each data set too; None where nothing was validated."""
    if not validations:
        return None
    prefix = "eval_"
    keys = sorted({k for v in validations for k in v if k.startswith(prefix) and k != SCORED})
    table = pd.DataFrame(validations, dtype=object).reindex(columns=["step", *keys])
    table = table.apply(pd.to_numeric, errors="coerce")
    if not keys:
        return Panel(None, "Nothing to plot: no validation had a correlation.")
    return _curve(table, 1, {key: key.removeprefix(prefix).replace("/", ", ") for key in keys})


def _curves(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows of `metrics`; where a record has no number, a panel's note says so."""
    # A short run is drawn as it is.
    window = max(1, len(metrics) // MEANS)
    keys = sorted({key for record in metrics for key in record if key.startswith(PART)})
    parts = {key: key.removeprefix(PART) for key in keys}
    columns = ["step", "reward", *parts, "score_std", "kl", "readable"]
    # A column that no record has is added; what is no finite number becomes NaN, which is a gap in a line.
    table = pd.DataFrame(metrics, dtype=object).reindex(columns=columns)
    table = table.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    # A record without a step cannot be placed.
    table.loc[table["step"].isna()] = np.nan
    return {
        "window": window,
        "parts": {name: description(name) for name in parts.values() if description(name)},
        "reward": _curve(table, window, {"reward": "total"} | parts),
        "score_std": _curve(table, window, {"score_std": "mean standard deviation"}),
        "kl": _curve(table, window, {"kl": "KL divergence"}),
        "readable": table["readable"].dropna().tolist(),
    }


def _curve(table: pd.DataFrame, window: int, labels: dict[str, str]) -> Panel:
    """Lines of metrics over the training steps; `labels` is metric -> name in the legend."""
    lines = table[list(labels)]
    found = {key: lines[key].dropna() for key in labels if lines[key].notna().any()}
    if not found:
        keys = " or ".join(f"“{key}”" for key in labels)
        note = f"Nothing to plot: no line of the metrics has a step and a number for {keys}."
        return Panel(None, note)
    # A metric that is missing in some steps is drawn with gaps, and the note says so.
    gaps = lines.isna().sum()
    note = ", ".join(f"“{key}” in {gaps[key]} of {len(lines)}" for key in labels if gaps[key])
    ends = [
        f"{labels[key]} {line.iloc[0]:.3g} at first, {line.iloc[-1]:.3g} at last"
        for key, line in found.items()
    ]

    def plot(axes: Axes) -> None:
        for key, (colour, dashes) in zip(found, cycle(STROKES)):
            stroke: dict[str, Any] = {"color": colour, "linestyle": dashes, "label": labels[key]}
            _line(axes, table["step"], lines[key], window, **stroke)
        if min(line.min() for line in found.values()) >= 0:
            # From 0, so that the size of a change can be judged.
            axes.set_ylim(0, 1.08 * max(line.max() for line in found.values()) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(labels) > 1:
            axes.figure.legend(
                loc="outside upper left", ncols=3, handlelength=2.2, columnspacing=1.2
            )

    alt = f"Line plot over {len(lines)} training steps: {'; '.join(ends)}."
    svg = draw(next(iter(labels)), alt, (3.3, 2.3), plot, xlabel="training step")
    return Panel(svg, note and f"Lines of the metrics without a number, not drawn: {note}.")


def _line(axes: Axes, steps: pd.Series, values: pd.Series, window: int, **stroke: Any) -> None:
    """A line with its gaps; where there is a running mean, a bold line of it over a faint one of the steps."""
    if window == 1:
        axes.plot(steps, values, marker="o", markersize=2.5, linewidth=1.6, clip_on=False, **stroke)
        return
    # At the ends and at gaps the mean is over the fewer steps that are there.
    mean = values.rolling(window, center=True, min_periods=1).mean().where(values.notna())
    axes.plot(steps, values, color=stroke["color"], alpha=0.3, linewidth=0.7)
    axes.plot(steps, mean, linewidth=1.8, **stroke)
