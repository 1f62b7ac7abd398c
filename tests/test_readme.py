"""The README's figures are those of the committed results, and its commands exist."""

import importlib
import json
import re
from pathlib import Path

import pytest

from recipes.nano import card
from visualquality.models.load import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_rl2r_figures():
    rows = json.loads((RESULTS / "rl2r_biq2021.json").read_text())["rows"]
    for row in rows:
        cells = [
            f"{row[key]:.3f}"
            for key in ("base_srcc", "srcc", "base_plcc", "plcc", "base_std", "std")
        ]
        line = (
            f"| {row['test']} | {row['n']} | {row['seed']} | "
            + " | ".join(cells)
            + f" | {row['readable']:.1%} |"
        )
        assert line in README


def test_nano_figures():
    nano = json.loads((RESULTS / "nano.json").read_text())
    # Results from before there was this option have drawn numbers.
    assert f"Measured with `--reading {nano.get('reading', 'strict')}`" in README
    for row in nano["rows"]:
        if row["model"] == "nano":
            for name in ("srcc", "plcc"):
                found = row[name]
                assert f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in README


def test_classic_figures():
    results = json.loads((RESULTS / "baselines.json").read_text())
    for name in ("NIQE", "BRISQUE"):
        found = [
            results["agreement"][test][name.lower()]["srcc"]
            for test in ("AGIQA-3K", "BIQ2021 test")
        ]
        (speed,) = [r for r in results["rows"] if r["case"] == name and r["unit"] == "images/s"]
        cells = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in found]
        assert (
            f"| {name} | {' | '.join(cells)} | {speed['ours']:.1f} | {speed['theirs']:.1f} |"
            in README
        )


def test_speed_figures():
    for name in ("reward", "packed", "step", "scoring", "loading"):
        for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]:
            figures = (
                f"{row['ours']:.3g} | {row['theirs']:.3g} | {row['unit']} | {row['ratio']:.3g}×"
            )
            assert f"| {row['case']} | {figures} |" in README, row["case"]


def test_scaling_and_truth_figures():
    rows = json.loads((RESULTS / "scaling.json").read_text())["rows"]
    by_k, by_images, memory = (
        next(r for r in rows if word in r["case"]) for word in ("by K", "number", "memory")
    )
    assert f"with K {by_k['ours']:.2f} (theirs {by_k['theirs']:.2f})" in README
    assert f"with the number of images {by_images['ours']:.2f}; scoring 10 000 more" in README
    assert f"adds {memory['ours']:.0f} MB of memory" in README
    truth = json.loads((RESULTS / "truth.json").read_text())["summary"]
    words = " ".join(README.split())
    assert (
        f"applied in {truth['named the applied fault, mean over families']:.0%} of the cases"
        in words
    )
    assert (
        f"named of {truth['a strong or severe fault named of a clean photo']:.0%} of the clean"
        in words
    )


def test_memory_of_large_photos():
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    for row in json.loads((RESULTS / "large_images.json").read_text())["rows"]:
        model, what = row["case"].split(", ")
        kind, _, megapixels, _ = what.split(" ")
        line = next(x for x in page.splitlines() if x.startswith(f"| {megapixels}, {kind} |"))
        place = 2 + ["niqe", "brisque", "nano"].index(model)
        assert line.split("|")[place].strip() == f"{row['ours']:.0f}", row["case"]


def test_reliability_figures():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    kills, fuzz, bombs = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("kills", "fuzz", "bombs")
    )
    training, scoring = kills["training"], kills["scoring"]
    by = ", ".join(f"{name} ({count})" for name, count in training["signals"].items())
    assert (
        f"| training, all three methods: {by} | {training['ends']} times | {training['runs']} | "
        f"{training['steps_lost']} steps | {training['steps_twice']} steps | {training['runs_that_differ']} runs |"
    ) in page
    assert (
        f"| scoring a folder of {scoring['images']} images: SIGKILL | {scoring['kills']} times | {scoring['runs']} | "
        f"{scoring['rows_lost']} rows | {scoring['rows_twice']} rows | {scoring['rows_that_differ']} rows |"
    ) in page
    assert f"gave {fuzz['examples']:,} inputs" in page
    assert all(f"| {row['examples']:,} |" in page for row in fuzz["rows"])
    opened = [row["result"].startswith("opened") for row in bombs["rows"]]
    assert f"opens {len(opened)} files" in page
    assert f"{len(opened) - sum(opened)} were refused in a sentence, {sum(opened)} opened" in page
    assert f"{max(row['seconds'] for row in bombs['rows'])} s, and" in page
    assert f"added was {max(row['mb'] for row in bombs['rows'])} MB" in page


def test_links_and_make_targets():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_model_card_is_made_of_the_committed_results():
    assert card.CARD.read_text(encoding="utf-8") == card.card_text(load("nano", device="cpu"))


@pytest.mark.parametrize("name", ["experiments_page", "modes_page"])
def test_pages_are_made_of_the_committed_results(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.PAGE.read_text(encoding="utf-8") == module.page()
