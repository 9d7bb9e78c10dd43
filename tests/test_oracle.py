import pytest
import torch

from alprune.data import Dataset
from alprune.errors import DataError
from alprune.oracle import Simulation


def dataset(labels):
    y = torch.tensor(labels)
    x = torch.zeros(len(y), 2, 2, 1, dtype=torch.uint8)
    names = tuple("abc"[: int(y.max()) + 1])
    return Dataset(x, y, names, (0.5,), (0.2,), False, "test")


def generator():
    return torch.Generator().manual_seed(0)


def test_the_first_points_are_balanced_and_the_rest_is_spread():
    train = dataset([0] * 50 + [1] * 8 + [2] * 9)
    first = Simulation(train).balanced(20, generator())
    counts = train.y[first].bincount()
    assert counts.sum() == 20
    assert counts.max() - counts.min() == 1
    assert first.unique().numel() == 20
    assert torch.equal(first, Simulation(train).balanced(20, generator()))


@pytest.mark.parametrize(
    ("count", "message"),
    [(30, "class 'b' has 8 training points.*at most 24"), (2, r"one a class \(3\)"), (99, "67")],
)
def test_an_impossible_start_says_what_is_possible(count, message):
    train = dataset([0] * 50 + [1] * 8 + [2] * 9)
    with pytest.raises(DataError, match=message):
        Simulation(train).balanced(count, generator())
