"""A run is followed from its record, whatever state it is in."""

import io
import json
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from filelock import FileLock
from forbidden import forbid

from alprune.cli import main
from alprune.errors import StoreError
from alprune.loop.run_folder import RunFolder, is_written
from alprune.runs import watch as module
from alprune.runs.watch import (
    ENDED,
    RUNNING,
    WAITING,
    Course,
    Watcher,
    block,
    follow,
    progress,
    sparkline,
    unseen,
)

CONFIG = {"method": "3sp", "dataset": "digits", "seed": 4, "budget": 100.0}
START = {"event": "start", "elapsed_s": 0.0, "config": CONFIG}
PRUNE = {"event": "prune", "elapsed_s": 0.0, "method": "3sp", "macs_before": 100} | {
    "macs_after": 50,
    "params_before": 10,
    "params_after": 6,
    "flops_reduction": 0.5,
    "sparsity": 0.0,
    "prune_s": 0.1,
    "floored": [],
}
END = {"event": "end", "elapsed_s": 100.2, "reason": "budget", "labelled": 120, "steps": 1} | {
    "test_accuracy": 0.75
}


def step(number, accuracy=None):
    return {
        "event": "step",
        "elapsed_s": 20.0 * (number + 1),
        "step": number,
        "labelled": 100 + 10 * number,
        "test_accuracy": accuracy,
        "train_loss": 1.5,
    }


WHOLE = [START, PRUNE, step(0, 0.5), step(1), END]


def write(path, events, rest=""):
    path.mkdir(exist_ok=True)
    text = "".join(json.dumps(event) + "\n" for event in events)
    (path / "events.jsonl").write_text(text + rest)


class World:
    """A clock that moves when somebody sleeps, and what happens meanwhile."""

    def __init__(self, *happenings):
        self.s = 0.0
        self.happenings = list(happenings)

    def now(self):
        return self.s

    def sleep(self, seconds):
        self.s += seconds
        if self.happenings:
            self.happenings.pop(0)()


def followed(path, world, **options):
    return list(follow(path, now=world.now, sleep=world.sleep, **options))


@pytest.fixture
def hold():
    """Hold the lock of a run folder, as the process of a run does; a call returns how to let go."""
    held = []

    def take(path):
        held.append(FileLock(path / ".lock"))
        held[-1].acquire(timeout=0)
        return held[-1].release

    yield take
    for lock in held:
        lock.release()


def test_a_run_is_awaited_followed_and_left_when_it_ends(tmp_path):
    path = tmp_path / "run"
    world = World(
        lambda: path.mkdir(),
        lambda: write(path, WHOLE[:1], '{"event": "pru'),
        lambda: write(path, WHOLE[:3]),
        lambda: None,
        lambda: write(path, WHOLE),
    )
    courses = followed(path, world)
    assert [c.state for c in courses] == [WAITING, WAITING, RUNNING, RUNNING, RUNNING, ENDED]
    assert [len(c.events) for c in courses] == [0, 0, 1, 3, 3, 5]
    assert courses[4].quiet_s == 1


def test_waiting_ends_with_what_is_missing(tmp_path):
    with pytest.raises(StoreError, match="none is not there, after 5 s of waiting"):
        followed(tmp_path / "none", World(), wait_s=5)
    with pytest.raises(StoreError, match="holds no event of a run"):
        followed(tmp_path, World(), wait_s=5)
    write(tmp_path / "a", [START])
    (tmp_path / "compare.toml").write_text("")
    with pytest.raises(StoreError, match=f"comparison of many runs; .*watch {tmp_path / 'a'}"):
        followed(tmp_path, World())


def test_a_folder_in_which_people_label_is_no_run_to_watch(tmp_path):
    odd = {"event": "warning", "elapsed_s": 1.0, "round": 1, "about": "labels", "message": "few"}
    write(tmp_path / "birds", [START | {"asking": True}, odd])
    with pytest.raises(StoreError, match="people label in .*birds: .* alprune report .*birds"):
        followed(tmp_path / "birds", World())


