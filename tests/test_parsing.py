"""Small files that would take all memory, hours or a traceback are one reason, at once."""

import time
from pathlib import Path

import numpy as np
import pytest

from visualquality import parsing
from visualquality.classics.niqe import Niqe
from visualquality.errors import UserError
from visualquality.evaluate.suite import read_suite
from visualquality.io import read_jsonl, read_yaml
from visualquality.parsing import MAX_YAML, parse_json, parse_yaml
from visualquality.train.recipe import read_recipe


def doubled(levels: int, form: str) -> str:
    """A YAML whose values unfold to ten times as many on each level."""
    lines = ["v0: &v0 {a: 1, b: 2}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*v{level - 1}"] * 10)
        lines.append(f"v{level}: &v{level} {form.format(aliases)}")
    return "\n".join(lines)


BOMBS = {
    "aliases": (doubled(12, "[{}]"), "unfolds to more than"),
    "merges": (doubled(8, "{{<<: [{}]}}"), "unfolds to more than"),
    "itself": ("data: &a [*a]", "contains itself"),
    "key is itself": ("? &a [*a]\n: 1", "contains itself"),
    "deep": ("data: " + "[" * 5000, "nested too deeply"),
    "long": ("a: " + "x" * MAX_YAML, "more than 200,000 characters"),
    "tag": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "month": ("seed: 2024-99-99", "month must be in 1..12"),
    "digits": ("seed: " + "9" * 5000, "Exceeds the limit"),
    "bool": ("a: !!bool maybe", "maybe"),
    "empty int": ("a: !!int ''", "index out of range"),
    "float": ("a: !!float x", "could not convert"),
    "twice": ("seed: 1\nseed: 2", "the key seed is there twice"),
    "null byte": ('a: "\\0"', "null byte"),
    "raw null byte": ("a: \0", "special characters"),
    "unhashable": ("[a, b]: 1", "unhashable key in line 1"),
    "unclosed": ("a: [1, 2", "expected ',' or ']'"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_yaml_is_one_reason_at_once(name):
    text, reason = BOMBS[name]
    started = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("read", [read_recipe, read_suite])
def test_recipes_and_suites_name_the_file(read, name, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(BOMBS[name][0])
    with pytest.raises(UserError, match=r"r\.yaml is not a YAML file: "):
        read(path)


def test_aliases_and_merges_of_honest_files_are_read():
    text = "a: &a {steps: 3, rate: 0.1}\nb: {<<: *a, steps: 4}\nc: [*a, *a]"
    read = parse_yaml(text)
    assert read["b"] == {"steps": 4, "rate": 0.1}
    assert read["c"] == [{"steps": 3, "rate": 0.1}] * 2
    assert parse_yaml("") is None


def test_a_yaml_without_an_end_is_not_read_to_it():
    with pytest.raises(UserError, match="is not a YAML file"):
        read_yaml(Path("/dev/zero"), "recipe")


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, "9" * 5000, b"\xff", "{"])
def test_json_raises_nothing_but_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


def test_a_line_of_deep_json_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"a": 1}\n' + '{"a":' * 100_000 + "\n")
    with pytest.raises(UserError, match=r"j\.jsonl, line 2: not a JSON object"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    "field",
    [
        "optimizer.learning_rate=.inf",
        "optimizer.learning_rate=.nan",
        "optimizer.steps=1" + "0" * 400,
        "optimizer.images_per_device=100000000000",
        "rl2r.responses=100000000000",
        "seed=-1",
        "seed=1" + "0" * 30,
        "seed=" + "[" * 3000,
        "seed=2024-99-99",
    ],
)
def test_numbers_that_no_run_can_have_are_one_sentence(field, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("data: [{manifest: m.csv}]\noptimizer: {steps: 3}\n")
    with pytest.raises(UserError) as found:
        read_recipe(path, (field,))
    assert len(str(found.value)) < 400


def test_many_faults_are_not_all_listed(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("data: [" + "1, " * 5000 + "]\noptimizer: {steps: 3}\n")
    with pytest.raises(UserError, match="and 4981 more faults"):
        read_recipe(path)


def test_no_such_home_folder(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text('data: [{manifest: "~nobody-here/m.csv"}]\noptimizer: {steps: 3}\n')
    with pytest.raises(UserError, match="there is no such home folder"):
        read_recipe(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "MAX_ARCHIVE", 1_000_000)
    path = tmp_path / "niqe.npz"
    np.savez_compressed(path, mean=np.zeros(36), covariance=np.zeros((1000, 1000)))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"niqe\.npz holds no fitted .*it unpacks to 8,"):
        Niqe.load(path)


def test_a_pickle_among_fitted_parameters_is_never_opened(tmp_path):
    path = tmp_path / "niqe.npz"
    np.savez(path, mean=np.array([Path(tmp_path)], dtype=object), covariance=np.eye(36))
    with pytest.raises(UserError, match="Object arrays cannot be loaded"):
        Niqe.load(path)
