"""What else kept a machine busy is recorded with a run, and doubted where a budget was at stake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import write_run
from tiny_run import events_of, options

import alprune
from alprune.loop import machine_load as module
from alprune.loop.machine_load import MachineLoad
from alprune.runs.report.runs import read_run


def test_a_run_records_the_load_at_its_start_and_end(tmp_path: Path) -> None:
    alprune.run(options(tmp_path / "run", steps=1, initial_epochs=1.0))
    start, end = events_of(tmp_path / "run", "start")[0], events_of(tmp_path / "run", "end")[0]
    assert {"load_average"} <= start.keys() and {"load_average", "others_share"} <= end.keys()
    for event in (start, end):
        assert event["load_average"] is None or event["load_average"] >= 0
    assert end["others_share"] is None or 0 <= end["others_share"] <= 1


def test_the_share_is_what_is_busy_beside_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(100.0, 0.0, 40.0), (110.0, 13.0, 43.0)])  # clock, busy, own
    now = {}

    def turn() -> None:
        now["clock"], now["busy"], now["own"] = next(times)

    turn()
    monkeypatch.setattr(module.time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(module, "_busy_s", lambda: now["busy"])
    monkeypatch.setattr(module, "_own_s", lambda: now["own"])
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {4, 7})
    load = MachineLoad()
    turn()
    assert load.ended()["others_share"] == 0.5  # 13 s busy less 3 s of its own, of 2 x 10 s
    assert "took 50%" in str(load.doubt(0.5))
    assert load.doubt(0.1) is None and load.doubt(None) is None


def test_what_happens_on_other_processors_of_the_machine_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, stat = open, tmp_path / "stat"
    stat.write_text(
        "cpu  900 0 0 5 5 0 0 0 0 0\ncpu0 700 0 0 5 5 0 0 0 0 0\ncpu1 100 1 2 5 5 3 4 90 0 0\n"
        "intr 7\n"
    )
    monkeypatch.setattr("builtins.open", lambda _, **options: real(stat, **options))
    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {1})
    assert module._busy_s() == 2.0
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {1, 9})
    assert module._busy_s() is None


def test_where_the_system_tells_nothing_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(OSError("none")))
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert MachineLoad().ended() == {"load_average": None, "others_share": None}


SPIN = "import time\nwhile time.process_time() < 1.0: pass\ntime.sleep(60)"
on_linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux counts there")


@on_linux
def test_another_process_is_seen() -> None:
    begin_s, load = time.monotonic(), MachineLoad()
    # A shell that ends at once leaves it to the system, so it is not a child of this process.
    started = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >/dev/null 2>&1 & echo $!', sys.executable, SPIN],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    try:
        own_s = module._own_s()
        while (spent_s := module._processes()[1].get(int(started.stdout), 0.0)) < 0.5:
            time.sleep(0.05)
        ended, own_s = load.ended(), module._own_s() - own_s
    finally:
        os.kill(int(started.stdout), signal.SIGKILL)
    others_s = ended["others_share"] * (time.monotonic() - begin_s) * len(module._ours())
    assert others_s > 0.4 and own_s < spent_s


@on_linux
@pytest.mark.parametrize("beside", [False, True])
def test_workers_and_the_other_processes_of_a_run_are_its_own(
    monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    before_s = module._own_s()
    with subprocess.Popen([sys.executable, "-c", SPIN]) as worker:
        try:
            while module._processes()[1].get(worker.pid, 0.0) < 0.5:
                time.sleep(0.05)
            if beside:  # as torchrun's processes see one another: all are children of one
                ours = worker.pid + 1_000_000_000
                monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
                monkeypatch.setattr(module.os, "getppid", os.getpid)
                monkeypatch.setattr(module.os, "getpid", lambda: ours)
                found = module._processes()
                found[0][ours], found[1][ours] = os.getppid(), 0.0
                monkeypatch.setattr(module, "_processes", lambda: found)
            own_s = module._own_s()
        finally:
            worker.kill()
    assert own_s - before_s >= 0.5


@pytest.mark.parametrize(("config", "share", "told"), [
    ({"budget": 60.0}, 0.35, "it got less done in its budget"),
    ({"budget": 60.0}, 0.05, None),
    ({"steps": 3}, 0.35, "it took more seconds"),
])  # fmt: skip
def test_the_report_says_which_runs_were_slowed_and_what_that_harms(
    tmp_path: Path, config: dict[str, float], share: float, told: str | None
) -> None:
    path = write_run(tmp_path / "run", config=config)
    *lines, last = (path / "events.jsonl").read_text().splitlines()
    last = json.dumps(json.loads(last) | {"others_share": share})
    (path / "events.jsonl").write_text("\n".join([*lines, last, ""]))
    warnings = read_run(tmp_path / "run").warnings
    if told is None:
        assert not warnings
    else:
        assert ["other processes took 35%" in w and told in w for w in warnings] == [True]
