"""The command line: it parses, calls and prints."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import UserError

if TYPE_CHECKING:
    from .score.rating import Rating
    from .score.scorer import Scorer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out, err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="nano, nano-base, a folder, or a Hugging Face name.")]
ModeOption = Annotated[str, typer.Option(help="reason: think in words first. direct: answer at once.")]
Samples = Annotated[int, typer.Option("--samples", "-k", help="Answers drawn for each image; the score is their mean.")]
Seed = Annotated[int, typer.Option(help="The same image and seed give the same score.")]
Prompt = Annotated[str | None, typer.Option(help="paper or released; by default what the model was trained with.")]
Batch = Annotated[int, typer.Option(help="Images at a time.")]
MaxPixels = Annotated[int | None, typer.Option(help="Bound on the pixels that the model sees of an image.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")]


@contextmanager
def _errors(on_stop: str = "nothing was kept") -> Iterator[None]:
    """What the user can mend is one sentence and status 2; Ctrl-C is status 130."""
    try:
        yield
    except UserError as error:
        err.print(Text(f"error: {error}", style="red"))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print(f"stopped; {on_stop}")
        raise typer.Exit(130) from None


def _scorer(**settings: Any) -> "Scorer":
    from .quiet import quiet_libraries

    quiet_libraries()
    from .score.scorer import Scorer

    with err.status(f"loading {settings['model']}"):
        return Scorer(**settings)


@app.command()
def score(
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Results: .jsonl, .csv or .parquet. Run again to go on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")] = False,
    model: Model = "nano",
    mode: ModeOption = "reason",
    samples: Samples = 6,
    seed: Seed = 0,
    prompt: Prompt = None,
    batch: Batch = 8,
    max_pixels: MaxPixels = None,
    device: Device = None,
) -> None:
    """Score images from 1 (bad) to 5 (excellent), with an uncertainty and a reason.

    The exit status is 1 if any image could not be scored.
    """
    with _errors("what is done is kept, and the same command goes on" if output else "nothing was kept: give -o"):
        from .data.images import find_images
        from .score.batch import score_all
        from .score.store import export, journal_path

        images = [str(path) for path in find_images(paths)]
        journal = None if output is None else journal_path(output)
        scorer = _scorer(
            model=model,
            mode=mode,
            samples=samples,
            seed=seed,
            prompt=prompt,
            batch=batch,
            max_pixels=max_pixels,
            device=device,
        )
        ratings = []
        for rating in score_all(scorer, images, journal=journal, console=err):
            ratings.append(rating)
            if as_json:
                sys.stdout.write(json.dumps(rating.to_dict(), ensure_ascii=False) + "\n")
                sys.stdout.flush()
        if output is not None and journal is not None and journal != output:
            export(journal, output)
        if not as_json and output is None:
            out.print(_ratings_table(ratings))
        failed = [rating for rating in ratings if rating.problem is not None]
        if output is not None:
            err.print(f"{len(ratings) - len(failed)} of {len(ratings)} images scored -> {output}")
        if failed:
            for rating in failed[:5]:
                err.print(Text(f"{rating.image}: {rating.problem}", style="yellow"))
            if len(failed) > 5:
                err.print(f"and {len(failed) - 5} more without a score")
            raise typer.Exit(1)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="An image.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    model: Model = "nano",
    mode: ModeOption = "reason",
    samples: Samples = 6,
    seed: Seed = 0,
    prompt: Prompt = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
) -> None:
    """Probability that A looks better than B, by Thurstone's model on their scores."""
    with _errors():
        from .score.rating import compare as thurstone

        scorer = _scorer(
            model=model, mode=mode, samples=samples, seed=seed, prompt=prompt, max_pixels=max_pixels, device=device
        )
        first, second = scorer.rate([str(a), str(b)])
        probability = thurstone(first, second)
        out.print(_ratings_table([first, second]))
        out.print(f"P({a.name} better than {b.name}) = {probability:.3f}")


