"""How the processes of a run are started, and how they meet. docs/train-large.md has the commands."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from ..errors import UserError
from .recipe import Recipe

# GPUs of a machine, in recipes/zero3.yaml: more processes are on several.
A_MACHINE = 8


def check_launch(recipe: Recipe) -> None:
    """Raises UserError where the number of processes is not the recipe's, and for what cannot run there."""
    world = _number("WORLD_SIZE")
    if recipe.devices != world:
        raise UserError(
            f"the recipe is for {recipe.devices} processes and this is {world}: {_advice(recipe.devices, world)}, "
            f"or give --set devices={world}"
        )
    if recipe.packed_attention == "flex" and not torch.cuda.is_available():
        raise UserError(
            "the recipe's packed_attention: flex needs CUDA, since PyTorch has no backward of it elsewhere: leave it "
            "out"
        )
    if recipe.quantization is not None and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise UserError(
            "quantization with DeepSpeed is not supported: launch with torchrun, or leave quantization out"
        )
    # The rollout calls parts of the model by themselves, which nobody has run on FSDP's flat parameters.
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise UserError(
            "FSDP is not supported yet: launch with DeepSpeed (recipes/zero3.yaml) or with torchrun"
        )


def _number(name: str) -> int:
    """A number that torchrun and accelerate give to each process; 1 where there is one process."""
    return int(os.environ.get(name, "1"))


def _advice(devices: int, world: int) -> str:
    """How to start so many processes, where there are `world`."""
    train = "-m visualquality train ..."
    if devices == 1:
        return "start it without a launcher"
    if devices <= A_MACHINE:
        config = "--config_file recipes/zero3-one-node.yaml"
        return (
            f"launch it with accelerate launch {config} --num_processes {devices} {train} (DeepSpeed: each GPU holds a "
            f"part of the model), or with torchrun --nproc_per_node {devices} {train} (each GPU holds all of it)"
        )
    alone = ""
    if world > 1 and world == _number("LOCAL_WORLD_SIZE"):
        alone = "the processes of one machine do not know those of the others; "
    return (
        f"{alone}on each machine give accelerate launch --config_file recipes/zero3.yaml --machine_rank N "
        f"--main_process_ip HOST --main_process_port 29500 {train} (docs/train-large.md)"
    )


def meet() -> None:
    """Let the processes of a run know each other, before the trainer would: they share what comes before it."""
    if _number("WORLD_SIZE") > 1:
        cuda = torch.cuda.is_available()
        # As the trainer would: the time that GPUs wait for one another, in place of NCCL's own 10 minutes.
        waits = {"timeout": timedelta(minutes=30)} if cuda else {}
        PartialState(cpu=not cuda, backend=backend(), **waits)


def backend() -> str | None:
    """Of the communication between processes; NCCL, which is the default, is for GPUs alone."""
    return "gloo" if not torch.cuda.is_available() and "WORLD_SIZE" in os.environ else None


def launcher(recipe: Recipe) -> str:
    """What to type before `visualquality` to start the processes of a run once more."""
    if recipe.devices == 1:
        return ""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return "accelerate launch (the same options as at first) -m "
    machines = _number("GROUP_WORLD_SIZE")
    each = f"--nproc_per_node {recipe.devices // machines}"
    if machines == 1:
        return f"torchrun {each} -m "
    return f"torchrun --nnodes {machines} (the same options as at first) {each} -m "
