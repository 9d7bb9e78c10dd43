"""Runs that start, stop or are disturbed otherwise than by default."""

import csv
import json
import math

import pytest
import torch
from tiny_run import events_of, options

import alprune
from alprune.acquisition.initial import ColdPool, random, typiclust
from alprune.data.corruption import long_tail
from alprune.errors import ConfigError, DataError
from alprune.loop import evaluation, timing
from alprune.loop.setup import complete, first_labels, load_splits, simulation
from alprune.training import Learner
from alprune.training.budget import Budget


@pytest.fixture(scope="module")
def digits():
    return load_splits(complete(options("unused")))


def steps_of(path):
    return events_of(path, "step")


def test_a_label_budget_is_used_up_and_not_exceeded(tmp_path):
    result = alprune.run(options(tmp_path / "run", steps=9, stop_labels=117))
    assert (result.reason, result.labelled, result.steps) == ("label budget", 117, 2)
    assert [len(s["acquired"]) for s in steps_of(result.path)] == [10, 7, 0]
    assert steps_of(result.path)[-1]["test_accuracy"] == result.test_accuracy


def test_without_a_step_a_run_trains_on_the_first_points_down_to_a_rate_of_zero(
    tmp_path, monkeypatch
):
    rates, step = [], Learner._step

    def watched(learner, *args):
        rates.append(learner.optimiser.param_groups[0]["lr"])
        return step(learner, *args)

    monkeypatch.setattr(Learner, "_step", watched)
    result = alprune.run(options(tmp_path / "run", steps=0, lr=0.1, warmup_batches=0))
    assert (result.reason, result.steps, result.labelled) == ("steps", 0, 100)
    [only] = steps_of(result.path)
    assert only["acquired"] == [] and only["test_accuracy"] == result.test_accuracy
    assert only["batches"] == len(rates)
    assert rates == pytest.approx([0.1 * (1 - i / len(rates)) for i in range(len(rates))])


def test_an_accuracy_that_is_reached_ends_a_run(tmp_path):
    result = alprune.run(options(tmp_path / "run", steps=9, stop_accuracy=0.2, epochs=10.0))
    assert result.reason == "accuracy reached" and result.test_accuracy >= 0.2
    assert all(s["test_accuracy"] < 0.2 for s in steps_of(result.path)[:-1])
    assert steps_of(result.path)[-1]["acquired"] == []


def test_certainty_ends_a_run_whatever_the_acquisition_looks_at(tmp_path):
    config = options(tmp_path / "run", acquisition="random", stop_uncertainty=9.0)
    result = alprune.run(config)
    assert (result.reason, result.steps, result.labelled) == ("uncertainty low", 0, 100)
    [step] = steps_of(result.path)
    assert 0 < step["uncertainty"] <= math.log(10)
    assert step["acquired"] == []


def test_a_plateau_ends_a_run(tmp_path, monkeypatch):
    evaluate, accuracies = Learner.evaluate, iter([0.5, 0.6, 0.6, 0.55, 0.9])

    def scripted(self, *args):
        found = evaluate(self, *args)
        object.__setattr__(found, "accuracy", next(accuracies))
        return found

    monkeypatch.setattr(Learner, "evaluate", scripted)
    result = alprune.run(options(tmp_path / "run", steps=9, stop_plateau=2))
    assert (result.reason, result.steps) == ("plateau", 3)


def test_the_uncertainty_that_is_logged_is_the_mean_entropy_of_the_candidates(tmp_path):
    seen = []

    def mine(evidence, count, generator):
        p = evidence.probabilities.double()
        seen.append(float(-(p * p.log()).sum(1).mean()))
        return p.max(1).values

    result = alprune.run(options(tmp_path / "run", steps=1), acquisition=mine)
    assert steps_of(result.path)[0]["uncertainty"] == pytest.approx(seen[0], abs=1e-4)
    assert steps_of(result.path)[1]["uncertainty"] is None  # the last step scores nothing


def test_steps_log_what_was_labelled_and_the_end_how_good_the_learner_is(tmp_path, digits):
    result = alprune.run(options(tmp_path / "run"))
    steps, acquired = steps_of(result.path), []
    assert steps[0]["told"] == [10] * 10
    for before, step in zip(steps, steps[1:], strict=False):
        acquired = digits.train.y[torch.tensor(before["acquired"])]
        assert step["told"] == torch.bincount(acquired, minlength=10).tolist()
    assert all(0 <= s["macro_f1"] <= 1 and 0 <= s["ece"] <= 1 for s in steps)
    end = events_of(result.path)[-1]
    sizes = torch.bincount(digits.test.y) / len(digits.test)
    assert sum(sizes * torch.tensor(end["per_class_accuracy"])) == pytest.approx(
        end["test_accuracy"], abs=1e-5
    )
    assert end["macro_f1"] == steps[-1]["macro_f1"]
    assert end["temperature"] is None
    assert json.loads((result.path / "summary.json").read_text())["ece"] == end["ece"]


def test_held_out_points_are_labelled_but_never_trained_on(tmp_path, monkeypatch):
    fit, seen = Learner.fit, []

    def watched(self, indices, *args, **kwargs):
        seen.append(set(indices.tolist()))
        return fit(self, indices, *args, **kwargs)

    monkeypatch.setattr(Learner, "fit", watched)
    result = alprune.run(options(tmp_path / "run", hold_out=30))
    start, end = events_of(result.path)[0], events_of(result.path)[-1]
    held = set(start["initial"]) - seen[0]
    assert len(held) == 30 and len(seen[0]) == 70
    assert all(not held & fitted for fitted in seen)
    assert len(seen[-1]) == 100 and result.labelled == 130
    assert 0.05 <= end["temperature"] <= 20 and 0 <= end["ece_calibrated"] <= 1


