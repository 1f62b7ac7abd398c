"""The parts of the golden files: what is run, and what of its results is kept, without times and paths."""

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from golden_inputs import FILE_FORMS, IMPORTS, recipes, source_root
from golden_worker import Worker


class Golden:
    """A folder of golden files in the making: `inputs`, `work` (what commands wrote), and the results in `golden`."""

    def __init__(self, folder: Path, models: Path, worker: Worker):
        self.folder, self.models, self.worker = folder.resolve(), models.resolve(), worker
        self.inputs, self.work = self.folder / "inputs", self.folder / "work"
        self.part = ""
        self.exits: dict[str, int] = {}

    def run(self, name: str, *argv: object, keep_output: bool = False) -> Path:
        """Run a command and note its exit status; gives the path of its output without a suffix."""
        out = self.work / self.part / f"{name}.run"
        self.exits[name] = self.worker.run(list(map(str, argv)), cwd=self.inputs, out=out)
        if keep_output:
            self.keep(f"{name}.stdout", out.with_name(f"{out.name}.stdout").read_bytes())
        return out

    def path(self, name: str) -> Path:
        """A path for a command to write to."""
        return self.work / self.part / name

    def keep(self, name: str, content: bytes | str | Path) -> None:
        """Put a file among the results, without its times and the paths of this machine."""
        if isinstance(content, Path):
            if not content.is_file():
                return  # the exit status says that the command failed
            content = content.read_bytes()
        if isinstance(content, str):
            content = content.encode()
        target = self.folder / "golden" / self.part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for place, called in ((self.folder, b"FOLDER"), (self.models, b"MODELS")):
            content = content.replace(os.fsencode(place), called)
        target.write_bytes(timeless(name, content))

    def finish(self) -> None:
        """Write the exit statuses of a part."""
        self.keep("exits.json", json.dumps(self.exits, indent=1))
        self.exits = {}


def timeless(name: str, content: bytes) -> bytes:
    """`content` without what changes from run to run; in a page, pictures become hashes and each element has a line."""
    # Whether a fit of a resample ends can hang on the last bit, which is not the same each time.
    content = re.sub(rb"undefined in \d+ of the", b"undefined in N of the", content)
    if name.endswith(".html"):
        content = re.sub(rb"base64,([A-Za-z0-9+/=]+)", _hashed, content)
        return content.replace(b"><", b">\n<")
    if name.endswith(".stdout"):
        # Tables and wrapped text are as wide as the paths in them.
        content = re.sub(rb"(?: |\xe2\x94\x80|\xe2\x94\x81){2,}", b"  ", content)
        content = re.sub(rb"(?m) +$", b"", content)
    # Ratings without an interval are those of versions that had no such fields.
    content = content.replace(
        b', "low": null, "high": null, "coverage": null, "expected_mos": null', b""
    )
    content = re.sub(
        rb"(?m)(,prompt|,[\w-]*),(?:low,high,coverage,expected_mos|,,,)\r$", rb"\1\r", content
    )
    # Journals keep all their bytes but these, and so do their exports, whose cell stands before the prompt.
    content = re.sub(rb'"seconds": [0-9.eE+-]+', b'"seconds": 0', content)
    return re.sub(rb"(?m)(,-?\d*),[0-9.eE+-]+(,[\w-]*\r)$", rb"\1,0\2", content)


def _hashed(match: re.Match[bytes]) -> bytes:
    data = base64.b64decode(match[1])
    return b"sha256," + hashlib.sha256(data).hexdigest()[:16].encode()


