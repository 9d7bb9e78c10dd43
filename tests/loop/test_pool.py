import pytest
import torch
from scipy.stats import chi2

from alprune.errors import DataError
from alprune.loop.pool import LabelPool, drawn_to_hold_out


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
        ([0, 0], [1, 1], "contain duplicates"),
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


def test_labels_of_several_steps_can_be_entered_at_once(pool):
    pool.label(torch.tensor([5, 0]), torch.tensor([1, 2]), step=torch.tensor([3, 2]))
    assert pool.labelled.tolist() == [0, 1, 4, 5]
    assert pool.step_of.tolist() == [2, 0, -1, -1, 0, 3]


def test_what_is_done_to_the_labelled_indices_does_not_reach_the_pool(pool):
    pool.labelled.zero_()
    assert pool.labelled.tolist() == [1, 4]


def half_labelled(size, labelled):
    pool = LabelPool(size, classes=2)
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(9))[:labelled]
    pool.label(chosen, torch.zeros(labelled, dtype=torch.int64), step=0)
    return pool


# Few wanted of many, more than half wanted, few left, all but one labelled, none labelled.
DRAWS = [(5000, 20, 100), (300, 20, 200), (300, 290, 3), (10, 9, 1), (50, 0, 25), (7, 0, 3)]


@pytest.mark.parametrize(("size", "labelled", "count"), DRAWS)
def test_a_draw_is_of_distinct_unlabelled_points_in_order(size, labelled, count):
    pool = half_labelled(size, labelled)
    for seed in range(20):
        drawn = pool.draw(count, torch.Generator().manual_seed(seed))
        assert drawn.dtype == torch.int64 and drawn.shape == (count,)
        assert torch.equal(drawn, drawn.unique())
        assert (pool.labels[drawn] == -1).all()


def test_a_draw_of_more_than_there_are_takes_all_that_are_left(pool):
    for count in (4, 5, 10**9):
        assert pool.draw(count, torch.Generator()).tolist() == [0, 2, 3, 5]
    pool.label(pool.unlabelled, torch.zeros(4, dtype=torch.int64), step=1)
    assert pool.draw(3, torch.Generator()).tolist() == []


def test_a_draw_repeats_with_its_generator_and_differs_with_the_next():
    pool = half_labelled(5000, 20)
    generator = torch.Generator().manual_seed(1)
    first, second = pool.draw(50, generator), pool.draw(50, generator)
    assert torch.equal(first, pool.draw(50, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("size", "labelled", "count"), [(24, 4, 2), (24, 4, 10), (24, 16, 2)])
def test_every_unlabelled_pair_is_drawn_equally_often(size, labelled, count):
    pool = half_labelled(size, labelled)
    generator = torch.Generator().manual_seed(3)
    rounds = 4000
    together = torch.zeros(size, size)
    for _ in range(rounds):
        drawn = pool.draw(count, generator)
        together[drawn[:, None], drawn[None, :]] += 1
    free = pool.unlabelled
    left = free.numel()
    alone = together[free, free]
    pairs = together[free][:, free][torch.ones(left, left).triu(1).bool()]
    # Counts over draws without replacement: scaled so that the statistic is chi-square.
    p = count / left
    q = p * (count - 1) / (left - 1)
    singles = ((alone - rounds * p) ** 2).sum() / (rounds * p * (1 - p)) * (left - 1) / left
    assert chi2(left - 1).ppf(0.0005) < float(singles) < chi2(left - 1).ppf(0.9995)
    assert float((pairs - rounds * q).abs().max()) < 5 * (rounds * q * (1 - q)) ** 0.5


def test_held_out_points_are_labelled_and_not_trained_on(pool):
    assert pool.trained_on.tolist() == [1, 4]
    pool.hold_out(torch.tensor([4]))
    pool.label(torch.tensor([0]), torch.tensor([1]), step=1)
    assert pool.labelled.tolist() == [0, 1, 4] and pool.trained_on.tolist() == [0, 1]


def test_a_listed_pool_draws_from_the_list_of_unlabelled_points():
    plain, listed = LabelPool(1000, classes=2), LabelPool(1000, classes=2, listed=True)
    for pool in (plain, listed):
        pool.label(torch.tensor([7]), torch.tensor([1]), step=0)
    order = torch.randperm(999, generator=torch.Generator().manual_seed(3))[:5]
    drawn = listed.draw(5, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, listed.unlabelled[order].sort().values)
    assert not torch.equal(drawn, plain.draw(5, torch.Generator().manual_seed(3)))


def test_points_set_aside_are_neither_counted_nor_drawn_nor_labelled(pool):
    pool.set_aside(torch.tensor([5, 0]))
    assert pool.aside.tolist() == [0, 5] and pool.unlabelled.tolist() == [2, 3]
    assert (pool.labelled_count, pool.unlabelled_count) == (2, 2)
    assert pool.draw(9, torch.Generator()).tolist() == [2, 3]
    for index in (5, 4):  # set aside, and labelled
        with pytest.raises(DataError, match=f"point {index} has a label already, or was set aside"):
            pool.set_aside(torch.tensor([2, index]))
    assert pool.aside.tolist() == [0, 5]


def test_points_are_held_out_of_the_first_labels_only():
    pool = LabelPool(60, classes=2)
    first, later = torch.arange(0, 60, 3), torch.arange(1, 60, 3)
    pool.label(first, torch.zeros_like(first), step=0)
    held = drawn_to_hold_out(pool, 12, seed=3)
    pool.label(later, torch.ones_like(later), step=1)
    assert torch.equal(drawn_to_hold_out(pool, 12, seed=3), held)
    assert held.unique().numel() == 12 and set(held.tolist()) <= set(first.tolist())
    assert drawn_to_hold_out(pool, 0, seed=3).numel() == 0
