"""One run of a comparison: whether it is there, how it is made, and what came of it."""

import gc
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from alprune import data
from alprune.data import Splits
from alprune.errors import AlpruneError, StoreError, own_line
from alprune.loop import RunResult, Session
from alprune.loop.auto_reduction import AUTO
from alprune.loop.config import RunConfig, given
from alprune.loop.defaults import DEFAULTS, DENSE_WARMUP
from alprune.loop.event_log import first_event
from alprune.loop.events import Observer
from alprune.loop.learner import early_pruner, fit_settings, prune_learner
from alprune.loop.recipe import read_recipe
from alprune.loop.resume import finished, options, reopen
from alprune.loop.run_folder import CONFIG, check_new
from alprune.loop.setup import data_options, first_labels, open_session, simulation, thinned
from alprune.loop.trackers import tracked
from alprune.loop.trust import check_trust, trusting
from alprune.runs.compare.grid import Cell
from alprune.runs.report import plot_curve

# Options that do not matter to whether a run can be set up.
_NOT_OF_A_KIND = {"seed", "out", "budget", "steps", "acquisition"}
NEW, UNENDED, ENDED = "new", "unended", "ended"
DEATHS = 3  # in a row without a step, after which a run whose process died is not tried again
CHOSEN = ("flops_reduction", "warmup_batches", "method")  # what flops_reduction "auto" decides
# Options that say where things are, and may change; what they are, digests say.
_WHERE = {"out", "data_root", "cache", "pretrained"}


@dataclass(frozen=True)
class Outcome:
    """What came of one run of a comparison.

    Attributes:
        name: Of its folder.
        values: The options that the grid sets, by name.
        path: The run folder.
        state: "done", "kept" (it had ended before), "failed", "interrupted" or "waiting".
        result: How the run ended; None if it failed or did not begin.
        error: What a failed run said.
        wall_s: Seconds that were spent on it now, set-up and tests included.
    """

    name: str
    values: dict[str, Any]
    path: Path
    state: str
    result: RunResult | None = None
    error: str | None = None
    wall_s: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ended = asdict(self.result) if self.result else {}
        ended.pop("path", None)
        own = {"name": self.name, "values": self.values, "path": str(self.path)}
        return own | {"state": self.state, "error": self.error, "wall_s": self.wall_s} | ended


class SharedData:
    """Loads a data set once for all runs in turn that use the same, and holds one at a time.

    Args:
        progress: Show a bar where loading takes long.
    """

    def __init__(self, progress: bool = True) -> None:
        self._progress = progress
        self._options: dict[str, Any] = {}
        self._whole: Splits | None = None

    def __call__(self, config: RunConfig) -> Splits:
        """Return the data of a run."""
        options = data_options(config)
        if self._whole is None or options != self._options:
            self._whole = None  # before the next: memory may not hold two
            self._whole = data.load(**options, progress=self._progress)
            self._options = options
        return thinned(config, self._whole)

    def release(self) -> None:
        """Let go of what is held."""
        self._whole = None


def state_of(cell: Cell) -> str:
    """Return whether a run is "new", "unended" or "ended".

    Raises:
        StoreError: Its folder holds a run of other options, a damaged one, or something else.
        ConfigError: The run's options cannot be read, or name code that the cell does not.
    """
    if not (cell.path / CONFIG).exists():
        check_new(cell.path)
        return NEW
    check_trust(read_recipe(cell.path / CONFIG), cell.path / CONFIG, asdict(cell.config), takes=())
    with trusting(True):  # what is imported is what the cell names
        now, then = asdict(cell.config), asdict(options(cell.path))
    may_differ = _WHERE | (_chosen(now, then) if _was_chosen(cell) else set())
    changed = [name for name in now if name not in may_differ and now[name] != then[name]]
    if changed:
        told = ", ".join(f"{name} was {then[name]!r} and is {now[name]!r}" for name in changed)
        raise StoreError(
            f"the run in {cell.path} was begun with other options: {told}. Give the same ones, "
            "choose another --out, or move that run away."
        )
    return UNENDED if _ended(cell) is None else ENDED


def _was_chosen(cell: Cell) -> bool:
    """Tell whether "auto" chose what is removed; records of earlier versions leave it open."""
    auto = cell.config.flops_reduction == AUTO
    return auto and first_event(cell.path).get("chosen_because") != ""


