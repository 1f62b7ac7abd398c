"""Reading a suite: strict, with paths from its own folder."""

from pathlib import Path

import pytest

from visualquality.errors import UserError
from visualquality.evaluate.suite import read_suite
from visualquality.score.settings import ScoreSettings

RECIPES = Path(__file__).parents[2] / "recipes" / "benchmarks"
MINIMAL = """
title: T
methods:
  - {name: NIQE, model: niqe}
datasets:
  - {name: A, manifest: a.csv, column: Image Gen.}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_from_the_suites_folder_and_groups_from_the_paper(tmp_path):
    (tmp_path / "mine").mkdir()
    more = "  - {name: B, manifest: sub/b.csv, group: Ours}\n"
    methods = (
        '  - {name: M, model: mine}\n  - {name: P, model: "brisque:p.npz"}\n'
        "  - {name: S, scores: s.csv}\ndatasets:"
    )
    suite = read_suite(write(tmp_path, MINIMAL.replace("datasets:", methods) + more))
    assert [data.manifest for data in suite.datasets] == [
        tmp_path / "a.csv",
        tmp_path / "sub/b.csv",
    ]
    assert [data.group for data in suite.datasets] == ["Processing-Related Distortion", "Ours"]
    assert [m.model for m in suite.methods] == [
        "niqe",
        str(tmp_path / "mine"),
        f"brisque:{tmp_path / 'p.npz'}",
        None,
    ]
    assert suite.methods[3].scores == tmp_path / "s.csv"
    assert (suite.plcc, suite.published) == ("raw", ())


def test_a_method_takes_every_scoring_option_and_has_the_same_defaults(tmp_path):
    options = "samples: 3, temperature: 0.5, max_new_tokens: 64, dtype: bfloat16, reading: strict, batch: 2"
    text = MINIMAL.replace("model: niqe", f"model: nano, {options}")
    (method,) = read_suite(write(tmp_path, text)).methods
    wanted = {
        "samples": 3,
        "temperature": 0.5,
        "max_new_tokens": 64,
        "dtype": "bfloat16",
        "reading": "strict",
    }
    # What the suite names comes before what the command line gives for all methods.
    assert method.settings(batch=8, device="cpu") == ScoreSettings(**wanted, batch=2, device="cpu")
    (plain,) = read_suite(write(tmp_path, MINIMAL)).methods
    assert plain.settings() == ScoreSettings()
    with pytest.raises(UserError, match="batch is 0"):
        plain.settings(batch=0)


@pytest.mark.parametrize(("paper", "count"), [("all", 13), ("[NIQE, Binary Reward, NIQE]", 2)])
def test_published_rows(tmp_path, paper, count):
    assert len(read_suite(write(tmp_path, MINIMAL + f"paper: {paper}\n")).published) == count


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: T", "title: T\nmethod: x", "method: there is no such field"),
        ("model: niqe", "model: niqe, modus: x", r"methods\.0\.modus"),
        ("model: niqe", "group: x", "exactly one of model and scores"),
        ("model: niqe", "model: niqe, scores: s.csv", "exactly one of model and scores"),
        ("model: niqe", "scores: s.csv, seed: 1", "takes no seed"),
        ("model: niqe", "scores: s.csv, temperature: 1", "takes no temperature"),
        ("model: niqe", "model: nano, reference: true", "leave reference out"),
        ("model: niqe", "model: nano, calibration: c.json", "leave calibration out"),
        ("model: niqe", "model: niqe, samples: 0", r"methods\.0\.samples"),
        ("model: niqe", "model: nano, samples: many", r"methods\.0\.samples"),
        ("model: niqe", "model: nano, mode: guess", r"methods\.0\.mode"),
        ("  - {name: NIQE, model: niqe}", "  []", "methods"),
        ("datasets:", "  - {name: NIQE, model: x}\ndatasets:", "NIQE is there more than once"),
        ("Image Gen.", "Fog", "no column 'Fog'; it has BID, CLIVE"),
        (", column: Image Gen.}", "}\npaper: all", "add column to one"),
        ("title: T", "title: T\npaper: [NIQUE]", "no row NIQUE; there are NIQE"),
        ("title: T", "title: T\nplcc: mapped", "plcc"),
        (
            "model: niqe",
            "model: niqe, published: {B: {srcc: 1}}",
            "no data set of the suite is named B",
        ),
        ("model: niqe", "model: niqe, published: {A: {srcc: 2}}", r"published\.A\.srcc"),
        ("model: niqe", "model: nano, mode: expect, samples: 6", "samples has no effect in mode"),
        ("model: niqe", "model: nano, top_p: 2", r"methods\.0\.top_p"),
        ("title: T", "title: [", "not a YAML file"),
        (MINIMAL, "- a", "not a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in MINIMAL
    with pytest.raises(UserError, match=said):
        read_suite(write(tmp_path, MINIMAL.replace(old, new)))


def test_no_suite(tmp_path):
    with pytest.raises(UserError, match=r"no suite .*absent\.yaml"):
        read_suite(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_suites(path):
    suite = read_suite(path)
    assert suite.published
    assert {data.manifest.parent for data in suite.datasets} == {path.parent / "../../data"}


def test_the_papers_suite_has_its_eight_columns():
    suite = read_suite(RECIPES / "paper-table2.yaml")
    assert len({data.column for data in suite.datasets}) == 8
    # Weights that came later have figures of their makers instead of a row of the paper.
    for method in suite.methods:
        later = method.name.startswith(("OneAlign", "Q-ReAlign"))
        assert (method.name in suite.published) != later
        assert method.trained_on or method.group == "Handcrafted"
    by_name = {method.name: method for method in suite.methods}
    for name, srcc in (
        ("OneAlign", 0.801),
        ("Q-ReAlign Mini 0.8B", 0.811),
        ("Q-ReAlign Lite 4B", 0.829),
    ):
        assert by_name[name].published["Image Gen."]["srcc"] == srcc
    for name in ("VisualQuality-R1", "Q-Insight"):
        chosen = by_name[name].settings(batch=8, device=None).for_model(by_name[name].model)
        assert (chosen.samples, chosen.top_k, chosen.reading) == (1, 50, "authors")
