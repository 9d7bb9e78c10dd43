"""The kinds of pruning before training, each from a request to a cut network.

`alprune.pruning.METHODS` names them, with the criterion that each is called with first.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.models.cost import cost
from alprune.pruning.criteria.base import Batch, Criterion, ScoreOptions, channel_scores
from alprune.pruning.graph.channels import OUTPUT, ChannelGraph
from alprune.pruning.graph.surgery import narrow
from alprune.pruning.graph.verify import faults
from alprune.pruning.iterative import search_in_rounds
from alprune.pruning.latency import (
    Latency,
    latency_aware,
    search_latency,
    step_stopwatch,
    stopwatch,
)
from alprune.pruning.plan import Plan, Target, search
from alprune.pruning.precrop import crop
from alprune.pruning.precrop.allocate import Allocation, precrop
from alprune.pruning.registry import MEASURED
from alprune.pruning.tracing import Tracing
from alprune.pruning.unstructured.masks import apply_masks, weight_masks
from alprune.pruning.unstructured.scores import Scorer, grasp
from alprune.pruning.width_limits import Limits
from alprune.registry import lookup

_TRIES = 4  # plans that are tried until one holds


@dataclass(frozen=True)
class Request:
    """A request to a method.

    Attributes:
        batches: Pairs of normalised inputs `(b, ...)` and labels `(b,)`, one or more.
        reductions: `{quantity: share to remove}`, one of `TARGETS` or several.
        scoring: Options of the criterion.
        limits: What must stay.
        rounds: Rounds of the methods that prune in rounds.
        latency: How latency is measured and whether scores take it into account.
        tracing: How the channels are found.
    """

    batches: Sequence[Batch]
    reductions: Mapping[str, float]
    scoring: ScoreOptions = field(default_factory=ScoreOptions)
    limits: Limits = field(default_factory=Limits)
    rounds: int = 10
    latency: Latency = field(default_factory=Latency)
    tracing: Tracing = field(default_factory=Tracing)

    @property
    def example(self) -> Tensor:
        """The first two inputs `(2, ...)`, to trace and count with."""
        return self.batches[0][0][:2]

    @property
    def target(self) -> Target:
        """The one target of methods that take one.

        Raises:
            PruneError: Several were given, or the one is out of range.
        """
        if len(self.reductions) != 1:
            raise PruneError(
                f"got {len(self.reductions)} reductions ({', '.join(self.reductions)}), but this "
                "method takes one. Only precrop and preconfig take two."
            )
        [(quantity, reduction)] = self.reductions.items()
        return Target(quantity, reduction, self.limits)

    @property
    def generator(self) -> torch.Generator:
        """The source of randomness; seed 0 if none was given."""
        return self.scoring.generator or torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Cut:
    """What a method made of a network.

    Attributes:
        model: The pruned network.
        plan: How to make it again.
        fresh: Whether its weights may be re-initialised or re-scaled afterwards.
        pinned: What could not be pruned, "name: reason" each.
        widths: `{layer: output channels}`.
        widths_before: The same of the unpruned network.
        pinned_share: Share of the channels that cannot be pruned, the network's outputs aside.
    """

    model: nn.Module
    plan: Plan
    fresh: bool = True
    pinned: tuple[str, ...] = ()
    widths: dict[str, int] = field(default_factory=dict)
    widths_before: dict[str, int] = field(default_factory=dict)
    pinned_share: float = 0.0


def during_training(model: nn.Module, request: Request) -> Cut:
    """Refuse: there is nothing to cut before training.

    Raises:
        PruneError: Always.
    """
    raise PruneError(
        "method 'epi' prunes during training, not before. Use it in a run (alprune run --method "
        "epi), or drive alprune.pruning.epi.EarlyPruner from a training loop of your own."
    )


def keep_all(model: nn.Module, request: Request) -> Cut:
    """Leave the network dense.

    Raises:
        PruneError: A reduction was asked for.
    """
    if any(reduction > 0 for reduction in request.reductions.values()):
        raise PruneError(
            f"method 'dense' prunes nothing, but {dict(request.reductions)} was asked for. Leave "
            "the reduction out, or choose another method."
        )
    _refuse_unused(request, "rounds", "latency_aware", "layer_reductions")
    graph = request.tracing.graph(model, request.batches[0][0])
    return _narrowed(model, graph, Plan.of(graph, graph.all_kept()), fresh=False)


def by_channels(criterion: Criterion | str, model: nn.Module, request: Request) -> Cut:
    """Remove the channels of the lowest scores, in one shot, as algorithm 1 of 3SP does.

    Over several batches the scores are averaged.

    Args:
        criterion: The function, or `package.module:function`.
        model: Dense network, left as found.
        request: What to remove.
    """
    _refuse_unused(request, "rounds")
    score = _resolved(criterion)
    graph = prunable(model, request)
    drawn = [
        channel_scores(score, model, graph, batch, request.scoring) for batch in request.batches
    ]
    scores = torch.stack(drawn).mean(0)
    _warn_of_no_scores(graph, scores)

    def plan(request: Request) -> Plan:
        if request.latency.aware or request.reductions.keys() & set(MEASURED):
            return _by_time(model, graph, scores, request)
        return search(graph, scores, request.target)

    return _verified(model, graph, plan, request)


def _warn_of_no_scores(graph: ChannelGraph, scores: Tensor) -> None:
    """Warn of layers whose channels all score zero, so that what leaves there is arbitrary."""
    several = [g for g in graph.groups if len(g.channels) > 1]
    parts = [(g.name.partition("#")[0], scores[g.channels]) for g in several]
    blank = list(dict.fromkeys(name for name, part in parts if not bool(part.any())))
    if blank:
        some = ", ".join(blank[:4]) + ("" if len(blank) <= 4 else f" and {len(blank) - 4} more")
        warnings.warn(
            f"no gradient tells the channels of {some} apart (is a part of the network run under "
            "torch.no_grad(), detached, or multiplied by zero at first?). They leave before all "
            f"others. To keep them: ignore={blank[:4]!r}.",
            stacklevel=2,
        )


def in_rounds(criterion: Criterion | str, model: nn.Module, request: Request) -> Cut:
    """Remove a little, score what is left again, and so on until the target is met."""
    _refuse_unused(request, "latency_aware", "layer_reductions")
    score = _resolved(criterion)
    graph = prunable(model, request)

    def plan(request: Request) -> Plan:
        batches, target, options = request.batches, request.target, request.scoring
        return search_in_rounds(model, graph, batches, score, target, options, request.rounds)

    return _verified(model, graph, plan, request)


def by_weights(scorer: Scorer | str, model: nn.Module, request: Request) -> Cut:
    """Mask single weights: the unstructured baselines, which save no time."""
    _refuse_unused(request, "round_to", "rounds", "latency_aware", "redraw_linear", *_BY_LAYER)
    if request.target.quantity != "params":
        raise PruneError(
            f"a weight mask removes no {request.target.quantity}: this method takes "
            "params_reduction, the share of the weights to mask."
        )
    sparsity = request.target.reduction
    scores = _resolved(scorer)(model, request.batches, request.generator, sparsity)
    masked = apply_masks(model, weight_masks(scores, sparsity))
    return Cut(masked, Plan("masks", tuple(request.example.shape[1:]), sparsity=sparsity))


def by_grasp(model: nn.Module, request: Request) -> Cut:
    """Mask single weights by GraSP's scores, with its own options."""
    options = request.scoring
    scorer = partial(grasp, temperature=options.temperature, redraw_linear=options.redraw_linear)
    plain = replace(request, scoring=replace(options, redraw_linear=False))
    return by_weights(scorer, model, plain)


