import itertools
import math

import pytest
import torch
from known_evidence import KnownEvidence, seeded

from alprune.acquisition import acquire
from alprune.acquisition.stochastic import power, softmax, softrank
from alprune.acquisition.uncertainty import margin, random
from alprune.errors import AcquisitionError

TRIALS = 2000


def scored(values):
    """A score function with these scores, and evidence to call it on."""
    values = torch.tensor(values)
    return (lambda *_: values), KnownEvidence(torch.zeros(len(values), 1))


def frequencies(function, evidence, count):
    """How often each set of `count` points is acquired."""
    generator, seen = seeded(), {}
    for _ in range(TRIALS):
        chosen = tuple(sorted((acquire(function, evidence, count, generator) - 100).tolist()))
        seen[chosen] = seen.get(chosen, 0) + 1
    return seen


def assert_drawn_as(seen, expected):
    """Chi-squared: the sum stays under its mean by more than 5 deviations in a fair draw."""
    assert set(seen) <= set(expected)
    chi2 = sum((seen.get(k, 0) - TRIALS * p) ** 2 / (TRIALS * p) for k, p in expected.items())
    free = len(expected) - 1
    assert chi2 < free + 5 * math.sqrt(2 * free)


def without_replacement(weights, count):
    """Probability of each set of points drawn one after the other by weight."""
    sets: dict = {}
    for order in itertools.permutations(range(len(weights)), count):
        left, p = sum(weights), 1.0
        for point in order:
            p *= weights[point] / left
            left -= weights[point]
        key = tuple(sorted(order))
        sets[key] = sets.get(key, 0.0) + p
    return sets


SCORES = [0.5, 2.0, 1.0, 3.0]
CASES = {
    "power": (power, SCORES),
    "softmax": (softmax, [math.exp(s) for s in SCORES]),
    "softrank": (softrank, [1 / 4, 1 / 2, 1 / 3, 1 / 1]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 2])
def test_points_are_drawn_without_replacement_in_proportion_to_their_weights(name, count):
    wrapper, weights = CASES[name]
    function, evidence = scored(SCORES)
    seen = frequencies(wrapper(function), evidence, count)
    assert_drawn_as(seen, without_replacement(weights, count))


def test_points_of_equal_rank_are_drawn_equally_often():
    function, evidence = scored([1.0, 1.0, 1.0, 1.0])
    seen = frequencies(softrank(function), evidence, 1)
    assert_drawn_as(seen, {(i,): 0.25 for i in range(4)})


def test_power_takes_zeros_last_and_refuses_negative_scores():
    function, evidence = scored([0.0, 1e-6, 0.0, 1e-3])
    assert set(frequencies(power(function), evidence, 2)) == {(1, 3)}
    assert acquire(power(function), evidence, 4, seeded()).numel() == 4
    with pytest.raises(AcquisitionError, match="'margin' scores down to -.*softmax or softrank"):
        acquire(power(margin), evidence, 2, seeded())


def test_a_function_that_returns_indices_cannot_be_sampled():
    _, evidence = scored(SCORES)
    with pytest.raises(AcquisitionError, match="'random' returned indices"):
        acquire(softmax(random), evidence, 2, seeded())
