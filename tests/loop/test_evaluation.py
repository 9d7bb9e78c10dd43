import pytest
import torch

from alprune.data import Dataset
from alprune.loop.evaluation import TestSetEvaluation
from alprune.training import BudgetSpent
from alprune.training.budget import Budget
from alprune.training.metrics import fit_temperature, measure


class Oracle:
    """Stands for a learner: reads its logits off the images."""

    def __init__(self, x, sharpness=1.0):
        self.x, self.sharpness = x, sharpness

    def predict(self, x, indices=None, budget=None):
        rows = x if indices is None else x[indices]
        for begin in range(0, len(rows), 4):
            if budget is not None and budget.expired:
                raise BudgetSpent
            part = slice(begin, begin + 4)
            yield part, self.sharpness * rows[part].flatten(1)

    def logits(self, x, indices=None, budget=None):
        return torch.cat([part for _, part in self.predict(x, indices, budget)])

    def evaluate(self, test, budget=None):
        return measure(self.logits(test.x, budget=budget), test.y)


def images(n, seed):
    """Images of one pixel and three channels; the largest tells the class, mostly."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 1, 3, generator=draws)
    y = (x.flatten(1) + torch.randn(n, 3, generator=draws)).argmax(1)
    return Dataset(x, y, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, False, "")


@pytest.fixture
def evaluation():
    return TestSetEvaluation(Oracle(images(50, 1).x, sharpness=5.0), images(40, 2), every=None)


NONE = torch.empty(0, dtype=torch.int64)


def test_a_test_is_written_down_in_its_step_and_in_no_other(evaluation):
    evaluation.take(3, Budget(None))
    test = images(40, 2)
    expected = measure(5 * test.x.flatten(1), test.y)
    assert evaluation.of_step(3) == {
        "test_accuracy": expected.accuracy,
        "macro_f1": pytest.approx(expected.macro_f1, abs=1e-6),
        "ece": pytest.approx(expected.ece, abs=1e-6),
    }
    assert evaluation.of_step(4) == {"test_accuracy": None, "macro_f1": None, "ece": None}
    assert evaluation.accuracy == evaluation.past.best == expected.accuracy
    assert evaluation.past.spent_s > 0


def test_the_end_tells_of_every_class_and_of_calibration(evaluation):
    train, test = images(50, 1), images(40, 2)
    assert evaluation.at_end(0, NONE, NONE) == {}
    evaluation.take(0, Budget(None))
    plain = evaluation.at_end(0, NONE, NONE)
    assert evaluation.at_end(1, NONE, NONE) == {}
    assert plain["temperature"] is None and plain["ece_calibrated"] is None
    assert plain["per_class_accuracy"] == pytest.approx(
        measure(test.x.flatten(1), test.y).per_class_accuracy, abs=1e-6
    )
    held_out = torch.arange(0, 50, 2)
    end = evaluation.at_end(0, held_out, train.y[held_out])
    temperature = fit_temperature(5 * train.x[held_out].flatten(1), train.y[held_out])
    assert end["temperature"] == pytest.approx(temperature, abs=1e-5)
    assert temperature > 1 and end["ece_calibrated"] < end["ece"]


def test_a_test_that_is_halted_changes_nothing(evaluation):
    evaluation.take(0, Budget(None))
    before, metrics = evaluation.state(), evaluation.metrics
    halted = Budget(1e-9)
    halted.start()
    with pytest.raises(BudgetSpent):
        evaluation.take(1, halted)
    assert (evaluation.state(), evaluation.metrics) == (before, metrics)


def test_a_restored_evaluation_goes_on_counting(evaluation):
    for step in range(3):
        evaluation.take(step, Budget(None))
    twin = TestSetEvaluation(Oracle(images(50, 1).x), images(40, 2), every=None)
    twin.restore(evaluation.state())
    assert twin.state() == evaluation.state()
    assert twin.past.since_best == 2 and twin.step == 2
    assert twin.of_step(2)["test_accuracy"] is None  # it was written down by the other


@pytest.mark.parametrize(
    "wrong", [{"last": "high"}, {"best": 2.0}, {"since_best": -1}, {"spent_s": None}, {"step": "x"}]
)
def test_a_state_that_is_none_is_refused(evaluation, wrong):
    with pytest.raises((TypeError, ValueError)):
        evaluation.restore(evaluation.state() | wrong)
    assert evaluation.state() == TestSetEvaluation(evaluation, images(9, 2), None).state()


def test_only_a_run_with_a_budget_looks_at_the_clock(evaluation):
    evaluation.past.spent_s = 1e9
    assert evaluation.due(7, Budget(None))
    assert not evaluation.due(7, Budget(60.0))
