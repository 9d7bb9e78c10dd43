"""What stays: the search from scores to the channels that meet a target."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alprune.errors import PruneError, quoted
from alprune.pruning.graph import ChannelGraph
from alprune.pruning.graph.channels import OUTPUT
from alprune.pruning.inputs import Part
from alprune.pruning.layer_limits import floors, ignored, ranks_by_layer, set_layers
from alprune.pruning.registry import TARGETS
from alprune.pruning.width_limits import Limits, multiple_for, named

NORMALISED = ("pinned", "follow")
KINDS = ("channels", "widths", "masks")
DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
)
# What an untrusted plan may ask for. A million channels take 7 MB of text, and 2^28 numbers
# in one input or one layer take 1 GiB.
_TEXT_MOST = 16 * 2**20
_ELEMENTS_MOST = 2**28


@dataclass(frozen=True)
class Target:
    """How much to remove, and within which limits.

    Attributes:
        quantity: One of `TARGETS`: "channels" is the percentile p itself.
        reduction: Share to remove, in [0, 1).
        limits: What must stay.
    """

    quantity: str
    reduction: float
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.quantity not in TARGETS:
            raise PruneError(f"unknown target {self.quantity!r}; known: {', '.join(TARGETS)}.")
        if not 0 <= self.reduction < 1:
            raise PruneError(
                f"the {self.quantity} reduction must be at least 0 and less than 1, got "
                f"{self.reduction:g}: 0.8 removes 80%."
            )


@dataclass(frozen=True)
class Plan:
    """What stays of a network; with the unpruned model it rebuilds the pruned one.

    Attributes:
        kind: "channels" (groups cut to the kept ones), "widths" (layers at new widths) or
            "masks" (weights masked; which ones, the state dict says).
        example_shape: Shape of one input, without batch.
        kept: `{group: positions kept within the group}`, ascending.
        sizes: `{group: channels before}`.
        floored: Groups in which the floor kept channels that the scores would have removed.
        layer_widths: `{layer: (inputs, outputs)}` of kind "widths".
        sparsity: Share of the weights masked, of kind "masks".
        example_dtype: Of the inputs, one of `DTYPES`.
        normalised: Of the channel graph: "pinned", or "follow" if channels may leave a
            normalisation.
        inputs: Of a network of several inputs, which `example_shape` holds side by side.
    """

    kind: str
    example_shape: tuple[int, ...]
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    floored: tuple[str, ...] = ()
    layer_widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sparsity: float = 0.0
    example_dtype: str = "float32"
    normalised: str = "pinned"
    inputs: tuple[Part, ...] = ()

    @classmethod
    def of(cls, graph: ChannelGraph, keep: Tensor, floored: tuple[str, ...] = ()) -> "Plan":
        """Record a keep vector `(channels,)` bool of `graph`."""
        kept = {g.name: tuple(torch.nonzero(keep[g.channels])[:, 0].tolist()) for g in graph.groups}
        sizes = {g.name: g.channels.numel() for g in graph.groups}
        return cls(
            "channels",
            tuple(graph.example_shape),
            kept,
            sizes,
            floored,
            example_dtype=graph.example_dtype,
            normalised=graph.normalised,
        )

    @classmethod
    def of_widths(
        cls, example_shape: Sequence[int], widths: Mapping[str, tuple[int, int]]
    ) -> "Plan":
        """Record layer widths `{layer: (inputs, outputs)}`."""
        return cls("widths", tuple(example_shape), layer_widths=dict(widths))

    def keep(self, graph: ChannelGraph) -> Tensor:
        """Return the keep vector `(channels,)` bool for `graph`.

        A group that the plan does not name keeps all its channels: it was an output, and pinned,
        where the plan was made for a part of the network, as for a small learner's backbone.

        Raises:
            PruneError: The plan belongs to another network.
        """
        sizes = {g.name: g.channels.numel() for g in graph.groups}
        if any(sizes.get(name) != size for name, size in self.sizes.items()):
            odd = sorted(set(self.sizes.items()) - set(sizes.items()))[:3]
            raise PruneError(
                f"the plan belongs to another network: groups and sizes differ, first {odd}."
            )
        keep = torch.zeros(graph.channels, dtype=torch.bool)
        for group in graph.groups:
            kept = self.kept.get(group.name)
            keep[group.channels if kept is None else group.channels[list(kept)]] = True
        return keep

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        record = {
            "kind": self.kind,
            "kept": {name: list(kept) for name, kept in self.kept.items()},
            "sizes": dict(self.sizes),
            "example_shape": list(self.example_shape),
            "floored": list(self.floored),
            "layer_widths": {name: list(pair) for name, pair in self.layer_widths.items()},
            "sparsity": self.sparsity,
            "example_dtype": self.example_dtype,
        }
        if self.normalised != "pinned":
            record["normalised"] = self.normalised
        if self.inputs:
            record["inputs"] = [[part.name, list(part.shape), part.dtype] for part in self.inputs]
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read `to_json`'s text.

        Raises:
            PruneError: The text is not a plan.
        """
        if len(text) > _TEXT_MOST:
            raise PruneError(
                f"this is not a plan that alprune wrote: {len(text):,} characters, and no plan has "
                f"more than {_TEXT_MOST:,}."
            )
        try:
            return _checked(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PruneError(
                f"this is not a plan that alprune wrote: {type(error).__name__}: {error}."
            ) from error


def _checked(record: Any) -> Plan:
    sizes = {name: _whole(size, name) for name, size in record["sizes"].items()}
    kept = {name: _wholes(chosen, name) for name, chosen in record["kept"].items()}
    for name, size in sizes.items():
        chosen = kept[name]
        if sorted(set(chosen)) != list(chosen) or not all(0 <= i < size for i in chosen):
            raise ValueError(f"group {name!r} keeps positions outside 0..{size - 1} or unsorted")
    if kept.keys() != sizes.keys():
        raise ValueError("kept and sizes name different groups")
    pairs = {}
    for name, pair in record["layer_widths"].items():
        inputs, outputs = _wholes(pair, name, least=1)
        pairs[name] = inputs, outputs
        if inputs * outputs > _ELEMENTS_MOST:
            raise ValueError(f"layer {name!r} would be {inputs} x {outputs}: too large to build")
    shape = _wholes(record["example_shape"], "example_shape", least=1)
    if math.prod(shape) > _ELEMENTS_MOST:
        raise ValueError(f"example_shape {quoted(shape)} is too large to build")
    sparsity = record["sparsity"]
    if type(sparsity) not in (int, float) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a number in [0, 1], got {quoted(sparsity)}")
    return Plan(
        kind=_one_of(KINDS, record["kind"], "kind"),
        example_shape=shape,
        kept=kept,
        sizes=sizes,
        floored=tuple(_one_of(sizes, name, "floored group") for name in record["floored"]),
        layer_widths=pairs,
        sparsity=float(sparsity),
        example_dtype=_one_of(DTYPES, record.get("example_dtype", "float32"), "example_dtype"),
        normalised=_one_of(NORMALISED, record.get("normalised", "pinned"), "normalised"),
        inputs=_parts(record.get("inputs", []), shape),
    )


def _parts(record: Any, shape: tuple[int, ...]) -> tuple[Part, ...]:
    parts = tuple(
        Part(name, _wholes(own, "inputs", least=1), _one_of(DTYPES, dtype, "dtype of an input"))
        for name, own, dtype in record
    )
    if not all(isinstance(p.name, str) and (p.name.isidentifier() or not p.name) for p in parts):
        raise ValueError("inputs must have names of arguments")
    if parts and shape != (sum(math.prod(part.shape) for part in parts),):
        raise ValueError(f"inputs do not make an example of shape {quoted(shape)}")
    return parts


def _whole(value: Any, name: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"{name!r} must have whole numbers from {least}, got {quoted(value)}")
    return value


def _wholes(values: Any, name: str, least: int = 0) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{name!r} must be a list of whole numbers, got {quoted(values)}")
    return tuple(_whole(value, name, least) for value in values)


def _one_of(known: Iterable[str], value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} {quoted(value)} is none of {quoted(tuple(known))}")
    return value


def search(graph: ChannelGraph, scores: Tensor, target: Target) -> Plan:
    """Remove the lowest scores until the target is met, and no more.

    Channels leave in the order of their scores; the plan is the first at or past the target,
    found by bisection over the count removed (algorithm 1's percentile p is that count over the
    number of mask entries; p is not the FLOPs cut). The best `min_channels` of every layer stay,
    and so does what `target.limits` keeps; its `layer_reductions` are made first.

    Args:
        graph: The channel groups.
        scores: `(channels,)`, larger is kept.
        target: What to reach.

    Returns:
        The plan.

    Raises:
        PruneError: Scores have the wrong shape or are not finite, or the target is out of reach
            with the floor; the message says how far it goes.
    """
    _check_scores(graph, scores)
    limits = target.limits
    if limits.local:
        scores = ranks_by_layer(graph, scores)
    order = torch.argsort(scores, stable=True)
    floor, ignore = floors(graph, scores, limits), ignored(graph, limits)
    chosen, leaving = set_layers(graph, scores, limits, floor | ignore)
    stays = floor | ignore | chosen
    removable = order[~stays[order]]
    amount = _measure(graph, target.quantity)
    everything = torch.ones(graph.channels, dtype=torch.bool)
    goal = amount(everything) * (1 - target.reduction)

    def kept_after(removed: int) -> Tensor:
        keep = ~leaving
        keep[removable[:removed]] = False
        return _rounded(graph, scores, keep, limits.round_to)

    low, high = 0, removable.numel()
    if amount(kept_after(high)) > goal + 1e-9:
        raise _out_of_reach(graph, target, amount(everything), amount(kept_after(high)))
    while low < high:
        middle = (low + high) // 2
        if amount(kept_after(middle)) <= goal + 1e-9:
            high = middle
        else:
            low = middle + 1
    held = floor & ~ignore & ~chosen
    return Plan.of(graph, kept_after(low), _floored(graph, order, held, removable, low))


def _check_scores(graph: ChannelGraph, scores: Tensor) -> None:
    if scores.shape != (graph.channels,):
        raise PruneError(
            f"scores must be ({graph.channels},), one a channel, got {tuple(scores.shape)}."
        )
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise PruneError(f"{bad} of {graph.channels} channel scores are not finite.")


def _measure(graph: ChannelGraph, quantity: str) -> Callable[[Tensor], float]:
    if quantity == "flops":
        return lambda keep: float(graph.macs(keep))
    if quantity == "params":
        return lambda keep: float(graph.params(keep))
    if quantity == "channels":
        return lambda keep: float(keep.sum())
    raise PruneError(
        f"{quantity} cannot be computed from a mask, so this method cannot prune to it. Only "
        "methods that score channels once take a reduction of measured latency or time."
    )


def _rounded(graph: ChannelGraph, scores: Tensor, keep: Tensor, round_to: int) -> Tensor:
    if round_to == 1:
        return keep
    keep = keep.clone()
    for group in graph.groups:
        ids = group.channels
        multiple = multiple_for(ids.numel(), round_to)
        count = int(keep[ids].sum())
        width = min(-(-count // multiple) * multiple, ids.numel())
        removed = ids[~keep[ids]]
        best = torch.argsort(scores[removed], descending=True, stable=True)
        keep[removed[best[: width - count]]] = True
    return keep


def _floored(
    graph: ChannelGraph, order: Tensor, floor: Tensor, removable: Tensor, removed: int
) -> tuple[str, ...]:
    if removed == 0:
        return ()
    last = int(torch.nonzero(order == removable[removed - 1])[0])
    held = order[:last][floor[order[:last]]]
    return tuple(graph.groups[i].name for i in graph.group_of[held].unique().tolist())


def _out_of_reach(graph: ChannelGraph, target: Target, before: float, least: float) -> PruneError:
    limits = target.limits
    lower = "min_channels"
    if limits.round_to != 1:
        lower = f"round_to (now {limits.round_to}) or min_channels (now {limits.min_channels})"
    by_layer = limits.ignore or limits.layer_floors or limits.layer_reductions
    return PruneError(
        f"a {target.quantity} reduction of {target.reduction:g} is out of reach: with at least "
        f"{named(limits.min_channels, limits.round_to)} the most is {1 - least / before:.3f}. Ask "
        f"for less, or lower {lower}."
        + (" The limits of single layers count, too." if by_layer else "")
        + _named_reasons(graph)
    )


def _named_reasons(graph: ChannelGraph) -> str:
    """Name the layers that cannot be pruned, outputs aside, and why."""
    found = [f"{p.name}: {p.reason}" for p in graph.pinned if p.reason != OUTPUT]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f" These layers cannot be pruned: {'; '.join(found[:3])}{more}." if found else ""
