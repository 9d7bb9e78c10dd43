"""A comparison makes, keeps and goes on with runs; what fails does not stop the others."""

import gc
import os
import subprocess
import sys
import weakref
from collections import deque
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from tiny_run import events_of, options

import alprune
from alprune import data
from alprune.errors import AlpruneError, ConfigError, PruneError, StoreError
from alprune.loop.events import Observer
from alprune.runs.compare import Monitor, parallel, runs

GRID = {"method": ["3sp", "dense"]}


def fast(out="unused", **changes):
    return options(out, **({"steps": 1, "initial_epochs": 1.0} | changes))


def compare(out, grid=GRID, monitor=None, **changes):
    return alprune.compare(fast(**changes), grid, out, monitor=monitor)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Leave out the pictures, which take longer than the runs."""
    monkeypatch.setattr(runs, "plot_curve", lambda path, out: None)


def contents(out):
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture
def loads(monkeypatch):
    """Count how often a data set is loaded."""
    names, load = [], data.load

    def counted(name, **kwargs):
        names.append(name)
        return load(name, **kwargs)

    monkeypatch.setattr(data, "load", counted)
    return names


class Leaving(Monitor):
    """Interrupts a run after its first step."""

    def __init__(self, name):
        self.name = name

    def begins(self, cell, state):
        return Impatient() if cell.name == self.name else Observer()


class Impatient(Observer):
    def event(self, name, fields):
        if name == "step":
            raise KeyboardInterrupt


def test_runs_are_those_of_their_options_alone_and_the_data_is_loaded_once(tmp_path, loads):
    outcomes = compare(tmp_path / "cmp")
    assert loads == ["digits"]
    assert [(o.name, o.state) for o in outcomes] == [("3sp", "done"), ("dense", "done")]
    last = outcomes[-1]
    alone = alprune.run(fast(tmp_path / "alone", method="dense"))
    weights = [p / "model.safetensors" for p in (alone.path, last.path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert last.result.test_accuracy == alone.test_accuracy


def test_what_has_ended_is_kept_as_it_is_and_a_grid_may_grow(tmp_path):
    compare(tmp_path, {"method": ["3sp"], "seed": [0]})
    before = contents(tmp_path / "3sp-seed0")
    outcomes = compare(tmp_path, {"method": ["3sp"], "seed": [0, 1]})
    assert [o.state for o in outcomes] == ["kept", "done"]
    assert outcomes[0].result.labelled > 0
    assert contents(tmp_path / "3sp-seed0") == before


def test_an_interrupted_comparison_goes_on_to_the_same_end(tmp_path):
    outcomes = compare(tmp_path / "cmp", monitor=Leaving("3sp"))
    assert [o.state for o in outcomes] == ["interrupted", "waiting"]
    assert not outcomes[1].path.exists()
    outcomes = compare(tmp_path / "cmp")
    assert [o.state for o in outcomes] == ["done", "done"]
    assert events_of(outcomes[0].path, "resume")
    whole = alprune.run(fast(tmp_path / "whole"))
    assert outcomes[0].result.test_accuracy == whole.test_accuracy


def test_a_run_of_other_options_is_named_before_anything_begins(tmp_path):
    compare(tmp_path, {"method": ["dense"]})
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="dense was begun .*: epochs was 1.0 and is 0.5"):
        compare(tmp_path, epochs=0.5)
    with pytest.raises(StoreError, match="steps was 1 and is 2"):
        compare(tmp_path, steps=2)
    assert contents(tmp_path) == before


def test_an_unfinished_run_goes_on_where_its_data_are_now(tmp_path, monkeypatch):
    places, load = [], data.load

    def moved(name, *, root, **kwargs):
        places.append(str(root))
        return load("digits", root=None, **kwargs)

    monkeypatch.setattr(data, "load", moved)
    grid, old = {"method": ["3sp"]}, {"dataset": "cifar10", "data_root": "old"}
    compare(tmp_path, grid, Leaving("3sp"), **old)
    [outcome] = compare(tmp_path, grid, **old | {"data_root": "new", "cache": "elsewhere"})
    assert (outcome.state, places) == ("done", ["old", "new"])


def test_a_run_that_fails_says_why_and_the_others_go_on(tmp_path):
    grid = {"acquisition": ["random", "broken_parts:raises", "entropy"]}
    outcomes = compare(tmp_path, grid)
    assert [o.state for o in outcomes] == ["done", "failed", "done"]
    assert "boom" in outcomes[1].error and "AcquisitionError" in outcomes[1].error
    again = compare(tmp_path, grid)
    assert [o.state for o in again] == ["kept", "failed", "kept"]


def test_what_cannot_be_pruned_as_asked_is_found_before_the_first_run(tmp_path):
    with pytest.raises(PruneError, match="run dense-flops-reduction0.5: method 'dense' prunes"):
        compare(tmp_path / "cmp", {"method": ["dense", "3sp"], "flops_reduction": [0.5, 0.6]})
    with pytest.raises(AlpruneError, match="run momentum1.5: momentum must be in"):
        compare(tmp_path / "cmp", {"momentum": [0.9, 1.5]})
    assert not (tmp_path / "cmp").exists()


def test_a_session_is_freed_before_the_next_begins(tmp_path):
    class Counting(Monitor):
        def __init__(self):
            self.sessions, self.alive = [], []

        def opened(self, session):
            if session is not None:
                self.sessions.append(weakref.ref(session))

        def begins(self, cell, state):
            self.alive.append(sum(entry() is not None for entry in self.sessions))
            return Observer()

    monitor = Counting()
    gc.disable()  # what the comparison itself does not free stays
    try:
        compare(tmp_path, monitor=monitor)
    finally:
        gc.enable()
    assert monitor.alive == [0, 0] and len(monitor.sessions) == 2


def test_one_process_at_a_time_compares_in_a_folder(tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(StoreError, match="another process makes the comparison"):
            compare(tmp_path)
    assert not (tmp_path / "3sp").exists()


def test_a_run_folder_is_no_place_for_a_comparison(tmp_path):
    alprune.run(fast(tmp_path))
    with pytest.raises(StoreError, match="is itself a run folder"):
        compare(tmp_path)


def test_a_folder_with_something_else_in_it_is_refused_before_anything_begins(tmp_path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="dense is not empty .it holds 'thesis.tex'"):
        compare(tmp_path)
    assert not (tmp_path / "3sp").exists() and not (tmp_path / "compare.toml").exists()


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="jobs must be at least 1, got 0"):
        alprune.compare(fast(), GRID, tmp_path, jobs=0)


@pytest.mark.slow
def test_runs_side_by_side_end_as_those_one_after_another(tmp_path):
    grid = {"method": ["3sp", "dense"], "acquisition": ["entropy", "broken_parts:raises"]}
    both = alprune.compare(fast(), grid, tmp_path / "both", jobs=2)
    one = alprune.compare(fast(), grid, tmp_path / "one")
    assert [o.state for o in both] == [o.state for o in one]
    assert [o.state for o in one].count("failed") == 2
    for left, right in zip(both, one, strict=True):
        assert left.name == right.name
        if left.result:
            weights = [o.path / "model.safetensors" for o in (left, right)]
            assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_process_that_is_killed_fails_its_run_only(tmp_path):
    grid = {"acquisition": ["broken_parts:killed", "random", "entropy"]}
    with pytest.warns(UserWarning, match="2 runs side by side share the processors"):
        outcomes = alprune.compare(fast(steps=None, budget=1.0), grid, tmp_path, jobs=2)
    states = {o.values["acquisition"]: o.state for o in outcomes}
    assert states == {"broken_parts:killed": "failed", "random": "done", "entropy": "done"}
    assert "exit code -9" in outcomes[0].error


def test_ctrl_c_while_processes_begin_is_no_mistake_of_a_script():
    process = SimpleNamespace(join=lambda: None, terminate=lambda: None, exitcode=1)
    cell = SimpleNamespace(name="one", values={}, path=Path("one"))
    worker = parallel._Worker(process, SimpleNamespace(send=lambda task: None), cell)
    pool = parallel._Pool(deque(), Monitor(), 1, ())
    pool._workers.append(worker)
    pool.stop()
    pool._died(worker)  # Windows gives Ctrl-C to it, too
    assert pool.outcomes["one"].state == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("system", ["posix", "nt"])
def test_ctrl_c_ends_runs_side_by_side_soundly(tmp_path, monkeypatch, system):
    if system == "nt":  # where it would kill
        monkeypatch.setattr(BaseProcess, "terminate", lambda process: None)

    class Once(Observer):
        interrupts = 1

        def event(self, name, fields):
            if name == "step" and self.interrupts:
                self.interrupts = 0
                raise KeyboardInterrupt

    class Leaves(Monitor):
        observer = Once()

        def begins(self, cell, state):
            return self.observer

    grid = {"method": ["3sp", "dense", "uniform"]}
    config = fast(steps=500)
    outcomes = alprune.compare(config, grid, tmp_path, jobs=2, monitor=Leaves())
    assert [o.state for o in outcomes].count("waiting") >= 1
    assert "interrupted" in [o.state for o in outcomes]
    done = [o for o in outcomes if o.result]
    assert done and all(events_of(o.path)[-1]["reason"] == "interrupted" for o in done)


@pytest.mark.slow
def test_a_script_that_its_processes_cannot_import_is_told_why(tmp_path):
    """Each process imports the script, which would begin the comparison once more."""
    script = tmp_path / "script.py"
    script.write_text(
        "import alprune\n"
        'config = alprune.RunConfig(dataset="digits", model="lenet-300-100", steps=1)\n'
        'alprune.compare(config, {"seed": [0, 1, 2, 3]}, "out", jobs=2)\n'
    )
    path = os.pathsep.join([str(Path(alprune.__file__).parents[1]), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and not list((tmp_path / "out").glob("*/events.jsonl"))
    assert "end before they begin: a script that starts processes" in done.stderr
    assert done.stderr.count("is imported by each of them") <= 3  # theirs, and ours
