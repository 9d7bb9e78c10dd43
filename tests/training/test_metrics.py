import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn import metrics as reference

from alprune.errors import DataError
from alprune.training.metrics import (
    expected_calibration_error,
    fit_temperature,
    macro_f1,
    measure,
)


def predictions(n=500, classes=7, sharpness=3.0, seed=0):
    """Logits that are right about half the time, over an uneven mix of classes."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes * classes, (n,), generator=draws).double().sqrt().long()
    logits = torch.randn(n, classes, generator=draws)
    logits[torch.arange(n), labels] += 1.0
    return sharpness * logits, labels


def test_a_case_worked_by_hand():
    # Probabilities (0.75, 0.25), (0.75, 0.25), (0.4, 0.6); true classes 0, 1, 1.
    probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.4, 0.6]], dtype=torch.float64)
    found = measure(probabilities.log(), torch.tensor([0, 1, 1]))
    assert found.accuracy == 2 / 3
    assert found.per_class_accuracy == (1.0, 0.5)
    assert found.macro_f1 == pytest.approx(2 / 3)  # F1 is 2/3 in both classes
    assert found.nll == pytest.approx(-(math.log(0.75) + math.log(0.25) + math.log(0.6)) / 3)
    assert found.brier == pytest.approx((2 * 0.25**2 + 2 * 0.75**2 + 2 * 0.4**2) / 3)
    # One bin holds the two of 0.75 (half right), another the one of 0.6 (right).
    assert found.ece == pytest.approx((2 * 0.25 + 1 * 0.4) / 3)


def test_scikit_learn_finds_the_same():
    logits, labels = predictions()
    found = measure(logits, labels)
    predicted = logits.argmax(1)
    assert found.accuracy == reference.accuracy_score(labels, predicted)
    assert found.macro_f1 == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    recall = reference.recall_score(labels, predicted, average=None)
    assert found.per_class_accuracy == pytest.approx(recall)
    probabilities = logits.double().softmax(1).numpy()
    assert found.nll == pytest.approx(reference.log_loss(labels, probabilities))


def test_ece_equals_a_plain_loop_over_bins():
    logits, labels = predictions(n=1000)
    probabilities = logits.double().softmax(1).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert measure(logits, labels).ece == pytest.approx(total)


def test_a_perfectly_calibrated_coin_has_no_ece_and_a_sure_liar_has_one():
    coin = torch.full((10,), 0.5)
    assert expected_calibration_error(coin, torch.arange(10) % 2 == 0) == 0
    assert expected_calibration_error(torch.ones(4), torch.zeros(4, dtype=torch.bool)) == 1


def test_many_points_are_measured_in_parts_with_the_same_outcome(monkeypatch):
    logits, labels = predictions()
    whole = measure(logits, labels)
    monkeypatch.setattr("alprune.training.metrics._CHUNK", 7)
    parts = measure(logits, labels)
    assert parts.per_class_accuracy == whole.per_class_accuracy
    for name in ("accuracy", "macro_f1", "ece", "nll", "brier"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-12)


def test_a_class_without_points_has_no_accuracy_and_does_not_count_in_f1():
    logits = torch.eye(3)[[0, 1, 1]]
    found = measure(logits, torch.tensor([0, 1, 0]))
    assert found.per_class_accuracy == (0.5, 1.0, None)
    assert found.macro_f1 == pytest.approx(2 / 3)
    never = torch.tensor([0, 0])
    assert macro_f1(never, torch.tensor([0, 3]), torch.tensor([3, 0])) == 0


def test_a_class_that_is_only_predicted_counts_as_zero_in_f1():
    # Class 0: one of two found, nothing else taken for it, 2/3. Class 1 has no points.
    right, points, predicted = (torch.tensor(counts) for counts in ([1, 0], [2, 0], [1, 1]))
    assert macro_f1(right, points, predicted) == pytest.approx(1 / 3)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    confidence, right = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([False, True, True])
    # The bins (0, 0.5] and (0.5, 1] are off by |1 - 0.75| and |1 - 0.75| points.
    assert expected_calibration_error(confidence, right, bins=2) == pytest.approx(0.5 / 3)


def test_the_temperature_minimises_the_loss():
    logits, labels = predictions(sharpness=4.0)
    found = fit_temperature(logits, labels)
    best = minimize_scalar(lambda u: measure(logits, labels, math.exp(u)).nll, tol=1e-12)
    assert found == pytest.approx(math.exp(best.x), rel=1e-5)
    assert found > 2  # the logits were made four times too large
    assert measure(logits, labels, found).ece < 0.5 * measure(logits, labels).ece


def test_temperature_undoes_a_scaling_and_leaves_accuracy_alone():
    logits, labels = predictions(sharpness=1.0)
    once, thrice = fit_temperature(logits, labels), fit_temperature(3 * logits, labels)
    assert thrice == pytest.approx(3 * once)
    assert measure(logits, labels, once).accuracy == measure(logits, labels).accuracy


def test_temperature_stays_within_its_limits():
    right = 5 * torch.eye(4)
    assert fit_temperature(right, torch.arange(4)) == 0.05
    assert fit_temperature(right, (torch.arange(4) + 1) % 4) == 20.0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"\(3, 2\) and \(2,\)"):
        measure(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="n >= 1"):
        fit_temperature(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
