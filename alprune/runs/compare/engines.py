"""Engines that make runs on other machines: Ray, Slurm."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from alprune.errors import ConfigError
from alprune.registry import lookup

Task = Callable[[], Any]
"""A run, or a share of the images to embed."""


class Lost(Exception):
    """The process or the machine that made a run died."""


class Job(Protocol):
    """A run that an engine was given."""

    def done(self) -> bool:
        """Tell whether it is over, in whatever way."""

    def outcome(self) -> Any:
        """Return what the task returned; None if it was stopped before it had anything to say.

        Raises:
            Lost: Its process or machine died.
        """

    def stop(self) -> None:
        """Ask it to end soundly, as SIGINT or SIGTERM does."""


class Engine(Protocol):
    """Gives runs to machines."""

    def submit(self, task: Task, name: str) -> Job:
        """Queue a task, which can be pickled and runs where it may use its resources."""

    def close(self) -> None:
        """Let go of what this process holds of it."""


@dataclass(frozen=True)
class Resources:
    """What each run gets.

    Attributes:
        cpus: Processors, and threads.
        gpus: Devices.
        options: The engine's own: for Slurm what submitit takes (`timeout_min`, `mem_gb`,
            `slurm_partition`, ...), for Ray what its tasks' options take.
    """

    cpus: int = 1
    gpus: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise ConfigError(
                "a run takes at least 1 processor and no fewer than 0 GPUs, got "
                f"{self.cpus} and {self.gpus}."
            )

    def local_cpus(self) -> int:
        """Return the processors, for processes of this machine.

        Raises:
            ConfigError: More is asked for, which only other engines give.
        """
        if self.gpus or self.options:
            raise ConfigError(
                "the engine 'processes' gives each process processors alone, no GPUs and no other "
                "options. Leave --gpus-per-run and --engine-option out."
            )
        return self.cpus


def open_engine(name: str, resources: Resources, out: Path) -> Engine:
    """Return the engine of a name.

    Args:
        name: A key of `ENGINES`.
        resources: Of each run.
        out: Folder of the comparison, on a disk that all machines share.

    Raises:
        ConfigError: No such engine, its package is not installed, or it cannot be reached.
    """
    return lookup("engine", name, ENGINES)(resources, out)


class _Ray:
    def __init__(self, resources: Resources, out: Path) -> None:
        ray = _package("ray")
        self._ray, self._resources = ray, resources
        self._began = not ray.is_initialized()
        if self._began:
            own = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
            try:
                ray.init(log_to_driver=False, **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"no Ray cluster can be reached or started: {error}. RAY_ADDRESS says where "
                    "one is; without it one of this machine is started."
                ) from error
        self._check()

    def _check(self) -> None:
        """Refuse what no machine has; Ray would wait for one without end."""
        asked = {"CPU": self._resources.cpus, "GPU": self._resources.gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(k, 0) >= v for k, v in asked.items()) for node in nodes):
            self.close()
            there = "; ".join(f"{n.get('CPU', 0):g} and {n.get('GPU', 0):g}" for n in nodes)
            raise ConfigError(
                f"no machine of the Ray cluster has the {asked['CPU']} processors and "
                f"{asked['GPU']} GPUs that a run asks for; there are {there}. Lower "
                "--cpus-per-run or --gpus-per-run."
            )

    def submit(self, task: Task, name: str) -> "_RayJob":
        asked: dict[str, Any] = {"num_cpus": self._resources.cpus, "num_gpus": self._resources.gpus}
        # The comparison itself tries again: it knows whether there was any progress.
        asked |= {"max_retries": 0, "name": name} | dict(self._resources.options)
        try:
            remote = self._ray.remote(**asked)(_call)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Ray refuses these options of a run: {error}.") from error
        return _RayJob(self._ray, remote.remote(task))

    def close(self) -> None:
        if self._began:
            self._ray.shutdown()


class _RayJob:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def done(self) -> bool:
        return bool(self._ray.wait([self._reference], timeout=0)[0])

    def outcome(self) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._reference)
        except errors.TaskCancelledError:
            return None
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except errors.RayError as error:
            raise Lost(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error

    def stop(self) -> None:
        self._ray.cancel(self._reference, force=False)


_LOOK_S = 30.0  # between questions to Slurm about a job


class _Submitit:
    """Slurm, by submitit."""

    def __init__(self, resources: Resources, out: Path) -> None:
        submitit = _package("submitit")
        self._errors = submitit.core.utils
        # Where Slurm keeps no accounts it would warn of that at every look at the jobs.
        logging.getLogger("submitit").setLevel(logging.ERROR)
        # Not within `out`: submitit keeps pickles, and a folder of runs holds none.
        out = out.resolve()  # which gives "." a name
        folder = out.with_name(f"{out.name}-jobs")
        asked: dict[str, Any] = {"cpus_per_task": resources.cpus, "timeout_min": 24 * 60}
        asked |= {"gpus_per_node": resources.gpus, "name": "alprune"} | dict(resources.options)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
            self._executor.update_parameters(**asked)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ConfigError(
                f"submitit cannot use Slurm with these options: {error}. Slurm's commands "
                "must be found where alprune runs."
            ) from error

    def submit(self, task: Task, name: str) -> "_SubmititJob":
        try:
            job = self._executor.submit(_call_in_time, task)
        except (self._errors.UncompletedJobError, OSError) as error:
            said = str(error).strip().rstrip(".")
            raise ConfigError(f"Slurm took no job: {said}.") from error
        return _SubmititJob(job, self._errors)

    def close(self) -> None:
        """Leave the jobs' logs where they are."""


class _SubmititJob:
    def __init__(self, job: Any, errors: Any) -> None:
        self._job, self._errors, self._stopped = job, errors, False
        self._next_s = time.monotonic() + _LOOK_S
        self._missing = self._gone = False

    def done(self) -> bool:
        return bool(self._job.done()) or self._is_gone()

    def _is_gone(self) -> bool:
        """Ask Slurm itself whether it still has the job.

        Where it keeps no accounts, submitit waits for ever for a job that was cancelled, ran out
        of its time, or whose node died.
        """
        if not self._gone and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LOOK_S
            ask = ["squeue", "--noheader", "--format=%t", "--jobs", str(self._job.job_id)]
            try:
                said = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
            except (OSError, subprocess.TimeoutExpired):
                return False
            known = not said.returncode or "Invalid job id" in said.stderr
            missing = known and not said.stdout.strip()
            # Twice: its result may still be on its way over the network's disk.
            self._gone, self._missing = missing and self._missing, missing
        return self._gone

    def outcome(self) -> Any:
        if self._gone and not self._job.done():
            if self._stopped:
                return None
            raise Lost(f"Slurm's job {self._job.job_id} is gone and has left no result")
        try:
            return self._job.result()
        except self._errors.FailedJobError as error:  # an exception, as text
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        except self._errors.UncompletedJobError as error:
            if self._stopped:
                return None
            raise Lost(f"its job {self._job.job_id} ended without a result") from error

    def stop(self) -> None:
        self._stopped = True
        self._job.cancel(check=False)


def _call(task: Task) -> Any:
    return task()


def _call_in_time(task: Task) -> Any:
    """Run a task under submitit, whose signal before the time limit would make it fail."""
    signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
    return task()


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this engine needs the package {name}, which cannot be imported ({error}). Install it."
        ) from error


ENGINES: dict[str, Callable[[Resources, Path], Engine]] = {
    "ray": _Ray,
    "slurm": _Submitit,
}
"""`(resources, out) -> engine`, by name."""
