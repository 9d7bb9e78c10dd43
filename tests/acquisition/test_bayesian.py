import itertools
import math

import numpy as np
import pytest
import torch
from known_evidence import KnownEvidence, seeded

from alprune.acquisition import acquire
from alprune.acquisition.bayesian import (
    _Configurations,
    bald,
    batchbald,
    greedy_batch,
    mutual_information,
    variation_ratios,
)
from alprune.errors import AcquisitionError


class DrawnEvidence(KnownEvidence):
    """Evidence with known draws `(t, n, classes)`, repeated up to as many as are asked for."""

    def __init__(self, draws):
        self.known = torch.as_tensor(draws)
        super().__init__(torch.zeros(self.known.shape[1], 1), classes=self.known.shape[2])

    def draws(self, count, generator):
        repeats = math.ceil(count / len(self.known))
        return self.known.repeat(repeats, 1, 1)[:count]


def random_draws(t, n, classes, seed=0, spread=2.0):
    logits = torch.randn(t, n, classes, generator=seeded(seed), dtype=torch.float64)
    return (spread * logits).softmax(2)


def plogp(p):
    p = np.asarray(p)
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def joint_information(draws, points):
    """I(y_points; draw) by enumerating all label configurations, in plain loops."""
    t, _, classes = draws.shape
    joint = [
        np.mean(
            [np.prod([draws[d, i, y] for i, y in zip(points, ys, strict=True)]) for d in range(t)]
        )
        for ys in itertools.product(range(classes), repeat=len(points))
    ]
    return plogp(joint) - sum(np.mean([plogp(draws[d, i]) for d in range(t)]) for i in points)


def test_variation_ratios_equal_hand_worked_values():
    first, second = [0.9, 0.1, 0.0], [0.2, 0.5, 0.3]
    third = [0.1, 0.2, 0.7]
    draws = [[first, first], [first, second], [first, third], [first, second]]
    scores = variation_ratios(DrawnEvidence(draws), 1, seeded())
    assert torch.allclose(scores, torch.tensor([0.0, 0.5]))


def test_bald_is_log_2_where_two_sure_draws_disagree_and_0_where_all_agree():
    yes, no, half = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    scores = bald(DrawnEvidence([[yes, half, yes], [no, half, yes]]), 1, seeded())
    assert torch.allclose(scores, torch.tensor([math.log(2), 0.0, 0.0]), atol=1e-6)
    assert scores.min() >= 0


def test_bald_equals_an_enumeration_in_float64():
    draws = random_draws(6, 9, 4)
    expected = [joint_information(draws.numpy(), [i]) for i in range(9)]
    assert np.allclose(mutual_information(draws), expected, atol=1e-12)
    assert np.allclose(mutual_information(draws.float()), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "classes", "count"), [(3, 2, 3), (6, 2, 5), (5, 3, 4)])
def test_batchbald_picks_what_enumeration_picks(n, classes, count, seed):
    draws = random_draws(4, n, classes, seed)
    picked = []
    for _ in range(count):
        rest = [i for i in range(n) if i not in picked]
        picked.append(max(rest, key=lambda i: joint_information(draws.numpy(), [*picked, i])))
    assert greedy_batch(draws, count, seeded()).tolist() == picked
    assert greedy_batch(draws.float(), count, seeded()).tolist() == picked


def test_batchbald_takes_no_copy_of_a_point_where_bald_does():
    yes, no = [1.0, 0.0], [0.0, 1.0]
    weak_yes, weak_no = [0.9, 0.1], [0.1, 0.9]
    # Points 0 and 1 tell draws {0, 1} from {2, 3}, surely; point 2 tells {0, 2} from {1, 3}.
    draws = [[yes, yes, weak_yes], [yes, yes, weak_no], [no, no, weak_yes], [no, no, weak_no]]
    evidence = DrawnEvidence(draws)
    assert sorted(acquire(bald, evidence, 2, seeded()).tolist()) == [100, 101]
    assert sorted(acquire(batchbald, evidence, 2, seeded()).tolist()) in ([100, 102], [101, 102])


def test_sampled_configurations_estimate_the_exact_entropy():
    draws = random_draws(10, 20, 4)
    exact = _Configurations(draws, 4**6, seeded())
    sampled = _Configurations(draws, 4**6 - 1, seeded())
    for step in range(6):
        exact.extend(list(range(step + 1)))
        sampled.extend(list(range(step + 1)))
    assert (exact.sampled, sampled.sampled) == (False, True)
    assert exact.weight.sum().item() == pytest.approx(1)
    everyone = torch.arange(20)
    truth = exact.entropy_of_next(everyone)
    # The entropy given a configuration varies by less than 0.5 nats: 0.008 for a mean of 4095.
    assert (truth - sampled.entropy_of_next(everyone)).abs().max() < 0.03
    assert truth.max() - truth.min() > 0.2


def test_a_large_batch_of_sure_draws_stays_finite_and_distinct():
    draws = random_draws(20, 60, 10, spread=30.0).float()  # most probabilities are 0 or 1
    picked = greedy_batch(draws, 60, seeded(), configurations=100)
    assert sorted(picked.tolist()) == list(range(60))
    assert torch.equal(picked, greedy_batch(draws, 60, seeded(), configurations=100))


def test_batchbald_refuses_draws_that_are_not_finite():
    draws = random_draws(4, 9, 3)
    draws[2, 5, 1] = math.nan
    with pytest.raises(AcquisitionError, match="dropout draws of 1 of 9"):
        acquire(batchbald, DrawnEvidence(draws), 2, seeded())