def test_a_killed_run_is_told_by_its_free_lock(tmp_path, hold):
    path = tmp_path / "run"
    write(path, WHOLE[:3])
    world = World()
    with pytest.raises(StoreError, match="no process holds the lock .*alprune run --resume"):
        followed(path, world)
    assert world.s < 10
    (path / ".lock").touch()
    with pytest.raises(StoreError, match="no process"):
        followed(path, World())
    let_go = hold(path)
    quiet = World(*[lambda: None] * 50, lambda: write(path, WHOLE), let_go)
    assert followed(path, quiet)[-1].state == ENDED


def test_an_old_end_is_none_while_a_process_holds_the_lock(tmp_path, hold):
    path = tmp_path / "run"
    write(path, [*WHOLE[:3], END | {"reason": "interrupted"}])
    world = World(lambda: write(path, WHOLE), hold(path))
    assert [c.state for c in followed(path, world)] == [RUNNING, RUNNING, ENDED]


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), PermissionError("not yours")])
def test_where_locks_cannot_be_taken_a_silent_run_is_awaited(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    path = tmp_path / "run"
    write(path, WHOLE[:3])
    (path / ".lock").touch()
    assert is_written(path) is None
    world = World(*[lambda: None] * 30, lambda: write(path, WHOLE))
    assert followed(path, world)[-1].state == ENDED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_seen_by_its_lock_on_every_system(tmp_path, number):
    program = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "held\n"
        assert is_written(tmp_path)
        writer.send_signal(number)
    assert is_written(tmp_path) is False


def test_of_a_folder_of_another_user_nothing_is_claimed(tmp_path, monkeypatch):
    forbid(monkeypatch, tmp_path)
    # From Python 3.14 on pathlib takes what may not be looked at for missing.
    assert is_written(tmp_path) is (None if sys.version_info < (3, 14) else False)


def test_a_run_can_begin_while_it_is_watched(tmp_path):
    path = tmp_path / "run"
    write(path, [])
    (path / ".lock").touch()
    stop, failed = threading.Event(), []

    def look():
        try:
            while not stop.is_set():
                is_written(path)
        except BaseException as error:
            failed.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(30):
            RunFolder(path).close()
    finally:
        stop.set()
        watcher.join()
    assert not failed


def test_nothing_in_the_folder_is_changed(tmp_path):
    write(tmp_path / "run", WHOLE)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    followed(tmp_path / "run", World())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


def test_events_taken_back_by_a_resumed_run_are_told_anew():
    a, b, c = ({"event": "step", "step": n} for n in range(3))
    assert unseen([], [a, b]) == [a, b]
    assert unseen([a, b], [a, b, c]) == [c]
    assert unseen([a, b, c], [a, c, b]) == [c, b]
    assert unseen([a, b, c], [a]) == []


def test_sparklines_are_as_drawn_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""
    assert sparkline([0, 2, 7, 7, 0, 0], width=3) == "▂█▁"  # means 1, 7, 0
    assert len(sparkline(list(range(1000)))) == 40


def test_time_left_counts_the_clock_on_and_the_steps(tmp_path):
    by_budget = Course(tmp_path, RUNNING, WHOLE[:4], quiet_s=10.0)
    assert progress(by_budget) == (0.5, 50.0)
    start = START | {"config": {"steps": 9}}
    by_steps = Course(tmp_path, RUNNING, [start, step(0), step(1)], quiet_s=5.0)
    assert progress(by_steps) == (0.2, 8 * 20 - 5)
    resumed = {"event": "resume", "elapsed_s": 40.0, "step": 2, "budget": 400.0, "steps": None}
    assert progress(Course(tmp_path, RUNNING, [*WHOLE[:4], resumed], 0.0)) == (0.1, 360.0)
    assert progress(Course(tmp_path, RUNNING, [START], 0.0)) == (0.0, 100.0)


def test_a_budget_that_nobody_has_is_not_counted_in_days(tmp_path):
    start = START | {"config": CONFIG | {"budget": 1e300}}
    course = Course(tmp_path, RUNNING, [start, step(0)], 0.0)
    assert block(course)[0].endswith("20 s, about 100 years or more left")


def test_the_block_holds_state_curves_and_time(tmp_path):
    events = [START, PRUNE, step(0, 0.5), step(1, 0.7), step(2, 0.6)]
    lines = block(Course(tmp_path, RUNNING, events, 7.0))
    assert lines[0].startswith(" 67% [####################..........] 67 s, about 33 s left")
    assert lines[1] == "  step 2, 120 labelled, accuracy 60.0%, best 70.0%"
    assert lines[2] == "  accuracy  ▁█▅  50.0% to 60.0%"
    assert lines[3] == "  labelled  ▁▅█  100 to 120"
    assert lines[4] == "  last event 7 s ago"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, path, *parts):
    watcher = Watcher(stream)
    for events in parts:
        state = ENDED if events[-1:] == [END] else RUNNING if events else WAITING
        watcher.show(Course(path, state, events, 0.0))
    return stream.getvalue()


