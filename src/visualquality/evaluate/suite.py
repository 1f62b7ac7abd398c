"""A benchmark suite: methods (rows) and data sets (columns) in one YAML file, strictly typed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import UserError
from ..response import PromptName
from .paper import TABLE_2, paper_tables

# What a vision-language model can be asked for, and a file of scores cannot.
OPTIONS = ("mode", "samples", "seed", "tolerance", "doubt", "prompt", "max_pixels", "engine", "url")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(Section):
    """A row. Exactly one of `model` and `scores`.

    `model` is a name of `score.raters.make_rater`: niqe, brisque, pyiqa:NAME, nano, a folder, a hub name. `scores` is
    a file of scores made elsewhere: .csv, .jsonl or .parquet with the columns image and score, a higher score being a
    better image. `OPTIONS` are for vision-language models, and mean what they mean there.
    """

    name: str = Field(min_length=1)
    model: str | None = None
    scores: Path | None = None
    group: str = "Others"
    mode: Literal["reason", "expect", "direct", "auto"] = "reason"
    samples: Annotated[int, Field(ge=1)] | Literal["auto"] = 6
    seed: int = 0
    tolerance: float = Field(0.1, gt=0)
    doubt: float = Field(0.5, ge=0)
    prompt: PromptName | None = None
    max_pixels: int | None = Field(None, ge=28 * 28)
    engine: Literal["here", "vllm", "openai"] = "here"
    url: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Method":
        if (self.model is None) == (self.scores is None):
            raise ValueError("give exactly one of model and scores")
        if self.scores is not None and (extra := self.model_fields_set & set(OPTIONS)):
            raise ValueError(f"a file of scores takes no {' and no '.join(sorted(extra))}")
        return self


class DataSet(Section):
    """A column: the rows of a manifest, or of one `split` of it.

    `column` is the paper's column that the data set stands for; published rows have a number there, and its group is
    the group of the data set unless `group` names another.
    """

    name: str = Field(min_length=1)
    manifest: Path
    column: str | None = None
    group: str = ""
    split: Literal["train", "val", "test"] | None = None

    @field_validator("column")
    @classmethod
    def _known(cls, column: str | None) -> str | None:
        known = [each.name for each in paper_tables().columns]
        if column is not None and column not in known:
            raise ValueError(f"the paper has no column {column!r}; it has {', '.join(known)}")
        return column


class Suite(Section):
    """What `visualquality benchmark` measures.

    `plcc`: which of the two is shown, that of the scores as they are or after the 4-parameter logistic mapping; the
    CSV file has both. `paper`: the methods of the paper's Tables 2 and 4 whose published rows are shown too, or "all"
    of Table 2.
    """

    title: str = Field(min_length=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    datasets: tuple[DataSet, ...] = Field(min_length=1)
    paper: Literal["all"] | tuple[str, ...] = ()
    plcc: Literal["raw", "logistic"] = "raw"

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        _refuse_twice("methods", [method.name for method in self.methods])
        _refuse_twice("datasets", [data.name for data in self.datasets])
        columns = [data.column for data in self.datasets if data.column is not None]
        _refuse_twice("the columns of datasets", columns)
        known = (*paper_tables().methods(2), *paper_tables().methods(4))
        if unknown := [name for name in self.published if name not in known]:
            raise ValueError(
                f"paper: no row {', '.join(unknown)}; there are {', '.join(dict.fromkeys(known))}"
            )
        if self.published and not columns:
            raise ValueError(
                "paper: no data set names the paper's column that it stands for; add column to one"
            )
        return self

    @property
    def published(self) -> tuple[str, ...]:
        """The methods whose published rows are shown."""
        return (
            paper_tables().methods(TABLE_2)
            if self.paper == "all"
            else tuple(dict.fromkeys(self.paper))
        )


def read_suite(path: Path) -> Suite:
    """The suite in `path`; its paths (manifests, scores, a model's folder or parameters) are relative to its folder.

    Raises UserError that names the file and each wrong field.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no suite {path}; give a YAML file that exists") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is not a YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is empty or not a mapping; a suite begins like `title: …`")
    try:
        suite = Suite.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'suite'}: {e['msg']}" for e in error.errors()
        )
        raise UserError(f"{path}: {faults}") from error
    base = path.resolve().parent
    groups = {column.name: column.group for column in paper_tables().columns}
    datasets = tuple(
        data.model_copy(
            update={
                "manifest": base / data.manifest.expanduser(),
                "group": data.group or groups.get(data.column or "", ""),
            }
        )
        for data in suite.datasets
    )
    return suite.model_copy(
        update={"methods": tuple(_located(m, base) for m in suite.methods), "datasets": datasets}
    )


def _located(method: Method, base: Path) -> Method:
    if method.scores is not None:
        return method.model_copy(update={"scores": base / method.scores.expanduser()})
    assert method.model is not None
    kind, _, parameters = method.model.partition(":")
    if kind in ("niqe", "brisque") and parameters:
        return method.model_copy(update={"model": f"{kind}:{base / Path(parameters).expanduser()}"})
    folder = base / Path(method.model).expanduser()
    return method.model_copy(update={"model": str(folder)}) if folder.is_dir() else method


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{what}: {', '.join(twice)} is there more than once; give each a name of its own"
        )
