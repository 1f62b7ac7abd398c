"""The paper's experiments in small, on nano: the same start, data and number of steps for every row, several seeds.

    python benchmarks/experiments.py [NAME ...] --data FOLDER --synthetic MANIFEST --json benchmarks/results/experiments

NAME is a file of recipes/experiments (all of them by default): what its rows change in common.yaml, and which row the
paper, or its reading, expects above which. FOLDER is as for rl2r_biq2021.py; MANIFEST is the described.csv that
recipes/nano/build.py made of BSDS500's photos. Tests: BIQ2021's test part, every second image of AGIQA-3K (never
trained on). Rows that reason are scored by the mean of K = 6, the others by their expected score.

A run that is done is not done again, and rows of equal settings share theirs. Seeds that --json has already, of
runs with the same hash, stay in it beside those that are run.
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
from common import machine, parser
from experiments_figures import draw_rows, draw_training
from experiments_page import cell
from remembered import rate
from rich.console import Console
from rich.table import Table
from rl2r_biq2021 import BASE, summary, test_sets, train_set

from visualquality.data.manifest import Manifest, Row
from visualquality.evaluate.page import pick_evenly
from visualquality.evaluate.run_images import read_steps
from visualquality.models.load import load
from visualquality.quiet import quiet_libraries
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder
from visualquality.train.recipe import Recipe, read_recipe
from visualquality.train.run import FINAL, train

FOLDER = Path(__file__).parents[1] / "recipes" / "experiments"
PROBES = 20  # images of each set that a run is asked about along the way, as for the paper's Fig. 3
SETS = ("biq2021", "synthetic")  # data.0 and data.1 of common.yaml
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sources:
    data: Path
    synthetic: Path
    work: Path

    def tests(self) -> dict[str, tuple[Row, ...]]:
        sets = test_sets(self.data)
        return {
            "BIQ2021 test": sets["BIQ2021 test"].rows,
            "AGIQA-3K (half)": sets["AGIQA-3K"].rows[::2],
        }

    def probes(self) -> Path:
        """A manifest of images from four sets, evenly over their MOS."""
        path = self.work / "probes.csv"
        if not path.exists():
            seen = train_set(self.data).rows
            synthetic = Manifest.read(self.synthetic).rows
            sets = {**self.tests(), "BIQ2021 train": seen, "synthetic": synthetic}
            rows = []
            for name, members in sets.items():
                ranked = sorted(members, key=lambda r: r.mos)
                chosen = [ranked[int(i)] for i in np.linspace(0, len(ranked) - 1, PROBES)]
                rows += [Row(r.image.resolve(), r.mos, dataset=name) for r in dict.fromkeys(chosen)]
            self.work.mkdir(parents=True, exist_ok=True)
            Manifest(tuple(rows)).write(path)
        return path


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: merged(tree[k], v) if isinstance(v, dict) and k in tree else v
        for k, v in changes.items()
    }
    return tree | both


@cache
def base_digest() -> str:
    """Of the model that every run starts from."""
    return load(BASE, device="cpu").digest


def settings_of(changes: dict[str, Any], seed: int, sources: Sources) -> tuple[dict[str, Any], str]:
    """common.yaml with a row's changes, and the run's name: a hash of all that it depends on."""
    changes = dict(changes)
    without, probes = changes.pop("without", None), changes.pop("probes", False)
    tree = merged(yaml.safe_load((FOLDER / "common.yaml").read_text()), changes)
    biq = sources.data.resolve() / "biq2021"
    tree["data"][0] |= {"manifest": str(biq / "train.csv"), "images": str(biq / "images")}
    tree["data"][1] |= {"manifest": str(sources.synthetic.resolve())}
    if Recipe.model_validate(tree | {"output": sources.work}).on_1_to_5:
        tree["data"][0]["mos_range"] = [0, 1]
    tree["data"] = [
        source for name, source in zip(SETS, tree["data"], strict=True) if name != without
    ]
    if probes:
        tree |= {"probes": {"manifest": str(sources.probes().resolve())}, "probe_every": 5}
    content = [sha256(Path(source["manifest"]).read_bytes()).hexdigest() for source in tree["data"]]
    settings = {**tree, "data": [sorted(source) for source in tree["data"]], "probes": probes}
    identity = json.dumps([settings, content, base_digest(), seed], sort_keys=True)
    return tree | {"seed": seed}, sha256(identity.encode()).hexdigest()[:12]


def recipe_of(changes: dict[str, Any], seed: int, sources: Sources) -> Recipe:
    """The recipe of a row with a seed, in a folder of its run's name."""
    settings, name = settings_of(changes, seed, sources)
    folder = sources.work / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asked.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return read_recipe(folder / "asked.yaml", (), folder / "run")


def kept(
    earlier: dict[str, Any], asked: dict[str, Any], seeds: Sequence[int], sources: Sources
) -> Rows:
    """Rows of an earlier result that still are what their recipe asks for, of seeds that are not run again."""
    others = [
        row for row in earlier.get("rows", []) if row["seed"] not in seeds and row["row"] in asked
    ]
    return [
        row
        for row in others
        if row["run"] == settings_of(asked[row["row"]], row["seed"], sources)[1]
    ]


