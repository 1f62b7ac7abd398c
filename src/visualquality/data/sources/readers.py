"""Which function reads which source."""

from collections.abc import Callable

from ..manifest import Row
from .authors import authors_jsonl, authors_txt
from .generic import any_csv, deqa_json, pyiqa_csv
from .kadid import kadid10k
from .locate import Request
from .photos import bid, biq2021, clive, koniq10k, spaq
from .processed import agiqa3k, liu13, min19, sriqa_bench

READERS: dict[str, Callable[[Request], list[Row]]] = {
    "kadid10k": kadid10k,
    "koniq10k": koniq10k,
    "spaq": spaq,
    "clive": clive,
    "bid": bid,
    "agiqa3k": agiqa3k,
    "liu13": liu13,
    "min19": min19,
    "sriqa-bench": sriqa_bench,
    "biq2021": biq2021,
    "authors-txt": authors_txt,
    "authors-jsonl": authors_jsonl,
    "pyiqa-csv": pyiqa_csv,
    "deqa-json": deqa_json,
    "csv": any_csv,
}
