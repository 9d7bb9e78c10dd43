"""The expected gain against curves whose slope is known."""

import math

import pytest

from alprune.labelling.learning_curve import Measured, expected_gain


def curve(counts, accuracy, of=10_000):
    return [Measured(n, round(accuracy(n) * of), of) for n in counts]


def test_a_curve_that_is_linear_in_the_logarithm_is_continued():
    rounds = curve([50, 100, 150, 200, 250], lambda n: 0.2 + 0.1 * math.log(n))
    gain = expected_gain(rounds, 50)
    assert gain.gain == pytest.approx(0.1 * math.log(300 / 250), abs=1e-3)
    assert gain.low < gain.gain < gain.high


def test_a_flat_curve_promises_nothing():
    gain = expected_gain(curve([100, 200, 300], lambda n: 0.7), 50)
    assert gain.gain == pytest.approx(0, abs=1e-9)
    assert gain.low == -gain.high


def test_only_the_latest_rounds_count():
    steep = curve([10, 20, 30], lambda n: n / 100)
    flat = curve([100, 150, 200, 250, 300], lambda n: 0.6)
    assert expected_gain(steep + flat, 50).gain == pytest.approx(0, abs=1e-9)


def test_fewer_images_make_a_wider_interval():
    def width(of):
        gain = expected_gain(curve([50, 100, 200], lambda n: 0.1 * math.log(n), of), 50)
        return gain.high - gain.low

    assert width(100) == pytest.approx(10 * width(10_000), rel=0.1)


@pytest.mark.parametrize(
    "rounds",
    [[], curve([50, 100], lambda n: 0.5), curve([50, 50, 50], lambda n: 0.5)],
    ids=["none", "two", "three of the same labels"],
)
def test_without_three_rounds_there_is_no_trend(rounds):
    assert expected_gain(rounds, 50) is None


def test_a_learner_that_is_always_right_has_a_finite_interval():
    gain = expected_gain(curve([50, 100, 200], lambda n: 1.0, of=50), 50)
    assert gain.gain == 0
    assert 0 < gain.high < 0.2
