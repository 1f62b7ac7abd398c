"""The README's figures are those of the committed results, and its commands exist."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_rl2r_figures():
    rows = json.loads((RESULTS / "rl2r_biq2021.json").read_text())["rows"]
    for row in rows:
        cells = [f"{row[key]:.3f}" for key in ("base_srcc", "srcc", "base_plcc", "plcc", "base_std", "std")]
        line = f"| {row['test']} | {row['n']} | {row['seed']} | " + " | ".join(cells) + f" | {row['readable']:.1%} |"
        assert line in README


def test_nano_figures():
    for row in json.loads((RESULTS / "nano.json").read_text())["rows"]:
        if row["model"] == "nano":
            for name in ("srcc", "plcc"):
                found = row[name]
                assert f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in README


def test_classic_figures():
    results = json.loads((RESULTS / "baselines.json").read_text())
    for name in ("NIQE", "BRISQUE"):
        found = [results["agreement"][test][name.lower()]["srcc"] for test in ("AGIQA-3K", "BIQ2021 test")]
        (speed,) = [r for r in results["rows"] if r["case"] == name and r["unit"] == "images/s"]
        cells = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in found]
        assert f"| {name} | {' | '.join(cells)} | {speed['ours']:.1f} | {speed['theirs']:.1f} |" in README


def test_speed_figures():
    for name in ("reward", "packed", "step", "scoring", "loading"):
        for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]:
            figures = f"{row['ours']:.3g} | {row['theirs']:.3g} | {row['unit']} | {row['ratio']:.3g}×"
            assert f"| {row['case']} | {figures} |" in README, row["case"]


def test_links_and_make_targets():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("name", ["experiments_page", "modes_page"])
def test_pages_are_made_of_the_committed_results(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()
