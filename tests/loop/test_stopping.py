from dataclasses import fields

import pytest

from alprune.loop.config import RunConfig
from alprune.loop.stopping import CRITERIA, Evaluations, Progress, reason_to_stop


def outcome(*accuracies):
    evaluations = Evaluations()
    for accuracy in accuracies:
        evaluations.note(accuracy, seconds=1.0)
    return evaluations


def test_every_criterion_is_an_option():
    assert set(CRITERIA) <= {entry.name for entry in fields(RunConfig)}


@pytest.mark.parametrize(
    ("limits", "progress", "reason"),
    [
        ({}, Progress(10**6, outcome(1.0), 0.0), None),
        ({"stop_labels": 200}, Progress(199, outcome()), None),
        ({"stop_labels": 200}, Progress(200, outcome()), "label budget"),
        ({"stop_accuracy": 0.9}, Progress(5, outcome()), None),
        ({"stop_accuracy": 0.9}, Progress(5, outcome(0.95, 0.89)), None),
        ({"stop_accuracy": 0.9}, Progress(5, outcome(0.9)), "accuracy reached"),
        ({"stop_uncertainty": 0.1}, Progress(5, outcome()), None),
        ({"stop_uncertainty": 0.1}, Progress(5, outcome(), 0.1), None),
        ({"stop_uncertainty": 0.1}, Progress(5, outcome(), 0.05), "uncertainty low"),
        ({"stop_plateau": 2}, Progress(5, outcome(0.5, 0.4)), None),
        ({"stop_plateau": 2}, Progress(5, outcome(0.5, 0.4, 0.5)), "plateau"),
        ({"stop_plateau": 2}, Progress(5, outcome(0.5, 0.4, 0.6)), None),
        ({"stop_plateau": 1}, Progress(5, outcome(0.5)), None),
        ({"stop_labels": None, "stop_plateau": 1}, Progress(9, outcome(0.5, 0.5)), "plateau"),
    ],
)
def test_a_criterion_stops_when_its_limit_is_reached(limits, progress, reason):
    assert reason_to_stop(limits, progress) == reason


def test_evaluations_remember_the_best_and_what_they_took():
    evaluations = outcome(0.3, 0.6, 0.5, 0.6)
    assert (evaluations.best, evaluations.last, evaluations.since_best) == (0.6, 0.6, 2)
    assert evaluations.spent_s == 4.0


def test_without_a_clock_every_step_is_tested():
    assert all(outcome(0.5, 0.5).due(step, every=None, elapsed_s=None) for step in range(5))


def test_an_interval_that_was_asked_for_is_kept():
    due = [outcome(0.5).due(step, every=3, elapsed_s=0.0) for step in range(7)]
    assert due == [True, False, False, True, False, False, True]


def test_under_a_budget_tests_take_a_tenth_of_the_clock_at_most():
    evaluations, tests = Evaluations(), 0
    for step in range(100):  # each step takes 1 s on the clock, each test 2 s beside it
        if evaluations.due(step, every=None, elapsed_s=step + 1.0):
            evaluations.note(0.5, seconds=2.0)
            tests += 1
    assert tests == 6  # at 1, 20, 40, 60, 80 and 100 s
