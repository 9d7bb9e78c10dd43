"""Prune a learner before training: score, plan what stays, cut."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.models.cost import cost
from alprune.models.init import INITS
from alprune.pruning.checks import as_batches, check_numbers, checked_model
from alprune.pruning.criteria.base import Batch, ScoreOptions
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.criteria.magnitude import magnitude, uniform
from alprune.pruning.criteria.taylor import taylor
from alprune.pruning.criteria.three_sp import three_sp, three_sp_ca
from alprune.pruning.graph import trace
from alprune.pruning.graph.channels import ChannelGraph, Group
from alprune.pruning.graph.surgery import masked, narrow
from alprune.pruning.methods import (
    Criterion,
    Cut,
    Method,
    Request,
    by_channels,
    by_weights,
    by_widths,
    during_training,
    in_rounds,
    keep_all,
)
from alprune.pruning.plan import TARGETS, Plan, Target, search
from alprune.pruning.precrop import crop
from alprune.pruning.reinit import AFTER_PRUNING
from alprune.pruning.unstructured.masks import load_masked
from alprune.pruning.unstructured.scores import Scorer, grasp, random, snip, synflow
from alprune.pruning.unstructured.scores import magnitude as largest_weights
from alprune.registry import lookup, unknown

__all__ = [
    "AFTER_PRUNING",
    "METHODS",
    "TARGETS",
    "Batch",
    "ChannelGraph",
    "Criterion",
    "Cut",
    "Group",
    "Method",
    "Plan",
    "Pruned",
    "Request",
    "ScoreOptions",
    "Target",
    "find_method",
    "masked",
    "narrow",
    "prune",
    "rebuild",
    "search",
    "trace",
]


def _masking(summary: str, scorer: Scorer) -> Method:
    return Method(f"{summary}; saves no time", by_weights(scorer), {"params": 0.9}, False)


METHODS: dict[str, Method] = {
    "dense": Method("no pruning: the learner as it is", keep_all, {"flops": 0.0}, False),
    "3sp": Method(
        "channels with the least effect on the loss (van Amersfoort et al. 2020)",
        by_channels(three_sp),
    ),
    "3sp-ca": Method(
        "3sp per unit of compute removed (van Amersfoort et al. 2020)",
        by_channels(three_sp_ca),
        {"flops": 0.8},
    ),
    "uniform": Method("channels at random, each with the same chance", by_channels(uniform)),
    "3sp-iterative": Method(
        "3sp in rounds, scored again after each (after SNAP-it and FORCE)",
        in_rounds(three_sp),
        {"flops": 0.8},
    ),
    "structured-grasp": Method(
        "channels that carry little gradient flow (van Amersfoort et al. 2020, section 5)",
        by_channels(structured_grasp),
    ),
    "magnitude": Method(
        "channels made by the smallest weights (Li et al. 2017)", by_channels(magnitude)
    ),
    "taylor": Method(
        "channels with the smallest squared gate gradient (Molchanov et al. 2019)",
        by_channels(taylor),
    ),
    "precrop-params": Method(
        "widths by SynExp within a number of parameters (Cai et al. 2022)",
        by_widths("params"),
        {"params": 0.5},
    ),
    "precrop-flops": Method(
        "widths by SynExp within a number of FLOPs (Cai et al. 2022)", by_widths("flops")
    ),
    "precrop": Method(
        "widths by SynExp within both limits (Cai et al. 2022)",
        by_widths("flops", "params"),
        {"flops": 0.5, "params": 0.5},
    ),
    "preconfig": Method(
        "as precrop, but layers may widen (Cai et al. 2022)",
        by_widths("flops", "params", widen=True),
        {"flops": 0.0, "params": 0.2},
    ),
    "epi": Method(
        "during training, once the best sub-network rests (Shen et al. 2022)",
        during_training,
        {"channels": 0.5},
        saves_time=False,
        early=True,
    ),
    "snip": _masking("weights with an effect on the loss (Lee et al. 2019)", snip),
    "grasp": _masking("weights that carry the gradient flow (Wang et al. 2020)", grasp),
    "synflow": _masking("weights on strong paths, no data (Tanaka et al. 2020)", synflow),
    "magnitude-weights": _masking("largest weights (Han et al. 2015)", largest_weights),
    "random": _masking("weights at random", random),
}


@dataclass(frozen=True)
class Pruned:
    """A pruned learner and what pruning did.

    Attributes:
        model: The pruned network: a smaller plain `nn.Module`, or for weight masks one of the
            same size.
        method: The method's name.
        plan: What stays; `rebuild` makes `model` again from it.
        macs_before: Multiply-accumulates of one example, unpruned (FLOPs are twice this).
        macs_after: The same, pruned.
        params_before: Parameters, unpruned.
        params_after: Parameters, pruned; masked ones count, for they take time and memory.
        widths: `{layer: output channels}`; empty for weight masks.
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


