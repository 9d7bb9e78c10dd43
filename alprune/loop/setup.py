"""From options to a session that is ready to run: data, first labels, pruned learner, folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alprune import data, models
from alprune.acquisition import Acquisition, find_acquisition
from alprune.acquisition.initial import find_start, first_points
from alprune.data import Dataset, Splits
from alprune.data.corruption import long_tail
from alprune.errors import ConfigError, PruneError
from alprune.loop import Oracle, RunResult, Session
from alprune.loop.config import RunConfig
from alprune.loop.defaults import PRUNE_OPTIONS, REDUCTIONS, Resolved, ResolvedRun, resolve
from alprune.loop.events import Observer
from alprune.loop.frozen import FROZEN, cold_pool, frozen_learner, with_learner
from alprune.loop.oracle import Simulation
from alprune.loop.pool import LabelPool, drawn_to_hold_out
from alprune.loop.run_folder import NullRunFolder, RunFolder, check_new
from alprune.loop.start_weights import scaled, start_from, with_weights
from alprune.loop.unused import refuse_unused
from alprune.pruning import AFTER_PRUNING, Plan, Pruned, Target, find_method, prune, rebuild, trace
from alprune.pruning.epi import EarlyPruner, EarlySettings
from alprune.pruning.latency import latency_share, stopwatch
from alprune.pruning.registry import CHANNEL_COSTS
from alprune.pruning.width_limits import Limits
from alprune.registry import lookup
from alprune.training import FitSettings, Learner
from alprune.training.augment import normalise
from alprune.training.device import autocast, pick_device, pick_precision
from alprune.training.distributed import ALONE, Team, join
from alprune.training.interface import Trainable
from alprune.training.predict import out_of_memory


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
        How the run ended, and its folder.

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
        new: Whether to refuse options that have no effect; runs of earlier versions may have some.

    Raises:
        ConfigError: An unknown data set, method, device or acquisition function, or options
            that do not go together.
        ModelError: The file of `pretrained` cannot be read.
    """
    if new:
        refuse_unused([config])
    whole = resolve(with_weights(with_learner(config)))
    check_names(whole)
    _check_counts(whole)
    if whole.score_subset is not None and whole.score_subset < whole.query_size:
        raise ConfigError(
            f"score_subset ({whole.score_subset}) must be at least query_size "
            f"({whole.query_size}): points are acquired out of those scored."
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


def load_splits(config: RunConfig) -> Splits:
    """Load the data set at the size the learner takes, its pool long-tailed if asked for."""
    return thinned(config, data.load(**data_options(config), progress=True))


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
) -> Session:
    """Label the first points, prune the learner and open the run folder.

    Args:
        config: The options.
        splits: The data.
        acquisition: Overrides `config.acquisition`.
        observer: Is told of events.
        folder: Takes the record; if None, the new folder `config.out`.
        team: The processes that make the run; the first one takes the record.

    Returns:
        A session whose clock has not started.
    """
    fit_settings(config, splits.train)  # refuse now, not after the pruning
    chosen = acquisition or find_acquisition(config.acquisition)
    pool, first = first_labels(config, splits.train)
    pruned = prune_learner(config, splits.train, first, pool.label_of(first))
    pruned = replace(pruned, model=_of_first(team, config, splits.train, pruned))
    learner = new_learner(config, pruned.model, splits.train, team)
    if folder is None:  # last: what is refused before leaves no folder behind
        folder = (RunFolder if team.rank == 0 else NullRunFolder)(Path(config.out))
    session = Session(config, splits, pool, learner, pruned.plan, folder, chosen, observer)
    try:
        session.begin(pruned)
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


def new_learner(
    config: Resolved, model: nn.Module, train: Dataset, team: Team = ALONE
) -> Trainable:
    """Make a pruned network ready to train; one that is pruned during training is watched."""
    if config.learner == FROZEN:
        return frozen_learner(config, model, train, team)
    device = pick_device(config.device)
    settings = fit_settings(config, train)
    early = early_pruner(config, model.to(device), train, team)
    precision = pick_precision(config.precision, device)
    graphs = config.cuda_graphs
    return Learner(model, train, settings, device, precision, early, team, graphs)


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


_STARTING_IMAGES = 3_000  # that a network may look at before it is trained

