"""From options to a session that is ready to run: data, first labels, pruned learner, folder."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alprune import data, models
from alprune.acquisition import Acquisition, find_acquisition, recorded_name
from alprune.acquisition.initial import find_start, first_points
from alprune.data import Dataset, Splits
from alprune.data.corruption import long_tail
from alprune.errors import ConfigError
from alprune.loop import Oracle, RunResult, Session
from alprune.loop.auto_reduction import with_model
from alprune.loop.config import RunConfig
from alprune.loop.defaults import (
    Resolved,
    ResolvedRun,
    resolve,
)
from alprune.loop.events import Observer
from alprune.loop.frozen import cold_pool, with_learner
from alprune.loop.learner import fit_settings, new_learner, prune_learner, with_reduction
from alprune.loop.oracle import Simulation
from alprune.loop.pool import LabelPool, drawn_to_hold_out
from alprune.loop.run_folder import NullRunFolder, RunFolder, check_new
from alprune.loop.start_weights import scaled, with_weights
from alprune.loop.unused import refuse_unused
from alprune.pruning import AFTER_PRUNING, Plan, Pruned, rebuild
from alprune.pruning.registry import CHANNEL_COSTS
from alprune.registry import lookup
from alprune.training.device import pick_device, pick_precision
from alprune.training.distributed import ALONE, Team, join


def run(
    config: RunConfig,
    *,
    acquisition: Acquisition | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Run the acquisition loop on a labelled data set, whose labels are shown when asked for.

    Under `torchrun` all processes call it and make one run together.

    Args:
        config: The options.
        acquisition: Your own function instead of the one that `config` names.
        observer: Is told of events as they happen.

    Returns:
        How the run ended, and its folder. Ctrl-C ends it soundly, too, with `reason`
        "interrupted": test that in a loop over runs.

    Raises:
        AlpruneError: Something in the options, the data or the folder is not usable; or the
            loss became infinite or NaN. The record up to there is kept.
    """
    with join(config.sync_batchnorm) as team:
        session, oracle = open_run(config, acquisition, observer, team)
        return session.run(oracle)


def open_run(
    config: RunConfig,
    acquisition: Acquisition | None = None,
    observer: Observer | None = None,
    team: Team = ALONE,
) -> tuple[Session, Oracle]:
    """Return the session of a new run and where its labels come from; `team` makes it together.

    Raises:
        AlpruneError: As from `run`.
    """
    whole = team.same(config if isinstance(config, ResolvedRun) else complete(config))
    if team.rank == 0:
        check_new(Path(whole.out))  # before the data are loaded, which may take long
    splits = load_splits(whole)
    session = open_session(whole, splits, acquisition, observer, team=team)
    return session, simulation(whole, splits.train)


def complete(config: RunConfig, new: bool = True) -> ResolvedRun:
    """Fill the options left open with their defaults, and check all that can be checked early.

    Args:
        config: The options.
        new: Whether to refuse options that have no effect.

    Raises:
        ConfigError: An unknown data set, method, device or acquisition function, or options
            that do not go together.
        ModelError: The file of `pretrained` cannot be read.
    """
    config = with_model(config)
    if new:
        refuse_unused([config])
    whole = resolve(with_weights(with_learner(config)))
    check_names(whole)
    _check_counts(whole)
    if whole.score_subset is not None and whole.score_subset < whole.query_size:
        raise ConfigError(
            f"score_subset ({whole.score_subset}) must be at least query_size "
            f"({whole.query_size}): points are acquired from those scored."
        )
    return whole


def check_names(config: Resolved) -> None:
    """Make sure that what the options name is there.

    Raises:
        ConfigError: Something is not.
    """
    find_acquisition(config.acquisition)
    lookup("after-pruning treatment", config.after_pruning, AFTER_PRUNING)
    lookup("initialisation", config.init, models.INITS)
    pick_precision(config.precision, pick_device(config.device))
    data.source(config.dataset)
    lookup("channel cost", config.channel_cost, CHANNEL_COSTS)
    find_start(config.start)


def _check_counts(config: ResolvedRun) -> None:
    initial = config.initial
    if config.hold_out and not config.hold_out <= initial - 2:
        raise ConfigError(
            f"hold_out ({config.hold_out}) must leave 2 of the first points ({initial}) to train "
            "on. Lower it, or raise --initial."
        )
    if config.stop_labels is not None and config.stop_labels < initial:
        raise ConfigError(
            f"stop_labels ({config.stop_labels}) is less than the first points ({initial}). Raise "
            "it, or lower --initial."
        )


