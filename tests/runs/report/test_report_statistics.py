import itertools
import math

import numpy as np
import pytest
from made_runs import write_run

from alprune.runs.report.cells import interval_end
from alprune.runs.report.runs import read_run
from alprune.runs.report.statistics import (
    accuracy_at,
    area,
    band,
    difference,
    estimate,
    joined,
    labelled_at,
    mean_and_error,
    speed_up,
    time_to,
)

NAN = math.nan


@pytest.fixture
def run(tmp_path):
    made = iter(range(1000))
    return lambda *a, **k: read_run(write_run(tmp_path / str(next(made)), *a, **k))


def test_accuracy_is_interpolated_held_to_the_end_and_never_further(run):
    one = run(points=[(10, 0.2), (20, 0.4)], elapsed=25)
    found = accuracy_at(one, np.array([9.9, 10, 15, 20, 25, 25.1]))
    np.testing.assert_allclose(found, [NAN, 0.2, 0.3, 0.4, 0.4, NAN])


def test_an_unfinished_run_is_known_up_to_its_last_test(run):
    one = run(points=[(10, 0.2), (20, 0.4), (40, None)], end=None)
    np.testing.assert_allclose(accuracy_at(one, np.array([15, 20, 21])), [0.3, 0.4, NAN])
    assert area(one, 21) is None


def test_accuracy_by_labels_ends_with_the_last_learner(run):
    one = run(points=[(10, 0.2), (15, None), (20, 0.4)])
    found = accuracy_at(one, np.array([99, 100, 105, 120, 121]), by_labels=True)
    # A step between went untested, and they lie the whole run apart: nothing is known there.
    np.testing.assert_allclose(found, [NAN, 0.2, NAN, 0.4, NAN])


def test_tests_far_apart_are_not_joined(run):
    one = run(points=[(10, 0.2), (40, None), (60, 0.4), (70, None), (80, 0.6)], elapsed=100)
    found = accuracy_at(one, np.array([10, 35, 60, 70, 95]))
    np.testing.assert_allclose(found, [0.2, NAN, 0.4, 0.5, 0.6])
    assert joined(one).tolist() == [False, True]


def test_tests_of_steps_that_follow_each_other_are_joined_however_long_these_took(run):
    one = run(points=[(10, 0.2), (90, 0.4)], elapsed=100)
    np.testing.assert_allclose(accuracy_at(one, np.array([50])), [0.3])
    assert accuracy_at(one, np.array([105.0]), by_labels=True) == pytest.approx(0.3)


def test_labels_count_from_the_end_of_the_step_that_asked_for_them(run):
    one = run(points=[(10, 0.2), (20, 0.4)], elapsed=25)
    found = labelled_at(one, np.array([0, 10.9, 11, 24, 25, 26]))
    np.testing.assert_allclose(found, [100, 100, 110, 110, 110, NAN])


def test_the_band_is_known_where_all_curves_are():
    found = band(np.arange(3), [np.array([1.0, 2.0, NAN]), np.array([3.0, 6.0, 1.0])])
    np.testing.assert_allclose(found.mean, [2, 4, NAN])
    np.testing.assert_allclose(found.sd, [math.sqrt(2), math.sqrt(8), NAN])
    assert np.isnan(band(np.arange(1), [np.array([1.0])]).sd).all()


def test_standard_errors_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = [61.0, 63.5, 60.2, 66.1]
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(stats.sem(values))
    assert mean_and_error([3.0]) == (3.0, None)


def test_the_area_counts_nothing_before_the_first_test(run):
    one = run(points=[(10, 0.2), (20, 0.4)], elapsed=30)
    assert area(one, 30) == pytest.approx((10 * 0.3 + 10 * 0.4) / 30)
    assert area(one, 15) == pytest.approx((5 * 0.25) / 15)
    assert area(one, 5) == 0
    assert area(one, 31) is None  # the run is over by then
    assert area(run(points=[(10, 0.2), (50, None), (90, 0.4)]), 90) is None  # tested too seldom


def test_the_time_to_an_accuracy_lies_between_tests(run):
    one = run(points=[(10, 0.2), (20, 0.4), (30, 0.3), (40, 0.6)], elapsed=45)
    assert time_to(one, 0.1) == 10
    assert time_to(one, 0.3) == 15  # the first time
    assert time_to(one, 0.5) == pytest.approx(30 + 10 * 2 / 3)
    assert time_to(one, 0.6) == 40
    assert time_to(one, 0.7) == math.inf
    late = run(points=[(10, 0.2), (20, 0.4), (50, None), (90, 0.6)], elapsed=100)
    assert time_to(late, 0.3) == 15 and math.isnan(time_to(late, 0.5))
    assert math.isnan(time_to(run(points=[(10, 0.2), (50, None), (90, 0.4)]), 0.3))
    assert time_to(run(points=[(10, None)], end=None), 0.1) == math.inf


