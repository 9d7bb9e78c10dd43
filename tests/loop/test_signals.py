"""SIGINT and SIGTERM end a run within a batch, with its state written."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_resume import assert_same
from tiny_run import events_of, options

import alprune
from alprune.cli import main
from alprune.loop import setup as experiment
from alprune.loop.checkpoint import CheckpointWriter
from alprune.loop.signals import Signals, Stopped
from alprune.training import Learner
from alprune.training.predict import Predictor

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
INT, TERM = signal.SIGINT, signal.SIGTERM
# Where the tests run in a shell's background they are started with SIGINT ignored.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    alprune.run(options(path))
    return path


@pytest.fixture
def send(monkeypatch):
    """Send signals to this process when a method is called for the n-th time; count its calls."""

    def arm(owner, name, call, *signals):
        work, calls = getattr(owner, name), []

        def disturbed(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                for number in signals:
                    # Not os.kill: another thread may take that, and two become one.
                    signal.raise_signal(number)
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, disturbed)
        return calls

    return arm


def call(tmp_path, *args):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(options(tmp_path / "run").to_toml())
    return CliRunner().invoke(main, ["run", *(args or ["--recipe", str(recipe)])])


@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, 143)])
def test_a_signal_ends_the_batch_and_the_run_can_go_on(tmp_path, send, reference, number, code):
    batches = send(Learner, "_step", 15, number)
    done = call(tmp_path)
    assert done.exit_code == code, done.output
    assert len(batches) == 15  # not one more
    assert f"alprune run --resume {tmp_path / 'run'}" in done.stderr
    events = events_of(tmp_path / "run")
    assert (events[-1]["event"], events[-1]["reason"]) == ("end", "interrupted")
    assert (tmp_path / "run" / "model.safetensors").exists()
    again = call(tmp_path, "--resume", str(tmp_path / "run"))
    assert again.exit_code == 0, again.output
    assert_same(tmp_path / "run", reference)


def test_a_second_sigint_stops_at_once_with_a_sound_folder(tmp_path, send, reference):
    send(Learner, "_step", 15, INT, INT)
    done = call(tmp_path)
    assert done.exit_code == 130
    assert "Stopped at once" in done.stderr and "--resume" in done.stderr
    assert events_of(tmp_path / "run")[-1]["event"] == "step"
    assert call(tmp_path, "--resume", str(tmp_path / "run")).exit_code == 0
    assert_same(tmp_path / "run", reference)


def test_a_second_sigint_while_the_end_is_written_leaves_a_sound_folder(tmp_path, send, reference):
    send(Learner, "_step", 15, INT)
    send(alprune.loop.events.Record, "labels", 2, INT)  # once at the start, then at the end
    assert call(tmp_path).exit_code == 130
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert call(tmp_path, "--resume", str(tmp_path / "run")).exit_code == 0
    assert_same(tmp_path / "run", reference)


def test_sigterm_may_come_twice(tmp_path, send):
    send(Learner, "_step", 15, TERM, TERM)  # as `timeout` sends it: to the process and its group
    done = call(tmp_path)
    assert done.exit_code == 143
    assert events_of(tmp_path / "run")[-1]["reason"] == "interrupted"


def test_a_signal_ends_a_test_and_a_scoring_too(tmp_path, send, reference, monkeypatch):
    calls: list[int] = []
    late: list[bool] = []  # of each part of a test or a scoring: whether it came after the signal
    work = Predictor._logits

    def part(*args):
        late.append(len(calls) >= 3)
        return work(*args)

    monkeypatch.setattr(Predictor, "_logits", part)
    for number, (owner, name) in enumerate([(Learner, "evaluate"), (Learner, "predict")]):
        path = tmp_path / str(number)
        path.mkdir()
        late.clear()
        calls = send(owner, name, 3, INT)
        assert call(path).exit_code == 130
        assert late and not any(late)
        assert call(path, "--resume", str(path / "run")).exit_code == 0
        assert_same(path / "run", reference)


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path, send, reference):
    send(CheckpointWriter, "save", 3, TERM)
    assert call(tmp_path).exit_code == 143
    assert alprune.loop.checkpoint.load_checkpoint(tmp_path / "run")["step"] == 1
    assert call(tmp_path, "--resume", str(tmp_path / "run")).exit_code == 0
    assert_same(tmp_path / "run", reference)


@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, 143)])
def test_a_signal_before_the_first_step_leaves_no_folder(tmp_path, send, number, code):
    send(experiment, "load_splits", 1, number)
    done = call(tmp_path)
    assert done.exit_code == code
    assert "Interrupted before the first step" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_signal_before_a_run_goes_on_says_how_to_go_on(tmp_path):
    with pytest.raises(Stopped) as stopped, Signals() as signals:
        signals.going_on(tmp_path / "my run")
        os.kill(os.getpid(), TERM)
    assert stopped.value.signum == TERM
    resume = f"alprune run --resume '{tmp_path}/my run'"
    assert str(stopped.value) == f"Interrupted before it was resumed. To resume: {resume}"


@pytest.mark.parametrize("signals", [(INT, INT), (TERM, INT)])
@pytest.mark.parametrize("where", [("save", 3), ("wait", 4)])
def test_a_second_sigint_within_a_checkpoint_leaves_the_one_before(
    tmp_path, send, reference, signals, where
):
    send(CheckpointWriter, *where, *signals)  # in the second case one may be on its way
    done = call(tmp_path)
    assert done.exit_code == 130 and "Stopped at once" in done.stderr
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert call(tmp_path, "--resume", str(tmp_path / "run")).exit_code == 0
    assert_same(tmp_path / "run", reference)


def test_a_signal_after_the_last_step_changes_nothing(tmp_path, send, reference):
    send(alprune.loop.events.Record, "network", 1, TERM)
    assert call(tmp_path).exit_code == 0
    assert_same(tmp_path / "run", reference)


def test_a_picture_that_cannot_be_drawn_does_not_fail_a_run(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    done = call(tmp_path)
    assert done.exit_code == 0 and "test accuracy" in done.stdout
    assert "curve.png: [Errno 28] No space left on device" in done.stderr


def test_handlers_are_those_of_before_after_a_run_and_not_touched_by_python(tmp_path):
    before = [signal.getsignal(number) for number in (INT, TERM)]
    seen = []

    class Looking(alprune.loop.events.Observer):
        def event(self, name, fields):
            seen.append([signal.getsignal(number) for number in (INT, TERM)])

    alprune.run(options(tmp_path / "python", steps=1), observer=Looking())
    assert all(entry == before for entry in seen)
    assert call(tmp_path).exit_code == 0
    assert [signal.getsignal(number) for number in (INT, TERM)] == before


@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, 143)])
def test_a_signal_during_the_imports_is_answered_in_a_line(tmp_path, number, code):
    argv = ["alprune", "run", "--dataset", "digits", "--steps", "0", "--out", str(tmp_path / "run")]
    program = (
        f"{HEED}; import sys; sys.argv = {argv!r}; "
        "import alprune.__main__ as m; print('up', flush=True); m.main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "up\n"
    time.sleep(0.2)  # the imports take seconds
    child.send_signal(number)
    _, errors = child.communicate(timeout=200)
    assert child.returncode == code, errors
    assert errors.strip() == "Interrupted."
    assert not (tmp_path / "run").exists()


def with_command(tmp_path, *lines):
    """Run the entry point with a command line of these lines."""
    (tmp_path / "cli.py").write_text("\n".join(["import os, signal, threading, time", *lines]))
    program = (
        f"{HEED}; import alprune, alprune.__main__ as m; "
        f"alprune.__path__.insert(0, {str(tmp_path)!r}); m.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_signal_that_an_imported_package_swallows_is_answered_all_the_same(tmp_path):
    done = with_command(
        tmp_path,
        "try: os.kill(os.getpid(), signal.SIGINT)",
        "except BaseException: pass",
        "def main(prog_name): print('it went on')",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_what_is_temporary_is_removed_under_sigterm_also_if_it_comes_twice(tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    done = with_command(
        tmp_path,
        "import tempfile",
        "def main(prog_name):",
        f"    with tempfile.TemporaryDirectory(dir={str(place)!r}):",
        "        try:",
        "            signal.raise_signal(signal.SIGTERM)",
        "            time.sleep(100)",
        "        finally:",
        "            signal.raise_signal(signal.SIGTERM)",
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert not list(place.iterdir())


def test_a_signal_that_a_destructor_swallows_is_sent_again(tmp_path):
    done = with_command(
        tmp_path,
        "class Swallowing:",
        "    def __del__(self): signal.raise_signal(signal.SIGINT)",
        "def main(prog_name):",
        "    Swallowing()",
        "    time.sleep(100)",
        "    print('it went on')",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_signal_while_a_thread_still_works_after_the_command_is_no_traceback(tmp_path):
    done = with_command(
        tmp_path,
        "def late():",
        "    threading.main_thread().join()",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    time.sleep(100)",
        "def main(prog_name): threading.Thread(target=late).start()",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_second_sigterm_is_the_same_wish_where_there_is_no_session_either():
    with Signals():
        with pytest.raises(Stopped):
            signal.raise_signal(TERM)
        signal.raise_signal(TERM)
        with pytest.raises(Stopped):
            signal.raise_signal(INT)
