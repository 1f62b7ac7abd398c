"""docs/test-time.md from the result of modes.py, so that no figure is written by hand.

python benchmarks/modes_page.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "modes.json", ROOT / "docs" / "test-time.md"

HEAD = """# What each way of scoring is worth

The paper names limits of reasoning at test time: it is slow and expensive, and may be confidently wrong. Here they are
as numbers, on `nano` and human ratings (BIQ2021's test part; AGIQA-3K, zero-shot), with 95 % bootstrap intervals. Every
image was reasoned about 16 times; fewer samples are the first ones of these, as they would be drawn. A
reasoning with its answer takes {tokens:.0f} tokens.

- **Self-consistency**: mean, median and trimmed mean (a quarter off each end) of n reasonings.
- **Sample-adaptive reasoning**: `--samples auto` draws 2, 4, 8, at most 16, until the standard error of the mean is
  below `--tolerance`; `--mode auto` reasons about the images whose expected score is least sure.
- **`expect`** draws nothing: the expectation over the digits of an answer given at once.

What is seen: one reasoning is nearly as good as twelve, and `expect` as good as either, so that drawing more earns
little here; and neither std says much about the error.

| test | case | reasonings an image | SRCC | PLCC |
| --- | --- | --- | --- | --- |
"""


def page() -> str:
    result = json.loads(RESULT.read_text())

    def cell(found: dict[str, float]) -> str:
        return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"

    lines = []
    for r in result["rows"]:
        cells = [r["test"], r["case"], f"{r['samples']:g}", cell(r["srcc"]), cell(r["plcc"])]
        lines.append(f"| {' | '.join(cells)} |")
    table = HEAD.format(tokens=result["tokens_a_reasoning"]) + "\n".join(lines)
    return f"{table}\n\n{calibration(result['calibration'])}\n```sh\n{result['command']}\n```\n"


def calibration(found: dict[str, Any]) -> str:
    lines = [
        "## Does a high std predict a large error?",
        "",
        "The error is that of the score, after the logistic fit, in units of the set's MOS.",
        "",
        "| test | scores | SRCC of std and error | error of the surest quarter | error of the least sure quarter |",
        "| --- | --- | --- | --- | --- |",
    ]
    for test, ways in found.items():
        for way, c in ways.items():
            if way != "readable":
                errors = (c["error_of_surest_quarter"], c["error_of_least_sure_quarter"])
                lines.append(
                    f"| {test} | {way} | {c['srcc_std_error']:.3f} | {errors[0]:.3f} | {errors[1]:.3f} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
