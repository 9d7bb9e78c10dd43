"""Which channels the limits of single layers keep or remove, whatever the target."""

import difflib
from fnmatch import fnmatchcase
from math import ceil

import torch
from torch import Tensor

from alprune.errors import PruneError, quoted
from alprune.pruning.graph import ChannelGraph
from alprune.pruning.graph.channels import rows
from alprune.pruning.width_limits import Limits, floor_for, multiple_for


def layer_channels(graph: ChannelGraph) -> dict[str, Tensor]:
    """Return the prunable output channels of each layer, `{module name: (k,) ids}`.

    Layers that pass channels on, such as a depthwise convolution or a normalisation, have those
    that they pass on; layers whose channels are all pinned have none.
    """
    found: dict[str, list[Tensor]] = {name: [ids] for name, ids in graph.makers.items()}
    for tensor in graph.tensors:
        own = found.setdefault(tensor.name.rpartition(".")[0], [])
        own += [ids for dim, ids in tensor.axes.items() if tensor.roles[dim] != "reads"]
    empty = torch.empty(0, dtype=torch.int64)
    channels = {
        name: torch.cat([empty, *(ids.reshape(-1) for ids in parts)]).unique()
        for name, parts in found.items()
        if name
    }
    return {name: ids[ids >= 0] for name, ids in channels.items()}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def named_channels(channels: dict[str, Tensor], pattern: str, option: str) -> Tensor:
    """Return the channels of the layers that a name or pattern stands for, `(k,)` ids.

    Raises:
        PruneError: No layer has such a name.
    """
    found = [ids for name, ids in channels.items() if _matches(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, channels, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise PruneError(
            f"{option} names {quoted(pattern)}, which is not a layer of this network.{hint} A "
            "layer is named as in model.named_modules(), by a module around it, or by a pattern "
            "such as '*.conv1'."
        )
    return torch.cat(found).unique()


def ignored(graph: ChannelGraph, limits: Limits) -> Tensor:
    """Mark the channels that `limits.ignore` keeps, `(channels,)` bool."""
    kept = torch.zeros(graph.channels, dtype=torch.bool)
    channels = layer_channels(graph) if limits.ignore else {}
    for pattern in limits.ignore or ():
        kept[named_channels(channels, pattern, "ignore")] = True
    return kept


def floors(graph: ChannelGraph, scores: Tensor, limits: Limits) -> Tensor:
    """Mark the best channels of every axis that makes or reads, pinned ones counted.

    Returns:
        `(channels,)` bool: what `min_channels` and `layer_floors` keep, and one channel of all
        else that would be empty without.
    """
    floor = torch.zeros(graph.channels, dtype=torch.bool)

    def keep_best(own: Tensor, least: int) -> None:
        floor[own[torch.argsort(scores[own], descending=True)[:least]]] = True

    def keep_alive(axis: Tensor) -> None:
        # A part of what a layer makes, such as the queries, may have a layer or a product alone.
        for ids in rows(axis):
            if bool((ids >= 0).all()):
                keep_best(ids.unique(), 1)

    for product in graph.products:
        for axis in product.axes:
            keep_alive(axis)
    for tensor in graph.tensors:
        for dim, role in tensor.roles.items():
            axis = tensor.axes[dim]
            if role == "follows":
                keep_alive(axis)
                continue
            pinned = int((rows(axis) < 0).all(0).sum())
            if pinned == axis.shape[-1] or (pinned and role == "reads"):
                continue  # what is pinned keeps the layer alive
            if axis.dim() == 1:
                free = axis[axis >= 0]
                own = free.unique()
                each = free.numel() // own.numel()  # channels that leave together, as a head's do
                least = floor_for(axis.numel(), limits.min_channels) - pinned
                keep_best(own, max(0, ceil(least / each)))
                continue
            # in a grid of heads and places within them, the places have the floor
            sides = graph.group_of[axis[axis >= 0]].unique().tolist()
            sides.sort(key=lambda index: len(graph.groups[index].channels))
            for place, index in enumerate(sides):
                own = graph.groups[index].channels
                keep_best(own, floor_for(own.numel(), limits.min_channels) if place else 1)
    channels = layer_channels(graph) if limits.layer_floors else {}
    for pattern, least in limits.layer_floors.items():
        for name, own in channels.items():
            if _matches(name, pattern):
                keep_best(own, floor_for(own.numel(), least))
        named_channels(channels, pattern, "layer_floors")  # refuses what names no layer
    return floor


def set_layers(
    graph: ChannelGraph, scores: Tensor, limits: Limits, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose what the layers of `layer_reductions` lose.

    Args:
        graph: The channel groups.
        scores: `(channels,)`, larger is kept.
        limits: With `layer_reductions`, of which a later entry replaces an earlier one.
        kept: `(channels,)` bool, what must stay.

    Returns:
        The channels of these layers and those of them that leave, `(channels,)` bool each.

    Raises:
        PruneError: A layer would lose channels that another limit keeps.
    """
    chosen, leaving = torch.zeros_like(kept), torch.zeros_like(kept)
    if not limits.layer_reductions:
        return chosen, leaving
    channels = layer_channels(graph)
    share_of: dict[int, tuple[str, float]] = {}
    for pattern, share in limits.layer_reductions.items():
        own = named_channels(channels, pattern, "layer_reductions")
        if share and not own.numel():
            raise _pinned(graph, pattern)
        whole = _coarse(graph, pattern)
        groups = set(graph.group_of[own].unique().tolist()) - whole
        share_of = dict.fromkeys(whole, (pattern, 0.0)) | share_of
        share_of |= dict.fromkeys(groups, (pattern, share))
    for index, (pattern, share) in share_of.items():
        group = graph.groups[index]
        ids = group.channels
        width = ids.numel() - ceil(share * ids.numel() - 1e-9)
        multiple = multiple_for(ids.numel(), limits.round_to)
        if share and width >= multiple:
            width = width // multiple * multiple
        order = ids[torch.argsort(scores[ids], stable=True)]
        order = order[kept[order].long().argsort(stable=True)]  # of equal ones the floor stays
        gone = order[: ids.numel() - width]
        if bool(kept[gone].any()):
            raise PruneError(
                f"layer_reductions[{pattern!r}] = {share:g} would leave {width} of "
                f"{ids.numel()} channels in {group.name!r}, but other limits keep "
                f"{int(kept[ids].sum())}. Reduce it less, or change min_channels (now "
                f"{limits.min_channels}), layer_floors or ignore."
            )
        chosen[ids], leaving[gone] = True, True
    return chosen, leaving


def _coarse(graph: ChannelGraph, pattern: str) -> set[int]:
    """Return the groups that stay whole since outputs of the layers leave with others.

    An output of attention belongs to a head and to a place within the heads. Cutting either by a
    share cuts the outputs by that share; cutting both would cut more. Heads are cut where one of
    the layers makes heads alone, as one that mixes them does.
    """
    grids = [
        _sides(graph, tensor.axes[dim])
        for tensor in graph.tensors
        if _matches(tensor.name.rpartition(".")[0], pattern)
        for dim in tensor.dims("makes")
    ]
    cut: set[int] = set()
    for sides in sorted(grids, key=len):
        cut |= next((side for side in sides if side & cut), sides[-1])
    return set().union(*(side for sides in grids for side in sides)) - cut


def _sides(graph: ChannelGraph, axis: Tensor) -> list[set[int]]:
    """Return the groups of an axis, one set per row, the coarsest first."""
    ordered = sorted(rows(axis), key=lambda ids: ids.unique().numel())
    return [set(graph.group_of[ids[ids >= 0]].tolist()) for ids in ordered]


def _pinned(graph: ChannelGraph, pattern: str) -> PruneError:
    reasons = [f"{p.name}: {p.reason}" for p in graph.pinned if _matches(p.name, pattern)]
    return PruneError(
        f"layer_reductions names {pattern!r}, where no channel can be pruned"
        + (f" ({'; '.join(reasons[:3])})." if reasons else ".")
        + " Leave it out."
    )


def ranks_by_layer(graph: ChannelGraph, scores: Tensor) -> Tensor:
    """Replace scores by each channel's rank in its group, from 0 to 1, `(channels,)` float32."""
    ranks = torch.zeros(graph.channels, dtype=torch.float64)
    for group in graph.groups:
        order = group.channels[torch.argsort(scores[group.channels], stable=True)]
        ranks[order] = (torch.arange(len(order), dtype=torch.float64) + 0.5) / len(order)
    return ranks.float()
