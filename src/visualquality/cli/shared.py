"""What the commands share: the two consoles, how errors end a command, and the options of what rates images."""

import functools
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import UserError

if TYPE_CHECKING:
    from ..score.rating import Rater

out, err = Console(), Console(stderr=True)
for stream in (sys.stdout, sys.stderr):  # a file name need not be text in any encoding
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


@contextmanager
def errors(on_stop: str = "nothing was kept") -> Iterator[None]:
    """What the user can mend is one sentence and status 2; Ctrl-C is status 130."""
    try:
        yield
    except UserError as error:
        err.print(Text(f"error: {error}", style="red"))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print(f"stopped; {on_stop}")
        raise typer.Exit(130) from None


def _method_options(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="nano, a folder, a Hugging Face name, niqe, brisque, or pyiqa:NAME.",
        ),
    ] = "nano",
    mode: Annotated[
        str,
        typer.Option(
            help="reason: in words first. expect: no words, the expected score at once. direct: answers drawn without "
            "words. auto: expect, and reason where that is unsure."
        ),
    ] = "reason",
    samples: Annotated[
        str,
        typer.Option(
            "--samples",
            "-k",
            help="Answers drawn for each image; the score is their mean. Or auto.",
        ),
    ] = "6",
    tolerance: Annotated[
        float,
        typer.Option(
            help="With --samples auto: draw until the mean's standard error is below this."
        ),
    ] = 0.1,
    doubt: Annotated[
        float,
        typer.Option(help="With --mode auto: reason where the expected score's std is above."),
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="The same image and seed give the same score.")] = 0,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="By default the one that the model was trained with. paper, released; for large models also "
            "super-resolution, dehazing, deblurring, generated, aesthetics."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 8,
    max_pixels: Annotated[
        int | None, typer.Option(help="Bound on the pixels that the model sees of an image.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="here: PyTorch. vllm: an engine of its own. openai: a server, see --url."
        ),
    ] = "here",
    url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
) -> None:
    """The options of every command that rates images."""


def rates(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_method_options`; it takes them as one `make`, which makes the `Rater`."""
    options = inspect.signature(_method_options).parameters
    own = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        settings = {name: given.pop(name) for name in options}
        command(**given, make=functools.partial(make_rater, **settings))

    kept = [p for name, p in own.parameters.items() if name != "make"]
    run.__signature__ = own.replace(parameters=[*kept, *options.values()])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*kept, *options.values())}
    return run


def make_rater(*, model: str, samples: str, **settings: Any) -> "Rater":
    from ..quiet import quiet_libraries

    quiet_libraries()
    from ..baselines.methods import method

    if samples != "auto" and not samples.isdecimal():
        raise UserError(f"--samples is {samples!r}: give a number of at least 1, or auto")
    with err.status(f"loading {model}"):
        return method(model, samples="auto" if samples == "auto" else int(samples), **settings)
