"""TensorBoard's own reader finds in its files what the record of the run says."""

import builtins

import pytest
from click.testing import CliRunner
from tiny_run import events_of, options

import alprune
from alprune.cli import main
from alprune.errors import ConfigError
from alprune.loop.events import Observer
from alprune.loop.tensorboard import TensorBoard


def scalars(path):
    """Read `{tag: [(step, value)]}`."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(path / "tensorboard"))
    found.Reload()
    return {t: [(e.step, e.value) for e in found.Scalars(t)] for t in found.Tags()["scalars"]}


def call(*args):
    return CliRunner().invoke(main, ["run", *map(str, args)])


def test_every_number_of_a_step_stands_against_labels_and_seconds(tmp_path):
    pytest.importorskip("tensorboard")
    recipe = tmp_path / "r.toml"
    recipe.write_text(options(tmp_path / "run", steps=2, initial_epochs=1.0).to_toml())
    done = call("--recipe", recipe, "--tensorboard")
    assert done.exit_code == 0, done.output
    steps, found = events_of(tmp_path / "run", "step"), scalars(tmp_path / "run")
    accuracy = found["by_labels/test_accuracy"]
    assert [at for at, _ in accuracy] == [e["labelled"] for e in steps]
    assert [v for _, v in accuracy] == pytest.approx([e["test_accuracy"] for e in steps])
    assert [at for at, _ in found["by_seconds/labelled"]] == [round(e["fitted_s"]) for e in steps]
    assert "by_labels/train_s" in found and "by_labels/step" not in found


def test_a_run_that_goes_on_is_written_whole_and_once(tmp_path):
    pytest.importorskip("tensorboard")

    class Impatient(Observer):
        def event(self, name, fields):
            if name == "step" and fields["step"] == 1:
                raise KeyboardInterrupt

    alprune.run(options(tmp_path / "run", initial_epochs=1.0), observer=Impatient())
    assert not (tmp_path / "run" / "tensorboard").exists()
    done = call("--resume", tmp_path / "run", "--tensorboard")
    assert done.exit_code == 0, done.output
    labelled = [e["labelled"] for e in events_of(tmp_path / "run", "step")]
    assert [at for at, _ in scalars(tmp_path / "run")["by_labels/train_loss"]] == labelled


def test_without_the_package_the_command_to_install_it_is_told(tmp_path, monkeypatch):
    real = builtins.__import__

    def lacking(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ConfigError, match="need the package tensorboard"):
        TensorBoard(tmp_path)
    with pytest.raises(ConfigError, match="need the package tensorboard"):
        alprune.compare(options("x"), {"seed": [0]}, tmp_path / "cmp", log=["tensorboard"])
    assert not (tmp_path / "cmp").exists()


def test_a_link_in_the_place_of_the_files_is_not_followed(tmp_path):
    pytest.importorskip("tensorboard")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "tensorboard").symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="is a link"):
        TensorBoard(tmp_path).event("start", {"elapsed_s": 0.0})
    assert not list(elsewhere.iterdir())


def test_whatever_fails_there_ends_no_run(tmp_path, monkeypatch):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter

    def full(*_):
        raise RuntimeError("no space left")

    monkeypatch.setattr(writer, "add_scalar", full)
    config, shown = options(tmp_path / "run", steps=1), TensorBoard(tmp_path / "run")
    with pytest.warns(UserWarning, match="told no more: no space left"):
        done = alprune.run(config, observer=shown)
    assert done.reason == "steps"
