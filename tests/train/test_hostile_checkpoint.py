"""A checkpoint from a stranger, and a full disk: no code runs, nothing half is left, and each fault is one sentence."""

import os
import resource
import shutil
from contextlib import contextmanager, nullcontext

import pytest
import torch
import yaml

from visualquality.errors import UserError
from visualquality.io import append_jsonl
from visualquality.train.recipe import read_recipe
from visualquality.train.run import last_checkpoint, train


class Evil:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write_recipe(folder, model, manifest, **changes):
    tree = {
        "method": "sft",
        "model": str(model),
        "data": [{"manifest": str(manifest), "mos_range": [0, 100]}],
        "output": str(folder / "run"),
        "optimizer": {"steps": 2, "images_per_device": 2, "learning_rate": 1e-3},
        "checkpoint_every": 1,
        "max_pixels": 56 * 56,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder, ranking_set):
    """The recipe of a run of two steps, with a checkpoint of each."""
    path = write_recipe(tmp_path_factory.mktemp("trained"), model_folder("nano"), ranking_set)
    train(read_recipe(path))
    return path


@pytest.fixture
def recipe(trained, tmp_path):
    """A copy of that run."""
    read = read_recipe(trained)
    shutil.copytree(read.output, tmp_path / "run")
    return read.model_copy(update={"output": tmp_path / "run"})


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"]
)
def test_code_in_a_checkpoint_is_never_run(name, recipe, tmp_path):
    mark = tmp_path / "ran"
    # So that a step is left to do, which needs all of the checkpoint.
    shutil.rmtree(last_checkpoint(recipe.output))
    checkpoint = last_checkpoint(recipe.output)
    assert (checkpoint / name).is_file(), "transformers has given the file another name"
    torch.save({"x": Evil(mark)}, checkpoint / name)
    # The arguments are written for whoever wants to read them, and never opened.
    opened = name != "training_args.bin"
    reason = "a file in it is damaged or holds code"
    with pytest.raises(UserError, match=reason) if opened else nullcontext():
        train(recipe, resume=True)
    assert not mark.exists()


def test_a_checkpoint_whose_state_is_torn_does_not_count(recipe):
    newest = last_checkpoint(recipe.output)
    (newest / "trainer_state.json").write_text("{")
    assert last_checkpoint(recipe.output).name == "checkpoint-1"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_one_sentence(name, recipe):
    (last_checkpoint(recipe.output) / name).write_text("{")
    with pytest.raises(UserError, match=name):
        train(recipe, resume=True)


@contextmanager
def largest_file(size):
    """No file of this process may have more bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The first ends in the weights of 15 MB, the second in the state of the optimizer, which is twice that.
@pytest.mark.parametrize("limit", [100_000, 20_000_000])
def test_a_disk_that_fills_up_is_one_sentence_and_leaves_no_half_checkpoint(
    limit, tmp_path, model_folder, ranking_set
):
    recipe = read_recipe(write_recipe(tmp_path, model_folder("nano"), ranking_set))
    with largest_file(limit), pytest.raises(UserError, match="cannot be written"):
        train(recipe)
    assert list(recipe.output.glob("checkpoint-*")) == []
    assert not (recipe.output / "final").exists()
    # With room it goes on.
    assert train(recipe, resume=True).is_dir()


def test_a_log_on_a_full_disk_is_one_sentence(tmp_path):
    with largest_file(10), pytest.raises(UserError, match=r"a\.jsonl cannot be written \(File too"):
        append_jsonl(tmp_path / "a.jsonl", {"image": "a name of some length"})