def load_splits(config: RunConfig, incomplete: bool = False) -> Splits:
    """Load the data set at the size the learner takes, its pool long-tailed if asked for.

    Args:
        config: Complete options.
        incomplete: Whether labels and test images may be missing.
    """
    loaded = data.load(**data_options(config), incomplete=incomplete, progress=True)
    return thinned(config, loaded)


def data_options(config: RunConfig) -> dict[str, Any]:
    """Return what a run passes to `alprune.data.load`; runs that agree in it can share the data."""
    return {
        "name": config.dataset,
        "root": Path(config.data_root) if config.data_root else None,
        "size": _image_size(config),
        "skip_unreadable": config.skip_unreadable,
        "follow_links": config.follow_links,
        "cache": Path(config.cache) if config.cache else None,
    }


def thinned(config: RunConfig, splits: Splits) -> Splits:
    """Return a data set as a run sees it: scaled for its weights, long-tailed if asked for."""
    splits = scaled(config, splits)
    if config.imbalance == 1:
        return splits
    generator = torch.Generator().manual_seed(config.seed + 4)
    return replace(splits, train=long_tail(splits.train, config.imbalance, generator))


def open_session(
    config: ResolvedRun,
    splits: Splits,
    acquisition: Acquisition | None = None,
    observer: Observer | None = None,
    folder: RunFolder | None = None,
    team: Team = ALONE,
    now: Callable[[], float] = time.monotonic,
    reason: str | None = "",
) -> Session:
    """Label the first points, prune the learner and open the run folder.

    Args:
        config: The options.
        splits: The data.
        acquisition: Overrides `config.acquisition`.
        observer: Is told of events.
        folder: Takes the record; if None, the new folder `config.out`.
        team: The processes that make the run; the first one takes the record.
        now: A clock in seconds that never goes back, for the budget.
        reason: Why `config.flops_reduction` was chosen, where that was done before; None if the
            record does not say.

    Returns:
        A session whose clock has not started.
    """
    fit_settings(config, splits.train)  # refuse now, not after the pruning
    asked = config.acquisition if acquisition is None else acquisition
    chosen = find_acquisition(asked)
    pool, first = first_labels(config, splits.train)
    config, why = with_reduction(config, splits.train, first, pool.label_of(first), team)
    pruned = prune_learner(config, splits.train, first, pool.label_of(first))
    pruned = replace(pruned, model=_of_first(team, config, splits.train, pruned))
    learner = new_learner(config, pruned.model, splits.train, team)
    if learner.early is not None:
        learner.early.check(pruned.model)
    if folder is None:  # last: what is refused before leaves no folder behind
        folder = (RunFolder if team.rank == 0 else NullRunFolder)(Path(config.out))
    told = recorded_name(asked)
    session = Session(
        config, splits, pool, learner, pruned.plan, folder, chosen, told, observer, now
    )
    try:
        session.begin(pruned, why or reason)
    except BaseException:
        folder.close()
        raise
    return session


def _of_first(team: Team, config: Resolved, train: Dataset, pruned: Pruned) -> nn.Module:
    """Return a network of the widths that the first process chose, perhaps by measured times."""
    plan = team.same(pruned.plan.to_json())
    if plan == pruned.plan.to_json():
        return pruned.model
    fresh = models.build(config.model, len(train.classes), train.image_shape, config.seed)
    return rebuild(fresh, Plan.from_json(plan))


def simulation(config: RunConfig, train: Dataset) -> Simulation:
    """Return the oracle of a run on labelled data."""
    return Simulation(train, config.label_noise, config.seed + 3)


def first_labels(config: ResolvedRun, train: Dataset) -> tuple[LabelPool, torch.Tensor]:
    """Label the first points; return the pool and the indices of those to prune and train on."""
    oracle = simulation(config, train)
    pool = LabelPool(len(train), len(train.classes))
    cold = cold_pool(config, train, oracle.labels)
    generator = torch.Generator().manual_seed(config.seed)
    first = first_points(config.start, cold, config.initial, generator)
    bad = train.unreadable(first)
    pool.set_aside(first[bad])
    first = first[~bad]
    pool.label(first, oracle(first), step=0)
    pool.hold_out(drawn_to_hold_out(pool, config.hold_out, config.seed))
    return pool, pool.trained_on


def _image_size(config: RunConfig) -> tuple[int, int] | None:
    if config.image_size is not None:
        return config.image_size, config.image_size
    entry = models.MODELS.get(config.model)
    return None if entry is None else entry.input_shape[1:]
