"""report: one HTML page about a training run or a file of results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .shared import clean_exit, err, out

if TYPE_CHECKING:
    from ..evaluate.probes import ImageKey
    from ..train.recipe import Recipe


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_RESULTS",
            help="A run's folder, or what score or evaluate wrote with -o.",
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Manifests with the ratings of the images of the results."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further manifests.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    split: Annotated[
        str | None, typer.Option(help="Only rows of this split: train, val or test.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a training run, or about results and their agreement with people."""
    with clean_exit():
        manifests = [*(data or []), *(more or [])]
        if output.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"{output} must end in .html: give -o such a name")
        if split is not None and not manifests:
            raise UserError("--split picks rows of manifests: give --data as well")
        with err.status(f"writing {output}"):
            if not source.is_dir():
                _results(source, manifests, split, output)
            elif manifests:
                raise UserError(
                    f"{source} is a folder, and --data belongs to a file of results: leave --data out"
                )
            else:
                _run(source, output)
        out.print(f"report: {output}", soft_wrap=True)


def _run(run: Path, output: Path) -> None:
    """The page about a training run."""
    from ..evaluate.curves import read_metrics
    from ..evaluate.probes import read_steps
    from ..evaluate.run_report import write_run_report

    for name, meaning in (
        ("metrics.jsonl", "is no training run"),
        ("recipe.yaml", "is no whole run"),
    ):
        if not (run / name).is_file():
            raise UserError(
                f"{run} {meaning}, since it has no {name}: give the folder that train wrote, or results"
            )
    recipe = _recipe(run / "recipe.yaml")
    if recipe.method != "rl2r":
        raise UserError(
            f"{run} is a run of method {recipe.method}, without rewards: this page is about RL2R runs"
        )
    if not (run / "samples.jsonl").is_file():
        raise UserError(
            f"{run} has no samples.jsonl, which every RL2R run writes: give the whole folder of the run"
        )
    pictures, notes = _pictures(recipe)
    asked = (run / "probes.jsonl").is_file()
    k, optimizer = recipe.rl2r, recipe.optimizer
    length = (
        f"{optimizer.steps} steps"
        if optimizer.steps is not None
        else f"{optimizer.epochs:g} epochs"
    )
    metrics = read_metrics(run / "metrics.jsonl")
    settings = [
        f"Trained from {recipe.model} for {length}; this page was written after step {len(metrics)}.",
        f"{k.responses} answers for each image, {recipe.compared} images in a batch, "
        f"reward {k.reward}, learning rate {optimizer.learning_rate:g}, seed {recipe.seed}.",
    ]
    write_run_report(
        output,
        title=f"Training run {'/'.join(run.resolve().parts[-2:])}",
        metrics=metrics,
        # A run that was asked about the same images all along shows best how its words changed.
        steps=read_steps(run / ("probes.jsonl" if asked else "samples.jsonl")),
        asked=asked,
        pictures=pictures,
        notes=settings + notes,
    )


def _recipe(path: Path) -> "Recipe":
    from ..train.recipe import read_recipe

    return read_recipe(path, output=path.parent)


def _pictures(recipe: "Recipe") -> tuple["dict[ImageKey, Path] | None", list[str]]:
    """Where the images of a run are, if its manifests can still be read, and a note where they cannot.

    Images that agree in data set, name and MOS are left out, since `samples.jsonl` does not tell them apart.
    """
    from ..evaluate.probes import ImageKey
    from ..train.examples import read_examples
    from ..train.logs import read_probes

    try:
        examples = read_examples(recipe)
        named = [(e.dataset, e) for e in examples]
        if (asked := read_probes(recipe, Path())) is not None:
            named += [(e.dataset, e) for e in asked.examples]
    except UserError as error:
        err.print(f"no pictures: {error}", soft_wrap=True, markup=False)
        return None, [
            "Images have no pictures here, since the run’s manifests could not be read when this was written."
        ]
    found: dict[ImageKey, list[Path]] = {}
    for dataset, e in named:
        found.setdefault(ImageKey(dataset, e.path.name, round(e.mos, 6)), []).append(e.path)
    return {key: paths[0] for key, paths in found.items() if len(paths) == 1}, []


def _results(source: Path, manifests: list[Path], split: str | None, output: Path) -> None:
    """The page about a file of results."""
    from ..data.manifest import read_manifests
    from ..evaluate.evaluate import rows_of
    from ..evaluate.results import join, read_results
    from ..evaluate.results_report import write_results_report, write_scores_report

    if source.suffix in (".csv", ".parquet"):
        from ..score.journal import journal_path

        source = journal_path(source)
    header, ratings = read_results(source)
    model = str(header.get("model", "a model"))
    if not manifests:
        write_scores_report(
            output, title=f"Scores of {model}", header=header, ratings=ratings, notes=[]
        )
        return
    # Images that are gone have no picture in the page; their ratings are there all the same.
    groups = rows_of(read_manifests(manifests, check_images=False), split)
    rows = [row for group in groups.values() for row in group]
    rated = join(rows, ratings)
    notes = []
    if absent := len(rows) - len(rated):
        notes.append(f"{absent} of the {len(rows)} images of the manifests are not in the results.")
    if others := len(ratings) - len(rated):
        notes.append(
            f"{others} of the {len(ratings)} images of the results are not in the manifests."
        )
    title = f"Agreement of {model} with human ratings"
    write_results_report(output, title=title, header=header, rated=rated, notes=notes)