@app.command()
def rank(
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.")],
    model: Model = "nano",
    mode: ModeOption = "reason",
    samples: Samples = 6,
    seed: Seed = 0,
    prompt: Prompt = None,
    batch: Batch = 8,
    max_pixels: MaxPixels = None,
    device: Device = None,
) -> None:
    """Order images from the best to the worst."""
    with _errors():
        from .data.images import find_images
        from .score.batch import score_all

        images = [str(path) for path in find_images(paths)]
        scorer = _scorer(
            model=model,
            mode=mode,
            samples=samples,
            seed=seed,
            prompt=prompt,
            batch=batch,
            max_pixels=max_pixels,
            device=device,
        )
        ratings = list(score_all(scorer, images, console=err))
        ratings.sort(key=lambda r: (r.score is None, -(r.score or 0), r.image))
        out.print(_ratings_table(ratings, ranked=True))
        if any(r.score is None for r in ratings):
            raise typer.Exit(1)


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Option("--data", help="Manifests: CSV or Parquet with image and mos.")],
    more: Annotated[list[Path] | None, typer.Argument(help="Further manifests.", show_default=False)] = None,
    scores: Annotated[Path | None, typer.Option(help="A file of scores instead of a model.")] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this split: train, val or test.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the scores in this .jsonl file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the agreement to this file.")] = None,
    model: Model = "nano",
    mode: ModeOption = "reason",
    samples: Samples = 6,
    seed: Seed = 0,
    prompt: Prompt = None,
    batch: Batch = 8,
    max_pixels: MaxPixels = None,
    device: Device = None,
) -> None:
    """SRCC, KRCC and PLCC with human ratings, each with its 95 % interval."""
    with _errors("what is done is kept, and the same command goes on" if output else "nothing was kept: give -o"):
        from .data.manifest import read_manifests
        from .evaluate.correlation import average, table
        from .evaluate.evaluate import evaluate_model, evaluate_scores

        if output is not None and output.suffix != ".jsonl":
            raise UserError(f"{output} must end in .jsonl")
        manifest = read_manifests([*data, *(more or [])])
        if scores is not None:
            results = evaluate_scores(scores, manifest, split=split)
            by: dict[str, Any] = {"scores": str(scores)}
        else:
            scorer = _scorer(
                model=model,
                mode=mode,
                samples=samples,
                seed=seed,
                prompt=prompt,
                batch=batch,
                max_pixels=max_pixels,
                device=device,
            )
            results = evaluate_model(scorer, manifest, split=split, journal=output, console=err)
            by = scorer.settings()
        out.print(table(results))
        if json_file is not None:
            sets = {name: a.to_dict() for name, a in results.items()}
            mean = average(results.values()).to_dict() if len(results) > 1 else None
            json_file.write_text(json.dumps({"by": by, "datasets": sets, "average": mean}, indent=1) + "\n")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: --set optimizer.steps=100.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")] = False,
) -> None:
    """Train a model on rated images, by RL2R or supervised."""
    with _errors("add --resume to go on from the last checkpoint"):
        from .quiet import quiet_libraries

        quiet_libraries()
        from .train.recipe import read_recipe

        read = read_recipe(recipe, tuple(override or ()), output)
        if dry_run:
            from .train.examples import read_examples
            from .train.plan import plan, plan_table

            out.print(plan_table(read, plan(read, *read_examples(read))))
            return
        from .train.run import train as run

        final = run(read, resume=resume, console=err)
        if os.environ.get("RANK", "0") == "0":
            out.print(f"trained model: {final}")
            out.print(f"score with it: visualquality score --model {final} PHOTO")


def _ratings_table(ratings: "list[Rating]", *, ranked: bool = False) -> Table:
    table = Table(show_lines=any(rating.reasoning for rating in ratings))
    if ranked:
        table.add_column("#", justify="right")
    table.add_column("image", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("std", justify="right")
    table.add_column("reason")
    for place, rating in enumerate(ratings, start=1):
        reason = Text(rating.problem, style="yellow") if rating.problem else Text(rating.reasoning or "")
        cells: list[Text | str] = [
            Text(rating.image),
            "-" if rating.score is None else f"{rating.score:.2f}",
            "-" if rating.std is None else f"{rating.std:.2f}",
            reason,
        ]
        table.add_row(*([str(place)] if ranked else []), *cells)
    return table
