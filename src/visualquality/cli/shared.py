"""What the commands share: the two consoles, how errors end a command, and the scorer's options."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import UserError

if TYPE_CHECKING:
    from ..score.scorer import Scorer

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


def make_scorer(**settings: Any) -> "Scorer":
    from ..quiet import quiet_libraries

    quiet_libraries()
    from ..score.scorer import Scorer

    with err.status(f"loading {settings['model']}"):
        return Scorer(**settings)
