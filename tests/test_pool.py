import pytest
import torch

from alprune.errors import DataError
from alprune.pool import LabelPool


@pytest.fixture
def pool():
    pool = LabelPool(6, classes=3)
    pool.label(torch.tensor([4, 1]), torch.tensor([2, 0]), step=0)
    return pool


def test_labelled_and_unlabelled_are_absolute_and_disjoint(pool):
    assert pool.labelled.tolist() == [1, 4]
    assert pool.unlabelled.tolist() == [0, 2, 3, 5]
    assert (pool.labelled_count, pool.unlabelled_count) == (2, 4)
    pool.label(torch.tensor([5]), torch.tensor([1]), step=1)
    assert pool.labelled.tolist() == [1, 4, 5]
    assert pool.labels.tolist() == [-1, 0, -1, -1, 2, 1]
    assert pool.step_of.tolist() == [-1, 0, -1, -1, 0, 1]


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        ([4], [0], "point 4 has a label already"),
        ([0, 0], [1, 1], "doubles"),
        ([6], [0], r"0\.\.5"),
        ([-1], [0], r"0\.\.5"),
        ([0], [3], r"0\.\.2"),
        ([0], [-1], r"0\.\.2"),
        ([0, 2], [1], r"\(k,\)"),
    ],
)
def test_wrong_labels_are_refused_and_nothing_is_entered(pool, indices, labels, message):
    before = pool.labels.clone()
    with pytest.raises(DataError, match=message):
        pool.label(torch.tensor(indices), torch.tensor(labels), step=1)
    assert torch.equal(pool.labels, before)
    assert pool.labelled_count == 2