def test_differences_are_paired_by_seed():
    found = difference({0: 50.0, 1: 60.0, 2: 70.0}, {2: 71.0, 0: 53.0, 5: 99.0})
    assert (found.value, found.pairs) == (2.0, 2)
    assert (found.low, found.high) == (1.0, 3.0)
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert difference({0: 1.0}, {0: 2.0}).low is None  # one pair shows no spread


def test_speed_ups_are_geometric_means():
    found = speed_up({0: 100.0, 1: 400.0}, {0: 50.0, 1: 100.0})
    assert found.value == pytest.approx(math.sqrt(8))
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(4))
    assert speed_up({0: 10.0}, {0: math.inf}) is None
    assert speed_up({0: 10.0, 1: 10.0}, {0: 5.0, 1: NAN}).pairs == 1
    assert speed_up({0: 10.0}, {0: 0.0}) is None and speed_up({0: 0.0}, {0: 10.0}) is None
    apart = speed_up({0: 1.0, 1: 1e80}, {0: 1.0, 1: 1.0})  # whose interval exceeds any number
    assert apart.t_low > 0 and math.isfinite(apart.t_high)


def test_three_pairs_reach_from_the_smallest_to_the_largest():
    found = estimate(np.array([1.0, 2.0, 6.0]))
    assert (found.value, found.low, found.high, found.p) == (3.0, 1.0, 6.0, None)


def test_of_five_pairs_all_resamples_count():
    values = np.array([1.0, 2.5, 4.0, 8.0, 16.0])
    means = sorted(sum(chosen) / 5 for chosen in itertools.product(values, repeat=5))
    found = estimate(values)
    assert found.low == pytest.approx(means[math.ceil(0.025 * 5**5) - 1])
    assert found.high == pytest.approx(means[math.ceil(0.975 * 5**5) - 1])


def test_many_pairs_agree_with_scipy_s_bootstrap_and_wilcoxon():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).normal(1.0, 2.0, size=12)
    found = estimate(values)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.06)
    assert found.high == pytest.approx(theirs.high, abs=0.06)
    assert found.p == pytest.approx(stats.wilcoxon(values).pvalue)
    assert estimate(np.arange(1.0, 7.0)).p == pytest.approx(2 / 2**6)  # all on one side
    assert estimate(np.zeros(6)).p == 1


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 6.0], [0.3, -0.1, 0.4, 0.2]])
def test_the_t_interval_is_scipys(values):
    from scipy.stats import ttest_1samp

    found = estimate(np.array(values))
    wanted = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.t_low, found.t_high) == pytest.approx((wanted.low, wanted.high))
    assert found.interval == (found.t_low, found.t_high)
    assert estimate(np.array([1.0])).interval is None


def test_three_pairs_by_t_cover_the_truth_where_their_bootstrap_does_not():
    draws = np.random.default_rng(1).normal(size=(400, 3))
    found = [estimate(values) for values in draws]
    by_t = sum(e.t_low <= 0 <= e.t_high for e in found)
    assert by_t >= 0.92 * 400 and sum(e.low <= 0 <= e.high for e in found) <= 0.80 * 400


@pytest.mark.slow
def test_ten_pairs_by_t_cover_the_truth_and_their_bootstrap_covers_it_too_seldom():
    draws = np.random.default_rng(1).normal(size=(1_000, 10))
    found = [estimate(values) for values in draws]
    by_t = sum(e.interval[0] <= 0 <= e.interval[1] for e in found)
    assert by_t >= 940 and 880 <= sum(e.low <= 0 <= e.high for e in found) <= 925  # as a note says


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0, 1, size=(100, 20))
    covered = sum(e.low <= 0 <= e.high for e in map(estimate, draws))
    assert 85 <= covered <= 99  # a percentile bootstrap of 20 is a little narrow


def test_the_end_of_a_wide_interval_is_cut_on_its_own_side():
    ends = [interval_end(value, "{:+.1f}") for value in (-5000.0, -999.0, 5000.0)]
    assert ends == ["under -1,000", "-999.0", "over 1,000"]
