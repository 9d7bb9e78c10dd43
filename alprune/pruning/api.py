"""Prune a learner before training: score, plan what stays, cut."""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.models.cost import Cost, cost, keeping_weights
from alprune.models.load_state import load_state
from alprune.models.memory import check_memory
from alprune.models.registry import INITS
from alprune.pruning.checks import as_batches, check_numbers, checked_model
from alprune.pruning.criteria.base import Criterion, ScoreOptions, finding_logits, scoring_in
from alprune.pruning.graph import narrow
from alprune.pruning.graph.surgery import unwrap
from alprune.pruning.graph.tracer import Rule
from alprune.pruning.graph.verify import explained
from alprune.pruning.inputs import Inputs, taking_one, taking_several
from alprune.pruning.latency import Latency
from alprune.pruning.methods import Cut, Request
from alprune.pruning.option_values import plain
from alprune.pruning.plan import Plan
from alprune.pruning.precrop import crop
from alprune.pruning.registry import AFTER_PRUNING, CHANNEL_COSTS, Method, find_method
from alprune.pruning.tracing import Tracing
from alprune.pruning.unstructured.masks import with_masks_of
from alprune.pruning.width_limits import Limits
from alprune.registry import lookup, unknown

_TRIES = 12  # until the pruned network costs as little as was asked


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
        widths_before: The same, unpruned.
        pinned: What cannot be pruned, "name: reason" each.
        pinned_share: Share of the channels that cannot be pruned, the network's outputs aside.
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
    widths_before: dict[str, int]
    pinned: tuple[str, ...]
    pinned_share: float
    prune_s: float

    @property
    def flops_reduction(self) -> float:
        """Share of the FLOPs that is gone."""
        return 1 - self.macs_after / self.macs_before

    @property
    def params_reduction(self) -> float:
        """Share of the parameters that is gone."""
        return 1 - self.params_after / self.params_before


class Options(TypedDict, total=False):
    """The fields of the records that `prune` takes, by name."""

    min_channels: int
    round_to: int
    ignore: str | nn.Module | Iterable[str | nn.Module] | None
    layer_floors: Mapping[str, int]
    layer_reductions: Mapping[str, float]
    local: bool
    smoothing: float
    temperature: float
    channel_cost: str
    logits: Callable[[Any], Tensor] | None
    score_mode: str
    redraw_linear: bool
    latency_batch: int
    latency_step_batch: int
    latency_aware: bool
    normalised: str
    rules: Mapping[type[nn.Module] | str, Rule] | None
    one_path: bool


