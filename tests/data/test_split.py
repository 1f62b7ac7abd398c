"""Splits: content-independent, exact, and the same everywhere."""

import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualquality.data.manifest import SPLITS, Manifest, Row
from visualquality.data.split import split
from visualquality.errors import UserError


def kadid(
    references: int = 81, distortions: int = 3, dataset: str = "kadid", root: str = "/data"
) -> list[Row]:
    return [
        Row(Path(f"{root}/images/I{r:02}_{d}.png"), float(d), dataset, reference=f"I{r:02}.png")
        for r in range(references)
        for d in range(distortions)
    ]


def images(count: int, root: str = "/data", dataset: str = "photos") -> list[Row]:
    return [Row(Path(f"{root}/{i % 3}/{i:03}.jpg"), float(i), dataset) for i in range(count)]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(0, 30), st.booleans()),
        min_size=1,
        max_size=120,
    ),
    st.integers(0, 10**9),
    st.sampled_from(
        [(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33), (1 / 3, 1 / 3, 1 / 3), (1, 0, 0)]
    ),
    st.randoms(use_true_random=False),
)
def test_disjoint_exact_and_free_of_row_order(members, seed, ratios, shuffler):
    rows = [
        Row(
            Path(f"/d/{name}/{i}.png"),
            float(i),
            name,
            reference=f"R{scene}" if has_reference else None,
        )
        for i, (name, scene, has_reference) in enumerate(members)
    ]
    keys = {(row.dataset, row.reference or row.image) for row in rows}
    fewest = min(Counter(name for name, _ in keys).values())
    try:
        done = split(rows, ratios=ratios, seed=seed).rows
    except (
        UserError
    ):  # a part would be empty, which no rounding brings about where each is due a whole group
        assert fewest * min(ratio for ratio in ratios if ratio) < 1
        return
    assert [replace(row, split=None) for row in done] == rows
    groups = defaultdict(set)
    for row in done:
        groups[row.dataset, row.reference or row.image].add(row.split)
    assert all(len(found) == 1 for found in groups.values())
    for name in {row.dataset for row in rows}:
        counts = Counter(next(iter(found)) for key, found in groups.items() if key[0] == name)
        for part, ratio in zip(SPLITS, ratios, strict=True):
            assert abs(counts[part] - ratio * counts.total()) < 1 + 1e-9
    mixed = list(done)
    shuffler.shuffle(mixed)
    assert set(split(mixed, ratios=ratios, seed=seed).rows) == set(done)


@pytest.mark.parametrize(
    ("groups", "ratios", "expected"),
    [
        (81, (0.6, 0.2, 0.2), (49, 16, 16)),  # the authors' KADID-10k counts
        (4, (0.6, 0.2, 0.2), (2, 1, 1)),
        (11, (0.6, 0.2, 0.2), (7, 2, 2)),
        (100, (0.29, 0.01, 0.7), (29, 1, 70)),
        (5, (1 / 3, 1 / 3, 1 / 3), (2, 2, 1)),
        (7, (0.5, 0, 0.5), (4, 0, 3)),
        (5, (0.3, 0.5, 0.2), (2, 2, 1)),  # a tie in decimals, none in binary
    ],
)
def test_largest_remainder(groups, ratios, expected):
    done = split(kadid(groups, 2), ratios=ratios)
    counts = Counter(row.split for row in done.rows)
    assert tuple(counts[part] for part in SPLITS) == tuple(2 * n for n in expected)


def test_each_data_set_is_split_on_its_own():
    both = split([*kadid(10), *images(20)], seed=3)
    assert split(kadid(10), seed=3).rows + split(images(20), seed=3).rows == both.rows
    assert split(both, seed=3) == both  # a split that is there is replaced
    shared = split([*kadid(10, dataset="x"), *kadid(10, dataset="y")], seed=3).rows
    assert [row.split for row in shared[:30]] == [row.split for row in shared[30:]]


def test_the_folder_does_not_matter_and_the_seed_does():
    def parts(rows, seed):
        return [row.split for row in split(rows, seed=seed).rows]

    assert parts(images(30), 1) == parts(images(30, root="/elsewhere/on/disk"), 1)
    assert parts(kadid(30), 1) == parts(kadid(30, root="/elsewhere"), 1)
    assert len({tuple(parts(images(30), seed)) for seed in range(10)}) == 10


PROGRAM = """
from pathlib import Path
from visualquality.data.manifest import Row
from visualquality.data.split import split
rows = [Row(Path(f"/d/{i}.png"), float(i), "x", reference=f"I{i % 15:02}") for i in range(30)]
rows += [Row(Path(f"/d/é {i}.png"), float(i), "y") for i in range(5)]
print("".join(row.split[1] for row in split(rows, seed=7).rows))
"""
PINNED = "rrrrareaeearrrr" * 2 + "aerrr"  # r: train, a: val, e: test


def test_pinned_here_and_in_another_process(capsys):
    exec(PROGRAM, {})
    assert capsys.readouterr().out.strip() == PINNED
    other = os.environ | {"PYTHONHASHSEED": "4242"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=other, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == PINNED


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((0.6, 0.2), "give three"),
        ((0.6, 0.2, 0.3), "sum to 1"),
        ((1.2, -0.2, 0), "sum to 1"),
        ((6, 2, 2), "sum to 1"),
    ],
)
def test_ratios_that_are_none(ratios, message):
    with pytest.raises(UserError, match=message):
        split(images(20), ratios=ratios)


def test_an_empty_part_is_refused():
    with pytest.raises(
        UserError, match=r"'kadid' has 3 references .* \[2, 1, 0\] would be in train, val, test"
    ):
        split([*images(9), *kadid(3)])
    assert len(split(Manifest(()))) == 0
    rows = images(9)
    random.Random(0).shuffle(rows)
    assert {row.split for row in split(rows).rows} == set(SPLITS)