def _chosen(asked: dict[str, Any], then: dict[str, Any]) -> set[str]:
    """Return the options in which "auto" may have made a run differ from what was asked."""
    names = {"flops_reduction"}
    if then["method"] == "dense":  # nothing could be pruned
        names.add("method")
    whole = not then["flops_reduction"] and then["warmup_batches"] == DENSE_WARMUP
    if whole and asked["warmup_batches"] == DEFAULTS["warmup_batches"]:
        names.add("warmup_batches")
    return names


def rehearse(waiting: list[Cell], load: SharedData, tell: Callable[[Cell], None]) -> None:
    """Set up the first run and those that differ from it in more than the seed, on its data.

    What cannot be pruned or trained as asked is found before the first hour is spent.

    Args:
        waiting: The new runs.
        load: Returns their data.
        tell: Is told which run is set up.

    Raises:
        AlpruneError: As from `run`, with the name of the run.
    """
    seen = []
    shared = data_options(waiting[0].config) if waiting else None
    for cell in waiting:
        kind = {k: v for k, v in asdict(cell.config).items() if k not in _NOT_OF_A_KIND}
        if kind in seen or data_options(cell.config) != shared:
            continue
        seen.append(kind)
        tell(cell)
        try:
            train = load(cell.config).train
            fit_settings(cell.config, train)
            pool, first = first_labels(cell.config, train)
            pruned = prune_learner(cell.config, train, first, pool.label_of(first))
            if early := early_pruner(cell.config, pruned.model, train):
                early.check(pruned.model)
        except AlpruneError as error:
            raise type(error)(f"run {cell.name}: {error}") from error


def make(
    cell: Cell,
    state: str,
    load: SharedData,
    observer: Observer,
    opened: Callable[[Session | None], None],
    log: Sequence[str] = (),
) -> Outcome:
    """Make or resume one run; what fails is in the outcome.

    Args:
        cell: Which.
        state: As from `state_of`.
        load: Returns its data.
        observer: Is told of its events.
        opened: Is given its session, and None when it is over.
        log: Trackers that it is entered in.
    """
    begin = time.monotonic()

    def outcome(state: str, **more: Any) -> Outcome:
        wall_s = round(time.monotonic() - begin, 3)
        return Outcome(cell.name, cell.values, cell.path, state, wall_s=wall_s, **more)

    if state == ENDED:
        return outcome("kept", result=_ended(cell))
    try:
        observer = tracked(observer, cell.path, log)
        result = _run(cell, state, load, observer, opened)
        _draw(cell.path)
    except AlpruneError as error:
        return outcome("failed", error=f"{type(error).__name__}: {error}")
    except Exception as error:  # of a network or a function of the user's, or of a full device
        where = own_line(error)
        place = f"({where.filename}, line {where.lineno})"
        return outcome("failed", error=f"{type(error).__name__}: {error} {place}")
    finally:
        opened(None)
        gc.collect()  # a session and what it calls refer to each other
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()  # what the next run records is its own
    interrupted = result.reason == "interrupted"
    return outcome("interrupted" if interrupted else "done", result=result)


def _run(
    cell: Cell,
    state: str,
    load: SharedData,
    observer: Observer,
    opened: Callable[[Session | None], None],
) -> RunResult:
    if state == UNENDED:
        with trusting(True):  # `state_of` has compared its options with those that were given
            where = given({name: getattr(cell.config, name) for name in _WHERE - {"out"}})
            session, oracle = reopen(cell.path, None, observer, load=load, where=where)
    else:
        splits = load(cell.config)
        session = open_session(cell.config, splits, observer=observer, reason=cell.chosen)
        oracle = simulation(cell.config, splits.train)
    opened(session)
    return session.run(oracle)


def _draw(path: Path) -> None:
    try:
        plot_curve(path, path / "curve.png")
    except StoreError as error:  # a picture that cannot be written is not a failed run
        warnings.warn(str(error), stacklevel=2)


def _ended(cell: Cell) -> RunResult | None:
    with warnings.catch_warnings(), trusting(True):
        warnings.simplefilter("ignore")  # how to extend it is not asked here
        return finished(cell.path, None, None)
