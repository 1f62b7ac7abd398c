"""A panel of sets of rated images, to choose a model by: what does it do on photos unlike those it has learnt from?

    git clone https://github.com/JOU-UIP/PCUID
    git clone https://github.com/Telecommunication-Telemedia-Assessment/image_quality_test
    python benchmarks/panel.py --pcuid PCUID --h265 image_quality_test \
        --set "BIQ2021 held out=held_out.csv:0:1" --set "synthetic=unseen.csv:1:5" \
        --home "BIQ2021 held out" --home synthetic --json benchmarks/results/panel.json

It prints SRCC and PLCC with human MOS, with 95 % intervals, of NIQE, BRISQUE and the models of --model, beside the
scores of an earlier version of nano. A model is chosen by the mean SRCC away from home. The sets at home, named with
--home, are of the kind that it was trained on; the mean leaves them out. Any manifest may be a set. PCUID (underwater
photos) and H.265 (stills of videos) are read from clones of their repositories. Never train on either of them.

--final adds the tests, BIQ2021's test part and AGIQA-3K in the folder --data. Look at them once per finished model.
They are never part of the mean.

If a rating has an interval for the human rating, coverage is given too: the share of the MOS that lie in it. For that
the MOS are brought to 1 to 5, from LOW and HIGH of --set. --write-earlier FILE keeps the scores of the model for later,
in the form that --earlier reads.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import add_work, clean_exit, parser, this_command, write_result
from panel_sets import (
    RatedSet,
    Scores,
    final_sets,
    given_set,
    h265,
    pcuid,
    read_earlier,
    with_homes,
    write_earlier,
)
from panel_table import SHOWN, Column, Coverage, Measured, mean_away, notes, panel_table
from rich.console import Console
from rich.text import Text

from visualquality.data.row import mos_on_1_to_5
from visualquality.errors import UserError
from visualquality.evaluate.agreement import agreement
from visualquality.process import quiet_libraries
from visualquality.score.journal import journal_of
from visualquality.score.raters import make_rater
from visualquality.score.rating import Rater, Rating
from visualquality.score.resume import score_all
from visualquality.score.settings import ScoreSettings, score_settings

EARLIER = Path(__file__).with_name("earlier_nano.csv")
CLASSICS = ("niqe", "brisque")


class Model(NamedTuple):
    """A column of the table: what it is called, what `make_rater` calls it, and how it scores."""

    label: str
    name: str
    settings: ScoreSettings


def rate(
    rater: Rater, sets: Sequence[RatedSet], journal: Path, console: Console
) -> dict[str, dict[str, Rating]]:
    """Set -> image -> rating. What the journal has is not rated again."""
    # An image may be in two sets.
    paths = list(dict.fromkeys(str(row.image) for each in sets for row in each.images.values()))
    found = score_all(rater, paths, journal=journal, console=console)
    by_path = dict(zip(paths, found, strict=True))
    return {
        each.name: {image: by_path[str(row.image)] for image, row in each.images.items()}
        for each in sets
    }


def measure(rated: RatedSet, scores: Scores, covered: Coverage | None = None) -> Measured:
    """The agreement of the scores of all images of the set with their MOS, beside the coverage."""
    mos = [row.mos for row in rated.images.values()]
    return Measured(agreement([scores[image] for image in rated.images], mos), covered)


def coverage(rated: RatedSet, ratings: Mapping[str, Rating]) -> Coverage | None:
    """Over the ratings that have an interval; None where none has, or where the scale of the MOS was not given."""
    if rated.mos_range is None:
        return None
    inside, widths, stated = [], [], None
    for image, row in rated.images.items():
        rating = ratings[image]
        if rating.low is None or rating.high is None:
            continue
        mos = mos_on_1_to_5(row.mos, rated.mos_range)
        inside.append(rating.low <= mos <= rating.high)
        widths.append(rating.high - rating.low)
        stated = rating.coverage
    if not inside:
        return None
    return Coverage(float(np.mean(inside)), float(np.mean(widths)), len(inside), stated)


def earlier_column(sets: Sequence[RatedSet], found: Mapping[str, Scores], file: str) -> Column:
    """The earlier version on the sets that its file has. Raises UserError for a set of which it lacks an image."""
    column = {}
    for each in sets:
        if each.name not in found:
            continue
        if lacking := [image for image in each.images if image not in found[each.name]]:
            raise UserError(
                f"{file} has no score for {lacking[0]} of {each.name} (and {len(lacking) - 1} more): "
                "give the set that it was written with, or another --earlier"
            )
        column[each.name] = measure(each, found[each.name])
    return column


def results(sets: Sequence[RatedSet], columns: Mapping[str, Column]) -> dict[str, Any]:
    """For the JSON: a row for each set and model, with n, SRCC, PLCC and coverage; and each model's mean away."""
    rows = []
    for each in sets:
        for model, column in columns.items():
            if measured := column.get(each.name):
                found = measured.agreement.to_dict()
                names = ("n", "n_unreadable", "srcc", "plcc", "plcc_logistic", "problems")
                row = {"set": each.name, "model": model} | {name: found[name] for name in names}
                rows.append(row | {"coverage": measured.coverage and vars(measured.coverage)})
    means = {}
    for model, column in columns.items():
        if mean := mean_away(sets, column):
            means[model] = {name: getattr(mean, name).to_dict() for name in SHOWN}
    return {"rows": rows, "mean_away": means}


