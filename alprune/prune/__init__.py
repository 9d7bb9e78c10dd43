"""Prune a learner before training: score channels, plan what stays, cut it out."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.names import lookup
from alprune.prune.after import AFTER_PRUNING
from alprune.prune.channels import ChannelGraph, Group, trace
from alprune.prune.plan import TARGETS, Plan, Target, search
from alprune.prune.scores import (
    Batch,
    ScoreOptions,
    magnitude,
    three_sp,
    three_sp_ca,
    uniform,
)
from alprune.prune.surgery import masked, narrow

__all__ = [
    "AFTER_PRUNING",
    "METHODS",
    "TARGETS",
    "Batch",
    "ChannelGraph",
    "Group",
    "Method",
    "Plan",
    "Pruned",
    "ScoreOptions",
    "Target",
    "masked",
    "narrow",
    "prune",
    "rebuild",
    "search",
    "trace",
]

Criterion = Callable[[nn.Module, ChannelGraph, Batch, ScoreOptions], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to prune before training.

    Attributes:
        summary: One line for people who choose.
        score: The criterion; None leaves the learner dense.
        flops_reduction: The share of FLOPs removed unless asked otherwise.
    """

    summary: str
    score: Criterion | None
    flops_reduction: float = 0.5


METHODS: dict[str, Method] = {
    "dense": Method("no pruning: the learner as it is", None, 0.0),
    "uniform": Method("channels removed at random, each with the same chance", uniform),
    "3sp": Method("least first-order change of the loss (van Amersfoort et al. 2020)", three_sp),
    "3sp-ca": Method(
        "3SP per unit of compute removed (van Amersfoort et al. 2020)", three_sp_ca, 0.8
    ),
    "magnitude": Method("least mean squared weight of the maker (Li et al. 2017)", magnitude),
}


@dataclass(frozen=True)
class Pruned:
    """A pruned learner and what pruning did.

    Attributes:
        model: A smaller plain `nn.Module`.
        method: The method's name.
        plan: The channels kept; with the unpruned model it rebuilds `model`'s structure.
        macs_before: Multiply-accumulates of one example, unpruned (FLOPs are twice this).
        macs_after: The same, pruned.
        params_before: Parameters, unpruned.
        params_after: Parameters, pruned.
        widths: `{layer: output channels kept}`.
        pinned: What cannot be pruned, "name: reason" each.
        prune_s: Seconds it took: tracing, scoring, searching and cutting.
    """

    model: nn.Module
    method: str
    plan: Plan
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    widths: dict[str, int]
    pinned: tuple[str, ...]
    prune_s: float

    @property
    def flops_reduction(self) -> float:
        """Share of the FLOPs that is gone."""
        return 1 - self.macs_after / self.macs_before

    @property
    def params_reduction(self) -> float:
        """Share of the parameters that is gone."""
        return 1 - self.params_after / self.params_before


