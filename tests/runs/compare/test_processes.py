"""Processes that an engine starts on this machine: what they return, and how they end."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from alprune.errors import DataError
from alprune.runs.compare.engines import Lost
from alprune.runs.compare.processes import Processes, start_process  # noqa: F401

pytestmark = pytest.mark.slow  # each process imports torch


def raises():
    raise DataError("no such folder")


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def waits(sign):
    Path(sign).write_text(str(os.getpid()))
    time.sleep(600)


class Waiting:
    """Stands for a run that is long in loading its data."""

    def __init__(self, sign):
        self.sign = sign

    @property
    def path(self):
        waits(self.sign)


GIVE = {
    "engine": "t.Processes().submit(partial(t.waits, sys.argv[1]), 'task')",
    "jobs": "t.start_process(_work, 1, ())\njob[1].send((t.Waiting(sys.argv[1]), 'new'))",
}


def waited(condition):
    end = time.monotonic() + 280
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_task_returns_raises_or_is_lost():
    engine = Processes()
    jobs = [engine.submit(task, "task") for task in (os.getpid, raises, dies)]
    waited(lambda: all(job.done() for job in jobs))
    assert jobs[0].outcome() != os.getpid()
    with pytest.raises(DataError, match="no such folder"):
        jobs[1].outcome()
    with pytest.raises(Lost, match="exit code -9"):
        jobs[2].outcome()


def test_a_task_that_is_stopped_ends_at_once(tmp_path):
    sign = tmp_path / "pid"
    job = Processes().submit(partial(waits, str(sign)), "task")
    waited(lambda: sign.exists() and sign.read_text())
    assert not job.done()
    job.stop()
    assert not running(int(sign.read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("give", GIVE.values(), ids=GIVE)
def test_tasks_end_with_the_process_that_gave_them(tmp_path, number, give):
    sign = tmp_path / "pid"
    code = (
        "import sys; from functools import partial; import test_processes as t\n"
        "from alprune.runs.compare.parallel import _work\n"
        f"job = {give}\n"
        "t.time.sleep(600)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen([sys.executable, "-c", code, str(sign)], env=env) as parent:
        try:
            waited(lambda: sign.exists() and sign.read_text())
            parent.send_signal(number)
        finally:
            parent.wait(60) if parent.returncode is None else None
    waited(lambda: not running(int(sign.read_text())))
