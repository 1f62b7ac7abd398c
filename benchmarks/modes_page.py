"""Writes docs/test-time.md from the result of modes.py, so that no figure is written by hand.

python benchmarks/modes_page.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "modes.json", ROOT / "docs" / "test-time.md"

HEAD = """# What each way of scoring is worth

The paper names limits of reasoning at test time: it is slow and expensive, and it may be confidently wrong. This page
measures them on {model} with human ratings (BIQ2021's test part, and AGIQA-3K, zero-shot). Intervals are 95 % bootstrap
intervals. 16 reasonings were drawn for every image. A row with fewer samples uses the first ones of these, which are
the same ones that would be drawn. A reasoning with its answer takes {tokens:.0f} tokens.
Its score is {reading}.

- **Self-consistency** is the mean, the median or the trimmed mean (without a quarter at each end) of n reasonings.
- **Sample-adaptive reasoning**: `--samples auto` draws 2, 4, 8 and at most 16 reasonings, until the standard error of
  the mean is below `--tolerance`. `--mode auto` reasons only about the images whose expected score is least certain.
- **`expect`** draws nothing. Its score is the expectation over the digits of an answer without reasoning.

The result: one reasoning is nearly as good as twelve, and `expect` is as good as either. So more samples gain little
here. Neither std says much about the error.

| test | case | reasonings an image | SRCC | PLCC |
| --- | --- | --- | --- | --- |
"""

READINGS = {
    "strict": "the number that was drawn (`--reading strict`)",
    "expected": "the expectation over the digits that could follow its words (`--reading expected`)",
}


def page() -> str:
    """The whole page."""
    result = json.loads(RESULT.read_text())

    def cell(found: dict[str, float]) -> str:
        return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"

    lines = []
    for r in result["rows"]:
        cells = [r["test"], r["case"], f"{r['samples']:g}", cell(r["srcc"]), cell(r["plcc"])]
        lines.append(f"| {' | '.join(cells)} |")
    # Results from before there was this option have drawn numbers.
    reading = READINGS[result.get("reading", "strict")]
    # Results from before ratings named a version are of its first.
    model = result.get("model", "nano 1, the nano before the present one,")
    tokens = result["tokens_a_reasoning"]
    table = HEAD.format(model=model, tokens=tokens, reading=reading) + "\n".join(lines)
    return f"{table}\n\n{calibration_section(result['calibration'])}\n```sh\n{result['command']}\n```\n"


def calibration_section(found: dict[str, Any]) -> str:
    lines = [
        "## Does a high std predict a large error?",
        "",
        "The error is the distance between the score, after a logistic fit, and the MOS, in units of the set's MOS. "
        "The surest quarter is the quarter of the images with the lowest std.",
        "",
        "| test | scores | SRCC of std and error | error of the surest quarter | error of the least sure quarter |",
        "| --- | --- | --- | --- | --- |",
    ]
    for test, ways in found.items():
        for way, c in ways.items():
            if way != "readable":  # beside the ways of scoring, a share of answers
                errors = (c["error_of_surest_quarter"], c["error_of_least_sure_quarter"])
                lines.append(
                    f"| {test} | {way} | {c['srcc_std_error']:.3f} | {errors[0]:.3f} | {errors[1]:.3f} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
