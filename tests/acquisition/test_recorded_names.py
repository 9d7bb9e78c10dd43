"""What a run's record calls the function that chose its points."""

from functools import partial

import pytest

from alprune.acquisition import ACQUISITIONS, recorded_name
from alprune.acquisition.wrappers import class_balanced, diverse


def entropy(evidence, count, generator, beta=1.0):
    return evidence.candidates[:count]


class Mine:
    def __call__(self, evidence, count, generator):
        return evidence.candidates[:count]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("k-center", "k-center"),
        ("mine:score", "mine:score"),
        (ACQUISITIONS["power-entropy"], "power-entropy"),
        (entropy, "test_recorded_names:entropy"),
        (Mine, "test_recorded_names:Mine"),
        (Mine(), "test_recorded_names:Mine"),
        (partial(entropy, beta=4), "test_recorded_names:entropy(beta=4)"),
        (partial(Mine(), 2, of=Mine()), "test_recorded_names:Mine(2, of=Mine)"),
        (diverse(entropy), "alprune.acquisition.wrappers:diverse:test_recorded_names:entropy"),
    ],
)
def test_a_function_that_was_passed_is_recorded_with_its_module(asked, name):
    assert recorded_name(asked) == name


def test_what_goes_around_different_functions_has_different_names():
    names = {recorded_name(class_balanced(f)) for f in (entropy, ACQUISITIONS["entropy"])}
    assert len(names) == 2
