"""What the commands share: the two consoles, how errors end a command, and the options of what rates images."""

import errno
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.find import MAX_IMAGE_PIXELS
from ..errors import UserError
from ..score.settings import ScoreSettings, score_settings
from ..terminal import PlainConsole, shown, shown_line

if TYPE_CHECKING:
    from ..data.find import Found
    from ..score.rating import Rater

out, err = PlainConsole(), PlainConsole(stderr=True)
for stream in (sys.stdout, sys.stderr):  # a file name need not be text in any encoding
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


# Why a file cannot be written that are no fault of the program: no room, no permission, a disk that fails.
_NO_PLACE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)

# Options that several commands have.
Split = Annotated[str | None, typer.Option(help="Only rows of this split: train, val or test.")]
WithReferences = Annotated[
    bool,
    typer.Option("--reference", help="Rate each image against the manifest's column reference."),
]
TrustNames = Annotated[
    bool,
    typer.Option(
        "--trust-names",
        help="Take a file that was scored before for the same by its name, without a look at it: for network disks.",
    ),
]


def check_trust_names(trust_names: bool, kept: Path | None, option: str = "-o") -> None:
    """Raises UserError for --trust-names where no scores are kept; `option` names the file that keeps them."""
    if trust_names and kept is None:
        raise UserError(
            f"--trust-names is about scores that were kept: give their file with {option}"
        )


def pixel_limit(make: "functools.partial[Rater]") -> int:
    """The most pixels of a file that the rater of `rates` will read; a manifest's images are held to the same."""
    return make.keywords.get("max_image_pixels", MAX_IMAGE_PIXELS)


@contextmanager
def clean_exit(on_stop: str = "nothing was kept") -> Iterator[None]:
    """What the user can fix is one sentence (and its notes) and exit status 2; Ctrl-C is `on_stop` and status 130."""
    try:
        yield
    except UserError as error:
        text = "\n".join([f"error: {error}", *getattr(error, "__notes__", [])])
        err.print(shown(text, style="red"), soft_wrap=True)
        raise typer.Exit(2) from None
    except OSError as error:
        # A pipe that nobody reads any more is typer's affair.
        if error.errno not in _NO_PLACE:
            raise
        # Standard output, or a file that is open already, has no name here.
        where = error.filename or "the output"
        try:
            sys.stdout.flush()
        except OSError:
            # What is left in its buffer would fail again when the process ends.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of the process
        err.print(shown(f"error: {where} cannot be written ({error.strerror}): make room", "red"))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print(f"stopped; {on_stop}")
        raise typer.Exit(130) from None


def say_skipped(found: "Found") -> None:
    """Which files of the folders are images that are not read: before the work, and where it is summed up."""
    if found.skipped_line is not None:
        err.print(shown_line(found.skipped_line, style="yellow"), soft_wrap=True)


def kept_in(output: Path | None) -> str:
    """For `clean_exit`: what a stopped command keeps that writes each result to `output` at once."""
    if output is None:
        return "nothing was kept: give -o"
    return "what is done is kept: run the same command to continue"


def rates(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --model and the options of `ScoreSettings`; it takes them as one `make`, which makes the `Rater`.

    `make(reference=True)` makes one that rates each image against a reference: the command has an option of its own
    for where the references are. A command with an argument `model` of its own gives that to `make` as well.
    """
    own = inspect.signature(command)
    options = [option for option in _rater_options() if option.name not in own.parameters]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        # What was not given is left out: some defaults depend on the engine.
        chosen = {p.name: given.pop(p.name) for p in options}
        chosen = {name: value for name, value in chosen.items() if value not in (None, [])}
        command(**given, make=functools.partial(make_rater, **chosen))

    # typer reads the options of a command from its signature and its annotations.
    shown = [p for p in own.parameters.values() if p.name != "make"] + options
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def _rater_options() -> list[inspect.Parameter]:
    """--model, and an option for each field of `ScoreSettings`."""
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    what = "nano, a folder, a Hugging Face name, niqe, brisque, or pyiqa:NAME."
    model = Annotated[str, typer.Option("--model", "-m", help=what)]
    options = [keyword("model", default="nano", annotation=model)]
    for name, field in ScoreSettings.model_fields.items():
        if name == "reference":  # each command says where its references are
            continue
        flag = f"--{name.replace('_', '-')}"
        flags = [flag] + (["-k"] if name == "samples" else [])
        # Numbers are parsed by typer; all else is text that ScoreSettings checks.
        # What is a group of options itself may be given several times, as KEY=VALUE.
        kind: Any = list[str] if name == "engine_option" else str
        for plain in (int, float, bool):
            if field.annotation in (plain, plain | None):
                kind = plain
        if kind is bool:
            flags = [f"{flag}/--no-{flag[2:]}"]
        option = typer.Option(
            *flags,
            help=field.description,
            # The default is shown only: None means here that the option was not given.
            show_default=False if field.default is None else str(field.default),
        )
        options.append(keyword(name, default=None, annotation=Annotated[kind | None, option]))
    return options


def make_rater(*, model: str = "nano", **options: Any) -> "Rater":
    """Load what rates images, with a sign that it is loading. Raises UserError."""
    settings = score_settings(**options)
    from ..process import quiet_libraries

    quiet_libraries()
    from ..score.raters import make_rater as make

    with err.status(f"loading {model}"):
        rater = make(model, settings)
    if settings.calibration is not None:
        from ..score.calibration import why_no_interval

        # Here and not in the ratings, where a missing interval is no fault.
        found = rater.settings()
        if "calibration" not in found:
            why = why_no_interval(settings.calibration, found)
            err.print(shown(why, style="yellow"), soft_wrap=True)
    return rater