@torch.inference_mode(False)  # scores need gradients wherever this is called
@torch.enable_grad()
def prune(
    model: nn.Module,
    method: str | Criterion | Method = "3sp",
    *,
    batch: Batch | Sequence[Batch],
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    channels_reduction: float | None = None,
    latency_reduction: float | None = None,
    smoothing: float = 0.05,
    channel_cost: str = "made",
    temperature: float = 200.0,
    min_channels: int = 4,
    round_to: int = 1,
    rounds: int = 10,
    latency_batch: int = 1,
    latency_aware: bool = False,
    after: str = "inherit",
    init: str = "he",
    generator: torch.Generator | None = None,
) -> Pruned:
    """Prune a network before training, with one forward and backward pass on one minibatch.

    Args:
        model: Any `nn.Module` from inputs to logits `(b, classes)`; it is left as it was.
        method: A name in `METHODS`, `package.module:function`, or a criterion
            `(model, graph, batch, options) -> (channels,)` of which the largest are kept.
        batch: Normalised inputs `(b, ...)` and labels `(b,)` int64, on the model's device; or
            several such pairs, over which scores are accumulated.
        flops_reduction: Share of the FLOPs to remove, in [0, 1). The plan is the first at or
            past it. If no reduction is given, the method's own default holds.
        params_reduction: Share of the parameters to remove, instead; for the methods that mask
            single weights, the share of the weights to mask.
        channels_reduction: Share of the channels to remove (the papers' percentile p), instead.
            Only PreCrop and PreConfig take two reductions, of FLOPs and parameters.
        latency_reduction: Share of the latency to remove, measured on this machine, instead.
        smoothing: lambda of 3SP+CA, and of `latency_aware`.
        channel_cost: What 3SP+CA divides by: "made" (equation 3 of the paper) or "step" (what a
            training step spends on a channel), see `alprune.pruning.criteria.costs`.
        temperature: Divides the logits in structured-grasp.
        min_channels: Floor of channels that every layer keeps; 0: a sixteenth of them, at least 4.
        round_to: Widths are multiples of this, for hardware that likes them, in layers that are
            large enough; 0: of 8 in wide layers and of less in narrow ones. This, `rounds` and
            `latency_aware` are refused, unless left at their defaults, by methods that would
            ignore them.
        rounds: Rounds of 3sp-iterative.
        latency_batch: Examples a forward pass where latency is measured.
        latency_aware: Divide scores by what a channel costs in measured latency before the
            search, whatever the target.
        after: "inherit" keeps the weights of the kept channels, "reinit" draws them anew,
            "rescale" multiplies them by sqrt(fan-out before / fan-out after). Masked and dense
            networks keep theirs.
        init: With "reinit", how: a key of `alprune.models.INITS`, He et al. by default.
        generator: Source of randomness, on the CPU; seed 0 if None.

    Returns:
        The pruned network and what was done.

    Raises:
        PruneError: The target cannot be met, the batch does not fit, nothing can be pruned.
        ModelError: The network cannot be traced, or branches on the values of its input.
        ConfigError: Unknown method, treatment or initialisation.
    """
    begin = time.perf_counter()
    model = checked_model(model)
    name = method if isinstance(method, str) else getattr(method, "__qualname__", "your method")
    entry = find_method(method)
    asked = {
        "flops": flops_reduction,
        "params": params_reduction,
        "channels": channels_reduction,
        "latency": latency_reduction,
    }
    reductions = {q: r for q, r in asked.items() if r is not None} or entry.reductions
    check_numbers(
        {f"{quantity}_reduction": r for quantity, r in reductions.items()},
        {
            "min_channels": min_channels,
            "round_to": round_to,
            "rounds": rounds,
            "latency_batch": latency_batch,
        },
    )
    after_pruning = lookup("after-pruning treatment", after, AFTER_PRUNING)
    if init not in INITS:
        raise unknown("initialisation", init, INITS)
    batches = as_batches(batch)
    generator = generator or torch.Generator().manual_seed(0)
    request = Request(
        batches=batches,
        reductions=reductions,
        options=ScoreOptions(smoothing, temperature, generator, channel_cost),
        min_channels=min_channels,
        round_to=round_to,
        rounds=rounds,
        latency_batch=latency_batch,
        latency_aware=latency_aware,
    )
    cut = entry.cut(model, request)
    if cut.fresh:
        after_pruning(cut.model, model, generator, init)
    before, left = cost(model, request.example), cost(cut.model, request.example)
    return Pruned(
        model=cut.model,
        method=name,
        plan=cut.plan,
        macs_before=before.macs,
        macs_after=left.macs,
        params_before=before.params,
        params_after=left.params,
        widths=cut.widths,
        pinned=cut.pinned,
        prune_s=time.perf_counter() - begin,
    )


def rebuild(model: nn.Module, plan: Plan, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make a pruned network again from its builder, its plan and its state dict.

    Args:
        model: The unpruned network, as its builder makes it; left as found.
        plan: From `Pruned.plan` or a run folder's plan.json.
        state: The pruned network's state dict, to load; None leaves the weights of `model` (a
            masked network cannot be made without, for the masks stand in it).

    Returns:
        The pruned network.

    Raises:
        PruneError: The plan or the state belongs to another network.
    """
    if plan.kind == "masks":
        if state is None:
            raise PruneError("a masked network needs its state dict: the masks stand in it.")
        return load_masked(model, state)
    if plan.kind == "widths":
        made: nn.Module = crop.at_widths(model, plan.layer_widths, torch.Generator().manual_seed(0))
    else:
        parameter = next(model.parameters())
        dtype = getattr(torch, plan.example_dtype)
        if dtype.is_floating_point and parameter.is_floating_point():
            dtype = parameter.dtype  # the plan also fits the network in another precision
        shape = (2, *plan.example_shape)
        graph = trace(model, torch.zeros(shape, dtype=dtype, device=parameter.device))
        made = narrow(model, graph, plan.keep(graph))
    if state is not None:
        try:
            made.load_state_dict(state)
        except RuntimeError as error:
            raise PruneError(f"the state dict belongs to another network: {error}") from error
    return made


def find_method(method: str | Criterion | Method) -> Method:
    """Return the method for a name, a criterion of your own or a `Method`.

    Raises:
        ConfigError: Unknown name.
        PruneError: Neither of these.
    """
    found = lookup("method", method, METHODS) if isinstance(method, str) else method
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise PruneError(
            f"method {method!r} is a {type(found).__name__}; it must be a criterion "
            "(model, graph, batch, options) -> (channels,), or an alprune.pruning.Method."
        )
    return Method("your own criterion", by_channels(found))
