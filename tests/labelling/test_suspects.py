"""Labels that were changed on purpose are found; sound ones are not."""

import numpy as np

from alprune.labelling.suspects import find_suspects


def predictions(truth, classes, sure=0.8):
    shares = np.full((len(truth), classes), (1 - sure) / (classes - 1))
    shares[np.arange(len(truth)), truth] = sure
    return shares


def test_labels_that_were_swapped_are_found_and_have_the_lowest_quality():
    truth = np.repeat(np.arange(4), 50)
    given = truth.copy()
    given[[3, 60, 199]] = [1, 0, 2]
    found = find_suspects(given, predictions(truth, 4))
    assert found.checked
    assert sorted(np.flatnonzero(found.wrong)) == [3, 60, 199]
    assert sorted(np.argsort(found.quality)[:3]) == [3, 60, 199]


def test_labels_that_agree_are_not_suspected():
    truth = np.repeat(np.arange(3), 20)
    assert not find_suspects(truth, predictions(truth, 3, sure=0.5)).wrong.any()


def test_a_class_without_labels_changes_nothing():
    truth = np.repeat([0, 2], 20)
    given = truth.copy()
    given[5] = 2
    found = find_suspects(given, predictions(truth, 3))
    assert found.checked
    assert list(np.flatnonzero(found.wrong)) == [5]


def test_few_labels_of_a_class_are_ranked_but_not_accused():
    given = np.array([0] * 20 + [1] * 3)
    found = find_suspects(given, predictions(np.zeros(23, dtype=int), 2))
    assert not found.checked
    assert not found.wrong.any()
    assert found.quality[20:].max() < found.quality[:20].min()
