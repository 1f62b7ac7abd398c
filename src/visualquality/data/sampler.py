"""Batches of one data set, because the preference between two images is known only where one panel rated both.

That preference is Eq. 2 (rl2r.true_preference). Where images are compared in groups, a group is of one data set, and
the groups of a batch may be of several (`grouped_order`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from ..errors import UserError
from ..seeds import choice, order_key


class OneDatasetBatches(Sampler[int]):
    """Row indices for a loader that does not shuffle: each batch of `batch_size` is distinct rows of one data set.

    datasets: for each row, the name of its data set. repeat: how often each chunk of `batch_size` indices
    is yielded, one right after the other. shuffle: False takes data sets and rows in the order they are
    given.

    An epoch visits every row. A data set's rows are shuffled and cut into chunks; a last chunk that is not
    full is filled with the first rows of the same shuffle, which are then in two chunks of that epoch. The
    chunks of all data sets are shuffled together. The order is a pure function of `datasets`, seed and
    epoch: the same on every process and machine, and in a resumed run.

    Departs from TRL's `RepeatSampler`, which cuts one shuffle of all rows (mixing data sets), drops the
    rows that do not fill a last chunk, draws each epoch from a generator's running state (lost when
    resuming), and yields each index `mini_repeat_count` times side by side: here an index is an image, not
    a response.

    Raises UserError for a data set with fewer rows than `batch_size`; ValueError for no rows or numbers
    below 1.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        batch_size: int,
        *,
        seed: int,
        repeat: int = 1,
        shuffle: bool = True,
    ):
        if not datasets or batch_size < 1 or repeat < 1:
            raise ValueError("rows, batch_size and repeat are each at least 1")
        # Data sets in the order in which they first come.
        self.rows: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(datasets):
            self.rows[name].append(index)
        for name, rows in self.rows.items():
            _refuse_small(name, len(rows), batch_size)
        self.batch_size, self.seed, self.repeat, self.shuffle = batch_size, seed, repeat, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; an iteration under way keeps its own."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Indices in an epoch, repeats counted: the same in every epoch."""
        chunks = sum(-(-len(rows) // self.batch_size) for rows in self.rows.values())
        return chunks * self.batch_size * self.repeat

    def __iter__(self) -> Iterator[int]:
        chunks = [chunk for name in self.rows for chunk in self._chunks(name)]
        order = []
        for i in self._order(len(chunks), "chunks"):
            order += chunks[i] * self.repeat
        # The whole order is fixed here, so that set_epoch does not change an iteration under way.
        return iter(order)

    def _chunks(self, name: str) -> list[list[int]]:
        rows, size = self.rows[name], self.batch_size
        shuffled = [rows[i] for i in self._order(len(rows), f"rows of {name}")]
        # Rows that are missing to a full last chunk: -n % size is 0 where none is.
        filled = shuffled + shuffled[: -len(rows) % size]
        return [filled[start : start + size] for start in range(0, len(filled), size)]

    def _order(self, count: int, what: str) -> list[int]:
        """0 to count - 1, shuffled. `what` and the epoch give each list a shuffle of its own."""
        if not self.shuffle:
            return list(range(count))

        return _shuffled(count, self.seed, f"{self.epoch}\0{what}")


def grouped_order(
    datasets: Sequence[str], group: int, batch_size: int, *, seed: int, epoch: int
) -> list[int]:
    """Row indices of an epoch, in batches of `batch_size` that are made of groups: each group is of one data set.

    datasets: for each row, the name of its data set. group: rows of a group; `batch_size` is a multiple of it.

    Each group draws its data set, all that still have `group` rows being equally likely, and takes the next rows of
    that data set's shuffle. What does not fill a last group, and groups that do not fill a last batch, are left out of
    the epoch: other rows in each. So the rows of a batch are distinct. The order is a pure function of `datasets`, seed
    and epoch. This is the sampler of the paper's authors (`RepeatRandomSampler` in their `grpo_trainer.py`, where a
    group is the batch of a GPU), but for their last batch of an epoch, which may lack groups.

    Raises UserError for a data set with fewer rows than a group, and where all rows together make no batch; ValueError
    for a `batch_size` that is no multiple of `group`.
    """
    if batch_size % group:
        raise ValueError(f"a batch of {batch_size} is not made of groups of {group}")
    left: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(datasets):
        left[name].append(index)
    groups = 0
    for name, rows in left.items():
        _refuse_small(name, len(rows), group)
        left[name] = [rows[i] for i in _shuffled(len(rows), seed, f"{epoch}\0rows of {name}")]
        groups += len(rows) // group
    whole = groups * group // batch_size * batch_size
    if not whole:
        raise UserError(
            f"the data sets make {groups} groups of {group} images, and a batch has {batch_size // group}: "
            f"add images, or make batches of at most {groups * group}"
        )
    order: list[int] = []
    while len(order) < whole:
        names = [name for name, rows in left.items() if len(rows) >= group]
        drawn = names[choice(f"{seed}\0{epoch}\0data set of group {len(order)}", len(names))]
        order += left[drawn][:group]
        del left[drawn][:group]
    return order


def _shuffled(count: int, seed: int, what: str) -> list[int]:
    """0 to count - 1 in an order of its own for each `what`."""
    return sorted(range(count), key=lambda i: order_key(seed, f"{what}\0{i}"))


def _refuse_small(name: str, count: int, size: int) -> None:
    if count < size:
        fix = f"add images, leave it out, or make batches of at most {count}"
        raise UserError(
            f"data set {name!r} has {count} images, and a batch compares {size} of one: {fix}"
        )
