"""One data set a chunk, every row every epoch, the same order everywhere."""

import math
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from visualquality.data.sampler import OneDatasetBatches, grouped_order
from visualquality.errors import UserError

layouts = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.dictionaries(st.text(max_size=3), st.integers(size, 25), min_size=1, max_size=4).flatmap(
            lambda counts: st.permutations([name for name, n in counts.items() for _ in range(n)])
        ),
    )
)


@settings(deadline=None, max_examples=50)
@given(layouts, st.integers(0, 2**40), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_chunks(layout, seed, repeat, epoch, shuffle):
    size, datasets = layout
    sampler = OneDatasetBatches(datasets, size, seed=seed, repeat=repeat, shuffle=shuffle)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    chunks = [tuple(order[i : i + size]) for i in range(0, len(order), size)]
    assert all(
        len({datasets[i] for i in chunk}) == 1 and len(set(chunk)) == size for chunk in chunks
    )
    groups = [chunks[i : i + repeat] for i in range(0, len(chunks), repeat)]
    assert all(len(set(group)) == 1 and len(group) == repeat for group in groups)
    visits = Counter(i for group in groups for i in group[0])
    assert set(visits) == set(range(len(datasets)))
    for name, rows in Counter(
        datasets
    ).items():  # only what fills a last chunk is visited again, and once
        again = [visits[i] - 1 for i in range(len(datasets)) if datasets[i] == name]
        assert set(again) <= {0, 1}
        assert sum(again) == math.ceil(rows / size) * size - rows

    fresh = OneDatasetBatches(datasets, size, seed=seed, repeat=repeat, shuffle=shuffle)
    for earlier in range(epoch):  # what was drawn before does not matter
        fresh.set_epoch(earlier)
        list(fresh)
    fresh.set_epoch(epoch)
    assert list(fresh) == order == list(pickle.loads(pickle.dumps(fresh)))


def test_the_order_is_pinned_and_changes_with_seed_and_epoch():
    datasets = ["x"] * 7 + ["y"] * 4
    sampler = OneDatasetBatches(datasets, 3, seed=5)
    assert list(sampler) == PINNED
    orders = set()
    for seed in range(4):
        sampler = OneDatasetBatches(datasets, 3, seed=seed)
        for epoch in range(4):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 16


PINNED = [1, 3, 0, 4, 1, 3, 5, 6, 2, 8, 9, 10, 7, 8, 9]


def test_chunks_of_the_data_sets_are_mixed_and_refills_vary():
    sampler = OneDatasetBatches(["x"] * 90 + ["y"] * 91, 10, seed=0)
    firsts, twice = set(), Counter()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        order = list(sampler)
        firsts.add(tuple(order[i] < 90 for i in range(0, len(order), 10)))
        twice.update(i for i, n in Counter(order).items() if n == 2)
    assert len(firsts) == 20
    assert len(twice) > 60  # of 91, 9 an epoch: 180 draws
    assert min(twice) >= 90


def test_without_shuffling_rows_keep_their_order():
    sampler = OneDatasetBatches(["y", "x", "y", "x", "y"], 2, seed=0, repeat=2, shuffle=False)
    assert list(sampler) == [0, 2, 0, 2, 4, 0, 4, 0, 1, 3, 1, 3]


def test_a_loader_gives_one_data_set_a_batch():
    datasets = ["x"] * 5 + ["y"] * 6
    loader = DataLoader(
        datasets, batch_size=4, sampler=OneDatasetBatches(datasets, 4, seed=1), collate_fn=list
    )
    batches = list(loader)
    assert [len(set(batch)) for batch in batches] == [1] * 4
    assert len(loader) == 4


def test_an_epoch_under_way_keeps_its_order():
    sampler = OneDatasetBatches(["x"] * 20, 4, seed=0)
    whole = list(sampler)
    under_way = iter(sampler)
    sampler.set_epoch(1)
    assert list(under_way) == whole != list(sampler)


def test_too_few_rows():
    with pytest.raises(
        UserError, match=r"'small' has 3 images, and a batch compares 4 .* batches of at most 3"
    ):
        OneDatasetBatches(["large"] * 9 + ["small"] * 3, 4, seed=0)
    for datasets, size, repeat in [([], 1, 1), (["x"], 0, 1), (["x"], 1, 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            OneDatasetBatches(datasets, size, seed=0, repeat=repeat)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(2, 4),
    st.integers(1, 3),
    st.dictionaries(st.text(max_size=3), st.integers(4, 30), min_size=1, max_size=4),
    st.integers(0, 2**40),
    st.integers(0, 5),
)
def test_groups_are_of_one_data_set_and_batches_have_distinct_rows(
    group, groups, counts, seed, epoch
):
    datasets = [name for name, count in counts.items() for _ in range(count)]
    batch = group * groups
    whole = sum(count // group for count in counts.values()) // groups
    if not whole:
        with pytest.raises(UserError, match="add images, or make batches of at most"):
            grouped_order(datasets, group, batch, seed=seed, epoch=epoch)
        return
    order = grouped_order(datasets, group, batch, seed=seed, epoch=epoch)
    assert len(order) == whole * batch  # only what fills no batch is left out
    assert len(set(order)) == len(order)
    for start in range(0, len(order), group):
        assert len({datasets[i] for i in order[start : start + group]}) == 1
    assert order == grouped_order(datasets, group, batch, seed=seed, epoch=epoch)


def test_groups_draw_their_data_set_with_equal_chance_whatever_its_size():
    datasets = ["large"] * 3000 + ["small"] * 800
    firsts, orders = Counter(), set()
    for epoch in range(200):
        order = grouped_order(datasets, 8, 32, seed=1, epoch=epoch)
        firsts.update(datasets[i] for i in order[:32:8])
        orders.add(tuple(order))
        assert len({datasets[i] for i in order[-32:]}) == 1  # the small one is used up by then
    assert len(orders) == 200
    # 800 draws of a fair coin: within 5 standard deviations of 14.
    assert abs(firsts["small"] - 400) < 71
    mixed = [set(order[i : i + 32]) for order in orders for i in range(0, 320, 32)]
    both = sum(1 for batch in mixed if min(batch) < 3000 <= max(batch))
    assert both > 0.8 * len(mixed)  # 7 in 8 are expected


def test_too_few_rows_for_a_group():
    with pytest.raises(UserError, match="'small' has 3 images, and a batch compares 4 of one"):
        grouped_order(["large"] * 9 + ["small"] * 3, 4, 8, seed=0, epoch=0)
    with pytest.raises(ValueError, match="not made of groups of 3"):
        grouped_order(["large"] * 9, 3, 8, seed=0, epoch=0)
