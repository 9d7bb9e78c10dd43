import csv
import itertools
import json
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import events_of, options

import alprune
from alprune import models
from alprune.errors import AcquisitionError, StoreError, TrainError
from alprune.loop import learner as learners
from alprune.loop import setup, timing
from alprune.loop.checkpoint import CheckpointWriter, load_checkpoint
from alprune.loop.config import RunConfig
from alprune.loop.events import Observer
from alprune.loop.oracle import Simulation
from alprune.loop.setup import complete, load_splits, open_session
from alprune.training import Learner
from alprune.training.budget import Budget


@pytest.fixture(scope="module")
def digits():
    return load_splits(complete(options("unused")))


def test_a_run_leaves_the_whole_record(tmp_path):
    result = alprune.run(options(tmp_path / "run"))
    assert (result.reason, result.steps, result.labelled) == ("steps", 3, 130)
    events = events_of(result.path)
    assert [e["event"] for e in events] == ["start", "prune"] + ["step"] * 4 + ["end"]
    clock = [e["elapsed_s"] for e in events]
    assert clock == sorted(clock)
    assert events[1]["macs_after"] <= 0.5 * events[1]["macs_before"]
    steps = events_of(result.path, "step")
    assert [s["labelled"] for s in steps] == [100, 110, 120, 130]
    assert [len(s["acquired"]) for s in steps] == [10, 10, 10, 0]
    wanted = "step test_accuracy train_loss epochs train_s score_s acquire_s eval_s".split()
    assert all(key in step for step in steps[:3] for key in wanted)
    assert 0 <= events[-1]["test_accuracy"] <= 1
    names = {p.name for p in result.path.iterdir()}
    assert names >= {"config.toml", "events.jsonl", "labels.csv", "model.safetensors",
                     "plan.json", "summary.json"}  # fmt: skip
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary["test_accuracy"] == result.test_accuracy == events[-1]["test_accuracy"]


def test_points_are_acquired_once_and_labelled_as_the_data_set_says(tmp_path, digits):
    result = alprune.run(options(tmp_path / "run"))
    events = events_of(result.path)
    acquired = [i for e in events if e["event"] == "step" for i in e["acquired"]]
    initial = events[0]["initial"]
    assert len(set(acquired + initial)) == len(acquired) + len(initial) == 130
    with open(result.path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(r["index"]) for r in rows} == set(acquired + initial)
    assert all(int(r["label"]) == digits.train.y[int(r["index"])] for r in rows)
    assert sum(r["step"] == "2" for r in rows) == 10


def test_a_steps_run_repeats_bit_for_bit_by_seed(tmp_path):
    runs = [alprune.run(options(tmp_path / str(i), seed=s)) for i, s in enumerate((1, 1, 2))]
    weights = [load_file(r.path / "model.safetensors") for r in runs]
    acquired = [[e["acquired"] for e in events_of(r.path, "step")] for r in runs]
    assert acquired[0] == acquired[1] != acquired[2]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_dropout_repeats_by_seed_too(tmp_path):
    runs = [alprune.run(options(tmp_path / str(i), model="tiny_learner:dropout")) for i in (1, 2)]
    weights = [load_file(r.path / "model.safetensors") for r in runs]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_the_saved_model_is_rebuilt_from_its_builder_and_plan(tmp_path, digits):
    config = complete(options(tmp_path / "run"))
    result = alprune.run(config)
    plan = alprune.Plan.from_json((result.path / "plan.json").read_text())
    fresh = models.build(config.model, 10, digits.train.image_shape, seed=99)
    rebuilt = alprune.rebuild(fresh, plan)
    rebuilt.load_state_dict(load_file(result.path / "model.safetensors"))
    session_like = open_session(complete(options(tmp_path / "other")), digits)
    learner = Learner(
        rebuilt, digits.train, session_like.learner.settings, torch.device("cpu"), torch.float32
    )
    assert learner.evaluate(digits.test).accuracy == result.test_accuracy


