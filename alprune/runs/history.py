"""A run folder as arrays, for notebooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alprune.errors import StoreError
from alprune.loop.event_log import LABELLING, Fields, kind_of, options_of, read_events

# By name, what a step's number is. One that a step lacks, as those of the oldest runs may, is NaN,
# all but "step" and "labelled", which all have.
COLUMNS = {
    "step": "its number; 0 trains on the first points",
    "labelled": "labelled points that it trained on",
    "elapsed_s": "seconds on the budget clock when it ended",
    "fitted_s": "the same when its fit ended: the time to which its accuracy belongs",
    "test_accuracy": "0 to 1, the last one final; NaN where not tested, as with the next two",
    "macro_f1": "mean F1 score of the classes, 0 to 1",
    "ece": "expected calibration error, 0 to 1",
    "uncertainty": "mean entropy of the scored points, in nats",
    "train_loss": "mean over the batches of its fit",
    "epochs": "passes over the labelled points",
    "batches": "batches of its fit",
    "scored": "points that were looked at",
    "train_s": "seconds of its fit, on the clock",
    "score_s": "seconds of scoring, on the clock",
    "acquire_s": "seconds of choosing, on the clock",
    "eval_s": "seconds of testing, off the clock",
    "save_s": "seconds in which the checkpoint before it was written, off the clock",
}
_WHOLE = ("step", "labelled")
_EARLY = ("interrupted", "stopped", "error")  # reasons after which the last step is not tested


@dataclass(frozen=True, eq=False)
class RunHistory:
    """What a run recorded, so far if it has not ended.

    Each of `COLUMNS` is an attribute, too: `run.test_accuracy` is a `(n,)` array with an entry a
    step, float64, or int64 for `step` and `labelled`.

    Attributes:
        path: The run folder.
        config: Its options, `{name: value}`; of an acquisition function that was passed,
            `module:name`.
        reason: Why it ended; None if it is still running or was killed.
        columns: `{name: (n,)}`, the names and units as in `COLUMNS`.
        initial: `(k,)` int64, indices of the points labelled at the start.
        acquired: By step, `(k,)` int64, indices of the points that it asked for.
        prune: What the pruning did, as in events.jsonl; empty if it was not recorded.
        end: What the last event says: final accuracy, by class, peak memory; empty before it.
        warnings: What the run warned of.
    """

    path: Path
    config: Mapping[str, Any]
    reason: str | None
    columns: Mapping[str, np.ndarray]
    initial: np.ndarray
    acquired: tuple[np.ndarray, ...]
    prune: Mapping[str, Any]
    end: Mapping[str, Any]
    warnings: tuple[str, ...]

    def __getattr__(self, name: str) -> np.ndarray:
        if name in COLUMNS:
            return self.columns[name]
        raise AttributeError(f"a run has no {name!r}; its columns: {', '.join(COLUMNS)}.")

    def __len__(self) -> int:
        return len(self.acquired)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict a step, as `pandas.DataFrame` takes them.

        Beside the numbers each holds the run's name, method, acquisition function and seed, so
        that the rows of several runs can stand in one table.
        """
        known = ("dataset", "model", "method", "acquisition", "seed")
        common = {"run": self.path.name} | {name: self.config.get(name) for name in known}
        columns = {name: column.tolist() for name, column in self.columns.items()}
        return [
            common | {name: column[place] for name, column in columns.items()}
            for place in range(len(self))
        ]


def load_run(path: str | Path) -> RunHistory:
    """Read a run folder: a run that has ended, is running, was killed or is of an older version.

    Args:
        path: The run folder.

    Raises:
        StoreError: No run is there, people label in it, or its record is damaged.
    """
    path = Path(path)
    if kind_of(path) is LABELLING:
        raise StoreError(
            f"people label in {path}: it holds no run. To see how it goes: alprune report {path}."
        )
    events = read_events(path)
    start = next((event for event in events if event["event"] == "start"), None)
    if start is None:
        raise StoreError(f"{path} holds a run that has not started yet: there is nothing to read.")
    steps = {event["step"]: event for event in events if event["event"] == "step"}
    told = list(steps.values())  # a step that was done again counts as it was the last time
    columns = {name: _array([event.get(name) for event in told]) for name in COLUMNS}
    columns |= {name: _array([event[name] for event in told]) for name in _WHOLE}
    if told and "fitted_s" not in told[0]:
        columns["fitted_s"] = columns["elapsed_s"]
    end = events[-1] if events[-1]["event"] == "end" else Fields()
    reason = str(end["reason"]) if end else None
    if told and reason and not reason.startswith(_EARLY) and np.isnan(columns["test_accuracy"][-1]):
        for name in ("test_accuracy", "macro_f1", "ece"):
            columns[name][-1] = _array([end.get(name)])[0]
    return RunHistory(
        path=path,
        config=options_of(start),
        reason=reason,
        columns=columns | {name: columns[name].astype(np.int64) for name in _WHOLE},
        initial=_indices(start.get("initial", [])),
        acquired=tuple(_indices(event["acquired"]) for event in told),
        end=dict(end),
        prune=dict(next((event for event in events if event["event"] == "prune"), {})),
        warnings=tuple(str(e.get("message")) for e in events if e["event"] == "warning"),
    )


def _array(values: list[Any]) -> np.ndarray:
    return np.array([v if isinstance(v, int | float) else np.nan for v in values], dtype=float)


def _indices(values: list[Any]) -> np.ndarray:
    if not all(isinstance(value, int) for value in values):
        raise StoreError("an event lists points by something else than whole numbers.")
    return np.array(values, dtype=np.int64)
