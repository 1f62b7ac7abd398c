"""The command line: it parses, calls and prints. A module a group of commands."""

import typer

from . import baselines, data
from .benchmark import benchmark
from .calibrate import calibrate
from .evaluate import evaluate
from .merge import merge
from .report import report
from .score import compare, rank, score
from .train import train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (score, compare, rank, calibrate, evaluate, benchmark, report, train, merge):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(baselines.app, name="baselines")