def by_widths(
    budgets: tuple[str, ...], model: nn.Module, request: Request, widen: bool = False
) -> Cut:
    """Rebuild every layer at the width that SynExp gives it (PreCrop).

    Args:
        budgets: The quantities that may be limited, "params" or "flops" or both; limited are
            those that the request names.
        model: Dense network, left as found.
        request: What to remove.
        widen: PreConfig: layers may become wider than they were.
    """
    _refuse_unused(request, "rounds", "latency_aware", *_BY_LAYER)
    for quantity in request.reductions:
        if quantity not in budgets:
            raise PruneError(f"this method limits {' and '.join(budgets)}, not {quantity}.")
    allocation = precrop(
        model,
        request.example,
        params_reduction=request.reductions.get("params"),
        flops_reduction=request.reductions.get("flops"),
        widen=widen,
        min_channels=request.limits.min_channels,
        round_to=request.limits.round_to,
    )
    rebuilt = crop.at_widths(model, allocation.widths, request.generator)
    _check_reached(rebuilt, request, allocation)
    plan = Plan.of_widths(request.example.shape[1:], allocation.widths)
    making = {
        name: len(module.weight)
        for name, module in model.named_modules()
        if name in allocation.densities and not crop.is_depthwise(module)
    }
    widths = {name: allocation.widths[name][1] for name in making}
    return Cut(rebuilt, plan, widths=widths, widths_before=making)


def by_wider_widths(budgets: tuple[str, ...], model: nn.Module, request: Request) -> Cut:
    """As `by_widths`, but layers may become wider than they were (PreConfig)."""
    return by_widths(budgets, model, request, widen=True)


def _resolved(function: Any) -> Any:
    return lookup("criterion", function, {}) if isinstance(function, str) else function


def prunable(model: nn.Module, request: Request) -> ChannelGraph:
    """Trace a network and make sure that it has something to prune.

    Raises:
        PruneError: It has not; the message says why.
    """
    graph = request.tracing.graph(model, request.batches[0][0])
    if not graph.channels:
        reasons = "; ".join(f"{p.name}: {p.reason}" for p in graph.pinned[:5])
        raise PruneError(
            f"{type(model).__name__} has no channels that can be pruned. Needed is at least one "
            "convolution, linear or recurrent layer whose output another one reads. "
            + (f"Pinned: {reasons}." if reasons else "")
        )
    return graph


