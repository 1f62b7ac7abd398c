"""The command line: it parses, calls and prints. A module a group of commands."""

import typer

from .evaluate import evaluate
from .score import compare, rank, score
from .train import train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (score, compare, rank, evaluate, train):
    app.command()(command)
