"""docs/experiments.md from the results of experiments.py, so that no figure is written by hand.

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

Every row starts from `nano-base`, which has seen no human score, and is trained with the settings of
`recipes/experiments/common.yaml` but for what its name says: the same data (2000 photos of BIQ2021 with human MOS from
0 to 1, and {synthetic} synthetic images with pseudo-MOS from 1 to 5, not rescaled unless a method needs it), images a
batch and steps. Tested on BIQ2021's test part (400 photos) and on every second image of AGIQA-3K (538 generated images,
zero-shot). RL2R rows are scored by the mean of K = 6 reasonings, the others by their expected score. A cell is the mean
over seeds, with the lowest and the highest seed in brackets; the 95 % bootstrap intervals of each run are in
`benchmarks/results/experiments`.

A run of an 8 M model for two minutes is not the paper's run of a 7 B model. "Seen" means that the higher row is above
the lower one with every seed that was run, which three seeds show by chance one time in eight, two one time in four and
one one time in two: read the gain beside it.
"""


def cell(rows: list[dict[str, Any]], what: str) -> str:
    values = [r[what]["value"] for r in rows]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def said(verdict: str, seeds: int) -> str:
    where = "in the one seed that was run" if seeds == 1 else "in every seed"
    return {
        "seen": f"seen {where}",
        "reversed": f"the other way round {where}",
        "unclear": "not clear",
    }[verdict]


def ends(curve: list[tuple[int, float]]) -> tuple[float, float]:
    """The mean std of the first and of the last quarter of the steps."""
    last = curve[-1][0]
    early = [std for step, std in curve if step <= last / 4]
    return statistics.fmean(early), statistics.fmean(
        std for step, std in curve if step >= 3 * last / 4
    )


def changes(result: dict[str, Any]) -> list[str]:
    """Fig. 3 in numbers, and Fig. 4 in words."""
    seeds = [
        {name: ends(curve) for name, curve in curves.items()} for curves in result["std"].values()
    ]
    names = list(seeds[0])
    means = {
        name: [statistics.fmean(std[name][at] for std in seeds) for at in (0, 1)] for name in names
    }
    falls = sum(last < first for std in seeds for first, last in std.values())
    asked = len(seeds) * len(names)
    fall = "it falls on all sets" + " with every seed" * (len(seeds) > 1)
    if falls < asked:
        fall = f"it falls in {falls} of {asked} cases of a set and a seed"
    words = result["words"]
    spoken = ", ".join(f"{name} {first:.2f} to {last:.2f}" for name, (first, last) in means.items())
    return [
        f"The std over K, from the first quarter of the steps to the last: {spoken}: {fall}.",
        "",
        f"What it said of {words['image']} ({words['dataset']}, MOS {words['mos']:g}), always drawn with the same "
        "random numbers; `visualquality report` makes a page of such images:",
        "",
        "| step | score | std | words |",
        "| --- | --- | --- | --- |",
        *(
            f"| {s['step']} | {s['score']:.2f} | {s['std']:.2f} | {s['words']} |"
            for s in words["steps"]
        ),
    ]


def section(name: str, result: dict[str, Any]) -> str:
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
        spread = statistics.fmean(r["std"] for r in own)
        readable = statistics.fmean(r["readable"] for r in own)
        lines.append(f"| {label} | {' | '.join(cells)} | {spread:.2f} | {readable:.1%} |")
    lines.append("")
    if name == "length":
        words = {
            label: statistics.fmean(r["characters"] for r in result["rows"] if r["row"] == label)
            for label in dict.fromkeys(r["row"] for r in result["rows"])
        }
        lines += [
            "Characters of a reasoning: "
            + ", ".join(f"{k} {v:.0f}" for k, v in words.items())
            + ".",
            "",
        ]
    for v in result["verdicts"]:
        pair = f"{v['higher']} above {v['lower']} on {v['test']}"
        lines.append(f"- {pair}: {said(v['verdict'], len(seeds))} ({v['gain']:+.3f} SRCC).")
    if "words" in result:
        lines += changes(result)
    lines += ["", f"![{result['title']}](../benchmarks/results/experiments/{name}.png)", ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def page() -> str:
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
        f"## Commands\n\nOn {machines}. Each JSON names the machine of the seeds that were run last:\n\n"
        f"```sh\n{commands}\n```\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
