"""The paper's experiments on nano: SRCC and PLCC with human MOS of several ways of training, each with several seeds.

    python benchmarks/experiments.py [NAME ...] --data FOLDER --synthetic MANIFEST --json benchmarks/results/experiments

NAME is a file of recipes/experiments (by default all of them). It says what its rows change in common.yaml, and which
rows the paper leads one to expect above which. All rows have the same start, data and number of steps. FOLDER is as for
rl2r_biq2021.py. MANIFEST is described.csv, made by stage 1 of recipes/nano/build.py from BSDS500's photos. The tests
are BIQ2021's test part and every second image of AGIQA-3K, which is never trained on. Rows trained by RL2R are scored
by the mean of K = 6 reasonings, the others by their expected score.

A finished run is not repeated, and rows with equal settings share one. The JSON keeps the seeds that it already has, if
their settings, data and start are still the same (the hash `run`).
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import rated_parser, write_result
from experiments_figures import along_training, draw_rows, draw_training
from experiments_page import cell
from rich.console import Console
from rich.table import Table
from rl2r_biq2021 import BASE

from recipes.nano.measure import summary, test_sets, train_set
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.score.rating import Rating
from visualquality.score.reading import Prepared
from visualquality.score.scorer import Scorer
from visualquality.train.examples import FeatureCache, PromptEncoder
from visualquality.train.recipe import Recipe, read_recipe
from visualquality.train.run import FINAL, train

FOLDER = Path(__file__).parents[1] / "recipes" / "experiments"
PROBES = 20  # images of each set that are scored along a run, as in the paper's Fig. 3
CHUNK = 64  # images that are decoded at a time, which bounds the memory
SETS = ("biq2021", "synthetic")  # data.0 and data.1 of common.yaml
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Paths:
    """The arguments --data, --synthetic and --work."""

    data: Path
    synthetic: Path
    work: Path

    def tests(self) -> dict[str, tuple[Row, ...]]:
        """The test images, by the names in the results."""
        sets = test_sets(self.data)
        return {
            "BIQ2021 test": sets["BIQ2021 test"].rows,
            "AGIQA-3K (half)": sets["AGIQA-3K"].rows[::2],
        }

    def probes(self) -> Path:
        """A manifest of PROBES images from each of four sets, evenly over the ranks of their MOS."""
        path = self.work / "probes.csv"
        if not path.exists():
            sets = {
                **self.tests(),
                "BIQ2021 train": train_set(self.data).rows,
                "synthetic": Manifest.read(self.synthetic).rows,
            }
            rows = []
            for name, members in sets.items():
                ranked = sorted(members, key=lambda r: r.mos)
                chosen = [ranked[int(i)] for i in np.linspace(0, len(ranked) - 1, PROBES)]
                # dict.fromkeys: a small set may give the same image twice.
                rows += [Row(r.image.resolve(), r.mos, dataset=name) for r in dict.fromkeys(chosen)]
            self.work.mkdir(parents=True, exist_ok=True)
            Manifest(tuple(rows)).write(path)
        return path


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the changes; mappings are merged key by key."""
    result = dict(tree)
    for key, value in changes.items():
        nested = isinstance(value, dict) and key in tree
        result[key] = merged(tree[key], value) if nested else value
    return result


@cache
def base_digest() -> str:
    """The weights digest of the model that every run starts from."""
    return load(BASE, device="cpu").digest


def settings_of(changes: dict[str, Any], seed: int, paths: Paths) -> tuple[dict[str, Any], str]:
    """common.yaml with a row's changes, and the run's name: a hash of everything that its result depends on."""
    changes = dict(changes)
    # Two keys are of this script and not of a recipe: a set to leave out, and whether to score probe images.
    without, probes = changes.pop("without", None), changes.pop("probes", False)
    tree = merged(yaml.safe_load((FOLDER / "common.yaml").read_text()), changes)
    biq = paths.data.resolve() / "biq2021"
    tree["data"][0] |= {"manifest": str(biq / "train.csv"), "images": str(biq / "images")}
    tree["data"][1] |= {"manifest": str(paths.synthetic.resolve())}
    # Methods that learn the score itself need ratings on 1 to 5; RL2R takes any scale.
    if Recipe.model_validate(tree | {"output": paths.work}).on_1_to_5:
        tree["data"][0]["mos_range"] = [0, 1]
    tree["data"] = [
        source for name, source in zip(SETS, tree["data"], strict=True) if name != without
    ]
    if probes:
        tree |= {"probes": {"manifest": str(paths.probes().resolve())}, "probe_every": 5}
    # The paths of files are not part of the name, but their content is.
    content = [sha256(Path(source["manifest"]).read_bytes()).hexdigest() for source in tree["data"]]
    settings = {**tree, "data": [sorted(source) for source in tree["data"]], "probes": probes}
    identity = json.dumps([settings, content, base_digest(), seed], sort_keys=True)
    return tree | {"seed": seed}, sha256(identity.encode()).hexdigest()[:12]


