"""A benchmark suite: methods (rows) and data sets (columns) in one YAML file, strictly typed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..io import Settings, expand, read_yaml, validated
from ..score.settings import ScoreSettings, score_settings
from .paper import TABLE_2, TABLE_4, paper_tables

Coefficient = Literal["srcc", "krcc", "plcc", "plcc_logistic"]


class Method(ScoreSettings):
    """A row: how its images are scored. Exactly one of `model` and `scores`.

    `model` is what `--model` of the command line takes: niqe, brisque, pyiqa:NAME, nano, a folder, a hub name. The
    scoring options mean what they mean there. `scores` is a file of scores made elsewhere: .csv, .jsonl or .parquet
    with the columns image and score, where a higher score is a better image.

    `trained_on` completes the sentence "NAME was trained on …" below the table. `published` holds figures that the
    makers of the model publish, by data set of the suite and coefficient; they get a row of their own.
    """

    name: str = Field(min_length=1)
    model: str | None = None
    scores: Path | None = None
    group: str = "Others"
    trained_on: str = ""
    published: dict[str, dict[Coefficient, Annotated[float, Field(ge=-1, le=1)]]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Method":
        if (self.model is None) == (self.scores is None):
            raise ValueError("give exactly one of model and scores")
        if self.scores is not None and (options := self._options()):
            raise ValueError(f"a file of scores takes no {' and no '.join(sorted(options))}")
        if self.reference:
            raise ValueError("a suite rates images by themselves: leave reference out")
        if self.calibration is not None:
            raise ValueError("a suite shows scores without intervals: leave calibration out")
        return self

    def _options(self) -> dict[str, Any]:
        # Only what is written in the file: a default must not override the command line.
        return self.model_dump(include=set(ScoreSettings.model_fields), exclude_unset=True)

    def settings(self, **defaults: Any) -> ScoreSettings:
        """The scoring options of the suite; those that it does not name are taken from `defaults`. Raises UserError."""
        return score_settings(**(defaults | self._options()))


class DataSet(Settings):
    """A column: the rows of a manifest, or of one `split` of it.

    `column` is the paper's column for this data set, in which published rows have a number. The group of the data set
    is that of this column, unless `group` names another.
    """

    name: str = Field(min_length=1)
    manifest: Path
    column: str | None = None
    group: str = ""
    split: Literal["train", "val", "test"] | None = None

    @field_validator("column")
    @classmethod
    def _of_the_paper(cls, column: str | None) -> str | None:
        names = paper_tables().columns
        if column is not None and column not in names:
            raise ValueError(f"the paper has no column {column!r}; it has {', '.join(names)}")
        return column


class Record(Settings):
    """What a benchmark was measured with, in the file that runs it again (`rerun`).

    versions: of Python, of packages and of this package's code. datasets: the digest of each data set's pixels and MOS.
    methods: what made the scores of each method, such as its weights' digest and its seed.
    """

    versions: dict[str, str]
    datasets: dict[str, str]
    methods: dict[str, dict[str, Any]]


class Suite(Settings):
    """What `visualquality benchmark` measures.

    `plcc`: which PLCC is shown, that of the scores as they are (raw) or after the 4-parameter logistic mapping; the
    CSV file has both. `paper`: the methods of the paper's Tables 2 and 4 whose published rows are shown too, or "all"
    for those of Table 2. `record` is in the file that runs a finished benchmark again.
    """

    title: str = Field(min_length=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    datasets: tuple[DataSet, ...] = Field(min_length=1)
    paper: Literal["all"] | tuple[str, ...] = ()
    plcc: Literal["raw", "logistic"] = "raw"
    record: Record | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        _refuse_duplicates("methods", [method.name for method in self.methods])
        _refuse_duplicates("datasets", [data.name for data in self.datasets])
        names_of_sets = {data.name for data in self.datasets}
        for method in self.methods:
            if unknown := sorted(method.published.keys() - names_of_sets):
                raise ValueError(
                    f"published of {method.name}: no data set of the suite is named {', '.join(unknown)}"
                )
        # Two data sets under one column would both get its published numbers.
        columns = [data.column for data in self.datasets if data.column is not None]
        _refuse_duplicates("the columns of datasets", columns)
        # Some methods are in both tables.
        names = dict.fromkeys([*paper_tables().methods(TABLE_2), *paper_tables().methods(TABLE_4)])
        if missing := [name for name in self.published if name not in names]:
            raise ValueError(f"paper: no row {', '.join(missing)}; there are {', '.join(names)}")
        if self.published and not columns:
            raise ValueError("paper: no data set names its column in the paper; add column to one")
        return self

    @property
    def published(self) -> tuple[str, ...]:
        """The methods whose published rows are shown."""
        if self.paper == "all":
            return paper_tables().methods(TABLE_2)
        return tuple(dict.fromkeys(self.paper))


def read_suite(path: Path) -> Suite:
    """The suite in `path`; its paths (manifests, scores, a model's folder or parameters) are relative to its folder.

    Raises UserError that names the file and each wrong field.
    """
    suite = validated(Suite, read_yaml(path, "suite"), path, "suite")
    folder = path.resolve().parent
    datasets = []
    for data in suite.datasets:
        group = data.group
        if data.column and not group:
            group = paper_tables().columns[data.column].group
        # An absolute path stays as it is.
        manifest = folder / expand(data.manifest)
        datasets.append(data.model_copy(update={"manifest": manifest, "group": group}))
    methods = []
    for method in suite.methods:
        if method.scores is not None:
            update: dict[str, Any] = {"scores": folder / expand(method.scores)}
        else:
            update = {"model": _model_in(folder, str(method.model))}
        methods.append(method.model_copy(update=update))
    return suite.model_copy(update={"methods": tuple(methods), "datasets": tuple(datasets)})


def _model_in(folder: Path, model: str) -> str:
    """The name of a model with a path in it made relative to `folder`; other names stay."""
    # niqe:FILE and brisque:FILE name fitted parameters; the rest of pyiqa:NAME is no path.
    kind, _, parameters = model.partition(":")
    if kind in ("niqe", "brisque") and parameters:
        return f"{kind}:{folder / expand(Path(parameters))}"
    # A name of the Hugging Face hub looks like a relative path: a folder that exists comes first.
    weights = folder / expand(Path(model))
    return str(weights) if weights.is_dir() else model


def _refuse_duplicates(what: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{what}: {', '.join(twice)} is there more than once; give each a name of its own"
        )
