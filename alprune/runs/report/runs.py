"""Run folders as the report reads them: old, unfinished or damaged ones too."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alprune.data.safe_io import read_whole
from alprune.errors import PruneError, StoreError, quoted
from alprune.loop.config import RunConfig
from alprune.loop.defaults import DEFAULTS
from alprune.loop.event_log import EVENTS, options_of, read_events
from alprune.loop.machine_load import OTHERS_MOST, busy_with_others
from alprune.pruning import Plan

PARTS = ("train", "score", "acquire", "rest")  # on the clock
OFF_CLOCK = ("test", "save")
_DEPTH = 3  # folders below a given one that are looked into
_PLAN_BYTES = 16 * 2**20
_MOST = 1e18  # of any number: what is larger was not measured


@dataclass(frozen=True)
class Cost:
    """What pruning did to the learner: numbers before and after.

    Attributes:
        macs: Multiplications of one forward pass.
        params: Parameters.
        sparsity: Share of the weights masked; these stay in both numbers.
    """

    macs: tuple[float, float]
    params: tuple[float, float]
    sparsity: float

    @property
    def flops_left(self) -> float:
        """Share of the FLOPs that are left, 0 to 1 (more where layers were widened)."""
        return self.macs[1] / self.macs[0] if self.macs[0] else 1.0


@dataclass(frozen=True, eq=False)
class Run:
    """One run as its folder tells it.

    Attributes:
        path: The folder.
        config: All options by name, those that the run did not know at their defaults.
        seed: Of the run.
        state: "ended", "interrupted", "stopped" by hand, "failed" or "unfinished" (it runs still,
            or was killed).
        reason: Of the `end` event, or "".
        elapsed_s: The clock at the last event.
        fitted_s: `(steps,)` the clock when each step's fit ended.
        ended_s: `(steps,)` the clock when each step ended.
        labelled: `(steps,)` points that each step trained on.
        tested: `(tests, 3)` the clock, labelled points and accuracy (0 to 1) of each test.
        final: Accuracy of the final learner; None unless the run has ended.
        seconds: Seconds of `PARTS`, which add up to `elapsed_s`, and of `OFF_CLOCK`.
        examples: Examples trained on, every pass counted.
        scored: Points scored.
        cost: Of the learner; None if pruning is not on record.
        widths: `{layer: (channels before or None, after)}`.
        facts: Hardware, precision and versions, as text.
        digest: Of the data: training and test images, in old runs of the former alone.
        warnings: Messages.
        others_share: Share of the processors that other programs took, 0 to 1; None: unknown.
        is_labelling: Whether people label in this folder; it has rounds instead of steps.
    """

    path: Path
    config: Mapping[str, Any]
    seed: int
    state: str
    reason: str
    elapsed_s: float
    fitted_s: np.ndarray
    ended_s: np.ndarray
    labelled: np.ndarray
    tested: np.ndarray
    final: float | None
    seconds: Mapping[str, float]
    examples: float
    scored: float
    cost: Cost | None
    widths: Mapping[str, tuple[int | None, int]]
    facts: str
    digest: str
    warnings: tuple[str, ...]
    others_share: float | None
    is_labelling: bool = False

    @property
    def ended(self) -> bool:
        """Whether it came to its own end."""
        return self.state == "ended"


def option_defaults() -> dict[str, Any]:
    """Return what an option is where nobody sets it, by name."""
    return asdict(RunConfig()) | DEFAULTS


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], dict[Path, str]]:
    """Read run folders and folders of run folders.

    Args:
        paths: Folders; in one that holds no run itself, runs are looked for up to three folders
            deep, not behind links.

    Returns:
        The runs, each once, and what could not be read: `{folder: why}`.
    """
    runs: dict[Path, Run] = {}
    damaged: dict[Path, str] = {}
    for path in map(Path, paths):
        folders = [path] if os.path.exists(path / EVENTS) else list(_below(path, _DEPTH))
        if not folders:
            damaged[path] = "no run is there" if os.path.isdir(path) else "there is no such folder"
        for folder in folders:
            key = folder.resolve()
            if key in runs or folder in damaged:
                continue
            try:
                runs[key] = read_run(folder)
            except StoreError as error:
                damaged[folder] = str(error)
    return list(runs.values()), damaged


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        StoreError: No run is there, or its record is damaged.
    """
    events = read_events(path)
    start = next((e for e in events if e["event"] == "start"), None)
    if start is None:
        raise StoreError(f"{path / EVENTS} has no start event: the run never began.")
    steps = _steps(path, events)
    after_steps = events[events.index(steps[-1]) + 1 :] if steps else events
    end = next((e for e in reversed(after_steps) if e["event"] == "end"), None)
    elapsed_s = _number(path, events[-1] if end is None else end, "elapsed_s")
    if steps:
        elapsed_s = max(elapsed_s, _number(path, steps[-1], "elapsed_s"))
    state, reason = _state(end)
    tested = _tested(path, steps, end, state)
    prune = next((e for e in reversed(events) if e["event"] == "prune"), None)
    return Run(
        path=path,
        config=_options(start),
        seed=_seed(start),
        state=state,
        reason=reason,
        elapsed_s=elapsed_s,
        fitted_s=_column(path, steps, "fitted_s"),
        ended_s=_column(path, steps, "elapsed_s"),
        labelled=_column(path, steps, "labelled"),
        tested=tested,
        final=float(tested[-1, 2]) if state == "ended" and len(tested) else None,
        seconds=_seconds(path, steps, elapsed_s),
        examples=sum(_number(path, s, "epochs", 0) * s["labelled"] for s in steps),
        scored=sum(_number(path, s, "scored", 0) for s in steps),
        cost=_cost(path, prune),
        widths=_widths(path, prune),
        facts=_facts(start),
        digest=str(start.get("data_digest", "")),
        warnings=_warnings(events),
        others_share=_others_share(events),
        is_labelling=start.get("asking") is True,
    )


