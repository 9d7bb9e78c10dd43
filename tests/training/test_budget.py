import pytest

from alprune.errors import ConfigError
from alprune.training.budget import Budget, Stopwatch


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_only_running_time_counts():
    now = Hands()
    budget = Budget(10, now=now)
    now.time += 5
    assert budget.elapsed_s == 0
    budget.start()
    now.time += 3
    with budget.paused():
        now.time += 50
    now.time += 2
    assert budget.elapsed_s == 5
    assert budget.remaining_s == 5
    assert budget.fraction == 0.5
    assert not budget.expired
    now.time += 6
    assert budget.expired
    assert budget.remaining_s == 0
    assert budget.fraction == 1


def test_starting_a_running_clock_loses_nothing():
    now = Hands()
    budget = Budget(10, now=now)
    budget.start()
    now.time += 3
    budget.start()
    now.time += 1
    assert budget.elapsed_s == 4
    budget.stop()
    budget.stop()
    assert budget.elapsed_s == 4


def test_pausing_a_stopped_clock_does_not_start_it():
    now = Hands()
    budget = Budget(10, now=now)
    with budget.paused():
        now.time += 1
    now.time += 1
    assert budget.elapsed_s == 0


def test_a_clock_goes_on_from_what_was_spent():
    now = Hands()
    budget = Budget(10, spent_s=4, now=now)
    budget.start()
    now.time += 1
    budget.stop()
    now.time += 1
    assert budget.elapsed_s == 5


def test_a_budget_is_spent_at_its_limit_and_when_it_is_halted():
    now = Hands()
    budget, halted = Budget(10, now=now), Budget(None, now=now)
    budget.spend(3)
    budget.spend(4)
    assert budget.elapsed_s == 7
    budget.start()
    now.time += 3
    assert budget.expired and not halted.expired
    halted.halt()
    assert halted.expired


def test_a_clock_without_limit_never_expires():
    now = Hands()
    budget = Budget(None, now=now)
    budget.start()
    now.time += 1e9
    assert not budget.expired
    assert budget.remaining_s == float("inf")
    assert budget.fraction == 0


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_budget_that_is_no_time_is_refused(limit):
    with pytest.raises(ConfigError, match="more than 0 seconds"):
        Budget(limit)


def test_a_stopwatch_adds_up_parts_even_when_they_fail():
    now = Hands()
    watch = Stopwatch(now=now)
    for _ in range(2):
        with pytest.raises(RuntimeError), watch.part("fit"):
            now.time += 1.5
            raise RuntimeError
    assert watch.seconds == {"fit": 3.0}