class Tests:
    """The test sets, whose images go through the frozen tower once for all runs."""

    def __init__(self, sources: Sources):
        self.rows = sources.tests()
        self.encode = PromptEncoder(load(BASE, device="cpu"), remember=True)

    def measure(self, model: str, mode: str) -> dict[str, Any]:
        """Agreement with people on each test set, std, readable answers and their length in characters."""
        scorer = Scorer(model, mode=mode, samples=6, batch=16, device="cpu")
        found = {}
        for name, rows in self.rows.items():
            ratings = rate(scorer, self.encode, rows)
            numbers = summary(rows, ratings)
            kept = {key: numbers[key] for key in ("srcc", "plcc", "std", "readable")}
            read = sum(r.score is not None for r in ratings)
            found[name] = {
                "n": read,
                **kept,
                "characters": float(np.mean([len(r.reasoning or "") for r in ratings])),
            }
        return found


def run(
    changes: dict[str, Any], seed: int, sources: Sources, tests: Tests, console: Console
) -> dict[str, Any]:
    """Train a row with a seed, measure it, and keep the measurement."""
    recipe = recipe_of(changes, seed, sources)
    result = recipe.output.parent / "result.json"
    if not result.exists():
        if not (recipe.output / FINAL / "model.safetensors").exists():
            shutil.rmtree(recipe.output, ignore_errors=True)
            train(recipe, console=console)
            for checkpoint in recipe.output.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        mode = "reason" if recipe.method == "rl2r" else "expect"
        measured = {"mode": mode, "tests": tests.measure(str(recipe.output / FINAL), mode)}
        result.write_text(json.dumps(measured) + "\n")
    return json.loads(result.read_text()) | {"run": recipe.output.parent.name}


def verdict(rows: Rows, higher: str, lower: str, test: str) -> dict[str, Any]:
    """Whether one row is above another: in every seed ("seen"), in none ("reversed"), or now and then ("unclear")."""
    of = {
        row["row"]: {
            r["seed"]: r["srcc"]["value"]
            for r in rows
            if r["row"] == row["row"] and r["test"] == test
        }
        for row in rows
    }
    gains = [of[higher][seed] - of[lower][seed] for seed in of[higher].keys() & of[lower].keys()]
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
    sources: Sources,
    tests: Tests,
    console: Console,
) -> dict[str, Any]:
    """The rows of `seeds`, and those of other seeds that `earlier` has."""
    asked = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    rows = kept(earlier, asked["rows"], seeds, sources)
    for seed in seeds:
        for label, changes in asked["rows"].items():
            console.print(f"{name}: {label}, seed {seed}")
            measured = run(changes, seed, sources, tests, console)
            for test, numbers in measured["tests"].items():
                more = {
                    "row": label,
                    "seed": seed,
                    "test": test,
                    "mode": measured["mode"],
                    "run": measured["run"],
                }
                rows.append(more | numbers)
    rows.sort(key=lambda row: row["seed"])
    found = [verdict(rows, *pair, test) for pair in asked["expected"] for test in tests.rows]
    return {"title": asked["title"], "paper": asked["paper"], "rows": rows, "verdicts": found}


def words(probed: Path) -> dict[str, Any]:
    """As the paper's Fig. 4: what was said of one generated image, the middle one by MOS, along the steps."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for step in read_steps(probed):
        for key, visit in step.items():
            if key.dataset.startswith("AGIQA"):
                found[key].append(visit)
    key = sorted(found, key=lambda k: k.mos)[len(found) // 2]
    kept = [v for v in pick_evenly(found[key], 6) if v.score is not None and v.std is not None]
    said = [{"step": v.step, "score": v.score, "std": v.std, "words": v.words} for v in kept]
    return {"image": key.name, "dataset": "AGIQA-3K", "mos": key.mos, "steps": said}


def std_curves(probed: Path) -> dict[str, list[tuple[int, float]]]:
    """As the paper's Fig. 3: (step, std over K), the mean over the images of each set."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for step in read_steps(probed):
        for key, visit in step.items():
            if visit.std is not None:
                found[key.dataset][visit.step].append(visit.std)
    return {
        name: [(step, float(np.mean(stds))) for step, stds in steps.items()]
        for name, steps in found.items()
    }


def show(result: dict[str, Any], console: Console) -> None:
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
    made = parser(__doc__)
    made.add_argument("names", nargs="*", metavar="NAME")
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--synthetic", type=Path, required=True)
    made.add_argument("--work", type=Path, default=Path("runs/experiments"))
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = made.parse_args()
    quiet_libraries()
    every = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "common")
    unknown = [name for name in args.names if name not in every]
    if unknown:
        made.error(f"no experiment {', '.join(unknown)}: there are {', '.join(every)}")
    sources = Sources(args.data, args.synthetic, args.work)
    tests, console = Tests(sources), Console(stderr=True)
    images = len(Manifest.read(args.synthetic, check_images=False))
    for name in args.names or every:
        file = args.json and args.json / f"{name}.json"
        earlier = json.loads(file.read_text()) if file and file.exists() else {}
        result = experiment(name, args.seeds, earlier, sources, tests, console)
        show(result, Console(width=150))
        if not file:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if name == "training":
            runs = {
                str(row["seed"]): args.work / row["run"] / "run" / "probes.jsonl"
                for row in result["rows"]
            }
            stds = {
                seed: std_curves(p) if p.exists() else earlier["std"][seed]
                for seed, p in runs.items()
            }
            first = next(iter(runs.values()))
            result |= {"words": words(first) if first.exists() else earlier["words"], "std": stds}
            draw_training(stds, file.with_suffix(".png"))
        else:
            draw_rows(result, file.with_suffix(".png"))
        seeds = " ".join(str(seed) for seed in sorted({row["seed"] for row in result["rows"]}))
        command = f"python benchmarks/experiments.py {name} --data FOLDER --synthetic MANIFEST --seeds {seeds}"
        start = {
            "machine": machine(),
            "command": command,
            "base_weights": base_digest(),
            "synthetic_images": images,
        }
        file.write_text(json.dumps(start | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
