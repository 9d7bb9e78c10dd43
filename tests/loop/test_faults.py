"""Full disks, vanished folders, numbers that go wrong: a message, and the last good state."""

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from test_resume import assert_same
from tiny_run import events_of, options

import alprune
from alprune.acquisition import Evidence
from alprune.errors import PruneError, StoreError, TrainError
from alprune.loop.event_log import read_events
from alprune.loop.events import Observer
from alprune.loop.health import Alarms
from alprune.loop.run_folder import RunFolder
from alprune.loop.setup import complete, load_splits, open_session
from alprune.training import Learner
from alprune.training.distributed import Team
from alprune.training.metrics import Metrics
from alprune.training.optimiser import follow
from alprune.training.predict import moved

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    alprune.run(options(path, steps=1, initial_epochs=1.0))
    return path


WRITES = 26  # of a run of one step


@pytest.mark.parametrize(
    "nth",
    [pytest.param(n, marks=[] if n % 3 == 1 else [pytest.mark.slow]) for n in range(1, WRITES + 1)],
)
def test_a_disk_that_is_full_at_any_write_is_a_message_and_the_run_goes_on_later(
    tmp_path, monkeypatch, reference, nth
):
    path, sync, calls = tmp_path / "run", os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr("alprune.data.atomic_io.os.fsync", full)
    config = options(path, steps=1, initial_epochs=1.0)
    try:
        alprune.run(config)
    except StoreError as error:
        assert "No space left on device" in str(error)
        begun = (path / "config.toml").exists()
        told = f"alprune run --resume {path}" if begun else "repeat the command"
        assert told in str(error) or nth == 1  # the lock
    else:
        assert len(calls) < nth  # it was done before
    monkeypatch.setattr("alprune.data.atomic_io.os.fsync", sync)
    assert not list(path.glob(".*.tmp"))
    if (path / "config.toml").exists():
        read_events(path)
        if events_of(path) and events_of(path)[-1]["event"] == "end" and len(calls) < nth:
            return
        alprune.resume(path)
    else:
        alprune.run(config)  # nothing had begun
    assert_same(path, reference)


def test_every_write_of_a_run_was_tried(tmp_path, monkeypatch):
    calls, sync = [], os.fsync
    monkeypatch.setattr("alprune.data.atomic_io.os.fsync", lambda h: (calls.append(1), sync(h)))
    alprune.run(options(tmp_path / "run", steps=1, initial_epochs=1.0))
    assert len(calls) == WRITES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file")
