"""Comparisons: a grid of runs, made one after another so that their clocks are fair."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from alprune.data.image_cache.pool import cores
from alprune.data.locks import file_lock
from alprune.data.spawning import refuse_in_import
from alprune.errors import ConfigError, StoreError
from alprune.loop.config import RunConfig
from alprune.loop.run_folder import CONFIG, LOCK, no_lock
from alprune.loop.trackers import require_trackers
from alprune.pruning.option_values import plain
from alprune.registry import lookup
from alprune.runs.compare.choices import choose_once
from alprune.runs.compare.engines import ENGINES, Resources, open_engine
from alprune.runs.compare.forecast import Forecast, Monitor
from alprune.runs.compare.grid import Cell, Grid, cells, name_of, seeds_of, values_of
from alprune.runs.compare.manifest import (
    MANIFEST,
    merged,
    read_grid_recipe,
    read_manifest,
    write_manifest,
)
from alprune.runs.compare.parallel import side_by_side
from alprune.runs.compare.remote import make_elsewhere
from alprune.runs.compare.runs import (
    ENDED,
    NEW,
    UNENDED,
    Outcome,
    SharedData,
    make,
    rehearse,
    state_of,
)
from alprune.runs.compare.summary import summary_table

PROCESSES = "processes"


def compare(
    config: RunConfig,
    grid: Grid,
    out: str | Path,
    *,
    jobs: int = 1,
    monitor: Monitor | None = None,
    log: Sequence[str] = (),
    engine: str | None = None,
    resources: Resources | None = None,
) -> list[Outcome]:
    """Make every run of a grid; finished ones are kept, unfinished ones resumed.

    All options are checked before the first run begins, and the first run of each kind is set up
    and pruned once on the first run's data. A data set is loaded once for the runs that share it.
    Under Ctrl-C the present run ends soundly and no other begins.

    Args:
        config: Options of every run; those left open are filled for each run by itself.
        grid: `{option: values}`, as in `{"method": ["dense", "3sp-ca"], "seed": range(5)}`.
        out: Folder of all runs, each in a subfolder named after its values, and of compare.toml.
        jobs: Processes that make runs side by side; each imports a script that calls this, which
            needs `if __name__ == "__main__":`. They share the processors: under a budget every run
            then gets less done, and a warning says so.
        monitor: Is told how it goes.
        log: Trackers that each run is entered in, keys of `alprune.loop.trackers.TRACKERS`.
        engine: What makes the runs: a key of `ENGINES`, whose machines see `out` and the data
            under the same paths; or "processes", as many of this machine as `resources` allow.
        resources: Of each run there.

    Returns:
        What came of each run, in the order in which they are made. A run that failed says why,
        and the others continue.

    Raises:
        ConfigError: An option of the grid is not usable, or two runs would be the same.
        StoreError: A folder holds a run of other options, or another process compares there.
        AlpruneError: A run cannot be set up as asked; none has begun then.
    """
    refuse_in_import()
    out, monitor = Path(out), monitor or Monitor()
    grid = {name: _plain(values) for name, values in grid.items()}
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}.")
    if jobs > 1 and engine is not None:
        raise ConfigError(f"the engine {engine!r} decides how many runs go on; leave jobs out.")
    if engine is not None:
        lookup("engine", engine, {PROCESSES: None, **ENGINES})  # not after the data are loaded
    if engine == PROCESSES:
        jobs, engine = max(1, cores() // (resources or Resources()).local_cpus()), None
    require_trackers(log)
    planned = plan(config, grid, out)
    beside = min(jobs, max(1, sum(state != ENDED for _, state in planned)))
    if beside > 1 and any(c.config.budget and not c.config.steps for c, _ in planned):
        warnings.warn(
            f"{beside} runs side by side share the processors, and under a budget each gets less "
            "done than alone: compare accuracies against labels, not against time. Use --steps, "
            "or --jobs 1.",
            stacklevel=2,
        )
    load = SharedData()
    if engine is None:
        threads = max(1, torch.get_num_threads() // beside)
    else:
        threads = (resources or Resources()).cpus
    planned = choose_once(planned, load, monitor.chose, threads, elsewhere=engine is not None)
    rehearse([cell for cell, state in planned if state == NEW], load, monitor.checks)
    with _locked(out):
        planned = [(cell, state_of(cell)) for cell, _ in planned]  # again, now that none can change
        write_manifest(out, config, grid)
        if engine is not None:
            load.release()
            return _by_engine(planned, engine, resources or Resources(), out, monitor, log)
        monitor.planned(planned, jobs)
        if jobs > 1:
            load.release()  # each process loads its own
            return side_by_side(planned, jobs, monitor, log)
        return _one_by_one(planned, load, monitor, log)


def plan(config: RunConfig, grid: Grid, out: Path) -> list[tuple[Cell, str]]:
    """Return the runs of a comparison and whether each is "new", "unended" or "ended".

    Raises:
        ConfigError, StoreError: As from `compare`.
    """
    if (out / CONFIG).exists():
        raise StoreError(f"{out} is itself a run folder; choose another --out for all runs.")
    return [(cell, state_of(cell)) for cell in cells(config, grid, out)]


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """Write values as a recipe holds them: paths as text, and NumPy's numbers as Python's."""
    if not isinstance(values, list | tuple):
        return values
    return [os.fspath(v) if isinstance(v, os.PathLike) else plain(v) for v in values]


def _one_by_one(
    planned: list[tuple[Cell, str]], load: SharedData, monitor: Monitor, log: Sequence[str]
) -> list[Outcome]:
    outcomes = []
    stopped = False
    for cell, state in planned:
        if stopped:
            outcome = Outcome(cell.name, cell.values, cell.path, "waiting")
        else:
            observer = monitor.begins(cell, state)
            outcome = make(cell, state, load, observer, monitor.opened, log)
            stopped = outcome.state == "interrupted"
        outcomes.append(outcome)
        monitor.ended(cell, outcome)
    return outcomes


def _by_engine(
    planned: list[tuple[Cell, str]],
    name: str,
    resources: Resources,
    out: Path,
    monitor: Monitor,
    log: Sequence[str],
) -> list[Outcome]:
    engine = open_engine(name, resources, out)
    try:
        monitor.planned(planned, len(planned))
        threads = resources.cpus
        return make_elsewhere(planned, engine, monitor, threads=threads, log=log)
    finally:
        engine.close()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other processes from making the same comparison."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = file_lock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(f"another process makes the comparison in {out}. Wait for it.") from error
    except (OSError, NotImplementedError) as error:
        raise no_lock(f"cannot write a comparison to {out}", error) from error
    try:
        yield
    finally:
        lock.release()


__all__ = [
    "Cell",
    "ENDED",
    "ENGINES",
    "Forecast",
    "Grid",
    "MANIFEST",
    "Monitor",
    "NEW",
    "Outcome",
    "Resources",
    "UNENDED",
    "compare",
    "merged",
    "name_of",
    "plan",
    "read_grid_recipe",
    "read_manifest",
    "seeds_of",
    "summary_table",
    "values_of",
]
