"""Ends training and scoring at random moments, starts them again until they are done, and compares with runs that
nothing ended:

    python tests/torture/kills.py --json runs/torture/kills.json

Most ends are kills (`kill -9`), which a process cannot see; training is also ended by the signals that it catches.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests share

import torch
from PIL import ImageFilter

from conftest import picture
from small_models import small_nano
from small_runs import lines, small_recipe, untimed, weights

# A server that has imported PyTorch once, and forks a process for each start.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["visualquality.train.run", "visualquality.score.scorer"])

METHODS = ("rl2r", "sft", "expect")
STEPS = 8
ROUNDING = 1.5e-4  # of expected scores, which have 4 decimals
ENDS_OF_A_RUN = 5
CAUGHT = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1")]


def command(words: Sequence[str]) -> None:
    """In a process of its own: the command line, in silence. Exits as it does."""
    from visualquality import response, rl2r
    from visualquality.cli import app

    # A reward that a random model can earn: how often a letter comes.
    rl2r.REWARDS["fidelity"] = lambda scores, mos, datasets: scores
    if words[0] == "train":
        response.READINGS["strict"] = lambda text, **_: response.Response(
            float(text.count("e")), None, None
        )
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        app(words)


def start(words: Sequence[str]) -> Any:
    process = PROCESSES.Process(target=command, args=(list(words),))
    process.start()
    return process


def timed(words: Sequence[str]) -> float:
    """Runs a command to its end; the seconds that it took."""
    started = monotonic()
    process = start(words)
    process.join()
    assert process.exitcode == 0, f"{words} ended with {process.exitcode}"
    return monotonic() - started


def end_at_random(words: Sequence[str], number: int, after: float) -> int | None:
    """Starts a command and sends it a signal; the exit status, or None where the signal came too late to be sent."""
    process = start(words)
    process.join(after)
    if not process.is_alive():
        assert process.exitcode == 0, f"{words} ended with {process.exitcode}"
        return None
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.join()
    return process.exitcode


def torture_training(folder: Path, ends: int, seed: int) -> dict[str, Any]:
    """Ends of training at random moments; every run must end in the weights and lines of one that nothing ended."""
    model, manifest = small_nano(folder / "model"), _ranking_set(folder / "images")
    chance = random.Random(seed)
    signals: Counter[str] = Counter()
    found = {"runs": 0, "resumed": 0, "steps_lost": 0, "steps_twice": 0, "runs_that_differ": 0}
    straight: dict[str, tuple[Path, float]] = {}
    for number, method in enumerate(cycle(METHODS)):
        if sum(signals.values()) >= ends:
            break
        changes = {"method": method, "optimizer": {"steps": STEPS}, "sft": {"score_noise": 0.3}}
        if method not in straight:
            recipe = small_recipe(folder, model, manifest, f"straight-{method}", **changes)
            words = ["train", str(folder / f"straight-{method}.yaml")]
            straight[method] = recipe.output, timed(words)
        output, seconds = straight[method]
        recipe = small_recipe(folder, model, manifest, f"run-{number}", **changes)
        of_this = 0
        while True:
            words = ["train", str(folder / f"run-{number}.yaml")]
            if (recipe.output / "recipe.yaml").is_file():
                words.append("--resume")
                found["resumed"] += bool(list(recipe.output.glob("checkpoint-*")))
            if of_this == ENDS_OF_A_RUN or sum(signals.values()) >= ends:
                timed(words)
                break
            # One in four is a signal that training catches.
            sent = chance.choice([signal.SIGKILL] * 9 + CAUGHT)
            status = end_at_random(words, sent, chance.uniform(0, seconds))
            if status is None:
                break
            signals[signal.Signals(sent).name] += 1
            of_this += 1
            if status > 0:
                assert status in (0, 128 + sent), f"{words} ended with {status} after {sent}"
                found["steps_lost"] += _lost(recipe.output)
            elif status == 0:  # it came in the last step
                break
        found["runs"] += 1
        steps = Counter(line["step"] for line in lines(recipe.output / "metrics.jsonl"))
        found["steps_lost"] += STEPS - len(steps)
        found["steps_twice"] += sum(count - 1 for count in steps.values())
        found["runs_that_differ"] += not _same_run(output, recipe.output)
    return {"ends": sum(signals.values()), "signals": dict(signals), **found}


def _lost(output: Path) -> int:
    """Steps that a run which was stopped by a signal has done and not kept."""
    metrics = output / "metrics.jsonl"
    done = lines(metrics)[-1]["step"] if metrics.is_file() else 0
    kept = [int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")]
    return done - max(kept, default=0)


def _same_run(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights to the bit, and the same lines but for times."""
    first, second = weights(a / "final"), weights(b / "final")
    same = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    return same and untimed(a / "metrics.jsonl") == untimed(b / "metrics.jsonl")