def recipe_of(changes: dict[str, Any], seed: int, paths: Paths) -> Recipe:
    """The recipe of a row with a seed. Its output is in a folder with the run's name."""
    settings, name = settings_of(changes, seed, paths)
    folder = paths.work / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return read_recipe(file, (), folder / "run")


def valid_rows(
    earlier: dict[str, Any], changes: dict[str, Any], seeds: Sequence[int], paths: Paths
) -> Rows:
    """Rows of an earlier result, of other seeds than `seeds`, that the same settings would give again.

    `changes` are those of each row of the experiment, by its label.
    """
    rows = []
    for row in earlier.get("rows", []):
        if row["seed"] in seeds or row["row"] not in changes:
            continue
        if row["run"] == settings_of(changes[row["row"]], row["seed"], paths)[1]:
            rows.append(row)
    return rows


def rate_rows(scorer: Scorer, encode: PromptEncoder, rows: Sequence[Row]) -> list[Rating]:
    """A rating for each row, in order, from features that `encode` keeps.

    For any model with the same frozen tower as the one in `encode`. The random draws depend on the file's name
    instead of its pixels, so they are not those of `visualquality score`.
    """
    (question,) = scorer.reader.questions
    ratings: list[Rating] = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        prompts = encode([((row.image,), question.text) for row in part])
        ratings += scorer.rate_prepared(
            Prepared(row.image.name, row.image.name, (prompt.followed_by(question.opening),))
            for row, prompt in zip(part, prompts, strict=True)
        )
    return ratings


class Tests:
    """The test sets. Their images go through the frozen tower only once, for all runs."""

    def __init__(self, paths: Paths):
        self.rows = paths.tests()
        self.cache = FeatureCache()
        self.encode = PromptEncoder(load(BASE, device="cpu"), self.cache)

    def measure(self, model: str, mode: str) -> dict[str, Any]:
        """For each test set: SRCC, PLCC, mean std, share of readable answers, mean characters of a reasoning."""
        scorer = Scorer(model, mode=mode, samples=6, batch=16, device="cpu")
        found = {}
        for name, rows in self.rows.items():
            ratings = rate_rows(scorer, self.encode, rows)
            numbers = summary(rows, ratings)
            found[name] = {"n": sum(r.score is not None for r in ratings)}
            found[name] |= {key: numbers[key] for key in ("srcc", "plcc", "std", "readable")}
            lengths = [len(r.reasoning or "") for r in ratings]
            found[name]["characters"] = float(np.mean(lengths))
        return found


def run(
    changes: dict[str, Any], seed: int, paths: Paths, tests: Tests, console: Console
) -> dict[str, Any]:
    """Train a row with a seed and measure it. Both are kept and not repeated."""
    recipe = recipe_of(changes, seed, paths)
    result = recipe.output.parent / "result.json"
    if not result.exists():
        if not (recipe.output / FINAL / "model.safetensors").exists():
            # A run takes two minutes: a broken one starts again.
            shutil.rmtree(recipe.output, ignore_errors=True)
            train(recipe, console=console, cache=tests.cache)
            for checkpoint in recipe.output.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        mode = "reason" if recipe.method == "rl2r" else "expect"
        measured = {"mode": mode, "tests": tests.measure(str(recipe.output / FINAL), mode)}
        result.write_text(json.dumps(measured) + "\n")
    return json.loads(result.read_text()) | {"run": recipe.output.parent.name}


