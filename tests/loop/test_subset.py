import pytest

from alprune.loop.subset import ScoringShare


def test_the_subset_takes_its_share_of_the_step():
    policy = ScoringShare(share=0.25, least=200)
    assert policy.size(fit_s=9.0) == 200
    policy.measured(200, 0.1)
    assert policy.size(fit_s=9.0) == 6000  # 3 s at 2000 a second, beside 9 s of fitting
    assert 3.0 / (9.0 + 3.0) == policy.share


def test_a_short_fit_still_scores_the_least():
    policy = ScoringShare(share=0.25, least=200, speed=100.0)
    assert policy.size(fit_s=0.001) == 200


def test_a_new_measurement_counts_half_and_nothing_measured_counts_nothing():
    policy = ScoringShare(share=0.5, least=1, speed=1000.0)
    policy.measured(3000, 1.0)
    assert policy.speed == pytest.approx(2000)
    policy.measured(0, 0.0)
    assert policy.speed == pytest.approx(2000)
