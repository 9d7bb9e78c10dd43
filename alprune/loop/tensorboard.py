"""A run's course for TensorBoard: `tensorboard --logdir outputs`."""

import time
import warnings
from pathlib import Path
from typing import Any

from alprune.errors import ConfigError, StoreError
from alprune.loop.event_log import read_events
from alprune.loop.events import Observer

FOLDER = "tensorboard"
_AXES = ("step", "elapsed_s", "fitted_s")


def require_tensorboard() -> None:
    """Make sure that TensorBoard's files can be written.

    Raises:
        ConfigError: The package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"TensorBoard files need the package tensorboard, which cannot be imported ({error}). "
            "Install it, or leave --log tensorboard out."
        ) from error


class TensorBoard(Observer):
    """Writes each number of a step to `tensorboard/` in the run folder, against two axes.

    `by_labels/...` has the labelled points as TensorBoard's step, `by_seconds/...` whole seconds
    on the budget clock; its relative axis shows that clock in both. A run that goes on is written
    anew from its record, so that nothing stands there twice.

    Args:
        path: The run folder.

    Raises:
        ConfigError: The package is missing.
    """

    def __init__(self, path: Path) -> None:
        require_tensorboard()
        self._path = path
        self._writer: Any = None
        self._begin_s = 0.0

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Write the numbers of a step; what fails there ends this and not the run."""
        try:
            if name in ("start", "resume"):
                self._open(fields["elapsed_s"])
            elif self._writer is not None:
                self._write(name, fields)
                self._writer.flush()
                if name == "end":
                    self._close()
        except Exception as error:  # with TensorFlow there, a full disk is an error of its own
            warnings.warn(f"TensorBoard is told no more: {error}.", stacklevel=2)
            self._writer = None

    def _open(self, elapsed_s: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._close()
        folder = self._path / FOLDER
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, and a run would write to what it leads to")
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._begin_s = time.time() - elapsed_s
        self._writer = SummaryWriter(str(folder))
        for event in read_events(self._path):
            self._write(event["event"], event)
        self._writer.flush()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        at_s = self._begin_s + fields["elapsed_s"]
        if name == "start":
            told = "\n".join(f"    {key} = {value!r}" for key, value in fields["config"].items())
            self._writer.add_text("options", told, 0, at_s)
        if name != "step":
            return
        at_s = self._begin_s + fields["fitted_s"]
        for key, value in fields.items():
            if key in _AXES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            seconds = round(fields["fitted_s"])
            self._writer.add_scalar(f"by_seconds/{key}", value, seconds, at_s)
            if key != "labelled":
                self._writer.add_scalar(f"by_labels/{key}", value, fields["labelled"], at_s)
