"""Writes docs/experiments.md from the results of experiments.py, so that no figure is written by hand.

python benchmarks/experiments_page.py
"""

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "experiments", ROOT / "docs" / "experiments.md"
ORDER = ("rewards", "responses", "datasets", "objectives", "groups", "length", "training")

HEAD = """# The paper's experiments in small

Every row starts from `nano-base`, which has seen no human score. It is trained with the settings of
`recipes/experiments/common.yaml`, except for the change that its name says. So all rows have the same number of steps,
the same number of images in a batch, and the same data: 2000 photos of BIQ2021 with human MOS from 0 to 1, and
{synthetic} synthetic images with pseudo-MOS from 1 to 5. The MOS are not rescaled unless a method needs it.

The tests are BIQ2021's test part (400 photos) and every second image of AGIQA-3K (538 generated images, zero-shot).
Rows trained by RL2R are scored by the mean of K = 6 reasonings, the others by their expected score. A cell is the mean
over seeds, with the lowest and the highest seed in brackets. The 95 % bootstrap intervals of each run are in
`benchmarks/results/experiments`.

A run of an 8 M model for two minutes is not the paper's run of a 7 B model. "Seen" means that the first row is above
the second with every seed that was run. By chance alone that happens one time in eight with three seeds, one time in
four with two, and one time in two with one. So look at the gain as well.

Two things have changed since these runs, and were not measured again. `recipes/experiments/rewards.yaml` has 480 steps
and two more rewards; the table of rewards below is of 120 steps. The objective `levels` cuts the scale into five equal
intervals; its row below took the nearest of 1 to 5.
"""


def cell(rows: list[dict[str, Any]], what: str) -> str:
    """The mean over the rows' seeds of "srcc" or "plcc", with the lowest and the highest."""
    values = [r[what]["value"] for r in rows]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def verdict_words(verdict: str, seeds: int) -> str:
    where = "in the one seed that was run" if seeds == 1 else "in every seed"
    return {
        "seen": f"seen {where}",
        "reversed": f"the other way round {where}",
        "unclear": "not clear",
    }[verdict]


def first_and_last_std(curve: list[tuple[int, float]]) -> tuple[float, float]:
    """The mean std of the first and of the last quarter of the steps."""
    last = curve[-1][0]
    early = [std for step, std in curve if step <= last / 4]
    late = [std for step, std in curve if step >= 3 * last / 4]
    return statistics.fmean(early), statistics.fmean(late)


def training_section(result: dict[str, Any]) -> list[str]:
    """Lines like the paper's Fig. 3 (the std falls) and Fig. 4 (the words change)."""
    seeds = [
        {name: first_and_last_std(curve) for name, curve in curves.items()}
        for curves in result["std"].values()
    ]
    names = list(seeds[0])
    means = {
        name: [statistics.fmean(std[name][at] for std in seeds) for at in (0, 1)] for name in names
    }
    falls = sum(last < first for std in seeds for first, last in std.values())
    cases = len(seeds) * len(names)
    if falls < cases:
        fall = f"It falls in {falls} of {cases} cases of a set and a seed"
    else:
        fall = "It falls on all sets" + (" with every seed" if len(seeds) > 1 else "")
    words = result["words"]
    numbers = ", ".join(
        f"{name} {first:.2f} to {last:.2f}" for name, (first, last) in means.items()
    )
    return [
        f"Std over the K answers in the first and in the last quarter of the steps: {numbers}. {fall}.",
        "",
        f"Answers about {words['image']} ({words['dataset']}, MOS {words['mos']:g}), all drawn with the same random "
        "numbers (`visualquality report` makes a page of such images):",
        "",
        "| step | score | std | words |",
        "| --- | --- | --- | --- |",
        *(
            f"| {s['step']} | {s['score']:.2f} | {s['std']:.2f} | {s['words']} |"
            for s in words["steps"]
        ),
    ]


def section(name: str, result: dict[str, Any]) -> str:
    """A table of the rows' means over seeds, and the verdicts."""
    tests = list(dict.fromkeys(r["test"] for r in result["rows"]))
    seeds = sorted({r["seed"] for r in result["rows"]})
    lines = [
        f"## {result['title']}",
        "",
        f"The paper: {result['paper']}. {'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}.",
        "",
    ]
    heads = [f"{test} {what}" for test in tests for what in ("SRCC", "PLCC")]
    lines += [f"| row | {' | '.join(heads)} | std | readable |", "| --- " * (len(heads) + 3) + "|"]
    for label in dict.fromkeys(r["row"] for r in result["rows"]):
        own = [r for r in result["rows"] if r["row"] == label]
        cells = [
            cell([r for r in own if r["test"] == test], what)
            for test in tests
            for what in ("srcc", "plcc")
        ]
        std = statistics.fmean(r["std"] for r in own)
        readable = statistics.fmean(r["readable"] for r in own)
        lines.append(f"| {label} | {' | '.join(cells)} | {std:.2f} | {readable:.1%} |")
    lines.append("")
    if name == "length":
        words = {
            label: statistics.fmean(r["characters"] for r in result["rows"] if r["row"] == label)
            for label in dict.fromkeys(r["row"] for r in result["rows"])
        }
        lines += [
            "Mean characters of a reasoning: "
            + ", ".join(f"{k} {v:.0f}" for k, v in words.items())
            + ".",
            "",
        ]
    for v in result["verdicts"]:
        pair = f"{v['higher']} above {v['lower']} on {v['test']}"
        lines.append(
            f"- {pair}: {verdict_words(v['verdict'], len(seeds))} ({v['gain']:+.3f} SRCC)."
        )
    if "words" in result:
        lines += training_section(result)
    lines += ["", f"![{result['title']}](../benchmarks/results/experiments/{name}.png)", ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def page() -> str:
    """The whole page."""
    results = {
        n: json.loads((RESULTS / f"{n}.json").read_text())
        for n in ORDER
        if (RESULTS / f"{n}.json").exists()
    }
    first = next(iter(results.values()))
    parts = [HEAD.format(synthetic=first["synthetic_images"])]
    parts += [section(name, result) for name, result in results.items()]
    commands = "\n".join(result["command"] for result in results.values())
    machines = "; ".join(sorted({result["machine"] for result in results.values()}))
    parts.append(
        f"## Commands\n\nMachines: {machines}. Each JSON names the machine of its latest seeds.\n\n"
        f"```sh\n{commands}\n```\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