def test_under_steps_alone_every_step_is_tested_and_under_a_budget_when_there_is_time(
    tmp_path, monkeypatch
):
    every = alprune.run(options(tmp_path / "steps"))
    assert all(s["test_accuracy"] is not None for s in steps_of(every.path))
    now, evaluate = [0.0], Learner.evaluate

    def slow(self, *args):
        now[0] += 1.0
        return evaluate(self, *args)

    def clocked(limit_s, **_):
        return Budget(limit_s, now=lambda: now[0])

    for module in (evaluation, timing):
        monkeypatch.setattr(module, "Budget", clocked)
    monkeypatch.setattr(Learner, "evaluate", slow)
    result = alprune.run(options(tmp_path / "budget", steps=4, budget=600.0, query_size=5))
    tested = [s["test_accuracy"] is not None for s in steps_of(result.path)]
    assert tested == [True, False, False, False, True]  # a step takes no 10 s on the clock


def last(pool, count, generator):
    return torch.arange(len(pool) - count, len(pool))


@pytest.mark.parametrize("start", ["random", "typiclust", "test_conditions:last"])
def test_a_run_starts_as_it_is_told(tmp_path, digits, start):
    result = alprune.run(options(tmp_path / "run", steps=1, start=start, initial=40))
    initial = events_of(result.path)[0]["initial"]
    assert len(initial) == 40 and result.labelled == 50
    if start == "test_conditions:last":
        assert initial == list(range(1257, 1297))
        return
    pool = ColdPool(digits.train.x, digits.train.classes)
    function = {"random": random, "typiclust": typiclust}[start]
    assert initial == function(pool, 40, torch.Generator().manual_seed(0)).sort().values.tolist()


def test_a_long_tailed_pool_is_smaller_and_its_start_random(tmp_path, digits):
    config = complete(options(tmp_path / "run", imbalance=10.0))
    splits = load_splits(config)
    sizes = torch.bincount(splits.train.y)
    assert len(splits.test) == len(digits.test)
    assert 7 <= sizes[0] / sizes[-1] <= 13 and len(splits.train) < 700
    result = alprune.run(config)
    start = events_of(result.path)[0]
    assert start["pool"] == len(splits.train) and start["config"]["start"] == "random"
    thin = long_tail(digits.train, 10.0, torch.Generator().manual_seed(4))
    assert torch.equal(thin.x, splits.train.x)  # repeatable from the seed
    with pytest.raises(DataError, match="needs 10.*--start random or typiclust"):
        first_labels(complete(options("x", imbalance=20.0, start="balanced")), thin_of(digits, 20))


def thin_of(digits, ratio):
    return long_tail(digits.train, ratio, torch.Generator().manual_seed(0))


def test_label_noise_reaches_the_learner_but_not_the_test(tmp_path, digits):
    config = options(tmp_path / "run", label_noise=0.5, start="random", initial=400)
    result = alprune.run(config)
    with open(result.path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = sum(int(r["label"]) != int(digits.train.y[int(r["index"])]) for r in rows) / len(rows)
    assert 0.4 < wrong < 0.6
    oracle = simulation(complete(config), digits.train)
    assert all(int(oracle.labels[int(r["index"])]) == int(r["label"]) for r in rows)
    assert int((oracle.labels != digits.train.y).sum()) == round(0.5 * len(digits.train))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hold_out": 99}, r"hold_out \(99\) must leave 2 of the first points \(100\)"),
        ({"stop_labels": 99}, r"stop_labels \(99\) is less than the first points \(100\)"),
        ({"stop_accuracy": 90.0}, "stop_accuracy is a share"),
        ({"stop_uncertainty": 0.0}, "stop_uncertainty must be more than 0"),
        ({"stop_plateau": 0}, "stop_plateau must be at least 1"),
        ({"label_noise": 1.5}, "label_noise is a share"),
        ({"imbalance": 0.5}, "imbalance must be at least 1"),
        ({"start": "balance"}, "unknown start 'balance'.*Did you mean 'balanced'"),
    ],
)
def test_conditions_that_are_not_possible_say_so(changes, message):
    with pytest.raises(ConfigError, match=message):
        complete(options("unused", **changes))


def test_a_run_with_all_of_it_resumes_exactly(tmp_path, monkeypatch):
    from alprune.loop import Session

    changes = {"imbalance": 5.0, "label_noise": 0.2, "hold_out": 20, "stop_labels": 125}
    whole = alprune.run(options(tmp_path / "whole", steps=9, **changes))

    class Killed(BaseException):
        pass

    evaluate, calls = Learner.evaluate, []

    def dying(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return evaluate(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_fail", lambda self, error: self.record.folder.close())
        patch.setattr(Learner, "evaluate", dying)
        with pytest.raises(Killed):
            alprune.run(options(tmp_path / "run", steps=9, **changes))
    result = alprune.resume(tmp_path / "run")
    assert (result.reason, result.test_accuracy) == ("label budget", whole.test_accuracy)
    for name in ("told", "acquired", "ece", "uncertainty"):
        ours, theirs = ([s[name] for s in steps_of(r.path)] for r in (result, whole))
        assert ours == theirs
    ends = [events_of(r.path)[-1] for r in (result, whole)]
    assert ends[0]["temperature"] == ends[1]["temperature"]