_BY_LAYER = ("ignore", "layer_floors", "layer_reductions", "local", "normalised", "rules")
_USES = {
    "rounds": "only methods that prune in rounds, such as 3sp-iterative, take it",
    "round_to": "weight masks leave all widths as they are",
    "latency_aware": "only methods that score channels once take it",
    "layer_reductions": "only methods that score channels once take it",
    "redraw_linear": "only grasp takes it",
} | dict.fromkeys(
    ("ignore", "layer_floors", "local", "normalised", "rules"),
    "only methods that score channels take it",
)


def _refuse_unused(request: Request, *options: str) -> None:
    """Refuse options that a method would ignore, where they are not at their defaults."""
    given, defaults = _flat(request), _flat(Request((), {}))
    for name in options:
        if given[name] != defaults[name]:
            raise PruneError(
                f"{name} is {given[name]!r}, but this method does not use it: {_USES[name]}. "
                f"Leave it out ({name} is {defaults[name]!r} by default) or choose another method."
            )


def _flat(request: Request) -> dict[str, Any]:
    return {
        **vars(request.limits),
        **vars(request.tracing),
        "rounds": request.rounds,
        "latency_aware": request.latency.aware,
        "redraw_linear": request.scoring.redraw_linear,
    }


def _check_reached(rebuilt: nn.Module, request: Request, allocation: Allocation) -> None:
    """Make sure that the rebuilt network meets what the allocation promised."""
    found = cost(rebuilt, request.example)
    reached = {
        "flops": 1 - found.macs / allocation.macs_before,
        "params": 1 - found.params / allocation.params_before,
    }
    for quantity, asked in request.reductions.items():
        if reached[quantity] < asked - 1e-9:
            raise PruneError(
                f"the network rebuilt at its new widths reduces {quantity} by "
                f"{reached[quantity]:.3f}, not by {asked:g}: it shares or computes weights in a "
                "way that widths do not describe. Use 3sp."
            )


def _by_time(model: nn.Module, graph: ChannelGraph, scores: Tensor, request: Request) -> Plan:
    batch, latency = request.batches[0], request.latency
    measure = stopwatch(model, graph, batch[0], latency.batch)
    if latency.aware:
        scores = latency_aware(graph, scores, measure, request.scoring.smoothing)
    target = request.target
    if target.quantity not in MEASURED:
        return search(graph, scores, target)
    if target.quantity == "time":
        measure = step_stopwatch(model, graph, batch, latency.step_batch)
    return search_latency(
        graph, scores, target.reduction, measure, target.limits, quantity=target.quantity
    ).plan


def _verified(
    model: nn.Module, graph: ChannelGraph, find: Callable[[Request], Plan], request: Request
) -> Cut:
    """Try the plan that was found; layers that cannot be as narrow as it says stay whole.

    Raises:
        PruneError: There are such layers time and again.
    """
    whole: dict[str, str] = {}
    ignored = tuple(request.limits.ignore or ())
    for _ in range(_TRIES):
        limits = replace(request.limits, ignore=(*ignored, *whole))
        try:
            plan = find(replace(request, limits=limits))
        except PruneError as error:
            reasons = [f" Layer {name!r} stays whole: {why}." for name, why in whole.items()]
            raise PruneError(str(error) + "".join(reasons)) from error
        blamed = faults(model, request.example, graph, plan.keep(graph))
        if not blamed:
            cut = _narrowed(model, graph, plan)
            stays = tuple(f"{name}: at the width planned, {why}" for name, why in whole.items())
            return replace(cut, pinned=cut.pinned + stays)
        names = [graph.groups[group].name.partition("#")[0] for group in blamed]
        whole |= dict(zip(names, blamed.values(), strict=True))
    name, reason = next(iter(whole.items()))
    raise PruneError(
        f"at the widths that meet the target, layer {name!r} cannot be cut: {reason}. Its forward "
        "may branch on widths. Ask for another reduction, or name the layer in ignore."
    )


def _narrowed(model: nn.Module, graph: ChannelGraph, plan: Plan, fresh: bool = True) -> Cut:
    keep = plan.keep(graph)
    return Cut(
        narrow(model, graph, keep),
        plan,
        fresh,
        pinned=tuple(f"{p.name}: {p.reason}" for p in graph.pinned),
        widths=graph.widths(keep),
        widths_before=graph.widths(graph.all_kept()),
        pinned_share=pinned_share(graph),
    )


def pinned_share(graph: ChannelGraph) -> float:
    """Return the share of the channels that cannot be pruned, those of the outputs left out."""
    outputs = {p.name for p in graph.pinned if p.reason == OUTPUT}
    made = pinned = 0
    for name, ids in graph.makers.items():
        if name not in outputs:
            made += ids.shape[-1]
            # an index of several ids, a head and a place within it, may leave by each of them
            pinned += int((ids.reshape(-1, ids.shape[-1]) < 0).all(0).sum())
    return pinned / made if made else 0.0