def prune(
    model: nn.Module,
    method: str | Criterion = "3sp",
    *,
    batch: Batch,
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    channels_reduction: float | None = None,
    smoothing: float = 0.05,
    min_channels: int = 4,
    round_to: int = 1,
    after: str = "inherit",
    init: str = "he",
    generator: torch.Generator | None = None,
) -> Pruned:
    """Prune a network before training with one forward and backward pass on one minibatch.

    Args:
        model: Any `nn.Module` from inputs to logits `(b, classes)`; it is left as it was.
        method: A name in `METHODS`, `package.module:function`, or a criterion
            `(model, graph, batch, options) -> (channels,)` of which the largest are kept.
        batch: Normalised inputs `(b, ...)` and labels `(b,)` int64, on the model's device.
        flops_reduction: Share of the FLOPs to remove, in [0, 1); the default target, with the
            method's own default value. The plan is the first at or past it.
        params_reduction: Share of the parameters to remove, instead.
        channels_reduction: Share of the channels to remove (the papers' percentile p), instead.
        smoothing: lambda of 3SP+CA.
        min_channels: Floor of channels that every layer keeps.
        round_to: Widths are multiples of this, for hardware that likes them.
        after: "inherit" keeps the weights of the kept channels, "reinit" draws them anew,
            "rescale" multiplies them by sqrt(fan-out before / fan-out after).
        init: With "reinit", how: a key of `alprune.models.INITS`, He et al. by default.
        generator: Source of randomness, on the CPU; seed 0 if None.

    Returns:
        The smaller network and what was done.

    Raises:
        PruneError: The target cannot be met, the batch does not fit, nothing can be pruned.
        ConfigError: Unknown method.
    """
    begin = time.perf_counter()
    name = method if isinstance(method, str) else getattr(method, "__qualname__", repr(method))
    entry = _method(method)
    generator = generator or torch.Generator().manual_seed(0)
    target = _target(
        entry, flops_reduction, params_reduction, channels_reduction, min_channels, round_to
    )
    after_pruning = lookup("after-pruning treatment", after, AFTER_PRUNING)
    _check_batch(batch)
    graph = trace(model, batch[0][:2])
    everything = torch.ones(graph.channels, dtype=torch.bool)
    if entry.score is None:
        if target.reduction > 0:
            raise PruneError(
                f"method {name!r} prunes nothing, but a reduction of {target.reduction:g} was "
                "asked for. Leave it out, or choose another method."
            )
        plan = Plan.of(graph, everything)
    else:
        scores = entry.score(model, graph, batch, ScoreOptions(smoothing, generator))
        plan = search(graph, scores.detach().to("cpu", torch.float32), target)
    keep = plan.keep(graph)
    pruned = narrow(model, graph, keep)
    if entry.score is not None:
        after_pruning(pruned, model, generator, init)
    return Pruned(
        model=pruned,
        method=name,
        plan=plan,
        macs_before=graph.macs(everything),
        macs_after=graph.macs(keep),
        params_before=graph.params(everything),
        params_after=graph.params(keep),
        widths=graph.widths(keep),
        pinned=tuple(f"{p.name}: {p.reason}" for p in graph.pinned),
        prune_s=time.perf_counter() - begin,
    )


def rebuild(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut a freshly built, unpruned model to a plan, so that a pruned state dict loads into it.

    Args:
        model: The unpruned network, as its builder makes it.
        plan: From `Pruned.plan` or a run folder's plan.json.

    Returns:
        The pruned structure, with the weights that `model` had.

    Raises:
        PruneError: The plan belongs to another network.
    """
    parameter = next(model.parameters())
    example = torch.zeros(2, *plan.example_shape, dtype=parameter.dtype, device=parameter.device)
    graph = trace(model, example)
    return narrow(model, graph, plan.keep(graph))


def _method(method: str | Criterion) -> Method:
    found = lookup("method", method, METHODS) if isinstance(method, str) else method
    return found if isinstance(found, Method) else Method("your own criterion", found)


def _target(
    method: Method,
    flops: float | None,
    params: float | None,
    channels: float | None,
    min_channels: int,
    round_to: int,
) -> Target:
    asked = {"flops": flops, "params": params, "channels": channels}
    given = {quantity: value for quantity, value in asked.items() if value is not None}
    if len(given) > 1:
        raise PruneError(
            f"got {len(given)} targets ({', '.join(f'{q}_reduction' for q in given)}); give one."
        )
    quantity, reduction = next(iter(given.items()), ("flops", method.flops_reduction))
    return Target(quantity, reduction, min_channels, round_to)


def _check_batch(batch: Batch) -> None:
    inputs, labels = batch
    if inputs.shape[0] < 2 or labels.shape != inputs.shape[:1]:
        raise PruneError(
            f"the pruning batch must be inputs (b, ...) and labels (b,) with b >= 2, got "
            f"{tuple(inputs.shape)} and {tuple(labels.shape)}."
        )
