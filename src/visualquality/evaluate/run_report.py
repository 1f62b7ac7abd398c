"""The HTML page about a training run by itself: its curves, and how its words and scores changed.

What the page says in words is in `run_report.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .curves import curves
from .page import LIGHT, draw, evenly, thumbnail, write_page
from .probes import ImageKey, Probe, Step, probes, sayings

WORDED = 5  # visits of an image whose words are shown where there are words of all


def write_run_report(
    output: Path,
    *,
    title: str,
    metrics: Sequence[dict],
    steps: Sequence[Step],
    pictures: Mapping[ImageKey, Path] | None,
    notes: Sequence[str],
    asked: bool = False,
) -> None:
    """Write the page about a run to the file `output`; its folder is made where it is missing.

    Args:
        metrics: the objects of `metrics.jsonl` (`read_metrics`); where one has no number, the page says so.
        steps: the steps of `samples.jsonl`, or of `probes.jsonl` if `asked` (`read_steps`).
        pictures: where the images of the steps are, if that is known; images that are not there are not shown.
        notes: sentences to stand under the title.

    Raises UserError where `output` cannot be written.
    """
    numbers = [visit.step for step in steps for visit in step.values()]
    ends = (min(numbers), max(numbers)) if numbers else (0, 1)
    write_page(
        output,
        "run_report.html.jinja",
        title=title,
        notes=notes,
        **curves(metrics),
        probes=[
            (probe, _chart(probe, number, ends), *_picture(probe.image, pictures))
            for number, probe in enumerate(probes(steps, pictures))
        ],
        asked=asked,
        worded=lambda probe: evenly(probe.worded, WORDED) if asked else probe.worded,
        sayings=[
            (image, visit, *_picture(image, pictures)) for image, visit in sayings(steps, pictures)
        ],
        steps=len(steps),
    )


def _picture(
    image: ImageKey, pictures: Mapping[ImageKey, Path] | None
) -> tuple[str | None, str | None]:
    return (None, None) if pictures is None else thumbnail(pictures[image])


def _chart(probe: Probe, number: int, ends: tuple[int, int]) -> Markup | None:
    """Mean and standard deviation of the scores of one image over the steps; None where none was readable."""
    read = [
        (visit.step, visit.score, visit.std or 0.0)
        for visit in probe.visits
        if visit.score is not None
    ]
    if not read:
        return None
    step, score, std = zip(*read, strict=True)

    def plot(axes: Axes) -> None:
        axes.errorbar(step, score, std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.9)
        axes.plot(step, score, "o-", color=LIGHT["blue"], markersize=4, linewidth=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_yticks([1, 2, 3, 4, 5])

    margin = max(1, (ends[1] - ends[0]) * 0.03)
    limits = {"xlim": (ends[0] - margin, ends[1] + margin), "ylim": (0.8, 5.2)}
    alt = f"Score over the training steps: {'; '.join(f'{s:.2f} at step {n}' for n, s, _ in read)}."
    return draw(
        f"probe-{number}", alt, (4.2, 1.5), plot, xlabel="training step", ylabel="score", **limits
    )