def test_off_a_terminal_each_step_is_a_line_and_nothing_is_repeated(tmp_path):
    warning = {"event": "warning", "elapsed_s": 1.0, "step": 0, "message": "odd\x1b[2J"}
    events = [*WHOLE[:3], warning, *WHOLE[3:]]
    text = shown(io.StringIO(), tmp_path, [], events[:2], events[:4], events[:4], events)
    assert text.count("Waiting for a run") == 1
    assert text.count("3sp: 50.0% of the FLOPs") == 1
    assert text.count("step    0") == text.count("step    1") == 1
    assert "Warning at step 0: odd\\x1b[2J" in text and "\x1b" not in text
    assert "Ended (budget) after 2 min on the clock: 75.0% with 120 labels." in text


def test_on_a_terminal_the_block_is_drawn_over_itself(tmp_path):
    text = shown(Terminal(), tmp_path, WHOLE[:3], WHOLE[:4], WHOLE)
    assert text.count("\033[5F\033[J") == text.count("\033[J") == 2  # five lines, drawn over twice
    assert text.index("Ended (budget)") > text.rindex("labelled  ")
    assert "digits, 3sp, seed 4, budget 100" in text and "Ended (budget)" in text


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    path = tmp_path / "run"
    write(path, [*WHOLE[:3], END | {"reason": "interrupted"}])
    done = CliRunner().invoke(main, ["watch", str(path)])
    assert done.exit_code == 0, done.output
    assert f"alprune run --resume {path}" in done.stdout


def test_json_streams_the_events_and_misuse_is_a_message(tmp_path):
    write(tmp_path / "run", WHOLE)
    done = CliRunner().invoke(main, ["watch", str(tmp_path / "run"), "--json"])
    assert [json.loads(line) for line in done.stdout.splitlines()] == WHOLE
    none = CliRunner().invoke(main, ["watch", str(tmp_path / "none"), "--wait", "0"])
    assert none.exit_code == 1 and none.stderr.startswith("Error: ")
    write(tmp_path / "odd", [START | {"config": {"budget": "soon"}}, PRUNE | {"floored": 3}])
    odd = CliRunner().invoke(main, ["watch", str(tmp_path / "odd")])
    assert odd.exit_code == 1 and "is not as alprune writes it" in odd.stderr


def test_ctrl_c_leaves_the_run_alone(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupted)
    monkeypatch.setattr("alprune.runs.watch.follow", lambda *args, **kwargs: interrupted())
    done = CliRunner().invoke(main, ["watch", str(tmp_path)])
    assert done.exit_code == 130 and "the run continues" in done.stderr
