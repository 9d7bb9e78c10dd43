"""From options to a learner that is ready to train: built, pruned, its settings picked out."""

import contextlib
import time
import warnings
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from alprune import models
from alprune.data import Dataset
from alprune.errors import ConfigError, PruneError
from alprune.loop.auto_reduction import PLAIN, Measured, choose
from alprune.loop.defaults import (
    DEFAULTS,
    DENSE_WARMUP,
    PRUNE_OPTIONS,
    REDUCTIONS,
    Resolved,
    unmeasured_reduction,
)
from alprune.loop.frozen import FROZEN, frozen_learner
from alprune.loop.start_weights import start_from
from alprune.models.memory import out_of_memory
from alprune.pruning import Pruned, Target, find_method, prune, trace
from alprune.pruning.epi import EarlyPruner, EarlySettings
from alprune.pruning.latency import latency_share, stopwatch
from alprune.pruning.width_limits import Limits
from alprune.training import FitSettings, Learner
from alprune.training.augment import normalise
from alprune.training.device import autocast, pick_device, pick_precision
from alprune.training.distributed import ALONE, Team
from alprune.training.interface import Trainable

Options = TypeVar("Options", bound=Resolved)


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


_STARTING_IMAGES = 3_000  # that a network may look at before it is trained

_LESS = (0.8, 0.6, 0.4, 0.2)  # of the FLOPs: removed where the default is out of reach
# What a method that prunes during training is asked for then, not before.
_TO_REMOVE = (*REDUCTIONS, "ignore", "local", "latency_aware")


def prune_learner(
    config: Resolved, train: Dataset, labelled: torch.Tensor, labels: torch.Tensor
) -> Pruned:
    """Build the learner and prune it on one labelled minibatch.

    Where small images put the default reduction out of reach, less is removed, with a warning.
    """
    config, _ = with_reduction(config, train, labelled, labels)
    try:
        return _pruned(config, train, labelled, labels)
    except PruneError as error:
        asked = config.flops_reduction
        if not asked or asked != unmeasured_reduction(config) or "out of reach" not in str(error):
            raise
        why = error
    for share in _LESS:
        with contextlib.suppress(PruneError):
            pruned = _pruned(replace(config, flops_reduction=share), train, labelled, labels)
            warnings.warn(f"{share:.0%} of the FLOPs removed, not the default: {why}", stacklevel=2)
            return pruned
    raise why


def _pruned(
    config: Options, train: Dataset, labelled: torch.Tensor, labels: torch.Tensor
) -> Pruned:
    device = pick_device(config.device)
    early = find_method(config.method).early
    generator = torch.Generator().manual_seed(config.seed)
    model = models.build(config.model, len(train.classes), train.image_shape, config.seed)
    if config.model in models.MODELS:
        models.INITS[config.init](model, generator)
    if isinstance(model, models.StartsFromImages):
        model.start_from_images(_some_images(train, generator), generator)
    start_from(config, model, len(train.classes))
    batches = []
    for _ in range(config.prune_batches):
        chosen = torch.randperm(labelled.numel(), generator=generator)[: config.prune_batch]
        inputs = _normalised(train, labelled[chosen], device)
        batches.append((inputs, labels[chosen].to(device)))
    try:
        with autocast(device, torch.float32):
            return prune(
                model.to(device),
                "dense" if early else config.method,
                batch=batches,
                after=config.after_pruning,
                generator=generator,
                **_prune_options(config, early),
            )
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise PruneError(
            f"out of memory while pruning on a batch of {config.prune_batch} images. Try "
            f"--prune-batch {max(2, config.prune_batch // 2)}, a smaller --model or --image-size."
        ) from error


def with_reduction(
    config: Options,
    train: Dataset,
    labelled: torch.Tensor,
    labels: torch.Tensor,
    team: Team = ALONE,
) -> tuple[Options, str]:
    """Replace `--flops-reduction auto` by the reduction that measurements choose.

    Returns:
        The options, and the reason in a line; empty without `auto`.

    Raises:
        ConfigError: There is no budget to choose for.
    """
    if config.flops_reduction != "auto":
        return config, ""
    if config.budget is None:
        raise ConfigError(
            "flops_reduction auto chooses for the time there is. Give --budget, or a share to "
            "remove, 0 to 1."
        )
    size = min(config.batch_size, labelled.numel())

    def measure(share: float) -> Measured:
        pruned = _pruned(replace(config, flops_reduction=share), train, labelled, labels)
        seconds = image_s(config, pruned.model, train, labelled, labels)
        return Measured(pruned.macs_after, seconds)

    training_s = config.budget * (1 - config.score_share)
    plain = PLAIN.get(config.model, unmeasured_reduction(config))
    choice = team.same(choose(measure, training_s, size, config.local, plain))
    options: dict[str, Any] = {"flops_reduction": choice.flops_reduction}
    if choice.flops_reduction == 0 and config.warmup_batches == DEFAULTS["warmup_batches"]:
        options["warmup_batches"] = DENSE_WARMUP
    if not choice.prunable:
        options |= {"method": "dense", "flops_reduction": None}
    return replace(config, **options), choice.reason


_MEASURE_S = 0.3  # of training, three times


def image_s(
    config: Resolved,
    model: nn.Module,
    train: Dataset,
    labelled: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    """Return the seconds that training on one image takes: the least of three measurements.

    All of a step counts, since what surrounds the passes weighs most where these are short.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    learner = Learner(model, train, fit_settings(config, train), device, precision, graphs=False)
    size = min(config.batch_size, labelled.numel())
    draws = torch.Generator(device).manual_seed(0)

    def seconds(batches: int) -> float:
        begin = time.perf_counter()
        learner.fit(labelled, labels, (batches - 0.5) * size / labelled.numel(), draws)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - begin

    seconds(1)  # the first one also prepares
    batches = min(20, max(2, round(_MEASURE_S / seconds(1))))
    return min(seconds(batches) for _ in range(3)) / batches / size


def _normalised(train: Dataset, indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    mean, std = torch.tensor(train.mean, device=device), torch.tensor(train.std, device=device)
    return normalise(train.x[indices].to(device), mean, std)


def _prune_options(config: Resolved, early: bool) -> dict[str, Any]:
    """Return what a run passes to `prune` by name."""
    names = [n for n in PRUNE_OPTIONS if not (early and n in _TO_REMOVE)]
    options = {n: getattr(config, n) for n in names}
    return options | {"latency_step_batch": config.batch_size}


def _some_images(train: Dataset, generator: torch.Generator) -> torch.Tensor:
    """Draw images of the pool, labelled or not; return them normalised, on the CPU."""
    rows = torch.randperm(len(train), generator=generator)[:_STARTING_IMAGES]
    return _normalised(train, rows[~train.unreadable(rows)], torch.device("cpu"))


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