def set_words(given: Sequence[str]) -> dict[str, str]:
    """For `this_command`: each --set without the folders of this machine -> as it was given."""
    words = {}
    for text in given:
        name, _, path = text.partition("=")
        words[f"{name}={Path(path).name}"] = text
    return words


def columns_of(
    models: Sequence[Model], sets: Sequence[RatedSet], work: Path, console: Console
) -> tuple[dict[str, Column], dict[str, str | None], dict[str, Scores]]:
    """What each model does on the sets and the digest of its weights, by label; and the last model's scores, by set."""
    columns, weights, scores = dict[str, Column](), dict[str, str | None](), dict[str, Scores]()
    for model in models:
        console.print(f"{model.label} …", markup=False, highlight=False)
        started = time.perf_counter()
        # Made here, so that one model at a time is in memory.
        rater = make_rater(model.name, model.settings)
        weights[model.label] = rater.settings().get("weights")
        ratings = rate(rater, sets, journal_of(work, rater.settings()), console)
        seconds = time.perf_counter() - started
        console.print(f"{model.label}: {seconds:.0f} s", markup=False, highlight=False)
        scores = {
            name: {image: rating.score for image, rating in found.items()}
            for name, found in ratings.items()
        }
        columns[model.label] = {
            each.name: measure(each, scores[each.name], coverage(each, ratings[each.name]))
            for each in sets
        }
    return columns, weights, scores


def chosen_models(args: argparse.Namespace) -> list[Model]:
    """The classics, and each --model in each --mode. Raises UserError for two that would have one label."""
    models = [Model(name, name, score_settings()) for name in CLASSICS]
    for name in args.model or ["nano"]:
        # The last two parts of a folder: the last one is often "final".
        short = "/".join(Path(name).parts[-2:]) if Path(name).is_dir() else name
        models += [
            Model(f"{short}, {mode}", name, score_settings(mode=mode, batch=16))
            for mode in args.mode
        ]
    labels = [model.label for model in models]
    if len(set(labels)) < len(labels):
        raise UserError(f"two models have the same name ({', '.join(labels)}): rename a folder")
    return models


def chosen_sets(args: argparse.Namespace) -> list[RatedSet]:
    """The sets that the options name, and the tests with --final."""
    if args.final != bool(args.data):
        raise UserError("--final looks at the tests in the folder --data: give both or neither")
    if args.limit is not None and args.limit < 3:
        raise UserError(f"--limit {args.limit}: a correlation needs at least 3 images")
    sets = [given_set(text) for text in args.set]
    sets += [read(folder) for read, folder in ((pcuid, args.pcuid), (h265, args.h265)) if folder]
    if not sets:
        raise UserError("there is no set: give --set, --pcuid or --h265")
    if args.final:
        sets += final_sets(args.data)
    return [each.limited(args.limit) for each in with_homes(sets, args.home)]


def run(args: argparse.Namespace) -> None:
    quiet_libraries()
    models, sets = chosen_models(args), chosen_sets(args)
    if args.write_earlier and (len(models) > len(CLASSICS) + 1 or args.limit):
        raise UserError("--write-earlier takes the scores of one model and mode on all images")
    # Read before anything is rated, so that a fault in it costs no time.
    earlier = args.earlier or (EARLIER if EARLIER.is_file() else None)
    former = earlier_column(sets, read_earlier(earlier), str(earlier)) if earlier else {}
    columns, weights, scores = columns_of(models, sets, args.work, Console(stderr=True))
    if args.write_earlier:  # the last column is the one model
        write_earlier(args.write_earlier, scores)
    if former:
        columns["earlier"] = former
    console = Console(width=100)
    console.print(panel_table(sets, columns))
    for note in notes(sets, columns):
        console.print(Text(note, style="yellow"))
    if args.json:
        result = {
            "weights": weights,
            "earlier": earlier.name if former else None,
            "limit": args.limit,
            "sets": [
                {name: getattr(each, name) for name in ("name", "role", "mos_range", "missing")}
                for each in sets
            ],
            **results(sets, columns),
        }
        words = {"PCUID": args.pcuid, "H265": args.h265, "FOLDER": args.data}
        write_result(args.json, this_command(**words, **set_words(args.set)), result)


def main() -> None:
    options = parser(__doc__, short=False)
    add_work(options, "runs/panel")
    several: dict[str, Any] = {"action": "append", "default": []}
    form = "NAME=MANIFEST[:LOW:HIGH]"
    options.add_argument("--set", **several, metavar=form, help="LOW, HIGH: ends of the MOS scale")
    options.add_argument("--home", **several, metavar="NAME", help="a set the mean leaves out")
    options.add_argument("--pcuid", type=Path, metavar="FOLDER", help="a clone of JOU-UIP/PCUID")
    options.add_argument(
        "--h265", type=Path, metavar="FOLDER", help="a clone of image_quality_test"
    )
    options.add_argument("--final", action="store_true", help="also look at the tests, in --data")
    options.add_argument("--data", type=Path, metavar="FOLDER", help="has biq2021/ and agiqa3k/")
    options.add_argument("--model", **several, help="nano (the default), a folder, or another name")
    options.add_argument("--mode", nargs="+", choices=("expect", "reason"), default=["expect"])
    options.add_argument("--earlier", type=Path, metavar="FILE", help=f"default: {EARLIER.name}")
    options.add_argument("--write-earlier", type=Path, metavar="FILE", help="write such a file")
    options.add_argument("--limit", type=int, help="so many images of each set, to try things out")
    with clean_exit():
        run(options.parse_args())


if __name__ == "__main__":
    main()
