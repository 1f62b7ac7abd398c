"""What the package did at commit 5ac7da9 and must go on doing, on every processor: see `golden_unit.py`.

The rest of its behaviour is compared by hand, with `golden.py`, since its numbers depend on the machine.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from golden_unit import facts

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("golden").resolve()
    return json.loads(json.dumps(facts(folder)))


def test_nothing_is_left_out(found):
    assert list(found) == list(GOLDEN)


@pytest.mark.parametrize("function", GOLDEN["seeds"])
def test_hashes_and_draws(found, function):
    assert found["seeds"][function] == GOLDEN["seeds"][function]


@pytest.mark.parametrize("kind", ["images", "splits", "benchmark"])
def test_digests_splits_and_tables(found, kind):
    assert found[kind] == GOLDEN[kind]


@pytest.mark.parametrize("source", GOLDEN["manifests"])
def test_rows_of_every_source_form(found, source):
    assert found["manifests"][source] == GOLDEN["manifests"][source]


def test_agreement_of_fixed_scores(found):
    assert flat(found["agreement"]) == pytest.approx(flat(GOLDEN["agreement"]), abs=1e-9)


def flat(tree: Any, place: str = "") -> dict[str, Any]:
    """The numbers of a tree by their places, since `approx` takes no nested ones."""
    if not isinstance(tree, dict | list):
        return {place: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {key: leaf for k, v in items for key, leaf in flat(v, f"{place}/{k}").items()}
