"""A run that was killed anywhere goes on as if it had not been."""

import contextlib
import csv
import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import events_of, options

import alprune
from alprune.acquisition import Evidence
from alprune.errors import ConfigError, DataError, StoreError
from alprune.loop import Session, checkpoint
from alprune.loop import resume as reopen
from alprune.loop.checkpoint import CheckpointWriter
from alprune.loop.config import given
from alprune.loop.events import Record
from alprune.loop.run_folder import RunFolder
from alprune.loop.setup import complete, load_splits, open_session
from alprune.runs.rerun import compare
from alprune.training import Learner


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written after it; the lock goes, as the process does."""


@pytest.fixture
def kill(monkeypatch):
    """Let a method die when it is called for the n-th time, before or after its work."""

    def fall(session, error):
        with contextlib.suppress(StoreError):
            session.learning.checkpoints.wait()  # a real kill would end this thread too
        session.record.folder.close()

    monkeypatch.setattr(Session, "_fail", fall)

    def arm(owner, name, call, after=False):
        work, calls = getattr(owner, name), []

        def dying(*args, **kwargs):
            calls.append(1)
            if len(calls) == call and not after:
                raise Killed
            result = work(*args, **kwargs)
            if len(calls) == call:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, dying)
        return lambda: monkeypatch.setattr(owner, name, work)

    return arm


def story(path):
    """All that a run recorded, but for what the clock and the machine put in."""
    kept = []
    for event in events_of(path):
        if event["event"] == "resume":
            continue
        timings = [
            k for k in event if k.endswith("_s") or k.startswith(("peak_", "load_", "others_"))
        ]
        timings += ["config"]
        if not event.get("chosen_because"):  # not known of a run killed before its first event
            timings += ["chosen_because"]
        kept.append({k: v for k, v in event.items() if k not in timings})
    return kept


def assert_same(path, reference):
    assert story(path) == story(reference)
    ours, theirs = (load_file(p / "model.safetensors") for p in (path, reference))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (path / "labels.csv").read_bytes() == (reference / "labels.csv").read_bytes()
    assert (path / "plan.json").read_bytes() == (reference / "plan.json").read_bytes()
    clock = [event["elapsed_s"] for event in events_of(path)]
    assert clock == sorted(clock)


def run_killed(config, revive, acquisition=None):
    with pytest.raises(Killed):
        alprune.run(config, acquisition=acquisition)
    revive()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    alprune.run(options(path))
    return path


WHERE = {
    "in the first fit": (Learner, "fit", 1, False),
    "in a later fit": (Learner, "fit", 3, False),
    "after a fit": (Learner, "fit", 2, True),
    "while testing": (Learner, "evaluate", 2, False),
    "while scoring": (Evidence, "_pass", 2, False),
    "before a step's event": (Record, "step", 2, False),
    "between event and checkpoint": (Record, "step", 2, True),
    "before a checkpoint": (CheckpointWriter, "save", 3, False),
    "after a checkpoint": (CheckpointWriter, "save", 3, True),
    "before the first checkpoint": (CheckpointWriter, "save", 1, False),
    "before labels are written": (Record, "labelled", 2, False),
    "after labels are written": (Record, "labelled", 2, True),
    "before the last event": (Record, "end", 1, False),
    "before the network is written": (Record, "network", 1, False),
    "before the options are written": (Record, "start", 1, True),
}


@pytest.mark.parametrize("where", WHERE)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(tmp_path, kill, reference, where):
    owner, name, call, after = WHERE[where]
    run_killed(options(tmp_path / "run"), kill(owner, name, call, after))
    alprune.resume(tmp_path / "run")
    assert_same(tmp_path / "run", reference)


def put(path, state):
    """Write a state into both slots, in one of which its tensors may lie."""
    content = checkpoint.encode({"number": 9, "state": state})
    for slot in checkpoint.SLOTS:
        (path / slot).write_bytes(content)


class Alternating:
    """An acquisition function with a memory."""

    def __init__(self):
        self.calls = torch.zeros((), dtype=torch.int64)

    def __call__(self, evidence, count, generator):
        self.calls += 1
        sign = 1.0 if int(self.calls) % 2 else -1.0
        return sign * evidence.probabilities.max(1).values

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


VARIANTS = {
    "dense": {"method": "dense"},
    "masked": {"method": "snip"},
    "dropout": {"model": "tiny_learner:dropout"},
    "without averaging": {"averaging": 0.0},
    "by a committee": {"acquisition": "qbc"},
    "a random subset": {"score_subset": 60, "acquisition": "random"},
    "pruned at an epoch": {"method": "epi", "prune_at": "4"},
    "pruned by the indicator": {"method": "epi", "initial_epochs": 14.0, "epochs": 5.0},
    "a function with a memory": {"acquisition": "test_resume:Alternating"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_the_learner_and_the_function_a_resumed_run_is_the_same(tmp_path, kill, variant):
    changes = VARIANTS[variant]
    alprune.run(options(tmp_path / "whole", **changes))
    path = tmp_path / "run"
    run_killed(options(path, **changes), kill(Learner, "evaluate", 2))
    for call in (2, 1):  # and again, soon after it was resumed; and before it could do anything
        revive = kill(Learner, "fit", call)
        with pytest.raises(Killed):
            alprune.resume(path)
        revive()
    alprune.resume(path)
    assert_same(path, tmp_path / "whole")


def test_an_early_pruning_is_resumed_before_and_after_it(tmp_path, kill):
    changes = {"method": "epi", "prune_at": "5", "steps": 6}
    alprune.run(options(tmp_path / "whole", **changes))
    [pruning] = events_of(tmp_path / "whole", "prune")
    assert pruning["epoch"] == 5  # in the second step: 4 epochs, then 1 a step
    for call in (2, 3, 5):
        path = tmp_path / str(call)
        run_killed(options(path, **changes), kill(Learner, "evaluate", call))
        alprune.resume(path)
        assert_same(path, tmp_path / "whole")


def test_the_clock_goes_on_where_it_stood(tmp_path, kill):
    path = tmp_path / "run"
    config = options(path, steps=None, budget=30.0)
    run_killed(config, kill(Learner, "evaluate", 3))
    before = checkpoint.load_checkpoint(path)
    session, _ = reopen.reopen(path)
    assert session.budget.elapsed_s == before["elapsed_s"] > 0
    assert session.learning.speed.speed == before["scoring_speed"] is not None
    session.record.folder.close()


def test_labels_that_were_given_are_not_asked_for_again(tmp_path, kill):
    path, asked = tmp_path / "run", []

    def person(indices):
        asked.extend(indices.tolist())
        return splits.train.y[indices]

    config = complete(options(path))
    splits = alprune.loop.setup.load_splits(config)
    revive = kill(Learner, "fit", 3)
    with pytest.raises(Killed):
        open_session(config, splits).run(person)
    revive()
    session, _ = reopen.reopen(path)
    session.run(person)
    assert len(asked) == len(set(asked)) == 30


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, reference):
    class Impatient(alprune.loop.events.Observer):
        def event(self, name, fields):
            if name == "step" and fields["step"] == 1:
                raise KeyboardInterrupt

    path = tmp_path / "run"
    assert alprune.run(options(path), observer=Impatient()).reason == "interrupted"
    assert events_of(path)[-1]["event"] == "end" and (path / "model.safetensors").exists()
    assert alprune.resume(path).reason == "steps"
    assert_same(path, reference)
    assert len(events_of(path, "end")) == 1


def test_a_finished_run_is_left_as_it_is_and_told_how_to_extend(tmp_path):
    path = tmp_path / "run"
    first = alprune.run(options(path, steps=1))
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.warns(UserWarning, match="has ended .steps.*--steps of more than 1"):
        assert alprune.resume(path) == first
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


def test_a_finished_run_is_extended(tmp_path):
    path = tmp_path / "run"
    alprune.run(options(path, steps=2))
    first = checkpoint.load_checkpoint(path)["learner"]["batches"]
    result = alprune.resume(path, steps=4)
    assert (result.reason, result.steps, result.labelled) == ("steps", 4, 140)
    assert checkpoint.load_checkpoint(path)["learner"]["batches"] > first  # it learnt on
    assert [s["step"] for s in events_of(path, "step")] == [0, 1, 2, 3, 4]
    assert alprune.RunConfig.from_toml(path / "config.toml").steps == 4


def test_a_run_is_not_extended_by_another_kind_of_limit(tmp_path):
    alprune.run(options(tmp_path / "run", steps=1))
    with pytest.warns(UserWarning, match="give --steps"):
        assert alprune.resume(tmp_path / "run", budget=60.0).steps == 1


def test_a_run_that_met_another_limit_is_not_extended_by_a_budget(tmp_path):
    first = alprune.run(options(tmp_path / "run", steps=None, budget=600.0, stop_labels=110))
    assert first.reason == "label budget"
    with pytest.warns(UserWarning, match="has ended .label budget.*nothing is left to do"):
        assert alprune.resume(tmp_path / "run", budget=1200.0) == first


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest(path):
    return max((path / s for s in checkpoint.SLOTS), key=lambda p: checkpoint.decode(p)["number"])


@pytest.mark.parametrize("how", ["a bit", "half", "nothing left"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, kill, reference, how):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    file = newest(path)
    if how == "a bit":
        damage(file)
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if how == "half" else b"")
    with pytest.warns(UserWarning, match=f"{file.name} is damaged.*The one before it is used"):
        alprune.resume(path)
    assert_same(path, reference)


def test_two_damaged_checkpoints_are_an_error_that_says_what_is_left(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    for slot in checkpoint.SLOTS:
        damage(path / slot)
    with pytest.raises(StoreError, match="labels.csv.*still hold"):
        alprune.resume(path)
    assert RunFolder(path, resume=True)  # the lock was let go


def test_a_checkpoint_of_another_run_is_refused_even_of_a_twin(tmp_path, kill):
    paths = [tmp_path / "run", tmp_path / "twin"]
    for path in paths:
        run_killed(options(path), kill(Learner, "fit", 3))
    for slot in checkpoint.SLOTS:
        shutil.copyfile(paths[1] / slot, paths[0] / slot)
    before = {path.name: path.read_bytes() for path in paths[0].iterdir()}
    with pytest.raises(StoreError, match="events.jsonl is not the record that the checkpoint"):
        alprune.resume(paths[0])
    assert {path.name: path.read_bytes() for path in paths[0].iterdir()} == before


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    for slot in checkpoint.SLOTS:
        (path / slot).unlink()
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StoreError, match="no checkpoint left, .*2 steps and 20 labels"):
        alprune.resume(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    (path / "events.jsonl").write_bytes(b"")  # the labels alone tell
    with pytest.raises(StoreError, match="no checkpoint left, .*0 steps and 20 labels"):
        alprune.resume(path)


def test_a_torn_last_line_of_events_is_cut_off(tmp_path, kill, reference):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    for name, torn in (("events.jsonl", '{"event": "st'), ("labels.csv", "12,")):
        with open(path / name, "a") as file:
            file.write(torn)
    alprune.resume(path)
    assert_same(path, reference)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: [row[0], str((int(row[1]) + 1) % 10), str((int(row[1]) + 1) % 10), row[3]],
         r"line 5 gives point \d+ the label \d; the run was trained with \d"),
        (lambda row: [row[0], row[1], "cat", row[3]], r"line 5 calls class \d 'cat', not '\d'"),
        (lambda row: [row[0], "cat", *row[2:]], "line 5 is not index,label,class,step: '.*cat"),
        (lambda row: ["99999", *row[1:]], "line 5 names point 99999; the data set has 1297"),
        (lambda row: [row[0], "10", *row[2:]], r"line 5 has the label 10; the classes are 0\.\.9"),
    ],
    ids=["label", "class name", "no number", "no such point", "no such class"],
)  # fmt: skip
def test_a_label_edited_by_hand_is_refused_and_nothing_is_rewritten(tmp_path, kill, edit, message):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    with open(path / "labels.csv", newline="") as file:
        rows = list(csv.reader(file))
    rows[4] = edit(rows[4])
    with open(path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StoreError, match=f"labels.csv was edited: {message}.*Undo the edit"):
        alprune.resume(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("what", ["the file", "some rows"])
def test_labels_that_were_removed_are_written_again(tmp_path, kill, reference, what):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    lines = (path / "labels.csv").read_bytes().splitlines(keepends=True)
    if what == "the file":
        (path / "labels.csv").unlink()
    else:
        (path / "labels.csv").write_bytes(b"".join(lines[:1] + lines[8:]))
    alprune.resume(path)
    assert_same(path, reference)


def test_an_own_function_is_not_taken_for_ours_of_its_name(tmp_path, kill):
    def entropy(evidence, count, generator):
        return evidence.candidates[:count]

    before = tmp_path / "before"  # its first checkpoint
    run_killed(options(before, steps=1), kill(CheckpointWriter, "save", 1), entropy)
    with pytest.raises(StoreError, match="entropy', not by 'entropy'. Pass that function"):
        alprune.resume(before)
    assert alprune.resume(before, acquisition=entropy).steps == 1

    path = alprune.run(options(tmp_path / "run", steps=1), acquisition=entropy).path
    with pytest.raises(StoreError, match="entropy', not by 'entropy'. Pass that function"):
        alprune.resume(path, steps=2)
    assert alprune.load_run(path).rows()[0]["acquisition"].startswith("test_resume:")
    entropy.__module__ = "moved"
    assert alprune.resume(path, acquisition=entropy, steps=2).steps == 2


def test_a_function_that_was_passed_is_not_taken_for_one_that_the_option_names(tmp_path):
    path = alprune.run(
        options(tmp_path / "run", steps=1, acquisition="test_resume:Alternating")
    ).path
    put(path, checkpoint.load_checkpoint(path) | {"acquisition": "other:Alternating"})
    with pytest.raises(StoreError, match="'other:Alternating', not by 'test_resume:Alternating'"):
        alprune.resume(path, steps=2)


def test_an_own_function_that_may_have_lost_its_memory_is_named(tmp_path):
    class Counting:
        def __init__(self):
            self.calls = 0

        def __call__(self, evidence, count, generator):
            self.calls += 1
            return evidence.candidates[:count]

    path = alprune.run(options(tmp_path / "run", steps=1), acquisition=Counting).path
    with pytest.warns(UserWarning, match="Counting has no state_dict"):
        alprune.resume(path, acquisition=Counting, steps=2)


def test_a_partial_keeps_the_memory_of_what_it_holds(tmp_path):
    path = alprune.run(options(tmp_path / "run", steps=1), acquisition=partial(Alternating())).path
    again = Alternating()
    alprune.resume(path, acquisition=partial(again), steps=3)
    assert int(again.calls) == 3


def test_events_that_somebody_cut_are_refused(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    (path / "events.jsonl").write_text("")
    with pytest.raises(StoreError, match="it was cut or changed"):
        alprune.resume(path)


def test_other_options_data_or_functions_are_refused(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    toml = (path / "config.toml").read_text()
    (path / "config.toml").write_text(toml.replace("query_size = 10", "query_size = 20"))
    with pytest.raises(StoreError, match="query_size was 10 and is 20"):
        alprune.resume(path)
    (path / "config.toml").write_text(toml)

    def mine(evidence, count, generator):
        return evidence.candidates[:count]

    with pytest.raises(StoreError, match="'entropy', not by 'test_resume:.*mine'"):
        alprune.resume(path, acquisition=mine)
    state = checkpoint.load_checkpoint(path)
    put(path, state | {"data_digest": "another"})
    with pytest.raises(DataError, match="not those that the run began with"):
        alprune.resume(path)
    assert events_of(path)[-1]["event"] == "step"  # nothing was changed


@pytest.fixture
def moved(tmp_path, kill):
    """Return a killed run on data of its own, and its data, both on another machine."""
    splits = alprune.data.load("digits")
    arrays = {
        f"{axis}_{part}": getattr(getattr(splits, part), axis).numpy()
        for part in ("train", "test")
        for axis in "xy"
    }
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "there" / "data.npz", **arrays)
    there = options(tmp_path / "there" / "run", dataset=f"npz:{tmp_path}/there/data.npz", steps=2)
    run_killed(there, kill(Learner, "fit", 2))
    (tmp_path / "there").rename(tmp_path / "here")
    return tmp_path / "here" / "run", arrays


def test_a_run_moved_to_another_place_goes_on_where_it_is_told_the_data_lie(tmp_path, moved):
    path, arrays = moved
    with pytest.raises(DataError, match="no file .*there/data.npz.*`dataset`.*here/run/config"):
        alprune.resume(path)
    config = (path / "config.toml").read_text()
    (path / "config.toml").write_text(config.replace("/there/", "/here/"))
    assert alprune.resume(path).path == path
    data = f"npz:{tmp_path}/here/data.npz"
    alprune.run(options(tmp_path / "whole", dataset=data, steps=2))
    assert_same(path, tmp_path / "whole")


@pytest.mark.parametrize("name", ["x_train", "x_test", "y_test"])
def test_a_run_does_not_go_on_with_changed_data(moved, name):
    path, arrays = moved
    config = (path / "config.toml").read_text()
    (path / "config.toml").write_text(config.replace("/there/", "/here/"))
    arrays[name][7] = arrays[name][8]
    arrays[name][0] = arrays[name][1]
    np.savez(path.parent / "data.npz", **arrays)
    with pytest.raises(DataError, match="not those that the run began with"):
        alprune.resume(path)


def test_a_run_that_goes_on_on_another_machine_says_so(tmp_path, kill, monkeypatch):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 2))
    monkeypatch.setattr("alprune.loop.events.hardware", lambda device: "an abacus, 9 threads")
    with pytest.warns(UserWarning, match="where it did not begin .hardware: .* an abacus"):
        alprune.resume(path)
    assert [w["about"] for w in events_of(path, "warning")] == ["another machine"]
    assert "moved to another machine" in compare(path, path).why_not


def test_a_run_of_another_kind_of_device_is_refused(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 2))
    state = checkpoint.load_checkpoint(path)
    put(path, state | {"device": "cuda"})
    with pytest.raises(StoreError, match="computed on 'cuda'.*put device = \"cuda\" into"):
        alprune.resume(path)


def test_a_last_test_that_is_interrupted_leaves_a_run_to_go_on_with(tmp_path, monkeypatch):
    config = complete(options(tmp_path / "run", eval_every=2))
    session, oracle = alprune.loop.setup.open_run(config)
    for _ in range(2):
        session.tell(asked := session.ask(), oracle(asked))
    work = Learner.evaluate

    def interrupted(*args):
        session.interrupt()
        return work(*args)

    monkeypatch.setattr(Learner, "evaluate", interrupted)
    assert session.finish().reason == "interrupted"
    assert events_of(tmp_path / "run")[-1]["reason"] == "interrupted"


def test_a_checkpoint_of_another_learner_is_refused(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 3))
    state = checkpoint.load_checkpoint(path)
    state["learner"]["model"]["0.weight"] = torch.zeros(3)
    put(path, state)
    with pytest.raises(StoreError, match="does not fit the run"):
        alprune.resume(path)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match="holds no run to resume"):
            alprune.resume(path)
    assert not (tmp_path / "missing").exists()


def test_what_was_killed_before_its_options_were_written_is_no_run(tmp_path, kill):
    revive = kill(Record, "start", 1)
    with pytest.raises(Killed):
        alprune.run(options(tmp_path / "run"))
    revive()
    with pytest.raises(StoreError, match="no run to resume"):
        alprune.resume(tmp_path / "run")
    assert alprune.run(options(tmp_path / "run")).reason == "steps"


def test_an_own_function_whose_memory_cannot_be_kept_is_named(tmp_path):
    class Odd(Alternating):
        def state_dict(self):
            return {"calls": object()}

    with pytest.raises(StoreError, match="acquisition_state/calls.*of type object"):
        alprune.run(options(tmp_path / "run"), acquisition=Odd())


def test_a_recipe_that_is_damaged_is_an_error(tmp_path, kill):
    path = tmp_path / "run"
    run_killed(options(path), kill(Learner, "fit", 2))
    (path / "config.toml").write_text("= nothing")
    with pytest.raises(ConfigError, match="not valid TOML"):
        alprune.resume(path)


def test_the_folder_holds_all_it_takes_to_run_again(reference):
    start = events_of(reference, "start")[0]
    assert {"config", "versions", "hardware", "seed", "data_digest", "acquisition"} <= set(start)
    assert start["config"] == json.loads(json.dumps(given(asdict(complete(options(reference))))))
    again = complete(alprune.RunConfig.from_toml(reference / "config.toml"))
    assert again == complete(options(reference))
    with open(reference / "labels.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 130


def test_a_resumed_run_reads_its_images_at_the_scale_that_it_has_learnt(tmp_path):
    path = alprune.run(options(tmp_path / "run", steps=1)).path
    mean = load_splits(complete(options(tmp_path / "other"))).train.mean

    def of_another_version(config):
        splits = load_splits(config)
        other = {"mean": tuple(value + 0.1 for value in mean)}
        train, test = replace(splits.train, **other), replace(splits.test, **other)
        return replace(splits, train=train, test=test)

    session, _ = reopen.reopen(path, steps=2, load=of_another_version)
    session.record.folder.close()
    assert session.splits.train.mean == session.splits.test.mean == mean