def _below(path: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(e.path for e in os.scandir(path) if e.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:  # of another user: reading it says so
        yield path
        return
    for entry in map(Path, entries):
        if os.path.exists(entry / EVENTS):
            yield entry
        elif depth > 1:
            yield from _below(entry, depth - 1)


def _number(path: Path, event: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = event[name] if default is None else event.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise StoreError(
            f"{path / EVENTS} is damaged: {name!r} must be a number of at least 0, got "
            f"{quoted(value)}."
        )
    return float(value)


def _seed(start: Mapping[str, Any]) -> int:
    seed = start["config"].get("seed", 0)  # up to 2^63, more than a float tells apart
    return seed if type(seed) is int else 0


def _steps(path: Path, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the step events, each step's last one; clock and labels may never go back."""
    steps = list({e["step"]: e for e in events if e["event"] == "step"}.values())
    for name in ("fitted_s", "elapsed_s", "labelled"):
        values = [_number(path, step, name) for step in steps]
        if any(later < sooner for sooner, later in zip(values, values[1:], strict=False)):
            raise StoreError(f"{path / EVENTS} is damaged: {name!r} goes back from step to step.")
    return steps


def _column(path: Path, steps: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([_number(path, step, name) for step in steps])


def _state(end: Mapping[str, Any] | None) -> tuple[str, str]:
    if end is None:
        return "unfinished", ""
    reason = str(end["reason"])
    for start, state in (("interrupted",) * 2, ("stopped",) * 2, ("error", "failed")):
        if reason.startswith(start):
            return state, reason
    return "ended", reason


def _tested(
    path: Path, steps: Sequence[dict[str, Any]], end: Mapping[str, Any] | None, state: str
) -> np.ndarray:
    points = []
    for step in steps:
        accuracy = step["test_accuracy"]
        # The final learner may have been tested after its step was written down.
        if accuracy is None and step is steps[-1] and state == "ended" and end is not None:
            accuracy = end["test_accuracy"]
        if accuracy is not None:
            if not 0 <= accuracy <= 1:
                raise StoreError(
                    f"{path / EVENTS} is damaged: 'test_accuracy' must be in [0, 1], got "
                    f"{quoted(accuracy)}."
                )
            points.append((step["fitted_s"], step["labelled"], accuracy))
    return np.array(points, dtype=float).reshape(-1, 3)


def _seconds(path: Path, steps: Sequence[dict[str, Any]], elapsed_s: float) -> dict[str, float]:
    names = {"train": "train_s", "score": "score_s", "acquire": "acquire_s"}
    names |= {"test": "eval_s", "save": "save_s"}
    spent = {
        part: math.fsum(_number(path, step, name, 0) for step in steps)
        for part, name in names.items()
    }
    on_clock = spent["train"] + spent["score"] + spent["acquire"]
    return spent | {"rest": max(0.0, elapsed_s - on_clock)}


def _cost(path: Path, prune: Mapping[str, Any] | None) -> Cost | None:
    if prune is None:
        return None
    macs, params = (
        (_number(path, prune, f"{name}_before"), _number(path, prune, f"{name}_after"))
        for name in ("macs", "params")
    )
    return Cost(macs, params, _number(path, prune, "sparsity", 0))


def _widths(path: Path, prune: Mapping[str, Any] | None) -> dict[str, tuple[int | None, int]]:
    after = prune.get("widths") if prune else None
    if not isinstance(after, dict) or any(type(width) is not int for width in after.values()):
        return {}
    try:
        sizes = Plan.from_json(read_whole(path / "plan.json", _PLAN_BYTES).decode()).sizes
    except (OSError, UnicodeDecodeError, PruneError):
        sizes = {}
    return {name: (sizes.get(name), width) for name, width in after.items()}


def _options(start: Mapping[str, Any]) -> dict[str, Any]:
    options = option_defaults() | options_of(start)
    if options["start"] is None:
        options["start"] = "balanced" if options["imbalance"] == 1 else "random"
    return options


def _facts(start: Mapping[str, Any]) -> str:
    versions = start.get("versions") or {}
    told = [start.get("hardware"), start.get("precision")]
    told += [f"{name} {version}" for name, version in versions.items()]
    return ", ".join(str(entry) for entry in told if entry)


def _warnings(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what a run warned of, and whether others kept the machine busy."""
    told = [str(event.get("message", "")) for event in events if event["event"] == "warning"]
    share = _others_share(events)
    budget = next((e["config"].get("budget") for e in events if e["event"] == "start"), None)
    if share is not None and share > OTHERS_MOST:
        told.insert(0, busy_with_others(share, budget is not None))  # what the lead tells of
    return tuple(told)


def _others_share(events: Sequence[Mapping[str, Any]]) -> float | None:
    share = events[-1].get("others_share")
    return min(share, 1.0) if isinstance(share, float) else None
