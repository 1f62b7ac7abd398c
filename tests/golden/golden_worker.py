"""Runs commands of one version of the package, each in a fresh fork of a process that has PyTorch loaded.

A command sees what `python -m visualquality ...` sees, without the seconds that the imports take each time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # sums come out in one order
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "1000",  # no line of a table is broken, however long the paths are
    "NO_COLOR": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    # The date in a figure's metadata and the names of its parts.
    "SOURCE_DATE_EPOCH": "0",
}


class Worker:
    """A process that runs commands of the package in `source` (a folder that holds `visualquality`)."""

    def __init__(self, source: Path):
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(source.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(source.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def run(self, argv: list[str], *, cwd: Path, out: Path) -> int:
        """The exit status of `visualquality ARGV`; its two streams go to `out`.stdout and `out`.stderr.

        `argv` of the form ["-c", CODE] runs Python code.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        out.parent.mkdir(parents=True, exist_ok=True)
        request = {"argv": list(map(str, argv)), "cwd": str(cwd), "out": str(out)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def _serve(source: str) -> None:
    # Heavy libraries only: the package itself is loaded by each command.
    import datasets
    import peft
    import torch
    import transformers
    import trl

    loaded = (
        datasets.Dataset,
        peft.LoraConfig,
        torch.Tensor,
        transformers.Trainer,
        trl.GRPOTrainer,
    )
    assert all(loaded)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request, source)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(request: dict, source: str) -> None:
    """In the fork: the command, and the end of the process."""
    import runpy
    import traceback

    code = 1
    try:
        os.chdir(request["cwd"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import visualquality

        assert Path(visualquality.__file__).is_relative_to(source), visualquality.__file__
        if request["argv"][0] == "-c":
            exec(request["argv"][1], {"__name__": "__main__"})
        else:
            sys.argv = ["visualquality", *request["argv"]]
            runpy.run_module("visualquality", run_name="__main__", alter_sys=False)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