def test_a_line_that_does_not_fit_is_cut_off_again(tmp_path):
    import resource

    folder = RunFolder(tmp_path / "run")
    folder.event("start", 0.0)
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            folder.event("step", 1.0, acquired=list(range(50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before
    folder.event("end", 1.0)
    assert [e["event"] for e in read_events(tmp_path / "run")] == ["start", "end"]


class Vandal(Observer):
    """Does something to the folder after the first step."""

    def __init__(self, deed):
        self.deed = deed

    def event(self, name, fields):
        if name == "step" and fields["step"] == 0:
            self.deed()


def test_a_folder_that_vanishes_is_a_message(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(StoreError, match=f"cannot write {path}.* was removed or replaced"):
        alprune.run(options(path), observer=Vandal(lambda: shutil.rmtree(path)))
    assert not path.exists()


def may_write_anywhere(where):
    (where / "closed").mkdir(mode=0o500)
    return os.access(where / "closed", os.W_OK)


def test_a_folder_that_becomes_read_only_is_a_message(tmp_path):
    if may_write_anywhere(tmp_path):
        pytest.skip("root may write anywhere")
    path = tmp_path / "run"
    with pytest.raises(StoreError, match="Permission denied"):
        alprune.run(options(path), observer=Vandal(lambda: path.chmod(0o500)))
    path.chmod(0o700)
    assert alprune.resume(path).reason == "steps"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a file system that nobody may write")
def test_a_folder_that_cannot_be_made_is_a_message():
    with pytest.raises(StoreError, match="cannot write a run to /proc/alprune"):
        RunFolder(Path("/proc/alprune"))


def test_a_second_process_is_refused_and_a_dead_one_does_not_hold_the_folder(tmp_path):
    path = tmp_path / "run"
    RunFolder(path).close()
    (path / "config.toml").write_text("")
    holds = (
        "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", holds, str(path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    before = sorted(p.name for p in path.iterdir())
    with pytest.raises(StoreError, match="another process is writing its run"):
        RunFolder(path, resume=True)
    assert sorted(p.name for p in path.iterdir()) == before
    child.kill()
    child.wait()
    RunFolder(path, resume=True).close()


def test_a_run_cannot_be_resumed_while_it_runs(tmp_path):
    said = []

    def resume():
        with pytest.raises(StoreError) as error:
            alprune.resume(tmp_path / "run")
        said.append(str(error.value))

    result = alprune.run(options(tmp_path / "run"), observer=Vandal(resume))
    assert result.reason == "steps"
    assert "another process is writing" in said[0]


@pytest.fixture
def poison(monkeypatch):
    """Make the network's weights infinite after some batches of the run, counted from 1."""
    train_on = Learner._train_on

    def arm(*batches):
        left = set(batches)

        def poisoned(self, indices, labels, generator):
            loss = train_on(self, indices, labels, generator)
            if self.batches in left:
                left.discard(self.batches)
                with torch.no_grad():
                    next(self.model.parameters()).fill_(float("inf"))
                follow(self.averaged, self.model, 0.5)
            return loss

        monkeypatch.setattr(Learner, "_train_on", poisoned)

    return arm


def test_a_loss_that_is_not_finite_is_answered_by_one_step_back_at_half_the_rate(tmp_path, poison):
    poison(18)  # the first of step 2: 13 batches, then 4 a step
    path = tmp_path / "run"
    with pytest.warns(UserWarning, match="in batch 19 .points .*Step 2 is repeated"):
        result = alprune.run(options(path))
    assert result.reason == "steps"
    [back] = events_of(path, "step_back")
    assert (back["step"], back["batch"], back["lr"]) == (2, 19, 0.025)
    assert len(back["points"]) == 32
    steps = events_of(path, "step")
    assert [s["step"] for s in steps] == [0, 1, 2, 3]
    assert all(s["train_loss"] < 5 for s in steps)


def test_a_second_such_loss_stops_the_run_and_names_the_batch(tmp_path, poison):
    poison(3, 5)
    path = tmp_path / "run"
    with (
        pytest.warns(UserWarning, match="Step 0 is repeated"),
        pytest.raises(TrainError, match="in batch 6 .points .*at a rate of 0.025"),
    ):
        alprune.run(options(path))
    assert len(events_of(path, "step_back")) == 1
    assert "in batch 6" in events_of(path, "end")[0]["reason"]
    assert (path / "labels.csv").exists() and (path / "summary.json").exists()
    assert not (path / "model.safetensors").exists()  # not these weights


def test_weights_that_the_last_batch_breaks_are_not_scored(tmp_path, poison):
    poison(13)
    with pytest.warns(UserWarning, match="weights became infinite or NaN in batch 13"):
        alprune.run(options(tmp_path / "run"))
    assert events_of(tmp_path / "run", "step_back")[0]["step"] == 0


def test_a_step_back_is_taken_once_however_often_the_run_is_resumed(tmp_path, poison):
    path = tmp_path / "run"
    poison(3)
    with pytest.warns(UserWarning, match="is repeated"):
        alprune.run(options(path, steps=1))
    poison(15)
    with pytest.raises(TrainError, match="at a rate of 0.025"):
        alprune.resume(path, steps=3)


def test_a_step_is_repeated_by_all_processes_of_a_run_or_by_none(tmp_path, poison):
    class Two(Team):
        """The other one has no checkpoint: the folder is on the first one's disk alone."""

        def any(self, flag):
            return True

    poison(3)
    config = complete(options(tmp_path / "run"))
    session = open_session(config, load_splits(config))
    session.learning.team = Two()
    with pytest.raises(TrainError, match="in batch 4"):
        session.ask()
    session.record.folder.close()
    assert not events_of(tmp_path / "run", "step_back")


def test_memory_that_runs_out_in_training_is_an_error_with_the_size_to_try(tmp_path, monkeypatch):
    def greedy(self, *args):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 TB")

    monkeypatch.setattr(Learner, "_train_on", greedy)
    with pytest.raises(TrainError, match="batch of 32 images. Try --batch-size 16, a smaller"):
        alprune.run(options(tmp_path / "run"))
    with pytest.raises(TrainError, match="batch of 2 images. Try a smaller --model"):
        alprune.run(options(tmp_path / "least", batch_size=2))


def test_memory_that_runs_out_in_pruning_is_an_error_with_the_size_to_try(tmp_path, monkeypatch):
    def greedy(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    monkeypatch.setattr("alprune.loop.learner.prune", greedy)
    with pytest.raises(PruneError, match="pruning on a batch of 32 images. Try --prune-batch 16"):
        alprune.run(options(tmp_path / "run"))


def test_training_images_that_the_device_has_no_room_for_are_a_message(tmp_path, monkeypatch):
    def full(x, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    images = load_splits(complete(options(tmp_path))).train.x
    with monkeypatch.context() as patch, pytest.raises(TrainError, match="1,297 training images"):
        patch.setattr(torch.Tensor, "to", full)
        moved(images, torch.device("cuda"))


def test_a_collapsed_network_is_warned_of_after_three_steps(tmp_path, monkeypatch):
    def constant(evidence, mine, see):
        probabilities = torch.full((mine.numel(), 10), 0.05)
        probabilities[:, 7] = 0.55
        see(slice(0, mine.numel()), probabilities)
        return True

    monkeypatch.setattr(Evidence, "_pass", constant)
    with pytest.warns(UserWarning, match="'7' for all .* candidates: .*collapsed. Lower --lr"):
        alprune.run(options(tmp_path / "run", steps=5, eval_every=10, warmup_batches=0))
    [warning] = events_of(tmp_path / "run", "warning")
    assert (warning["about"], warning["step"]) == ("collapsed network", 3)  # step 0 was tested


def test_three_constant_steps_have_to_be_on_end():
    said = []
    watch = Alarms(["a", "b"], lambda about, message: said.append(about))
    constant, mixed = (4, 0), (1, 1)
    for counts in (constant, constant, mixed, constant, constant):
        watch.predictions(counts, None)
    assert said == []
    watch.predictions((1, 0), None)  # of one candidate nothing can be said
    watch.predictions(None, None)
    assert watch.constant_steps == 2
    watch.predictions(constant, None)
    watch.predictions(constant, None)
    assert said == ["collapsed network"]  # once


def test_a_learner_that_tells_test_images_apart_has_not_collapsed():
    watch = Alarms(["a", "b"], lambda about, message: pytest.fail(message))
    for _ in range(4):  # the rest of the pool is of one class
        watch.predictions((50, 0), [0.9, 0.4])


def test_no_collapse_is_reported_while_the_learner_warms_up(tmp_path, monkeypatch):
    always_3 = tuple(1.0 if c == 3 else 0.0 for c in range(10))
    figures = Metrics(0.1, 0.02, 0.5, 2.3, 0.9, always_3)
    monkeypatch.setattr(Learner, "evaluate", lambda *args: figures)
    config = options(tmp_path / "run", steps=5, acquisition="random", warmup_batches=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alprune.run(config)
    assert events_of(tmp_path / "run", "warning") == []


def test_a_collapse_is_seen_in_the_tests_where_nothing_is_scored(tmp_path, monkeypatch):
    always_3 = [1.0 if c == 3 else 0.0 for c in range(10)]
    figures = Metrics(0.1, 0.02, 0.5, 2.3, 0.9, tuple(always_3))
    monkeypatch.setattr(Learner, "evaluate", lambda *args: figures)
    with pytest.warns(UserWarning, match="'3' for all test images"):
        alprune.run(options(tmp_path / "run", acquisition="random", warmup_batches=0))
    [warning] = events_of(tmp_path / "run", "warning")
    assert (warning["about"], warning["step"]) == ("collapsed network", 2)


def test_a_test_tells_a_constant_prediction_from_a_bad_one():
    said = []
    watch = Alarms(["a", "b", "c"], lambda about, message: said.append(about))
    for accuracies in ([1.0, 0.0, 0.1], [0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [None, 1.0, None]):
        watch.predictions(None, accuracies)
        assert watch.constant_steps == 0
    watch.predictions(None, [0.0, 1.0, None])
    assert watch.constant_steps == 1 and said == []


def test_a_class_that_was_never_seen_is_named():
    said = []
    watch = Alarms(["cat", "dog", "eel"], lambda about, message: said.append(message))
    watch.labels(torch.tensor([0, 2, 2]))
    assert len(said) == 1 and "1 of 3 classes" in said[0] and "'dog'" in said[0]
    watch.labels(torch.tensor([0, 1, 2]))
    assert len(said) == 1


def test_a_class_without_a_first_label_is_warned_of_by_the_run(tmp_path):
    with pytest.warns(UserWarning, match="classes have no labelled point .*Raise --initial"):
        alprune.run(options(tmp_path / "run", steps=1, initial=4, start="random"))
    assert events_of(tmp_path / "run", "warning")[0]["about"] == "class never seen"


def test_the_last_event_says_how_much_memory_was_used(tmp_path):
    alprune.run(options(tmp_path / "run", steps=1))
    end = events_of(tmp_path / "run", "end")[0]
    assert end["peak_device_bytes"] is None  # on a CPU
    if os.name != "nt":
        assert 50e6 < end["peak_rss_bytes"] < 50e9


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from /proc")
def test_memory_of_the_process_that_started_the_run_does_not_count(tmp_path):
    script = tmp_path / "named_in_utf8_é"  # Linux cuts the name within the last letter
    code = "import torch; from alprune.loop.events import _peak_memory as peak;"
    code += "print(peak(torch.device('cpu'))['peak_rss_bytes'])"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(Path(alprune.__file__).parents[1])}
    held = bytearray(1_000_000_000)
    found = subprocess.run([script], capture_output=True, text=True, check=True, env=env)
    assert 50e6 < int(found.stdout) < len(held)


def test_labels_are_in_the_file_as_soon_as_they_are_told(tmp_path):
    config = complete(options(tmp_path / "run"))
    splits = load_splits(config)
    session = open_session(config, splits)
    asked = session.ask()
    session.tell(asked, splits.train.y[asked])
    rows = (tmp_path / "run" / "labels.csv").read_text().splitlines()[1:]
    assert len(rows) == 110
    assert {int(row.split(",")[0]) for row in rows} >= set(asked.tolist())
    session.record.folder.close()


def test_an_error_keeps_labels_summary_and_network(tmp_path):
    def broken(evidence, count, generator):
        raise ZeroDivisionError("mine")

    with pytest.raises(alprune.AlpruneError, match="mine"):
        alprune.run(options(tmp_path / "run"), acquisition=broken)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"labels.csv", "summary.json", "model.safetensors"} <= names


def script(name, *args):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "stress" / name), *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_runs_killed_at_random_instants_equal_the_one_that_was_not():
    done = script("kill.py", "--kills", 3)
    assert done.returncode == 0, done.stderr
    assert "3 kills" in done.stdout and "all equal" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_embeddings_that_were_kept_survive_kills_at_random_instants():
    done = script("kill_embed.py", "--kills", 3)
    assert done.returncode == 0, done.stderr
    assert "all with all embeddings" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_handles_and_time_stay_flat_over_many_steps():
    done = script("soak.py", "--steps", 400)
    assert "record     sound" in done.stdout, done.stdout + done.stderr


def test_a_network_with_tied_weights_can_be_kept(tmp_path):
    alprune.run(options(tmp_path / "run", model="tiny_learner:tied", method="dense", steps=1))
    assert alprune.loop.checkpoint.load_checkpoint(tmp_path / "run")["step"] == 0
