"""JSON, YAML and ZIP archives from strangers: read with bounds, so that a small file cannot take all memory or hours.

`parse_json` and `parse_yaml` raise ValueError with a reason, and nothing else, for a text that is not as it should be.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import yaml

# Unpacked. A thousandth of it may be the size of the archive.
MAX_ARCHIVE = 500_000_000
# A recipe has some thousand characters. YAML is read at about 50,000 a second.
MAX_YAML = 200_000
# Values in a YAML file, each alias counted as often as it stands there.
MAX_YAML_VALUES = 100_000

_TOO_DEEP = "it is nested too deeply"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:  # C code that counts levels
        raise ValueError(_TOO_DEEP) from None


def refuse_archive_bomb(path: Path) -> None:
    """Raises ValueError for a ZIP archive (an .xlsx or .npz file) that unpacks to more than `MAX_ARCHIVE` bytes.

    Other files pass. What an archive says of its sizes is true: zipfile reads no more than that.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MAX_ARCHIVE:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {MAX_ARCHIVE:,}")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: tags of YAML itself only, no key twice, no null byte in a text. Raises ValueError.

    Aliases are read, but not where they would unfold to more than `MAX_YAML_VALUES` values or to themselves.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"it has more than {MAX_YAML:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except yaml.MarkedYAMLError as error:
        # Their text is several lines, the first of which says little.
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from error
    # The library's constructors raise these for a date of month 13, a number of 5000 digits, `!!bool maybe` and others.
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        yaml.YAMLError,
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(reason) from error


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node unfolds to; `counts` has those of the nodes that were counted, 0 while one is."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise ValueError("a value contains itself")
        return counts[id(node)]
    counts[id(node)] = 0
    total = 1
    if isinstance(node, yaml.ScalarNode):
        if "\0" in node.value:
            raise ValueError("a text holds a null byte")
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            total += _count(child, counts)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                # PyYAML would take the last one without a word.
                if key.value in keys:
                    raise ValueError(f"the key {key.value} is there twice")
                keys.add(key.value)
            total += _count(key, counts) + _count(value, counts)
    if total > MAX_YAML_VALUES:
        raise ValueError(f"it unfolds to more than {MAX_YAML_VALUES:,} values")
    counts[id(node)] = total
    return total
