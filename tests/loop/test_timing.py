import pytest

from alprune.loop.timing import RunTiming, ScoringSpeed
from alprune.training import FitReport


def test_scoring_takes_its_share_of_the_step():
    timing, speed = RunTiming(60.0, None, share=0.25), ScoringSpeed(least=200)
    seconds = timing.scoring_s(9.0)
    assert seconds == pytest.approx(3.0)  # a quarter of 9 s of fitting and 3 s of scoring
    assert speed.size(seconds) == 200
    speed.measured(200, 0.1)
    assert speed.size(seconds) == 6000  # 3 s at 2000 a second


def test_a_short_fit_still_scores_the_least():
    assert ScoringSpeed(least=200, speed=100.0).size(0.001) == 200


def test_a_new_measurement_counts_half_and_nothing_measured_counts_nothing():
    speed = ScoringSpeed(least=1, speed=1000.0)
    speed.measured(3000, 1.0)
    assert speed.speed == pytest.approx(2000)
    speed.measured(0, 0.0)
    assert speed.speed == pytest.approx(2000)


@pytest.mark.parametrize(("limit_s", "share"), [(None, 0.25), (60.0, 1.0)])
def test_without_a_budget_or_a_share_scoring_has_no_limit(limit_s, share):
    assert RunTiming(limit_s, 3, share).scoring_s(9.0) is None


def test_a_run_is_over_after_its_steps_its_budget_or_an_interruption():
    report, cut = FitReport(0.5, 1.0, 10, stopped=False), FitReport(0.5, 0.3, 3, stopped=True)
    timing = RunTiming(None, 2, 0.25)
    assert [timing.over(step, report) for step in range(3)] == [None, None, "steps"]
    assert timing.over(0, cut) == "budget"
    timing.budget.halt()
    assert timing.over(2, report) == "interrupted"


def test_the_rate_follows_the_steps_where_there_is_no_budget():
    timing = RunTiming(None, 3, 0.25)
    assert timing.progress(1, 0.5) == pytest.approx(1.5 / 4)
    assert RunTiming(60.0, None, 0.25).progress(1, 0.5) == 0.0
