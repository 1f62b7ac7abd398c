"""Content-independent splits: no scene is in two of train, val and test (paper section 4.1, "6 : 2 : 2")."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from ..errors import UserError
from ..seeds import order_key
from .find import common_folder, relative_path
from .manifest import SPLITS, Manifest, Row


def split(
    rows: Manifest | Sequence[Row], *, ratios: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
) -> Manifest:
    """The same rows in the same order, each with a new `split`: train, val or test.

    All images of one reference go together; an image without one is a group of its own, named by its path
    below the folder that the data set's images share. Each data set is split on its own: of its G groups,
    ratio × G are in each split, rounded by largest remainder (ties to the earlier split): KADID-10k's 81
    give 49, 16, 16.

    Which groups those are depends on the seed and the groups' names only: they are sorted by a hash of both
    (`seeds.order_key`), the same on every machine and for every order of rows. So two data sets with the same
    references, split in the same ratios, have the same references in each split.

    ratios: of train, val and test, at least 0, summing to 1. Raises UserError if they do not, and for a
    data set with too few groups to give one to every split whose ratio is above 0.
    """
    # The decimals as written: with binary floats, 0.29 × 100 groups would be 28.999… and 28.
    shares = [Fraction(str(ratio)) for ratio in ratios]
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
        group_of = _groups(own)
        # The name breaks ties of the hash, so that the order is total.
        order = sorted(set(group_of.values()), key=lambda name: (order_key(seed, name), name))
        counts = _largest_remainder(len(order), shares)
        if any(share and not count for share, count in zip(shares, counts, strict=True)):
            raise UserError(
                f"data set {dataset!r} has {len(order)} references or images without one, too few for "
                f"{tuple(ratios)}: {counts} would be in {', '.join(SPLITS)}; add images or change the ratios"
            )
        names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
        split_of = dict(zip(order, names, strict=True))
        for image, group in group_of.items():
            splits[dataset, image] = split_of[group]
    return Manifest(
        tuple(dataclasses.replace(row, split=splits[row.dataset, row.image]) for row in rows)
    )


def _groups(rows: list[Row]) -> dict[Path, str]:
    """Image -> the name of its group, which does not depend on where on a disk the data set lies."""
    # Relative to what all images of the data set share, so that a moved or mounted set splits alike.
    shared = common_folder([os.path.abspath(row.image.parent) for row in rows])
    return {
        row.image: row.reference or relative_path(os.path.abspath(row.image), shared)
        for row in rows
    }


def _largest_remainder(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers that sum to `total`, in proportion to `shares` (Hamilton's method)."""
    quotas = [total * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    # sorted is stable, which gives ties to the earlier split.
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