def _ranking_set(folder: Path) -> Path:
    folder.mkdir()
    rows = ["image,mos,reasoning"]
    for i in range(8):
        picture(i).filter(ImageFilter.GaussianBlur(i / 3)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{5 - i / 2},blur {i}")
    (folder / "set.csv").write_text("\n".join(rows) + "\n")
    return folder / "set.csv"


def torture_scoring(folder: Path, kills: int, seed: int, images: int = 24) -> dict[str, Any]:
    """Kills of `score FOLDER -o out.csv`; every table must have each image once, with the same numbers."""
    model = small_nano(folder / "scoring-model")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(images):
        picture(i, (96, 64)).save(photos / f"{i}.png")
    words = ["score", str(photos), "--model", str(model), "--mode", "expect", "--batch", "2", "-o"]
    straight = folder / "straight.csv"
    seconds = timed([*words, str(straight)])
    right = _rows(straight)
    chance = random.Random(seed)
    found = {"runs": 0, "rows_lost": 0, "rows_twice": 0, "rows_that_differ": 0}
    done = 0
    while done < kills:
        output = folder / f"scores-{found['runs']}.csv"
        of_this = 0
        while done < kills and of_this < ENDS_OF_A_RUN:
            if (
                end_at_random([*words, str(output)], signal.SIGKILL, chance.uniform(0, seconds))
                is None
            ):
                break
            of_this += 1
            done += 1
        timed([*words, str(output)])
        found["runs"] += 1
        rows = _rows(output)
        counts = Counter(row["image"] for row in rows)
        found["rows_lost"] += images - len(counts)
        found["rows_twice"] += sum(count - 1 for count in counts.values())
        by_image = {row["image"]: row for row in right}
        found["rows_that_differ"] += sum(not _same_row(row, by_image[row["image"]]) for row in rows)
    return {"kills": done, "images": images, **found}


def _same_row(row: dict[str, str], other: dict[str, str]) -> bool:
    """Equal, but for the last digit of a number: a resumed run forms other batches, which round differently."""
    for name, value in row.items():
        if value == other[name]:
            continue
        try:
            close = abs(float(value) - float(other[name])) <= ROUNDING
        except ValueError:
            return False
        if not close:
            return False
    return row.keys() == other.keys()


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=int, default=20, help="ends of training")
    parser.add_argument("--scoring", type=int, default=50, help="kills of scoring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        figures = {
            "command": f"python tests/torture/kills.py --training {given.training} "
            f"--scoring {given.scoring} --seed {given.seed}",
            "training": torture_training(Path(folder), given.training, given.seed),
            "scoring": torture_scoring(Path(folder), given.scoring, given.seed),
        }
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(text + "\n")
    wrong = [
        f"{part}: {name} is {value}"
        for part in ("training", "scoring")
        for name, value in figures[part].items()
        if name.endswith(("lost", "twice", "differ")) and value
    ]
    sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
