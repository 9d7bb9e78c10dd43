"""A run folder as arrays: runs of every age, ended or not."""

import json

import numpy as np
import pytest
from tiny_run import events_of, options

import alprune
from alprune.errors import StoreError
from alprune.runs.history import COLUMNS


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("history") / "run"
    alprune.run(options(out, steps=2, initial_epochs=1.0, eval_every=2))
    return out


def copy_of(path, tmp_path, change=lambda event: event, most=None):
    lines = (path / "events.jsonl").read_text().splitlines()[:most]
    told = [json.dumps(change(json.loads(line))) for line in lines]
    (tmp_path / "events.jsonl").write_text("".join(line + "\n" for line in told))
    return tmp_path


def test_arrays_hold_what_the_events_say(path):
    run, steps = alprune.load_run(path), events_of(path, "step")
    assert len(run) == len(steps) == 3 and run.reason == "steps"
    assert run.config["method"] == "3sp" and run.prune["macs_after"] < run.prune["macs_before"]
    for name in ("step", "labelled", "elapsed_s", "fitted_s", "train_loss", "train_s"):
        assert getattr(run, name).tolist() == [event[name] for event in steps]
    assert [None if np.isnan(a) else a for a in run.test_accuracy] == [
        event["test_accuracy"] for event in steps
    ]
    assert [a.tolist() for a in run.acquired] == [event["acquired"] for event in steps]
    assert run.labelled[0] == len(run.initial) and run.labelled.dtype == np.int64
    assert set(run.columns) == set(COLUMNS)


def test_rows_make_a_table_of_several_runs(path):
    pandas = pytest.importorskip("pandas")
    run = alprune.load_run(path)
    table = pandas.DataFrame(run.rows() + run.rows())
    assert len(table) == 6 and {"run", "method", "seed", *COLUMNS} <= set(table.columns)
    assert table.groupby("method").labelled.max().to_dict() == {"3sp": run.labelled[-1]}
    assert table.test_accuracy.isna().sum() == 2 * np.isnan(run.test_accuracy).sum()


def test_an_unended_run_and_a_half_written_line_are_read(path, tmp_path):
    copy_of(path, tmp_path, most=-1)
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"event": "end", "elapsed')
    run = alprune.load_run(tmp_path)
    assert run.reason is None and len(run) == 3 and run.end == {}
    only_started = alprune.load_run(copy_of(path, tmp_path, most=1))
    assert len(only_started) == 0 and only_started.rows() == [] and only_started.prune == {}


def test_an_old_run_lacks_what_was_not_recorded_yet(path, tmp_path):
    def old(event):
        return {k: v for k, v in event.items() if k not in ("fitted_s", "ece", "save_s", "told")}

    run, now = alprune.load_run(copy_of(path, tmp_path, old)), alprune.load_run(path)
    assert run.fitted_s.tolist() == run.elapsed_s.tolist() == now.elapsed_s.tolist()
    assert np.isnan(run.ece).all() and np.isnan(run.save_s).all()
    assert run.test_accuracy[-1] == now.test_accuracy[-1]


def test_the_final_test_is_that_of_the_last_step_unless_it_ended_early(path, tmp_path):
    def untested(event):
        unknown = dict.fromkeys(("test_accuracy", "macro_f1", "ece"))
        return event | unknown if event["event"] == "step" else event

    end = events_of(path, "end")[0]
    final = end["test_accuracy"]
    run = alprune.load_run(copy_of(path, tmp_path, untested))
    assert np.isnan(run.test_accuracy[:-1]).all() and run.test_accuracy[-1] == final
    assert run.end["test_accuracy"] == final
    assert (run.macro_f1[-1], run.ece[-1]) == (end["macro_f1"], end["ece"])
    broken = alprune.load_run(
        copy_of(path, tmp_path, lambda e: untested(e) | {"reason": "error: x"})
    )
    assert np.isnan(broken.test_accuracy).all() and broken.reason == "error: x"


def test_a_step_that_was_done_again_stands_once(path, tmp_path):
    copy_of(path, tmp_path, most=-1)
    step = events_of(path, "step")[-1] | {"labelled": 7}
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write(json.dumps(step) + "\n")
    run = alprune.load_run(tmp_path)
    assert run.step.tolist() == [0, 1, 2] and run.labelled[-1] == 7


def test_what_is_not_there_is_said(path, tmp_path):
    with pytest.raises(AttributeError, match="no 'accuracy'; its columns: step, labelled"):
        alprune.load_run(path).accuracy  # noqa: B018
    with pytest.raises(StoreError, match="holds no readable run"):
        alprune.load_run(tmp_path / "none")
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(StoreError, match="has not started"):
        alprune.load_run(tmp_path)
    copy_of(path, tmp_path, lambda e: e | {"asking": True})
    with pytest.raises(StoreError, match="people label in .* alprune report"):
        alprune.load_run(tmp_path)
    copy_of(path, tmp_path, lambda e: e | {"acquired": ["x"]} if "acquired" in e else e)
    with pytest.raises(StoreError, match="something else than whole numbers"):
        alprune.load_run(tmp_path)
