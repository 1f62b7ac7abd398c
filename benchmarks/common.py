"""What the benchmarks share: timing side by side, peak memory, the table, and the JSON.

Each script prints a table and, with `--json FILE`, writes `{"machine", "command", "rows"}`, a row being
`{"case", "ours", "theirs", "unit", "ratio"}`. The ratio is theirs / ours: above 1, ours takes less.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, help="write the result there")
    made.add_argument("--short", action="store_true", help="the form that `make bench` runs")
    return made


def row(case: str, ours: float | None, theirs: float | None, unit: str, **more: Any) -> Row:
    """A line of the result; None stands for a side that there is not, and the ratio is then None too.

    With `missing` the table says why there is none, "out of memory" for instance.
    """
    known = ours is not None and theirs is not None
    return {
        "case": case,
        "ours": ours,
        "theirs": theirs,
        "unit": unit,
        "ratio": theirs / ours if known else None,
        **more,
    }


def interleaved(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[float, float]:
    """Median seconds of each, taken in turns, so that whatever else the machine does strikes both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, function in zip(times, (ours, theirs), strict=True):
            started = time.perf_counter()
            function()
            side.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def in_fresh_process(function: Callable[..., float], *arguments: Any) -> float:
    """What `function`, of a module's top level, returns in a process of its own, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_megabytes(function: Callable[[], Any]) -> float:
    """How far the resident memory of this process rises above where it is, in MB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    function()
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    """Bytes, from this process's own account (getrusage would count the parent's peak in)."""
    (kilobytes,) = [
        line.split()[1] for line in _lines("/proc/self/status") if line.startswith(f"{field}:")
    ]
    return 1024 * int(kilobytes)


def machine(device: str = "cpu") -> str:
    """The machine in words: no name, no path."""
    models = [
        x.partition(":")[2].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")
    ]
    cpu = models[0] if models else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else "no GPU"
    return (
        f"{os.cpu_count()} CPU cores ({cpu}), {gpu}, {platform.system()}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []


def finish(title: str, rows: Sequence[Row], args: argparse.Namespace, device: str = "cpu") -> None:
    """Print the table, and write the JSON where it is wanted."""
    table = Table(title=title)
    for name in ("case", "ours", "theirs", "unit", "theirs / ours"):
        table.add_column(name, justify="left" if name in ("case", "unit") else "right")
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.3g}×"
        sides = [_number(r[side], r.get("missing", "")) for side in ("ours", "theirs")]
        table.add_row(r["case"], *sides, r["unit"], ratio)
    Console(width=120).print(table)
    if args.json:
        script = f"benchmarks/{Path(sys.argv[0]).name}"
        given = [Path(a).name if os.path.isabs(a) else a for a in sys.argv[1:]]
        result = {
            "machine": machine(device),
            "command": shlex.join(["python", script, *given]),
            "rows": list(rows),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.4g}"
