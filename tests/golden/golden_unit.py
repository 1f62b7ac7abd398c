"""Facts that hold on every processor: hashes and draws, digests of images, manifests, splits, tables of scores."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from golden_inputs import (
    IMPORTS,
    source_root,
    write_images,
    write_manifests,
    write_sources,
    write_suites,
)

NAMES = ("", "a", "KADID-10K/3/I01_01_01.png", "ü €\u2028", "x" * 300)


def facts(folder: Path) -> dict[str, Any]:
    """All facts about the package that is imported, by kind, JSON-safe. `folder` is empty, for what they need."""
    write_images(folder)
    write_manifests(folder)
    write_suites(folder)
    write_sources(folder / "sources")
    return {
        "seeds": _seeds(),
        "images": _images(folder / "images"),
        "manifests": _manifests(folder),
        "splits": _splits(folder),
        "benchmark": _benchmark(folder),
        "agreement": _agreement(folder),
    }


def call(*argv: object, cwd: Path) -> None:
    """`visualquality ARGV` in this process, from the folder `cwd`, without what it prints."""
    from typer.testing import CliRunner

    from visualquality.cli import app

    before = Path.cwd()
    os.chdir(cwd)
    try:
        result = CliRunner().invoke(app, list(map(str, argv)))
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output


def _seed_functions() -> dict[str, Callable[..., Any]]:
    try:
        from visualquality import seeds
    except ImportError:
        return _functions_of_5ac7da9()
    names = [
        "uniform_streams",
        "order_key",
        "choice",
        "seed_number",
        "generator",
        "request_seed",
        "arrays_digest",
    ]
    return {name: getattr(seeds, name) for name in names}


def _functions_of_5ac7da9() -> dict[str, Callable[..., Any]]:
    """What the functions of `visualquality.seeds` were in the commit that golden.json was written from."""
    import torch
    from visualquality.baselines.parameters import digest
    from visualquality.score.asking import Asking

    from visualquality.data.distort import _generator, _number
    from visualquality.data.split import stable_hash
    from visualquality.models.generate import random_streams
    from visualquality.models.load import weights_digest

    def request_seed(seed: int, image: str, k: int) -> int:
        asking = Asking("openai", "x", "direct", 1, seed, "paper", 1.0, None, None, False)
        return asking.sample_seed(image, k)

    def choice(name: str, count: int) -> int:  # of train/sft.py, where the count was 6
        return int(hashlib.blake2b(name.encode(), digest_size=4).hexdigest(), 16) % count

    def arrays_digest(arrays: dict[str, np.ndarray]) -> str:
        if all(values.dtype == np.float64 for values in arrays.values()):
            return digest(arrays)
        return weights_digest({name: torch.from_numpy(v) for name, v in arrays.items()})

    return {
        "uniform_streams": random_streams,
        "order_key": stable_hash,
        "choice": choice,
        "seed_number": _number,
        "generator": _generator,
        "request_seed": request_seed,
        "arrays_digest": arrays_digest,
    }


def _seeds() -> dict[str, Any]:
    found = _seed_functions()
    keys = [f"{key}" for key in NAMES]
    streams = [
        [seed, k, found["uniform_streams"](seed, keys, k, 3).ravel().tolist()]
        for seed, k in ((0, 1), (7, 2), (-1, 1))
    ]
    arrays = {"b": np.linspace(-1, 1, 6).reshape(2, 3), "a": np.array([0.1]), "0": np.zeros((0, 2))}
    single = {name: values.astype(np.float32) for name, values in arrays.items()}
    scalar = np.array(
        0.1
    )  # its shape is (1,) in the digests of NIQE and BRISQUE, () in those of models
    draws = found["generator"]("noise:3")
    return {
        "uniform_streams": streams,
        "order_key": [
            found["order_key"](seed, name).hex()
            for seed in (0, 7)
            for name in (*NAMES, os.fsdecode(b"\xff"))
        ],
        "choice": [[found["choice"](name, count) for name in NAMES] for count in (2, 6, 1000)],
        "seed_number": [str(found["seed_number"](name)) for name in NAMES],
        "generator": [draws.random(3).tolist(), draws.permutation(20).tolist()],
        "request_seed": [
            found["request_seed"](seed, name, k)
            for seed in (0, 7)
            for name in NAMES
            for k in (0, 5)
        ],
        "arrays_digest": [found["arrays_digest"](arrays), found["arrays_digest"](single)],
        "arrays_digest of a fitted scalar": found["arrays_digest"]({"a": np.atleast_1d(scalar)}),
        "arrays_digest of a scalar weight": found["arrays_digest"]({"a": scalar.astype("<f4")}),
    }


def _images(folder: Path) -> dict[str, str]:
    """Digests of decoded images: random streams and caches go by them."""
    from visualquality.data.images import image_digest, open_image

    readable = sorted(path for path in folder.iterdir() if not path.name.startswith("broken"))
    return {path.name: image_digest(open_image(path)) for path in readable}


def _manifests(folder: Path) -> dict[str, list[list[str]]]:
    found = {}
    for name, (source, options) in IMPORTS.items():
        output = folder / f"{name}.csv"
        root = source_root(folder / "sources", source)
        call("data", "import", source, root, "-o", output, *options, cwd=folder)
        found[name] = _cells(output, folder)
    return found


def _cells(path: Path, folder: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [[cell.replace(str(folder), "") for cell in row] for row in csv.reader(file)]


def _splits(folder: Path) -> dict[str, str]:
    """The split of each row of a fixed manifest as a string of first letters."""
    found = {}
    for options in ((), ("--seed", 7), ("--ratios", "5:2:3")):
        output = folder / "split.csv"
        words = ("data", "split", "rated/names.csv", "-o", output, "--overwrite", *options)
        call(*words, cwd=folder)
        header, *rows = _cells(output, folder)
        letters = [row[header.index("split")][:2] for row in rows]
        found[" ".join(map(str, options))] = " ".join(letters)
    return found


def _benchmark(folder: Path) -> dict[str, list[str]]:
    """The tables of two files of scores. The logistic fit is left out: it depends on the processor."""
    call("benchmark", "suite-unit.yaml", "-o", folder / "bench", cwd=folder)
    found = {}
    for name in ("table.md", "table.csv"):
        lines = (folder / "bench" / name).read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if "PLCC (logistic)," not in line)
        text = re.sub(r"(; )?PLCC \(logistic\): undefined in \d+ of the \d+ resamples", "", text)
        text = re.sub(r"\d+\.\d{7,}", lambda number: f"{float(number[0]):.6f}", text)
        found[name] = text.splitlines()
    return found


def _agreement(folder: Path) -> dict[str, Any]:
    """What that benchmark's results say of the agreement, without the logistic fit."""
    results = json.loads((folder / "bench" / "results.json").read_text(encoding="utf-8"))
    found = {}
    for method in results["methods"]:
        agreement = method["measured"]["Both"]["agreement"]
        kept = ("n", "n_unreadable", "srcc", "krcc", "plcc", "bootstrap")
        found[method["name"]] = {key: agreement[key] for key in kept}
    return found
