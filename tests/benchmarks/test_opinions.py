"""benchmarks/opinions.py: the rules of its table."""

import pytest
import torch
from opinions import rules

from visualquality.models.nano.readers import NAMES, Readers


@pytest.fixture
def readers():
    readers = Readers()
    readers.shares.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    return readers


def drawn(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    opinions = torch.randn(n, 1 + len(NAMES), generator=generator)
    return opinions, torch.rand(n, generator=generator)


def test_joined_is_the_rule_of_the_model(readers):
    opinions, trust = drawn()
    expected = trust * opinions[:, 0] + (1 - trust) * (opinions[:, 1:] @ readers.shares)
    torch.testing.assert_close(rules(readers)["joined"](opinions, trust), expected)


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_a_reader_that_is_left_out_does_not_count_and_the_others_do(readers, index):
    opinions, trust = drawn()
    rule = rules(readers)[f"joined without {NAMES[index]}"]
    before = rule(opinions, trust)
    for column in range(1 + len(NAMES)):
        other = opinions.clone()
        other[:, column] += 1
        changed = not torch.allclose(rule(other, trust), before)
        assert changed == (column != 1 + index)
    # What is left has the weight that all had: a common shift of all opinions stays a shift by as much.
    shifted = rule(opinions + 2, trust) - before
    torch.testing.assert_close(shifted, torch.full_like(shifted, 2.0))


def test_each_reader_alone_is_its_own_column(readers):
    opinions, trust = drawn()
    found = rules(readers)
    for column, name in enumerate(("home", *NAMES)):
        torch.testing.assert_close(found[f"{name} alone"](opinions, trust), opinions[:, column])
    others = opinions[:, 1:] @ readers.shares
    torch.testing.assert_close(found["others alone"](opinions, trust), others)
    mean = found["plain mean of home and others"](opinions, trust)
    torch.testing.assert_close(mean, (opinions[:, 0] + others) / 2)
