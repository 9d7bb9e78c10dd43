"""How long a comparison will still take, worked out by hand."""

from pathlib import Path

import pytest
from tiny_run import options

from alprune.loop import RunResult
from alprune.runs.compare import NEW, UNENDED, Forecast, Outcome
from alprune.runs.compare.grid import cells


class Clock:
    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


def grid(grid, **changes):
    return cells(options("x", **changes), grid, Path("out"))


def over(cell, elapsed_s, state="done"):
    result = RunResult(cell.path, "budget", elapsed_s, 100, 5, 0.5)
    return Outcome(cell.name, cell.values, cell.path, state, result)


def test_budgets_are_added_up_and_the_overhead_is_learnt():
    clock, runs = Clock(), grid({"method": ["3sp", "dense"]}, budget=100.0, steps=None)
    forecast = Forecast(clock)
    forecast.planned([(cell, NEW) for cell in runs], jobs=1)
    assert forecast.left_s == 200
    observer = forecast.begins(runs[0], NEW)
    clock.s += 30  # of which 10 pass before the clock starts
    observer.tick("fit", 1, 2, 20.0)
    assert forecast.left_s == 80 + 100
    clock.s += 90
    forecast.ended(runs[0], over(runs[0], 100.0))  # 120 in all
    assert forecast.left_s == 120
    forecast.begins(runs[1], NEW)
    clock.s += 5  # in set-up
    assert forecast.left_s == 100 + 15


def test_runs_of_a_kind_take_as_long_as_the_last_of_that_kind():
    clock, runs = Clock(), grid({"method": ["3sp", "dense"], "seed": [0, 1]}, steps=9)
    forecast = Forecast(clock)
    forecast.planned([(cell, NEW) for cell in runs], jobs=1)
    assert forecast.left_s is None
    for cell, took_s in zip(runs[:2], (40, 100), strict=True):
        forecast.begins(cell, NEW)
        clock.s += took_s
        forecast.ended(cell, over(cell, 30.0))
    assert forecast.left_s == 140


def test_without_a_budget_the_steps_so_far_tell():
    clock, runs = Clock(), grid({"method": ["3sp", "dense"]}, steps=9)
    forecast = Forecast(clock)
    forecast.planned([(cell, NEW) for cell in runs], jobs=1)
    observer = forecast.begins(runs[0], NEW)
    observer.event("start", {"elapsed_s": 0.0})
    clock.s += 20
    assert forecast.left_s is None
    observer.event("step", {"elapsed_s": 9.0, "step": 0})
    observer.event("step", {"elapsed_s": 18.0, "step": 1})
    assert forecast.left_s == 8 * 10 + 10 * 10  # ten steps of the second take as long each


def test_a_run_that_goes_on_has_less_left_and_teaches_no_duration():
    clock, runs = Clock(), grid({"method": ["3sp", "dense"]}, budget=100.0, steps=None)
    forecast = Forecast(clock)
    forecast.planned([(runs[0], UNENDED), (runs[1], NEW)], jobs=1)
    observer = forecast.begins(runs[0], UNENDED)
    observer.event("resume", {"elapsed_s": 60.0, "step": 4})
    assert forecast.left_s == 40 + 100
    clock.s += 50
    forecast.ended(runs[0], over(runs[0], 100.0))
    assert forecast.left_s == 100 + 10


@pytest.mark.parametrize(("jobs", "left_s"), [(2, 200), (8, 100)])
def test_runs_side_by_side_share_the_time_but_none_is_cut(jobs, left_s):
    forecast = Forecast(Clock())
    runs = grid({"seed": [0, 1, 2, 3]}, budget=100.0, steps=None)
    forecast.planned([(cell, NEW) for cell in runs], jobs)
    assert forecast.left_s == left_s