@torch.inference_mode(False)  # scores need gradients wherever this is called
@torch.enable_grad()
def prune(
    model: nn.Module,
    method: str | Criterion | Method = "3sp",
    *,
    batch: tuple[Inputs, Tensor] | Sequence[tuple[Inputs, Tensor]],
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    channels_reduction: float | None = None,
    latency_reduction: float | None = None,
    time_reduction: float | None = None,
    limits: Limits | None = None,
    scoring: ScoreOptions | None = None,
    latency: Latency | None = None,
    tracing: Tracing | None = None,
    rounds: int = 10,
    after: str = "inherit",
    init: str = "he",
    generator: torch.Generator | None = None,
    **options: Unpack[Options],
) -> Pruned:
    """Prune a network before training, with one forward and backward pass on one minibatch.

    Args:
        model: Any `nn.Module` from inputs to logits `(b, classes)`, or to an output in which
            they are named "logits" or come first; it is left as it was, but for layers that its
            first forward pass builds.
        method: A name in `METHODS` or of an installed package (entry point group
            `alprune.criteria`), `package.module:function`, or a criterion
            `(model, graph, batch, options) -> (channels,)` of which the largest are kept.
        batch: Normalised inputs `(b, ...)` and labels `(b,)` int64, on the model's device; or
            several such pairs, over which scores are accumulated. Several inputs are a tuple of
            tensors, or a dict by the names of the arguments of the network's forward.
        flops_reduction: Share of the FLOPs to remove, in [0, 1). The plan is the first at or
            past it. If no reduction is given, the method's own default holds.
        params_reduction: Share of the parameters to remove, instead; for the methods that mask
            single weights, the share of the weights to mask.
        channels_reduction: Share of the channels to remove (the papers' percentile p), instead.
            Only PreCrop and PreConfig take two reductions, of FLOPs and parameters.
        latency_reduction: Share of the latency to remove, measured on this machine, instead.
        time_reduction: Share of the time of a training step to remove, measured likewise.
        limits: What must stay: floors, multiples, layers to ignore, reductions by layer. With
            reductions by layer and no other one, only these layers are pruned. Limits that a
            method would ignore are refused, but by dense networks (all but reductions by layer),
            and floors by weight masks.
        scoring: Options of the criteria: lambda and cost of 3SP+CA, GraSP's temperature and
            whether it redraws linear layers, how BatchNorm normalises.
        latency: How latency and time are measured, and whether scores are divided by what a
            channel costs in latency.
        tracing: How the channels are found: whether they may leave a normalisation such as
            LayerNorm, rules for modules of your own.
        rounds: Rounds of 3sp-iterative.
        after: "inherit" keeps the weights of the kept channels, "reinit" re-initialises them,
            "rescale" multiplies them by sqrt(fan-out before / fan-out after), which leaves masked
            networks as they are. Dense networks keep their weights; PreCrop and PreConfig draw
            fresh ones (He) in any case.
        init: With "reinit", how: a key of `alprune.models.INITS`, He et al. by default.
        generator: Source of randomness, on the CPU; seed 0 if None.
        **options: Fields of the records by name, in place of those in the record: `min_channels`,
            `round_to`, `ignore` (modules are accepted, too), `layer_floors`, `layer_reductions`
            and `local` of `limits`; `smoothing`, `temperature`, `channel_cost`, `logits`,
            `score_mode` and `redraw_linear` of `scoring`;
            `latency_batch`, `latency_step_batch` and `latency_aware` of `latency`; `normalised`,
            `rules` and `one_path` of `tracing`.

    Returns:
        The pruned network and what was done.

    Raises:
        PruneError: The target cannot be met, the batch does not fit, nothing can be pruned.
        ModelError: The network fails on the inputs, cannot be traced, or branches on the values of
            its input.
        ConfigError: Unknown method, option, treatment or initialisation.
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
        "time": time_reduction,
    }
    limits, scoring, latency, tracing = _records(
        model, (limits, scoring, latency, tracing), dict(options)
    )
    reductions = {q: plain(r) for q, r in asked.items() if r is not None}
    if not reductions:  # a cut of some layers is all that is asked for
        reductions = {"channels": 0.0} if limits.layer_reductions else dict(entry.reductions)
    rounds = plain(rounds)
    check_numbers(
        {f"{quantity}_reduction": r for quantity, r in reductions.items()},
        {"rounds": rounds},
    )
    lookup("channel cost", scoring.channel_cost, CHANNEL_COSTS)
    after_pruning = lookup("after-pruning treatment", after, AFTER_PRUNING)
    if init not in INITS:
        raise unknown("initialisation", init, INITS)
    if generator is None:
        generator = scoring.generator or torch.Generator().manual_seed(0)
    batches, parts = as_batches(batch)
    model = taking_one(model, parts)
    request = Request(
        batches=batches,
        reductions=reductions,
        scoring=replace(scoring, generator=generator),
        limits=limits,
        rounds=rounds,
        latency=latency,
        tracing=tracing,
    )
    with (
        finding_logits(scoring.logits),
        scoring_in(scoring.score_mode),
        keeping_weights(model),
    ):
        cut, before, left = _cut(entry, model, request)
    if cut.fresh:
        after_pruning(cut.model, model, generator, init)
    return Pruned(
        model=taking_several(cut.model),
        method=name,
        plan=replace(cut.plan, inputs=parts),
        macs_before=before.macs,
        macs_after=left.macs,
        params_before=before.params,
        params_after=left.params,
        widths=cut.widths,
        widths_before=cut.widths_before,
        pinned=cut.pinned,
        pinned_share=cut.pinned_share,
        prune_s=time.perf_counter() - begin,
    )


def _cut(entry: Method, model: nn.Module, request: Request) -> tuple[Cut, Cost, Cost]:
    """Cut a network until it costs what was asked, and count it before and afterwards.

    The search knows what each operation costs at full width and how that shrinks with its
    channels. Where it does not shrink so (a product of three factors whose order changes with the
    widths, a module that a rule of one's own describes), more is asked for.
    """
    with explained(model, request.example):
        before = cost(model, request.example)
    asked = request.reductions
    for _ in range(_TRIES):
        cut = entry.cut(model, request)
        left = cost(cut.model, request.example)
        goal = before.macs * (1 - asked.get("flops", 0.0))
        if left.macs <= goal + 1e-9 or list(asked) != ["flops"]:
            break
        # By the difference: what does not shrink, and what shrinks by a share more, is met at once.
        short = request.reductions["flops"] + (left.macs - goal) / before.macs
        if short >= 1:
            short = 1 - (1 - request.reductions["flops"]) * goal / left.macs
        request = replace(request, reductions={"flops": short})
    else:
        raise PruneError(
            f"a flops reduction of {asked['flops']:g} was asked for, but after {_TRIES} searches "
            f"{left.macs / before.macs:.1%} of the FLOPs are left: some of its computation does "
            "not shrink with the channels. Ask for less, or for a channels_reduction."
        )
    return cut, before, left


def rebuild(
    model: nn.Module,
    plan: Plan,
    state: Mapping[str, Tensor] | None = None,
    tracing: Tracing | None = None,
) -> nn.Module:
    """Make a pruned network again from its builder, its plan and its state dict.

    Args:
        model: The unpruned network, as its builder makes it; left as found.
        plan: From `Pruned.plan` or a run folder's plan.json.
        state: The pruned network's state dict, to load; None leaves the weights of `model` (a
            masked network cannot be made without it, as it holds the masks).
        tracing: The rules and the word on one path that `prune` was given.

    Returns:
        The pruned network.

    Raises:
        PruneError: The plan or the state belongs to another network.
    """
    model = taking_one(unwrap(model), plan.inputs)
    made: nn.Module
    if plan.kind == "masks":
        if state is None:
            raise PruneError("a masked network needs its state dict: the masks stand in it.")
        made = with_masks_of(model, state)
    elif plan.kind == "widths":
        made = crop.at_widths(model, plan.layer_widths, torch.Generator().manual_seed(0))
    else:
        parameter = next(model.parameters())
        dtype = getattr(torch, plan.example_dtype)
        if dtype.is_floating_point and parameter.is_floating_point():
            dtype = parameter.dtype  # the plan also fits the network in another precision
        check_memory(lambda: model, plan.example_shape)
        shape = (8, *plan.example_shape)  # two are enough for most
        example = torch.zeros(shape, dtype=dtype, device=parameter.device)
        tracing = replace(tracing or Tracing(), normalised=plan.normalised)
        graph = tracing.graph(model, example)
        made = narrow(model, graph, plan.keep(graph))
    if state is not None:
        try:
            load_state(made, state)
        except RuntimeError as error:
            raise PruneError(f"the state dict belongs to another network: {error}") from error
    return taking_several(made)


Records = tuple[Limits, ScoreOptions, Latency, Tracing]


def _records(model: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Records:
    """Put the options given by name into their records."""
    kinds = (Limits, ScoreOptions, Latency, Tracing)
    for record, kind in zip(given, kinds, strict=True):
        if not isinstance(record, kind | None):
            raise PruneError(f"expected alprune.pruning.{kind.__name__}(...), got {record!r}.")
    records: list[Any] = [record or kind() for record, kind in zip(given, kinds, strict=True)]
    if "ignore" in options:
        options["ignore"] = _names(model, options["ignore"])
    known = {
        "latency_" * (record is records[2]) + entry.name: (index, entry.name)
        for index, record in enumerate(records)
        for entry in fields(record)
        if entry.name != "generator"
    }
    changes: list[dict[str, Any]] = [{} for _ in records]
    for name, value in options.items():
        if name not in known:
            named = set(inspect.signature(prune).parameters) - {"options"}
            raise unknown("option of prune", name, {*known, *named})
        index, entry_name = known[name]
        changes[index][entry_name] = value
    found = [replace(record, **change) for record, change in zip(records, changes, strict=True)]
    return cast(Records, tuple(found))


def _names(model: nn.Module, ignore: Any) -> Any:
    """Replace the modules in a list of layers, or a module alone, by their names."""
    if isinstance(ignore, nn.Module):
        ignore = [ignore]
    if not isinstance(ignore, Iterable) or isinstance(ignore, str):
        return ignore
    name_of = {id(module): name for name, module in model.named_modules()}
    names = []
    for layer in ignore:
        if isinstance(layer, nn.Module) and not name_of.get(id(layer)):
            raise PruneError(
                f"ignore holds a {type(layer).__name__} that is not a layer of this network. Give "
                "modules of the network itself, or their names."
            )
        names.append(name_of[id(layer)] if isinstance(layer, nn.Module) else layer)
    return names
