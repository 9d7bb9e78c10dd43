"""Trackers get the options, the numbers of every step and the end of a run; they never stop it."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_run import events_of, options

import alprune
from alprune.cli import main
from alprune.errors import ConfigError
from alprune.loop.observers import Observer
from alprune.loop.trackers import TRACKERS, require_trackers, tracked


class Impatient(Observer):
    """Interrupts a run in step 1."""

    def event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "step" and fields["step"] == 1:
            raise KeyboardInterrupt


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(path: Path, log: tuple[str, ...]) -> None:
    """Make a run that is interrupted and resumed, as a command does."""
    config = options(path, steps=3, initial_epochs=1.0)
    alprune.run(config, observer=tracked(Impatient(), path, log))
    alprune.resume(path, observer=tracked(Observer(), path, log))


class Fake(types.ModuleType):
    """What the trackers share of trackio's and wandb's interface."""

    def __init__(self, fails_in: str = "") -> None:
        super().__init__("wandb")
        self.calls: list[tuple[Any, ...]] = []
        self._fails_in = fails_in
        self.id = "run-1"

    def _note(self, name: str, *what: Any) -> None:
        print("a banner")
        self.calls.append((name, *what))
        if name == self._fails_in:
            raise RuntimeError("no network")

    def init(self, **given: Any) -> "Fake":
        self._note("init", given["name"], given["id"], given["config"]["method"])
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._note("log", step, numbers["test_accuracy"])

    def finish(self) -> None:
        self._note("finish")


def test_a_run_that_is_resumed_is_one_run_in_the_tracker(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(here / "run", ("wandb", "wandb"))
    accuracies = {e["step"]: e["test_accuracy"] for e in events_of(here / "run", "step")}
    begun = [call for call in fake.calls if call[0] == "init"]
    assert begun == [("init", "run", None, "3sp"), ("init", "run", "run-1", "3sp")]
    assert {c[1]: c[2] for c in fake.calls if c[0] == "log"} == accuracies
    assert fake.calls[-1] == ("finish",)
    assert "a banner" not in capsys.readouterr().out


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_costs_a_warning_and_not_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Fake(where))
    with pytest.warns(UserWarning, match="wandb gets no more of this run: no network"):
        alprune.run(
            options(here / "run", steps=1, initial_epochs=1.0),
            observer=tracked(Observer(), here / "run", ["wandb"]),
        )
    assert alprune.load_run(here / "run").reason == "steps"


def test_an_identity_that_nobody_wrote_is_not_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    alprune.run(options(here / "run", steps=1, initial_epochs=1.0), observer=Impatient())
    (here / "run" / ".wandb").write_text("../../else\n")
    alprune.resume(here / "run", steps=2, observer=tracked(Observer(), here / "run", ["wandb"]))
    assert fake.calls[0] == ("init", "run", None, "3sp")


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"tensorboard"}))
def test_a_missing_package_is_named_before_anything_begins(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=f"--log {name} needs the package {name}"):
        require_trackers([name])
    with pytest.raises(ConfigError, match="needs the package"):
        alprune.compare(options("x"), {"seed": [0]}, here / "grid", log=[name])
    done = CliRunner().invoke(main, ["run", "--dataset", "digits", "--log", name, "--out", "new"])
    assert done.exit_code == 1 and "needs the package" in done.output
    assert not (here / "grid").exists() and not (here / "new").exists()


def test_mlflow_holds_the_run(here: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    run(here / "run", ("mlflow",))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("alprune")
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "run" and found.info.status == "FINISHED"
    assert found.data.params["method"] == "3sp" and found.data.tags["reason"] == "steps"
    steps = events_of(here / "run", "step")
    history = client.get_metric_history(found.info.run_id, "test_accuracy")
    assert {m.step: m.value for m in history} == {e["step"]: e["test_accuracy"] for e in steps}


def test_trackio_holds_the_run(here: Path) -> None:
    pytest.importorskip("trackio", reason="the package trackio is not installed")
    import sqlite3

    run(here / "run", ("trackio",))
    [database] = (here / "trackio").glob("*alprune*.db")
    with sqlite3.connect(database) as rows:
        logged = dict(rows.execute("select step, metrics from metrics").fetchall())
    assert sorted(logged) == [e["step"] for e in events_of(here / "run", "step")]
    assert "test_accuracy" in str(logged[0])


@pytest.mark.slow
def test_wandb_writes_the_run_offline(here: Path) -> None:
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    run(here / "run", ("wandb",))
    assert list((here / "wandb").glob("offline-run-*"))
