"""Content-independent splits: no scene is in two of train, val and test (paper section 4.1, "6 : 2 : 2")."""

import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from ..errors import UserError
from .manifest import SPLITS, Manifest, Row


def split(
    rows: Manifest | Sequence[Row], *, ratios: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
) -> Manifest:
    """The same rows in the same order, each with a new `split`: train, val or test.

    All images of one reference go together; an image without one is a group of its own, named by its path
    below the folder that the data set's images share. Each data set is split on its own: of its G groups,
    ratio × G are in each split, rounded by largest remainder (ties to the earlier split): KADID-10k's 81
    give 49, 16, 16.

    Which groups those are depends on the seed and the groups' names only: they are taken in the order of
    blake2b("seed\\0name"), the same on every machine and for every order of rows. A reference that two data
    sets share stands at the same height in both orders.

    ratios: of train, val and test, at least 0, summing to 1. Raises UserError if they do not, and for a
    data set with too few groups to give one to every split whose ratio is above 0.
    """
    shares = [
        Fraction(str(ratio)) for ratio in ratios
    ]  # the decimal as written: 0.29 * 100 is 29 exactly
    if len(shares) != 3 or any(share < 0 for share in shares) or abs(float(sum(shares)) - 1) > 1e-6:
        raise UserError(
            f"ratios are {tuple(ratios)}: give three for {', '.join(SPLITS)} that sum to 1"
        )
    rows = rows.rows if isinstance(rows, Manifest) else tuple(rows)
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[row.dataset].append(row)
    splits: dict[tuple[str, Path], str] = {}
    for dataset, own in members.items():
        groups = _groups(own)
        order = sorted(set(groups.values()), key=lambda name: (stable_hash(seed, name), name))
        counts = _largest_remainder(len(order), shares)
        if any(share and not count for share, count in zip(shares, counts, strict=True)):
            raise UserError(
                f"data set {dataset!r} has {len(order)} references or images without one, too few for "
                f"{tuple(ratios)}: {counts} would be in {', '.join(SPLITS)}; add images or change the ratios"
            )
        names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
        of_group = dict(zip(order, names, strict=True))
        splits |= {(dataset, image): of_group[group] for image, group in groups.items()}
    return Manifest(
        tuple(dataclasses.replace(row, split=splits[row.dataset, row.image]) for row in rows)
    )


def stable_hash(seed: int, name: str) -> bytes:
    """16 bytes of the seed and the name alone, unlike Python's `hash`: blake2b of "seed\\0name"."""
    return hashlib.blake2b(
        f"{seed}\0{name}".encode(errors="surrogateescape"), digest_size=16
    ).digest()


def _groups(rows: list[Row]) -> dict[Path, str]:
    """Image -> the name of its group, free of where on a disk the data set lies."""
    shared = os.path.commonpath([os.path.abspath(row.image.parent) for row in rows])
    return {
        row.image: row.reference or Path(os.path.relpath(row.image, shared)).as_posix()
        for row in rows
    }


def _largest_remainder(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers that sum to `total`, in proportion to `shares` (Hamilton's method)."""
    quotas = [total * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