def test_the_first_state_is_on_the_disk_before_the_first_batch(tmp_path, digits, monkeypatch):
    write = CheckpointWriter._write

    def slowly(*args):
        time.sleep(0.5)
        write(*args)

    monkeypatch.setattr(CheckpointWriter, "_write", slowly)
    session = open_session(complete(options(tmp_path / "run")), digits)
    assert load_checkpoint(tmp_path / "run") is not None
    session.record.folder.close()


def set_clock(monkeypatch, now):
    monkeypatch.setattr(timing, "Budget", lambda limit_s, **_: Budget(limit_s, now=now))


def test_a_budget_ends_a_run_on_time(tmp_path, monkeypatch):
    ticks = itertools.count()  # a clock on which every look takes 10 ms, so no machine is too slow
    set_clock(monkeypatch, lambda: next(ticks) / 100)
    result = alprune.run(options(tmp_path / "run", steps=None, budget=3.0))
    assert result.reason == "budget" and result.steps > 0
    assert 3.0 <= result.elapsed_s < 3.3
    assert events_of(result.path, "step")[-1]["acquired"] == []


def test_evaluating_is_not_on_the_clock(tmp_path, monkeypatch):
    now, evaluate = [0.0], Learner.evaluate

    def slow(self, *args):
        now[0] += 1000.0
        return evaluate(self, *args)

    set_clock(monkeypatch, lambda: now[0])
    monkeypatch.setattr(Learner, "evaluate", slow)
    result = alprune.run(options(tmp_path / "run", steps=1))
    assert [step["eval_s"] for step in events_of(result.path, "step")] == [1000.0] * 2
    assert result.elapsed_s == 0.0


def test_the_pool_may_run_empty(tmp_path):
    config = options(tmp_path / "run", steps=9, initial=1200, query_size=60)
    result = alprune.run(config)
    assert (result.reason, result.labelled, result.steps) == ("pool empty", 1297, 2)
    assert [len(s["acquired"]) for s in events_of(result.path, "step")] == [60, 37, 0]


def test_only_the_subset_is_scored(tmp_path):
    seen = []

    def mine(evidence, count, generator):
        seen.append(evidence.candidates)
        return evidence.probabilities.max(1).values

    alprune.run(options(tmp_path / "run", score_subset=50), acquisition=mine)
    assert [c.numel() for c in seen] == [50, 50, 50]
    assert not torch.equal(seen[0].sort().values, seen[1].sort().values)


def test_ask_repeats_itself_until_it_is_told(tmp_path, digits):
    session = open_session(complete(options(tmp_path / "run")), digits)
    asked = session.ask()
    assert torch.equal(session.ask(), asked)
    session.tell(asked, Simulation(digits.train)(asked))
    assert not torch.isin(session.ask(), asked).any()


def test_ctrl_c_while_the_end_is_written_does_not_spoil_it(tmp_path, monkeypatch):
    from alprune.loop.events import Record

    write, calls = Record.network, []

    def disturbed(self, *args):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(self, *args)

    monkeypatch.setattr(Record, "network", disturbed)
    result = alprune.run(options(tmp_path / "run", steps=1))
    assert result.reason == "interrupted"
    assert [e["event"] for e in events_of(result.path)][-2:] == ["step", "end"]
    assert (result.path / "summary.json").exists()


def test_an_error_of_another_kind_still_ends_the_record(tmp_path):
    class Broken(Observer):
        def event(self, name, fields):
            if name == "step":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        alprune.run(options(tmp_path / "run"), observer=Broken())
    assert events_of(tmp_path / "run")[-1]["reason"] == "error: ZeroDivisionError()"
    assert (tmp_path / "run" / "labels.csv").exists()


def test_an_option_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(alprune.AlpruneError, match="averaging"):
        alprune.run(options(tmp_path / "run", averaging=1.5))
    assert not (tmp_path / "run").exists()


