"""What the benchmarks share: options, timing side by side, memory, the table of ours and theirs, result files.

A script prints a table and, with `--json FILE`, writes `{"machine", "command", "rows"}`. Each row is
`{"case", "ours", "theirs", "unit", "ratio"}`. The ratio is theirs / ours for times and memory, ours / theirs for
rates: above 1, ours is better.
"""

import argparse
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from visualquality.errors import UserError
from visualquality.score.raters import CLASSICS

# Python puts the folder of the running script on its path, so the scripts here import each other by their plain names.
# This line adds the repository's root and tests/, for `recipes.nano` and `small_models`. Import this module first.
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("", "tests"))
from recipes.nano.measure import lines_of, this_command, write_result

Row = dict[str, Any]
T = TypeVar("T")


# Options


def parser(description: str | None, *, short: bool = True) -> argparse.ArgumentParser:
    """The options of every benchmark; `short`: also --short."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", type=Path, help="write the result to this file")
    if short:
        options.add_argument("--short", action="store_true", help="the form that `make bench` runs")
    return options


def add_work(options: argparse.ArgumentParser, default: str) -> None:
    """Add the option --work."""
    options.add_argument(
        "--work",
        type=Path,
        default=Path(default),
        metavar="FOLDER",
        help="keeps runs and ratings; a second call resumes from them",
    )


def rated_parser(description: str | None, work: str | None = None) -> argparse.ArgumentParser:
    """The options of the benchmarks on human ratings; `work` is the default of --work where there is that option."""
    options = parser(description)
    options.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="holds biq2021/ and agiqa3k/"
    )
    if work:
        add_work(options, work)
    return options


def mode_of(args: argparse.Namespace) -> dict[str, str]:
    """The scoring option of --mode; none for a classic, which has no modes."""
    return {} if args.model.partition(":")[0] in CLASSICS else {"mode": args.mode}


@contextmanager
def clean_exit() -> Iterator[None]:
    """What the user can fix is one sentence and exit status 2, Ctrl-C is status 130, as in the commands."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the ratings so far are kept: run it again to continue", file=sys.stderr)
        sys.exit(130)


# Time and memory


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times. The sides take turns, so other load on the machine slows all of them."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, function in sides.items():
            times[side].append(seconds_of(function))
    return times


def medians(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[float, float]:
    """Median seconds of ours and theirs, taken in turns."""
    times = interleaved({"ours": ours, "theirs": theirs}, repeats)
    return statistics.median(times["ours"]), statistics.median(times["theirs"])


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of `function` in a process of its own, where nothing else has used memory before.

    `function` must be at the top level of its module, so that the new process can import it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_megabytes(function: Callable[[], Any]) -> float:
    """How far the resident memory of this process rises above its present size, in MB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the recorded peak
    before = resident_megabytes()
    function()
    return resident_megabytes("VmHWM") - before


def resident_megabytes(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB (10⁶ bytes), or its peak with "VmHWM". Linux only.

    `getrusage` would not do: its peak includes that of the parent process.
    """
    (kilobytes,) = [
        line.split()[1] for line in lines_of("/proc/self/status") if line.startswith(f"{field}:")
    ]
    return 1024 * int(kilobytes) / 1e6


def allocated_megabytes(function: Callable[[], Any]) -> float:
    """The most that `function` has allocated for tensors on the CPU at once, in MB, by PyTorch's own records.

    Unlike resident memory it has nothing of what libraries keep for later, but the profiler slows the function down.
    """
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(itertools.accumulate(change for _, change in sorted(changes))) / 1e6


# Results


def row(case: str, ours: float | None, theirs: float | None, unit: str, **more: Any) -> Row:
    """One line of the result. A side that does not exist is None, and so is the ratio then.

    `missing="out of memory"`, for instance, is shown in the table in place of such a side.
    """
    ratio = None if ours is None or theirs is None else theirs / ours
    line = {"case": case, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio}
    return line | more


def finish(title: str, rows: Sequence[Row], args: argparse.Namespace, device: str = "cpu") -> None:
    """Print the table, and write the JSON with --json."""
    table = Table(title=title)
    for name in ("case", "ours", "theirs", "unit", "times better"):
        table.add_column(name, justify="left" if name in ("case", "unit") else "right")
    for line in rows:
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.3g}×"
        sides = [_number(line[side], line.get("missing", "")) for side in ("ours", "theirs")]
        table.add_row(line["case"], *sides, line["unit"], ratio)
    Console(width=120).print(table)
    if args.json:
        write_result(args.json, this_command(), {"rows": list(rows)}, device)


def _number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.4g}"
