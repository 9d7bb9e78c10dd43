"""Runs that an engine makes: here processes of this machine, by submitit and by Ray."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import events_of, options

from alprune.errors import ConfigError
from alprune.loop.events import Observer
from alprune.loop.run_folder import RunFolder
from alprune.runs.compare import compare, engines, remote
from alprune.runs.compare.engines import Lost, Resources, open_engine
from alprune.runs.compare.forecast import Monitor
from alprune.runs.compare.grid import cells
from alprune.runs.compare.remote import make_elsewhere, make_there
from alprune.runs.compare.runs import DEATHS, Outcome, state_of


class Job:
    """Runs its task when it is looked at for the second time."""

    def __init__(self, task, engine):
        self.task, self.engine, self.looks, self.stopped = task, engine, 0, False
        self.result = None

    def done(self):
        self.looks += 1
        if self.looks == 2 and not self.stopped:
            try:
                self.result = self.engine.work(self.task)
            except Exception as error:
                self.result = error
        return self.stopped or self.looks > 1

    def outcome(self):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def stop(self):
        self.stopped = True


class Pretend:
    """An engine in this process, whose machines die as often as told."""

    def __init__(self, deaths=0, work=None):
        self.deaths, self.given = deaths, []
        self.jobs, self._work = [], work

    def submit(self, task, name):
        self.given.append(name)
        self.jobs.append(Job(task, self))
        return self.jobs[-1]

    def work(self, task):
        if self.deaths:
            self.deaths -= 1
            raise Lost("node died")
        return self._work(task) if self._work else task()

    def close(self):
        pass


class Told(Monitor):
    def __init__(self):
        self.events, self.order = [], []

    def begins(self, cell, state):
        told = self.events

        class Seen(Observer):
            def event(self, name, fields):
                told.append((cell.name, name, fields["elapsed_s"]))

        self.order.append(("begins", cell.name))
        return Seen()

    def ended(self, cell, outcome):
        self.order.append((outcome.state, cell.name))


def grid_of(tmp_path, seeds=(0, 1), **changes):
    config = replace(options(tmp_path / "x"), out=None, **changes)
    found = cells(config, {"seed": list(seeds)}, tmp_path / "cmp")
    return [(cell, state_of(cell)) for cell in found]


def test_every_run_is_made_and_told(tmp_path):
    told, engine = Told(), Pretend()
    done = make_elsewhere(grid_of(tmp_path), engine, told, every_s=0)
    assert [o.state for o in done] == ["done", "done"]
    assert engine.given == ["seed0", "seed1"]
    for name in engine.given:
        record = events_of(tmp_path / "cmp" / name)
        assert [n for c, n, _ in told.events if c == name] == [e["event"] for e in record]
    assert told.order == [
        ("begins", "seed0"), ("done", "seed0"), ("begins", "seed1"), ("done", "seed1")
    ]  # fmt: skip
    again = make_elsewhere(grid_of(tmp_path), Pretend(), Told(), every_s=0)
    assert [o.state for o in again] == ["kept", "kept"]


def test_damaged_lines_of_a_record_are_left_out_and_the_others_told(tmp_path):
    def work(task):
        outcome = task()
        with open(task.args[0].path / "events.jsonl", "ab") as file:
            file.write(b'[1]\n{\n{"event": "bare"}\n{"event": "late", "elapsed_s": 9}\n{"event": ')
        return outcome

    told = Told()
    [done] = make_elsewhere(grid_of(tmp_path, [0]), Pretend(work=work), told, every_s=0)
    assert done.state == "done" and [name for _, name, _ in told.events][-2:] == ["end", "late"]


def test_a_run_whose_machine_died_is_given_out_again(tmp_path):
    engine = Pretend(deaths=DEATHS - 1)
    [done] = make_elsewhere(grid_of(tmp_path, [0]), engine, Told(), every_s=0)
    assert done.state == "done" and engine.given == ["seed0"] * DEATHS


@pytest.mark.parametrize("times", [DEATHS - 1, DEATHS])
def test_a_run_that_a_signal_ended_is_given_out_again(tmp_path, times):
    """Slurm sends one to a job whose processors another one is to have."""
    left = ["interrupted"] * times

    def work(task):
        cell = task.args[0]
        return Outcome(cell.name, cell.values, cell.path, left.pop()) if left else task()

    engine = Pretend(work=work)
    [done] = make_elsewhere(grid_of(tmp_path, [0]), engine, Told(), every_s=0)
    assert done.state == ("done" if times < DEATHS else "interrupted")
    assert engine.given == ["seed0"] * DEATHS


def test_a_run_that_an_earlier_job_still_makes_is_waited_for(tmp_path, monkeypatch):
    [(cell, _)] = grid_of(tmp_path, [0])
    earlier = RunFolder(cell.path)
    monkeypatch.setattr(remote.time, "sleep", lambda wait_s: earlier.close())
    assert make_there(cell, 1, (), os.getcwd()).state == "done"
    [(cell, _)] = grid_of(tmp_path, [1])
    silent = RunFolder(cell.path)
    monkeypatch.setattr(remote.time, "sleep", lambda wait_s: None)
    monkeypatch.setattr(remote, "_SILENT_S", -1.0)
    outcome = make_there(cell, 1, (), os.getcwd())
    silent.close()
    assert outcome.state == "failed" and "another process is writing" in outcome.error


def test_the_signal_of_submitit_before_the_time_limit_ends_a_run_soundly(tmp_path, monkeypatch):
    class Executor:
        def __init__(self, **asked):
            self.update_parameters = dict

        def submit(self, work, task):
            return SimpleNamespace(result=work(task))

    utils = SimpleNamespace(UncompletedJobError=RuntimeError)
    submitit = SimpleNamespace(core=SimpleNamespace(utils=utils), AutoExecutor=Executor)
    monkeypatch.setattr(engines, "_package", lambda name: submitit)
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    usual = signal.getsignal(signal.SIGUSR2)
    try:
        engine = open_engine("slurm", Resources(), tmp_path / "cmp")
        engine.submit(lambda: signal.raise_signal(signal.SIGUSR2), "run")
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGUSR2, usual)
    assert came == [signal.SIGTERM]


def test_a_run_that_kills_every_machine_fails_and_the_others_go_on(tmp_path):
    def work(task):
        if task.args[0].name == "seed0":
            raise Lost("node died")
        return task()

    engine = Pretend(work=work)
    first, second = make_elsewhere(grid_of(tmp_path), engine, Told(), every_s=0)
    assert first.state == "failed" and "node died" in first.error
    assert second.state == "done"


def test_what_fails_there_is_told_here(tmp_path):
    def work(task):
        raise ModuleNotFoundError("No module named 'alprune'")

    [done] = make_elsewhere(grid_of(tmp_path, [0]), Pretend(work=work), Told(), every_s=0)
    assert done.state == "failed" and "No module named 'alprune'" in done.error


def test_an_interrupt_stops_what_was_given_out(tmp_path):
    class Stops(Told):
        def ended(self, cell, outcome):
            super().ended(cell, outcome)
            raise KeyboardInterrupt

    engine = Pretend()
    done = make_elsewhere(grid_of(tmp_path), engine, Stops(), every_s=0)
    assert [o.state for o in done] == ["done", "waiting"]


def test_a_run_that_is_not_taken_fails_and_the_others_go_on(tmp_path):
    class Full(Pretend):
        taken = 1

        def submit(self, task, name):
            if len(self.given) == self.taken:
                raise ConfigError("no more than this")
            return super().submit(task, name)

    done = make_elsewhere(grid_of(tmp_path), Full(), Told(), every_s=0)
    assert [o.state for o in done] == ["done", "failed"]
    assert done[1].error == "ConfigError: no more than this"
    [lost] = make_elsewhere(grid_of(tmp_path, [2]), Full(deaths=1), Told(), every_s=0)
    assert (lost.state, lost.error) == ("failed", done[1].error)
    none = Full()
    none.taken = 0
    with pytest.raises(ConfigError, match="no more than this"):
        make_elsewhere(grid_of(tmp_path, [3]), none, Told(), every_s=0)


def test_what_was_given_out_is_stopped_where_nobody_follows_it(tmp_path):
    class Fails(Told):
        def begins(self, cell, state):
            raise OSError("no terminal")

    engine = Pretend()
    with pytest.raises(OSError, match="no terminal"):
        make_elsewhere(grid_of(tmp_path), engine, Fails(), every_s=0)
    assert [job.stopped for job in engine.jobs] == [True, True]


def test_a_job_that_slurm_refuses_is_a_mistake_in_the_options(tmp_path, monkeypatch):
    class Failed(RuntimeError):
        pass

    class Executor:
        def __init__(self, **asked):
            self.update_parameters = dict

        def submit(self, *task):
            raise Failed("sbatch: error: invalid partition\n")

    utils = SimpleNamespace(UncompletedJobError=Failed)
    submitit = SimpleNamespace(core=SimpleNamespace(utils=utils), AutoExecutor=Executor)
    monkeypatch.setattr(engines, "_package", lambda name: submitit)
    monkeypatch.chdir(tmp_path)
    engine = open_engine("slurm", Resources(), Path("."))
    with pytest.raises(ConfigError, match=r"took no job: sbatch: error: invalid partition\.$"):
        engine.submit(os.getcwd, "run")


def test_processes_are_as_many_as_this_one_may_use_and_get_nothing_else(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr("alprune.runs.compare.cores", lambda: 6)
    monkeypatch.setattr("alprune.runs.compare.side_by_side", lambda _, n, *more: jobs.append(n))
    asked = options(tmp_path), {"seed": [0]}, tmp_path / "cmp"
    compare(*asked, engine="processes", resources=Resources(cpus=2))
    assert jobs == [3]
    for more in ({"gpus": 1}, {"options": {"mem_gb": 8}}):
        with pytest.raises(ConfigError, match="processors alone, no GPUs and no other"):
            compare(*asked, engine="processes", resources=Resources(**more))


def test_resources_and_engines_are_checked(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="at least 1 processor"):
        Resources(cpus=0)
    with pytest.raises(ConfigError, match="unknown engine 'cloud'; known: ray, slurm"):
        open_engine("cloud", Resources(), tmp_path)
    with pytest.raises(ConfigError, match="unknown engine"):
        compare(options(tmp_path), {"seed": [0]}, tmp_path / "cmp", engine="cloud")
    assert not (tmp_path / "cmp").exists()
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(ConfigError, match="package submitit, which cannot be imported"):
        open_engine("slurm", Resources(), tmp_path)


def test_a_job_that_slurm_no_longer_has_is_lost_where_it_keeps_no_accounts(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    answer = tmp_path / "answer"
    commands = {
        "srun": "exit 1",
        "sbatch": "echo Submitted batch job 7",
        "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
        "squeue": f". {answer}",
    }
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(engines, "_LOOK_S", 0.0)
    job = open_engine("slurm", Resources(), tmp_path / "cmp").submit(os.getcwd, "run")
    for said, known in [
        ("echo PD", True),
        ("echo R", True),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", True),
        ("", True),  # one look is not enough: the result may be on its way
        ("echo R", True),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", True),
        ("", False),
    ]:
        answer.write_text(said)
        assert job.done() is not known, said
    with pytest.raises(Lost, match="job 7 is gone and has left no result"):
        job.outcome()


@pytest.mark.slow
def test_processes_of_this_machine_make_runs_and_a_killed_one_is_resumed(tmp_path):
    class Kills(Observer):
        killed = False

        def event(self, name, fields):
            if name == "step" and not self.killed:
                self.killed = True
                for process in _below(os.getpid())[1:]:
                    if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                        os.kill(process, signal.SIGKILL)

    class Watches(Monitor):
        observer = Kills()

        def begins(self, cell, state):
            return self.observer

    monitor = Watches()
    config = options(tmp_path, steps=60, model="lenet-300-100")
    [done] = compare(
        config, {"seed": [0]}, tmp_path / "cmp", monitor=monitor, engine="processes",
        resources=Resources(cpus=1),
    )  # fmt: skip
    assert monitor.observer.killed
    assert (done.state, done.error) == ("done", None)
    assert done.result.steps == 60 and events_of(done.path, "resume")


def _below(parent):
    """Return a process's number and those of the ones that it started."""
    found = [parent]
    for entry in Path("/proc").iterdir():
        status = entry / "status"
        if entry.name.isdigit() and status.exists():
            above = re.search(r"PPid:\s+(\d+)", status.read_text())
            if above and int(above.group(1)) == parent:
                found.extend(_below(int(entry.name)))
    return found


@pytest.mark.slow
def test_ray_makes_runs_on_a_cluster_of_two_nodes_and_one_may_die(tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with pytest.raises(ConfigError, match="no machine of the Ray cluster has the 9 proc"):
            open_engine("ray", Resources(cpus=9), tmp_path / "cmp")
        engine = open_engine("ray", Resources(), tmp_path / "cmp")
        planned = grid_of(tmp_path, steps=60, model="lenet-300-100")

        class Kills(Told):
            def begins(self, cell, state):
                if nodes:
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                    cluster.add_node(num_cpus=1)
                return super().begins(cell, state)

        done = make_elsewhere(planned, engine, Kills(), every_s=0.2)
        assert [(o.state, o.error) for o in done] == [("done", None)] * 2
    finally:
        ray.shutdown()
        cluster.shutdown()
