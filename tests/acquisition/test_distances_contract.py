"""What every acquisition function that needs embeddings must do."""

import pytest
import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition import acquire
from alprune.acquisition.badge import badge
from alprune.acquisition.clustering import clue, cluster_margin
from alprune.acquisition.core_set import k_center
from alprune.acquisition.falcun import falcun
from alprune.acquisition.probcover import probcover
from alprune.acquisition.typiclust import typiclust
from alprune.errors import AcquisitionError

FUNCTIONS = [badge, clue, cluster_margin, falcun, k_center, probcover, typiclust]
EMBEDDED = [function for function in FUNCTIONS if function is not falcun]
every = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def taken(function, evidence, count, seed=0):
    chosen = acquire(function, evidence, count, seeded(seed))  # refuses doubles and strangers
    assert len(chosen) == min(count, len(evidence.candidates))
    return chosen.tolist()


@every
def test_choices_repeat_by_seed_and_leave_the_global_generator_alone(function):
    evidence = KnownEvidence(normal(60, 5), normal(7, 5, seed=2))
    before = torch.get_rng_state()
    assert taken(function, evidence, 9) == taken(function, evidence, 9)
    assert torch.equal(torch.get_rng_state(), before)


@every
@pytest.mark.parametrize("labelled", [0, 4])
def test_every_candidate_is_taken_when_as_many_or_more_are_wanted(function, labelled):
    evidence = KnownEvidence(normal(12, 3), normal(labelled, 3) if labelled else None)
    for count in (12, 50):
        assert sorted(taken(function, evidence, count)) == list(range(100, 112))


@every
def test_one_candidate_is_enough(function):
    assert taken(function, KnownEvidence(normal(1, 4), normal(3, 4)), 1) == [100]
    assert taken(function, KnownEvidence(normal(1, 4)), 5) == [100]


@every
@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_equal_candidates_are_taken_once_each(function, value):
    rows = torch.full((30, 6), value)
    equal = torch.full((30, 3), 1 / 3)
    taken(function, KnownEvidence(rows, rows[:2], equal), 8)
    taken(function, KnownEvidence(rows, None, equal), 8)


@every
def test_two_distinct_candidates_among_copies_are_enough(function):
    rows = torch.cat([torch.ones(20, 4), -torch.ones(20, 4)])
    chosen = taken(function, KnownEvidence(rows, rows[:1]), 10)
    if function is k_center:  # the others may take copies first
        assert max(chosen) >= 120  # far from what is labelled


@every
def test_certain_predictions_are_no_obstacle(function):
    certain = torch.eye(3)[torch.arange(30) % 3]
    taken(function, KnownEvidence(normal(30, 4), normal(5, 4), certain), 10)


@pytest.mark.parametrize("function", EMBEDDED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_embeddings_that_are_not_finite_are_refused_by_name(function, bad):
    rows = normal(20, 4)
    rows[3, 1] = bad
    evidence = KnownEvidence(rows, probabilities=torch.full((20, 3), 1 / 3))
    with pytest.raises(AcquisitionError, match="embeddings of 1 of 2?\\d points are not finite"):
        acquire(function, evidence, 2, seeded())


@pytest.mark.parametrize("function", [badge, clue, cluster_margin, falcun])
def test_probabilities_that_are_not_finite_are_refused_by_name(function):
    probabilities = torch.full((20, 3), 1 / 3)
    probabilities[5] = torch.nan
    evidence = KnownEvidence(normal(20, 4), probabilities=probabilities)
    with pytest.raises(AcquisitionError, match=r"probabilities of 1 of 20.*first: row 5"):
        acquire(function, evidence, 2, seeded())
