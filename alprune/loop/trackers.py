"""A run's course in experiment trackers: TensorBoard, MLflow, trackio, Weights & Biases."""

import contextlib
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from alprune.data import atomic_io
from alprune.data.safe_io import read_whole
from alprune.errors import ConfigError
from alprune.loop.event_log import options_of, read_events
from alprune.loop.events import Observer
from alprune.loop.observers import Several
from alprune.loop.tensorboard import TensorBoard, require_tensorboard
from alprune.registry import lookup

PROJECT = "alprune"
"""Project or experiment that runs are entered in; each is called like its run folder."""

_IDENTITY = re.compile(r"[A-Za-z0-9_-]{4,64}")
_PARAMETER_MOST = 250  # characters of an option's value, which every tracker takes


class Tracker(Observer):
    """Enters the options, the numbers of each step and the end of a run in a tracker.

    A run that is resumed continues there: its identity is kept in the run folder. A tracker that
    fails ends this with a warning, and never the run.

    Args:
        path: The run folder.

    Raises:
        ConfigError: The tracker's package is not installed.
    """

    package = ""
    _run: Any = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._module = _package(self.package)
        self._open = False

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Pass an event on."""
        try:
            # What they print would get between the command's own output.
            with contextlib.redirect_stdout(sys.stderr):
                if name in ("start", "resume"):
                    self._begin(new=name == "start")
                elif self._open and name == "step":
                    self.log(_numbers(fields), fields["step"])
                elif self._open and name == "end":
                    self._open = False
                    self.finish(str(fields["reason"]))
        except Exception as error:  # of a package, a disk or a network that the run does not need
            self._open = False
            warnings.warn(f"{self.package} gets no more of this run: {error}.", stacklevel=2)

    def _begin(self, new: bool) -> None:
        place = self._path / f".{self.package}"
        known = None
        if not new:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                known = read_whole(place, 64).decode()
        known = known if known is not None and _IDENTITY.fullmatch(known) else None
        start = next(e for e in read_events(self._path) if e["event"] == "start")
        identity = self.begin(self._path.resolve().name, options_of(start), known)
        self._open = True
        atomic_io.replace(place, identity)

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Begin a run, or continue the one of a known identity; return its identity."""
        raise NotImplementedError

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Enter the numbers of a step."""
        raise NotImplementedError

    def finish(self, reason: str) -> None:
        """Say how the run ended."""
        raise NotImplementedError


class MLflow(Tracker):
    """Writes to the store that MLFLOW_TRACKING_URI names."""

    package = "mlflow"

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Create a run with its parameters, or set one running again."""
        self._client = self._module.MlflowClient()
        if known is not None:
            self._client.update_run(known, "RUNNING")
            self._run = known
            return known
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        parameter = self._module.entities.Param
        told = [parameter(key, str(value)[:_PARAMETER_MOST]) for key, value in config.items()]
        self._client.log_batch(self._run, params=told)
        return str(self._run)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Enter metrics."""
        now, metric = int(1000 * time.time()), self._module.entities.Metric
        told = [metric(key, float(value), now, step) for key, value in numbers.items()]
        self._client.log_batch(self._run, metrics=told)

    def finish(self, reason: str) -> None:
        """Set the state of the run."""
        self._client.set_tag(self._run, "reason", reason)
        ended = {"interrupted": "KILLED", "stopped": "KILLED", "error": "FAILED"}
        self._client.set_terminated(self._run, ended.get(reason.partition(":")[0], "FINISHED"))


class _Logged(Tracker):
    """What trackio and Weights & Biases have in common: `init`, `log`, `finish`."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Enter the numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def finish(self, reason: str) -> None:
        """Close the run; what is left is sent."""
        self._run.finish()


class Trackio(_Logged):
    """Writes to trackio's local database, for `trackio show`."""

    package = "trackio"

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Begin a run, or continue the one of its name."""
        named = known or f"{name}-{int(time.time())}"[-60:]
        named = re.sub(r"[^A-Za-z0-9_-]", "-", named)
        self._run = self._module.init(
            project=PROJECT, name=named, config=dict(config), resume="allow", embed=False
        )
        return named


class WeightsAndBiases(_Logged):
    """Sends to Weights & Biases, or writes to ./wandb with WANDB_MODE=offline."""

    package = "wandb"

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Begin a run, or continue the one of a known identity."""
        self._run = self._module.init(
            project=PROJECT, name=name, id=known, config=dict(config), resume="allow"
        )
        return str(self._run.id)


TRACKERS: dict[str, Callable[[Path], Observer]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
}
"""`path of the run folder -> observer`, by the name that --log takes."""


def require_trackers(names: Sequence[str]) -> None:
    """Make sure that runs can be entered in these trackers.

    Raises:
        ConfigError: One is unknown, or its package is not installed.
    """
    for name in names:
        lookup("tracker", name, TRACKERS)
        if name == "tensorboard":
            require_tensorboard()
        else:
            _package(name)


def tracked(observer: Observer, path: Path, names: Sequence[str]) -> Observer:
    """Return an observer that also enters the run of a folder in trackers.

    Raises:
        ConfigError: As from `require_trackers`.
    """
    others = [lookup("tracker", name, TRACKERS)(path) for name in dict.fromkeys(names)]
    return Several(observer, *others) if others else observer


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in fields.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"--log {name} needs the package {name}, which cannot be imported ({error}). "
            "Install it, or leave the option out."
        ) from error