def ratings(golden: Golden) -> None:
    """Scores of all images in every mode and by every kind of model, and the journals and exports of them."""

    def score(name: str, folders: str, options: str, suffix: str = "jsonl") -> None:
        output = golden.path(f"{name}.{suffix}")
        words = [*folders.split(), *options.split(), "--json", "-o", output]
        golden.run(name, "score", *words, keep_output=True)
        golden.keep(f"{name}.{suffix}", output)
        if suffix != "jsonl":
            golden.keep(f"{name}.{suffix}.jsonl", output.with_name(f"{output.name}.jsonl"))

    for mode in ("reason", "direct", "expect", "auto"):
        suffix = "csv" if mode == "direct" else "jsonl"
        score(f"nano-{mode}", "images odd", f"--mode {mode} -k 2", suffix)
    score("niqe", "images odd", "-m niqe", "csv")
    score("brisque", "images odd", "-m brisque")
    more = "--mode direct --seed 7 --prompt released --max-pixels 20000 --batch 3"
    score("nano-options", "images", f"{more} -k auto --tolerance 0.2")
    score("nano-doubt", "few", "--mode auto --doubt 0.01 -k 3")
    for family in ("nano", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        model = f"-m {golden.models / family}"
        for mode in ("direct", "expect"):
            score(f"small-{family}-{mode}", "few", f"{model} --mode {mode} -k 2")
    qwen = f"-m {golden.models / 'qwen2_5_vl'} --reference references"
    score("reference-direct", "few", f"{qwen} --mode direct -k 2")
    score("reference-expect", "few", f"{qwen} --mode expect")
    _parquet(golden)
    _torn(golden)
    golden.run("rank", "rank", "images", "--mode", "expect", keep_output=True)
    pair = ("images/chelsea.png", "images/blur.png")
    golden.run("compare", "compare", *pair, "--mode", "direct", "-k", 3, keep_output=True)
    golden.run("python", "-c", PUBLIC_NAMES, keep_output=True)


def _parquet(golden: Golden) -> None:
    import pyarrow.parquet as pq

    output = golden.path("parquet.parquet")
    golden.run("parquet", "score", "few", "--mode", "direct", "-k", 2, "-o", output)
    table = pq.read_table(output)
    # As above: the columns of intervals are newer, and empty here.
    newer = [
        name for name in ("low", "high", "coverage", "expected_mos") if name in table.column_names
    ]
    table = table.drop_columns(["seconds", *newer])
    rows = [json.dumps(row) + "\n" for row in table.to_pylist()]
    golden.keep("parquet.jsonl", f"{table.schema.to_string()}\n{''.join(rows)}")


def _torn(golden: Golden) -> None:
    """A journal that a kill tore in the middle of a line, resumed."""
    whole = golden.path("nano-direct.csv.jsonl").read_bytes().splitlines(keepends=True)
    output = golden.path("torn.jsonl")
    output.write_bytes(b"".join(whole[:9]) + whole[9][: len(whole[9]) // 2])
    golden.run("torn", "score", "images", "odd", "--mode", "direct", "-k", 2, "-o", output)
    golden.keep("torn.jsonl", output)


PUBLIC_NAMES = """
import json
import warnings

import numpy as np
import torch
from PIL import Image
from visualquality import Rating, Referenced, Scorer, UserError, VisualQualityScore, compare
from visualquality import create_metric

warnings.simplefilter("ignore")
image = Image.open("images/chelsea.png").convert("RGB")
scorer = Scorer("nano", mode="direct", samples=3, seed=3, device="cpu")
array = np.array(image)
rated = [scorer("images/chelsea.png"), scorer(image)]
rated += list(scorer.rate(["images/blur.png", "images/strip.png", "images/broken-text.png"]))
for rating in rated:
    print(json.dumps(rating.to_dict()))
print(compare(rated[0], rated[2]), Rating.from_dict(rated[0].to_dict()) == rated[0])
print(json.dumps(scorer.settings()))
metric = create_metric("visualquality-nano", mode="expect", device="cpu")
print(metric("images/chelsea.png"), metric.lower_better, metric.score_range)
mean = VisualQualityScore("nano", mode="expect", device="cpu")
tensor = torch.from_numpy(array).permute(2, 0, 1)
mean.update([tensor, "images/blur.png", image])
print(mean.compute())
print(issubclass(UserError, Exception), Referenced("a", "b"))
"""


def training(golden: Golden) -> None:
    """Runs of four steps of every method: the weights, the metrics, the answers; the plan and the page of some."""
    for name, tree in recipes(golden.inputs, golden.models).items():
        file, run = golden.path(f"{name}.yaml"), golden.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(tree))
        golden.run(name, "train", file, "-o", run)
        digests = {}
        for weights in sorted((run / "final").glob("*.safetensors")):
            digests |= {f"{weights.name}: {key}": d for key, d in tensor_digests(weights).items()}
        golden.keep(f"{name}/weights.json", json.dumps(digests, indent=1))
        golden.keep(f"{name}/metrics.jsonl", _without_times(run / "metrics.jsonl"))
        for kept in ("samples.jsonl", "probes.jsonl", "recipe.yaml"):
            golden.keep(f"{name}/{kept}", run / kept)
        files = sorted(path.name for path in (run / "final").glob("*"))
        golden.keep(f"{name}/files.txt", "\n".join(files) + "\n")
    for name in ("rl2r-nano", "sft-nano", "expect-fidelity", "rl2r-qwen2_5_vl-lora"):
        file = golden.path(f"{name}.yaml")
        golden.run(f"plan-{name}", "train", file, "--dry-run", keep_output=True)
    _resumed(golden)
    # Weights that were trained are scored with like any others.
    for name in ("rl2r-nano", "rl2r-qwen2_5_vl-lora"):
        model = golden.path(name) / "final"
        words = ("score", "few", "-m", model, "--mode", "expect", "--json")
        golden.run(f"score-{name}", *words, keep_output=True)
    for name in ("rl2r-nano", "rl2r-compare-within"):  # with probes and without
        page = golden.path(f"{name}.html")
        golden.run(f"report-{name}", "report", golden.path(name), "-o", page)
        golden.keep(f"{name}.html", page)


def _resumed(golden: Golden) -> None:
    """The run `rl2r-nano`, cut off after its second step and resumed, must end in the same weights."""
    run = golden.path("resumed")
    shutil.copytree(golden.path("rl2r-nano"), run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoint-4")
    golden.run("resumed", "train", golden.path("rl2r-nano.yaml"), "-o", run, "--resume")
    digests = tensor_digests(run / "final" / "model.safetensors")
    golden.keep("resumed/weights.json", json.dumps(digests, indent=1))
    golden.keep("resumed/metrics.jsonl", _without_times(run / "metrics.jsonl"))
    golden.keep("resumed/samples.jsonl", run / "samples.jsonl")


def tensor_digests(path: Path) -> dict[str, str]:
    """SHA-256 of the type, shape and bytes of every tensor in a .safetensors file (an 8-byte length, JSON, bytes)."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    digests = {}
    for name, entry in sorted(json.loads(content[8 : 8 + length]).items()):
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            state = hashlib.sha256(f"{entry['dtype']}{entry['shape']}".encode())
            state.update(content[8 + length + start : 8 + length + end])
            digests[name] = state.hexdigest()
    return digests


TIMES = ("time", "step_time")  # of metrics.jsonl, beside those that begin with "seconds"


def _without_times(path: Path) -> str:
    text = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        record = json.loads(line)
        timed = [key for key in record if key in TIMES or key.startswith("seconds")]
        text += json.dumps({key: 0 if key in timed else record[key] for key in record}) + "\n"
    return text


def evaluation(golden: Golden) -> None:
    """Agreement with MOS, a benchmark's five files, and pages about results."""

    def kept(name: str, *argv: object) -> None:
        output = golden.path(f"{name}.json")
        golden.run(name, "evaluate", *argv, "--json", output, keep_output=True)
        golden.keep(f"{name}.json", output)

    data = ("--data", "rated/lab.csv", "--data", "rated/wild.csv")
    journal = golden.path("nano.jsonl")
    qwen = golden.models / "qwen2_5_vl"
    kept("niqe", *data, "-m", "niqe")
    kept("scores-csv", *data, "--scores", "rated/scores.csv")
    kept("scores-jsonl", *data, "--scores", "rated/scores.jsonl")
    kept("nano", *data, "--mode", "expect", "-o", journal)
    golden.keep("nano.jsonl", journal)
    kept("reference", *data, "-m", qwen, "--mode", "direct", "-k", 2, "--reference")
    for suite in ("suite", "suite-files"):
        folder = golden.path(suite)
        golden.run(suite, "benchmark", f"{suite}.yaml", "-o", folder, keep_output=True)
        for name in ("table.md", "table.tex", "table.csv", "table.html", "results.json"):
            golden.keep(f"{suite}/{name}", folder / name)
        for cached in sorted(folder.with_name(f"{folder.name}.cache").rglob("*")):
            golden.keep(f"{suite}.cache/{cached.name}", cached)
    again = ("benchmark", "suite.yaml", "-o", golden.path("suite-again"))
    golden.run("suite-again", *again, "--cache", golden.path("suite.cache"), keep_output=True)
    reason = golden.path("reason.jsonl")
    golden.run("reason", "score", "rated", "-k", 2, "-o", reason)
    for name, options in {"results": (), "results-data": data}.items():
        page = golden.path(f"{name}.html")
        golden.run(name, "report", reason, *options, "-o", page)
        golden.keep(f"{name}.html", page)


def data(golden: Golden) -> None:
    """Manifests of every source form, splits, checks, contact sheets, and parameters of NIQE and BRISQUE."""
    import numpy as np

    sources = golden.models / "sources"
    for name, (source, options) in IMPORTS.items():
        output = golden.path(f"{name}.csv")
        root = source_root(sources, source)
        golden.run(name, "data", "import", source, root, "-o", output, *options, keep_output=True)
        golden.keep(f"{name}.csv", output)
    assert set(FILE_FORMS) <= set(IMPORTS)
    for name, options in {"split": (), "split-7": ("--ratios", "5:2:3", "--seed", "7")}.items():
        output = golden.path(f"{name}.csv")
        words = ("data", "split", "rated/names.csv", "-o", output, *options)
        golden.run(name, *words, keep_output=True)
        golden.keep(f"{name}.csv", output)
    output = golden.path("check.json")
    manifests = ("rated/lab.csv", "rated/wild.csv", "copies.csv")
    golden.run("check", "data", "check", *manifests, "--json", output, keep_output=True)
    golden.keep("check.json", output)
    sheet = golden.path("sheet.png")
    golden.run("sheet", "data", "show", "rated/lab.csv", "-o", sheet)
    golden.keep("sheet.txt", hashlib.sha256(sheet.read_bytes()).hexdigest() + "\n")
    for method, given in {"niqe": "photos", "brisque": "rated/both.csv"}.items():
        output = golden.path(f"{method}.npz")
        words = ("baselines", "fit", method, "--data", given, "-o", output)
        golden.run(f"fit-{method}", *words, keep_output=True)
        arrays = dict(np.load(output)) if output.is_file() else {}
        lists = {name: values.ravel().tolist()[:200] for name, values in sorted(arrays.items())}
        golden.keep(f"fit-{method}.json", json.dumps(lists))


def options(golden: Golden) -> None:
    """The commands and the options of each, as their help lists them."""
    groups = ("data import", "data check", "data split", "data show", "baselines fit")
    commands = ("", "score", "compare", "rank", "evaluate", "benchmark", "report", "train")
    found = {}
    for command in (*commands, "data", "baselines", *groups):
        name = command.replace(" ", "-") or "all"
        out = golden.run(name, *command.split(), "--help")
        text = out.with_name(f"{out.name}.stdout").read_text()
        found[name] = sorted(set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)))
    golden.keep("options.json", json.dumps(found, indent=1))


PARTS: dict[str, Callable[[Golden], None]] = {
    "ratings": ratings,
    "training": training,
    "evaluation": evaluation,
    "data": data,
    "options": options,
}