# What a method that prunes during training is asked for then, not before.
_TO_REMOVE = (*REDUCTIONS, "ignore", "local", "latency_aware")


def prune_learner(
    config: Resolved, train: Dataset, labelled: torch.Tensor, labels: torch.Tensor
) -> Pruned:
    """Build the learner and prune it on one labelled minibatch."""
    device = pick_device(config.device)
    early = find_method(config.method).early
    generator = torch.Generator().manual_seed(config.seed)
    model = models.build(config.model, len(train.classes), train.image_shape, config.seed)
    if config.model in models.MODELS:
        models.INITS[config.init](model, generator)
    if isinstance(model, models.StartsFromImages):
        model.start_from_images(_some_images(train, generator), generator)
    start_from(config, model, len(train.classes))
    mean, std = torch.tensor(train.mean, device=device), torch.tensor(train.std, device=device)
    batches = []
    for _ in range(config.prune_batches):
        chosen = torch.randperm(labelled.numel(), generator=generator)[: config.prune_batch]
        inputs = normalise(train.x[labelled[chosen]].to(device), mean, std)
        batches.append((inputs, labels[chosen].to(device)))
    try:
        with autocast(device, torch.float32):
            return prune(
                model.to(device),
                "dense" if early else config.method,
                batch=batches,
                after=config.after_pruning,
                generator=generator,
                **{n: getattr(config, n) for n in PRUNE_OPTIONS if not (early and n in _TO_REMOVE)},
            )
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise PruneError(
            f"out of memory while pruning on a batch of {config.prune_batch} images. Try "
            f"--prune-batch {max(2, config.prune_batch // 2)}, a smaller --model or --image-size."
        ) from error


def _some_images(train: Dataset, generator: torch.Generator) -> torch.Tensor:
    """Draw images of the pool, labelled or not; return them normalised, on the CPU."""
    rows = torch.randperm(len(train), generator=generator)[:_STARTING_IMAGES]
    images = train.x[rows[~train.unreadable(rows)]].cpu()
    return normalise(images, torch.tensor(train.mean), torch.tensor(train.std))


def early_pruner(
    config: Resolved, model: nn.Module, train: Dataset, team: Team = ALONE
) -> EarlyPruner | None:
    """Make what prunes the learner during training; None for methods that pruned before."""
    method = find_method(config.method)
    if not method.early:
        return None
    asked = {n.removesuffix("_reduction"): getattr(config, n) for n in REDUCTIONS}
    reductions = {q: r for q, r in asked.items() if r is not None} or method.reductions
    if len(reductions) != 1:
        raise ConfigError(f"got {len(reductions)} reductions; method epi takes one.")
    [(quantity, reduction)] = reductions.items()
    settings = EarlySettings(
        Target(quantity, reduction, _limits(config)),
        criterion=config.epi_criterion,
        prune_at=config.prune_at or "epi",
        threshold=config.epi_tau,
        past=config.epi_window,
    )
    example = torch.zeros(2, *train.image_shape, device=next(model.parameters()).device)
    graph, cost = trace(model, example), None
    if config.latency_aware:  # one process measures, so that all rank alike
        measure = stopwatch(model, graph, example, config.latency_batch)
        share = latency_share(graph, measure, config.smoothing) if team.rank == 0 else None
        cost = team.same(share)
    return EarlyPruner(graph, settings, torch.Generator().manual_seed(config.seed), cost)


def _limits(config: Resolved) -> Limits:
    least, multiple = config.min_channels, config.round_to
    return Limits(least, multiple, ignore=config.ignore or (), local=config.local)


def fit_settings(config: Resolved, train: Dataset) -> FitSettings:
    """Pick out the training options."""
    return FitSettings(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
        warmup_batches=config.warmup_batches,
        schedule=config.schedule,
        averaging=config.averaging,
        pad=config.pad,
        flip=train.flip if config.flip is None else config.flip,
    )


def _image_size(config: RunConfig) -> tuple[int, int] | None:
    if config.image_size is not None:
        return config.image_size, config.image_size
    entry = models.MODELS.get(config.model)
    return None if entry is None else entry.input_shape[1:]


__all__ = [
    "check_names",
    "complete",
    "data_options",
    "first_labels",
    "fit_settings",
    "load_splits",
    "new_learner",
    "open_run",
    "open_session",
    "prune_learner",
    "run",
    "simulation",
    "thinned",
]
