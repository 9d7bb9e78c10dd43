"""The contract for acquisition functions, on our own and on functions that break it."""

import random

import numpy as np
import pytest
import torch

from alprune.acquisition import ACQUISITIONS, WRAPPERS
from alprune.acquisition.testing import check_acquisition, make_evidence


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_every_function_of_ours_keeps_the_contract(name):
    check_acquisition(name)


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_keeps_the_contract(name):
    check_acquisition(f"{name}:entropy")


def positions(evidence, count, generator):
    return torch.arange(count)


def labelled_points(evidence, count, generator):
    return evidence.labelled[:count]


def same_twice(evidence, count, generator):
    return evidence.candidates[:1].repeat(count)


def torch_global(evidence, count, generator):
    return evidence.candidates[torch.randperm(len(evidence.candidates))[:count]]


def numpy_global(evidence, count, generator):
    return np.random.rand(len(evidence.candidates))


def python_global(evidence, count, generator):
    return torch.tensor([random.random() for _ in evidence.candidates])


def clock(evidence, count, generator):
    clock.calls += 1
    return (evidence.candidates * clock.calls % 7).double()


clock.calls = 0


def overwrites(evidence, count, generator):
    evidence.probabilities[evidence.probabilities < 0.1] = 0.1
    return evidence.probabilities[:, 0]


def standardised(evidence, count, generator):
    first = evidence.probabilities[:, 0]
    return (first - first.mean()) / first.std(correction=0)


def third_class(evidence, count, generator):
    return evidence.probabilities[:, 2]


def column(evidence, count, generator):
    return evidence.probabilities[:, :1]


class FailsInTheSecondStep:
    steps = 0

    def __call__(self, evidence, count, generator):
        self.steps += 1
        if self.steps == 2:
            raise ValueError("no more")
        return evidence.probabilities[:, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (positions, "40 candidates, 7 wanted: .*'positions'.*not candidates"),
        (labelled_points, "'labelled_points'.*not candidates"),
        (same_twice, "'same_twice' returned an index twice"),
        (torch_global, "drew from the global random state of torch"),
        (numpy_global, "drew from the global random state of numpy"),
        (python_global, "drew from the global random state of random"),
        (clock, "two runs from the same seed acquired different points"),
        (overwrites, "changed evidence.probabilities"),
        (standardised, "one candidate: .*not finite"),
        (third_class, "two classes: .*IndexError"),
        (column, r"returned scores \(40, 1\)"),
        (FailsInTheSecondStep, "ValueError: no more"),
        ("entrpy", "unknown acquisition function"),
    ],
)
def test_what_breaks_the_contract_is_told(function, message):
    with pytest.raises(AssertionError, match=message):
        check_acquisition(function)


class Cycling:
    """Keeps state: asks for one class after the other."""

    def __init__(self, start=0):
        self.turn = start

    def __call__(self, evidence, count, generator):
        self.turn += 1
        return evidence.probabilities[:, self.turn % evidence.classes]


def test_functions_with_state_pass_as_class_and_as_object():
    check_acquisition(Cycling)
    mine = Cycling(3)
    check_acquisition(mine)
    assert mine.turn == 3


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    check_acquisition("entropy")
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_synthetic_evidence_repeats_by_seed():
    one, same, other = make_evidence(seed=1), make_evidence(seed=1), make_evidence(seed=2)
    assert torch.equal(one.probabilities, same.probabilities)
    assert not torch.equal(one.probabilities, other.probabilities)
    assert not torch.isin(one.candidates, one.labelled).any()
