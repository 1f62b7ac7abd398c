"""How the processes of a run are started, and that they agree on where it goes on."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from small_runs import small_recipe
from visualquality.errors import UserError
from visualquality.train import launch
from visualquality.train.recipe import read_recipe

ROOT = Path(__file__).parents[2]


def documented(name: str) -> list[list[str]]:
    """The commands of docs/train-large.md that use a file of settings, as words."""
    page = (ROOT / "docs" / "train-large.md").read_text(encoding="utf-8")
    found = re.findall(rf"^accelerate launch --config_file recipes/{name}\.yaml .*$", page, re.M)
    return [shlex.split(command) for command in found]


def started(command: list[str], monkeypatch) -> tuple[dict[str, str], list[str]]:
    """What accelerate would start: the options of its agent, and what each process runs."""
    # It asks whether DeepSpeed is installed, which these tests do not need.
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True)
    monkeypatch.chdir(ROOT)
    arguments = launch_command_parser().parse_args(command[2:])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.use_deepspeed
    assert (arguments.mixed_precision, arguments.zero_stage) == ("bf16", 3)
    arguments.deepspeed_fields_from_accelerate_config = ""  # as its own command fills it in
    words, _ = prepare_deepspeed_cmd_env(arguments)
    assert not words  # no command of DeepSpeed's own, which would start all machines over ssh
    names = ("nnodes", "node_rank", "rdzv_endpoint", "rdzv_backend", "nproc_per_node")
    options = {name: str(getattr(arguments, name, "")) for name in names}
    return options, [arguments.training_script, *arguments.training_script_args]


def test_the_commands_for_two_machines_start_eight_processes_on_each(monkeypatch):
    commands = documented("zero3")
    assert len(commands) == 2
    for rank, command in enumerate(commands):
        options, run = started(command, monkeypatch)
        assert options == {
            "nnodes": "2",
            "node_rank": str(rank),
            "rdzv_endpoint": "HOST:29500",
            "rdzv_backend": "static",
            "nproc_per_node": "8",
        }
        assert run[:2] == ["visualquality", "train"]
        assert read_recipe(ROOT / run[2]).devices == 16


def test_the_command_for_one_machine_has_the_batch_of_two(monkeypatch):
    (command,) = documented("zero3-one-node")
    options, run = started(command, monkeypatch)
    assert options["nproc_per_node"] == "8"
    overrides = tuple(run[i + 1] for i, word in enumerate(run) if word == "--set")
    here, paper = read_recipe(ROOT / run[2], overrides), read_recipe(ROOT / run[2])
    assert here.devices == 8
    assert here.global_batch == paper.global_batch == 128


@pytest.mark.parametrize(
    ("devices", "world", "said"),
    [
        (8, 1, ["recipes/zero3-one-node.yaml --num_processes 8", "torchrun --nproc_per_node 8"]),
        (16, 1, ["recipes/zero3.yaml --machine_rank N", "docs/train-large.md"]),
        (16, 8, ["do not know those of the others", "recipes/zero3.yaml --machine_rank N"]),
        (1, 2, ["without a launcher", "--set devices=2"]),
    ],
)
def test_the_advice_for_a_wrong_number_of_processes(tmp_path, monkeypatch, devices, world, said):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    recipe = small_recipe(tmp_path, tmp_path, tmp_path / "a.csv", devices=devices)
    with pytest.raises(UserError, match=f"for {devices} processes and this is {world}") as caught:
        launch.check_launch(recipe)
    assert all(words in str(caught.value) for words in said)
    if devices > launch.A_MACHINE:
        # Each process would hold the whole model, and run out of memory.
        assert "torchrun" not in str(caught.value)


def test_a_run_under_deepspeed_goes_on_under_deepspeed(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path, tmp_path, tmp_path / "a.csv", devices=2)
    assert launch.launcher(recipe) == "torchrun --nproc_per_node 2 -m "
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert "--nnodes 2" in launch.launcher(recipe)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert launch.launcher(recipe).startswith("accelerate launch ")


# On each of two processes, with a folder of its own: where a run would begin, or why it does not.
TWO_DISKS = """
import os, sys
from pathlib import Path
from rich.console import Console
from visualquality.errors import UserError
from visualquality.train.checkpoints import where_to_start
from visualquality.train.launch import meet
from visualquality.train.recipe import read_recipe

rank, folder = os.environ["RANK"], Path(sys.argv[1])
recipe = read_recipe(folder / "run.yaml", output=folder / f"disk{rank}")
meet()
for case in ("new", "missing", "copied"):
    if case == "missing" and rank == "0":
        for step in (2, 4):
            state = recipe.output / f"checkpoint-{step}" / "trainer_state.json"
            state.parent.mkdir()
            state.write_text("{}")
        left_out = '{"manifest": "m", "row": 2, "image": "i", "problem": "p"}'
        (recipe.output / "metrics.jsonl").write_text('{"step": 0, "left_out": [%s]}' % left_out)
    if case == "copied" and rank == "1":
        for step in (4, 6):  # the latter is not of this run's first process
            (recipe.output / f"checkpoint-{step}").mkdir()
    try:
        said = str(where_to_start(recipe, case != "new", Console(stderr=True)))
    except UserError as error:
        said = str(error)
    (folder / f"{case}{rank}").write_text(said)
"""


def test_two_processes_with_separate_disks_go_on_from_the_checkpoint_of_the_first(tmp_path):
    small_recipe(tmp_path, tmp_path, tmp_path / "a.csv", devices=2)
    (tmp_path / "two_disks.py").write_text(TWO_DISKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc_per_node", "2", str(tmp_path / "two_disks.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"process 1 does not see {tmp_path}/disk0 of the first process" in run.stderr
    for rank in range(2):
        disk = tmp_path / f"disk{rank}"
        assert (tmp_path / f"new{rank}").read_text() == "Start(checkpoint=None, left_out=None)"
        # Without the checkpoint nobody begins: the second process would do so anew.
        missing = (tmp_path / f"missing{rank}").read_text()
        assert f"process 1 does not see the checkpoint {disk}/checkpoint-4" in missing
        # Not its own newest one; and what the first process had left out is left out by all.
        copied = (tmp_path / f"copied{rank}").read_text()
        assert f"{disk}/checkpoint-4'" in copied
        assert "Fault(manifest='m', row=2, image='i', problem='p')" in copied
        assert (disk / "recipe.yaml").is_file()