def test_weights_of_a_users_own_model_are_inherited_unless_asked_otherwise():
    assert complete(options("x")).after_pruning == "inherit"
    assert complete(options("x", model="vgg19")).after_pruning == "reinit"
    assert complete(options("x", after_pruning="rescale")).after_pruning == "rescale"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_record(tmp_path):
    with pytest.raises(TrainError, match="Lower --lr"):
        alprune.run(options(tmp_path / "run", lr=1e20, warmup_batches=0))
    events = events_of(tmp_path / "run")
    assert [e["event"] for e in events][:2] == ["start", "prune"]
    assert events[-1]["reason"].startswith("error: ")


class First:
    def __call__(self, evidence, count, generator):
        return evidence.candidates[:count]


@pytest.mark.parametrize(("given", "name"), [("margin", "margin"), (First, "test_session:First")])
def test_what_is_passed_instead_of_a_function_may_be_a_name_or_a_class(tmp_path, given, name):
    path = alprune.run(options(tmp_path / "run", steps=1), acquisition=given).path
    assert events_of(path, "start")[0]["acquisition"] == name
    assert alprune.resume(path, acquisition=given, steps=2).steps == 2


def test_an_unusable_acquisition_stops_the_run_with_its_name(tmp_path):
    def broken(evidence, count, generator):
        return torch.zeros(1)

    with pytest.raises(AcquisitionError, match="'broken'"):
        alprune.run(options(tmp_path / "run"), acquisition=broken)
    assert events_of(tmp_path / "run")[-1]["event"] == "end"


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    alprune.run(options(tmp_path / "run", steps=1))
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    with pytest.raises(StoreError, match="already holds a run"):
        alprune.run(options(tmp_path / "run", steps=1))
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("prune_at", "epoch", "epochs"), [("epi", None, 40.0), ("2", 2, 4.0), ("random", None, 40.0)]
)
def test_a_run_can_prune_during_training(tmp_path, digits, prune_at, epoch, epochs):
    config = complete(
        options(tmp_path / "run", method="epi", prune_at=prune_at, initial_epochs=epochs, steps=1)
    )
    result = alprune.run(config)
    [early] = events_of(result.path, "prune")
    assert early["method"] == "epi"
    assert early["macs_after"] < early["macs_before"]
    assert sum(early["widths"].values()) == 24 + 10  # half of 16 + 32 channels, and the classes
    if epoch is not None:
        assert early["epoch"] == epoch
    plan = alprune.Plan.from_json((result.path / "plan.json").read_text())
    fresh = models.build(config.model, 10, digits.train.image_shape)
    alprune.rebuild(fresh, plan, load_file(result.path / "model.safetensors"))


def test_what_the_options_say_of_epi_reaches_its_pruner(monkeypatch):
    given = {"epi_tau": 0.7, "epi_window": 2, "latency_aware": True}
    config = complete(
        RunConfig(method="epi", dataset="digits", model="lenet-300-100", steps=0, **given)
    )
    train = setup.load_splits(config).train
    model = models.build(config.model, len(train.classes), train.image_shape, 0)

    def machine(*about):  # 3 ms a channel of the first layer, 1 ms a channel of the second
        return lambda keep: float(3 * keep[:300].sum() + keep[300:].sum())

    monkeypatch.setattr(learners, "stopwatch", machine)
    early = learners.early_pruner(config, model, train)
    assert (early.settings.epi_threshold, early.settings.past) == (0.7, 2)
    # Shares of the latency 3/4 and 1/4, each with the smoothing of 0.05, relative to the larger.
    assert early.cost[:300].unique().tolist() == [1.0]
    assert early.cost[300:].unique().tolist() == pytest.approx([0.3 / 0.8])
    plain = replace(config, epi_tau=None, latency_aware=False, epi_criterion="magnitude")
    assert learners.early_pruner(plain, model, train).settings.epi_threshold == 0.983
    assert learners.early_pruner(plain, model, train).cost is None