def verdict(rows: Rows, higher: str, lower: str, test: str) -> dict[str, Any]:
    """Whether one row has a higher SRCC than another: "seen" in every seed, "reversed" in every seed, or "unclear"."""
    srccs: dict[str, dict[int, float]] = defaultdict(dict)  # label -> seed -> SRCC
    for row in rows:
        if row["test"] == test:
            srccs[row["row"]][row["seed"]] = row["srcc"]["value"]
    seeds = srccs[higher].keys() & srccs[lower].keys()
    gains = [srccs[higher][seed] - srccs[lower][seed] for seed in seeds]
    seen = "seen" if min(gains) > 0 else "reversed" if max(gains) < 0 else "unclear"
    return {
        "higher": higher,
        "lower": lower,
        "test": test,
        "gain": float(np.mean(gains)),
        "verdict": seen,
    }


def experiment(
    name: str,
    seeds: Sequence[int],
    earlier: dict[str, Any],
    paths: Paths,
    tests: Tests,
    console: Console,
) -> dict[str, Any]:
    """The result of an experiment: rows of `seeds`, and the rows of other seeds in `earlier` that are still valid."""
    spec = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    rows = valid_rows(earlier, spec["rows"], seeds, paths)
    for seed in seeds:
        for label, changes in spec["rows"].items():
            console.print(f"{name}: {label}, seed {seed}")
            measured = run(changes, seed, paths, tests, console)
            for test, numbers in measured["tests"].items():
                row = {"row": label, "seed": seed, "test": test}
                rows.append(row | {key: measured[key] for key in ("mode", "run")} | numbers)
    rows.sort(key=lambda row: row["seed"])
    verdicts = [verdict(rows, *pair, test) for pair in spec["expected"] for test in tests.rows]
    return {"title": spec["title"], "paper": spec["paper"], "rows": rows, "verdicts": verdicts}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the mean over seeds of each row, and the verdicts."""
    names = list(dict.fromkeys(r["test"] for r in result["rows"]))
    table = Table(
        "row",
        *(f"{name} {what}" for name in names for what in ("SRCC", "PLCC", "std")),
        title=result["title"],
    )
    for label in dict.fromkeys(r["row"] for r in result["rows"]):
        cells = []
        for name in names:
            own = [r for r in result["rows"] if r["row"] == label and r["test"] == name]
            cells += [cell(own, what) for what in ("srcc", "plcc")]
            cells.append(f"{np.mean([r['std'] for r in own]):.2f}")
        table.add_row(label, *cells)
    console.print(table)
    for v in result["verdicts"]:
        console.print(
            f"{v['verdict']}: {v['higher']} above {v['lower']} on {v['test']} (by {v['gain']:+.3f})"
        )


def main() -> None:
    options = rated_parser(__doc__, "runs/experiments")
    options.add_argument(
        "names", nargs="*", metavar="NAME", help="files of recipes/experiments; by default all"
    )
    options.add_argument("--synthetic", type=Path, required=True, help="described.csv of build.py")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = options.parse_args()
    quiet_libraries()
    every = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "common")
    unknown = [name for name in args.names if name not in every]
    if unknown:
        options.error(f"no experiment {', '.join(unknown)}: there are {', '.join(every)}")
    paths = Paths(args.data, args.synthetic, args.work)
    tests, console = Tests(paths), Console(stderr=True)
    images = len(Manifest.read(args.synthetic, check_images=False))
    for name in args.names or every:
        file = args.json and args.json / f"{name}.json"
        earlier = json.loads(file.read_text()) if file and file.exists() else {}
        result = experiment(name, args.seeds, earlier, paths, tests, console)
        show(result, Console(width=150))
        if not file:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if name == "training":
            result |= along_training(result["rows"], args.work, earlier)
            draw_training(result["std"], file.with_suffix(".png"))
        else:
            draw_rows(result, file.with_suffix(".png"))
        seeds = " ".join(str(seed) for seed in sorted({row["seed"] for row in result["rows"]}))
        command = f"python benchmarks/experiments.py {name} --data FOLDER --synthetic MANIFEST --seeds {seeds}"
        start = {"base_weights": base_digest(), "synthetic_images": images}
        write_result(file, command, start | result)


if __name__ == "__main__":
    main()
