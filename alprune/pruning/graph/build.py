"""From what a traced forward pass gathered to the channel graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned, Product
from alprune.pruning.graph.gates import Mix
from alprune.pruning.graph.labels import PINNED, Axis, Partition
from alprune.pruning.graph.tracer import Tracer


@dataclass
class _Numbers:
    """Channel ids of the components that can be pruned."""

    partition: Partition
    ids: dict[int, int]

    def __call__(self, axis: Axis) -> Tensor:
        """Return the ids along an axis, `(k,)` or `(m, k)`; -1 where nothing has to stay."""
        rows = [[self.ids.get(c, -1) for c in row] for row in self.partition.columns(axis)]
        rows = [row for row in rows if max(row) >= 0]
        if not rows:
            return torch.full((len(axis[0]) if axis else 0,), -1, device="cpu")
        found = torch.tensor(rows, dtype=torch.int64, device="cpu")
        return found[0] if len(rows) == 1 else found


def assemble(
    tracer: Tracer, model: nn.Module, example_shape: tuple[int, ...], batch: int
) -> tuple[ChannelGraph, Tensor]:
    """Build the graph from a finished trace.

    Returns:
        The graph, and `(N,)` int64: a node of each channel, with which it can be pinned later.
    """
    partition = tracer.nodes.resolve()
    _pin_unread(tracer, partition)
    _pin_indivisible(tracer, partition)
    members = _groups(partition, tracer)
    numbers = _Numbers(partition, {})
    for components in members.values():
        for component in components:
            numbers.ids[component] = len(numbers.ids)
    groups, group_of, start = [], [], 0
    for index, (name, components) in enumerate(members.items()):
        groups.append(Group(name, torch.arange(start, start + len(components), device="cpu")))
        group_of += [index] * len(components)
        start += len(components)
    sizes = {key: numbers(axis) for key, axis in tracer.sizes.items()}
    graph = ChannelGraph(
        tensors=_tensors(tracer, model, numbers, batch),
        groups=tuple(groups),
        pinned=_pinned(partition, tracer.makers),
        example_shape=example_shape,
        channels=len(numbers.ids),
        group_of=torch.tensor(group_of, dtype=torch.int64, device="cpu"),
        makers={name: numbers(_whole(parts)) for name, parts in tracer.makers.items()},
        sizes={key: ids for key, ids in sizes.items() if bool((ids >= 0).any())},
        products=_products(tracer, numbers, batch),
        mixes=_mixes(tracer, numbers),
        normalised="follow" if tracer.follow else "pinned",
    )
    return graph, torch.tensor(list(numbers.ids), dtype=torch.int64, device="cpu")


def _whole(parts: Sequence[Axis]) -> Axis:
    """Join the channels that a layer makes in several calls."""
    most = max(len(part) for part in parts)
    columns = []
    for k in range(most):
        blank = [torch.zeros_like(part[0]) for part in parts]
        columns.append(
            torch.cat([p[k] if k < len(p) else b for p, b in zip(parts, blank, strict=True)])
        )
    return tuple(columns)


def _pin_indivisible(tracer: Tracer, partition: Partition) -> None:
    """Pin a channel that is all that an axis has: without it the layer would be empty."""
    why: dict[int, str] = {}
    for nodes, reason in tracer.nodes.ties:
        for row in partition.columns((nodes,)):
            for component in set(row):
                why.setdefault(component, reason)
    axes = [*tracer.axes.values(), *(part for parts in tracer.makers.values() for part in parts)]
    for axis in axes:
        rows = partition.columns(axis)
        if any(not any(values) for values in zip(*rows, strict=True)):
            continue  # an index that always stays keeps the layer alive
        for row in rows:
            if len(found := set(row)) == 1:
                only = found.pop()
                reason = why.get(only, "a single channel") + ": nothing can leave alone"
                partition.pin(only, reason)


def _pin_unread(tracer: Tracer, partition: Partition) -> None:
    """Pin what nothing reads: something opaque may, and then nothing else would tell."""
    read = {PINNED}
    readers = [tracer.axes[key] for key, role in tracer.roles.items() if role == "reads"]
    for mixing in tracer.mixings.values():
        readers += mixing.axes.values()
    for axis in readers:
        for row in partition.columns(axis):
            read.update(row)
    for parts in tracer.makers.values():
        for axis in parts:
            for row in partition.columns(axis):
                for component in set(row) - read:
                    partition.pin(component, "not read by any layer")


def _groups(partition: Partition, tracer: Tracer) -> dict[str, list[int]]:
    """Group components by the set of their makers, in order of appearance.

    Heads and the places within heads have the same makers, but are groups of their own, and so
    are the places that different layers or products read.
    """
    made_by: dict[int, list[tuple[str, int]]] = {}
    for name, parts in tracer.makers.items():
        for axis in parts:
            for column, row in enumerate(partition.columns(axis)):
                for component in dict.fromkeys(row):
                    if component != PINNED:
                        found = made_by.setdefault(component, [])
                        if (name, column) not in found:
                            found.append((name, column))
    readers = _readers_of_grids(partition, tracer)
    by_makers: dict[tuple[object, ...], list[int]] = {}
    for component, found in made_by.items():
        key = (*found, frozenset(readers.get(component, ())))
        by_makers.setdefault(key, []).append(component)
    groups: dict[str, list[int]] = {}
    for components in by_makers.values():
        first = made_by[components[0]][0][0]
        count = sum(other.partition("#")[0] == first for other in groups)
        groups[f"{first}#{count + 1}" if count else first] = components
    return groups


def _readers_of_grids(partition: Partition, tracer: Tracer) -> dict[int, set[object]]:
    """Return who reads each component that is one of several along some axis."""
    in_grids: set[int] = set()
    for parts in tracer.makers.values():
        for axis in parts:
            rows = partition.columns(axis)
            in_grids.update(c for row in rows for c in row if len(rows) > 1)
    readers: dict[int, set[object]] = {}
    reading: list[tuple[object, Axis]] = [
        (key, tracer.axes[key]) for key, role in tracer.roles.items() if role == "reads"
    ]
    reading += [((s, d), a) for s, m in tracer.mixings.items() for d, a in m.axes.items()]
    for key, axis in reading if in_grids else ():
        for row in partition.columns(axis):
            for component in in_grids.intersection(row):
                readers.setdefault(component, set()).add(key)
    return readers


def _tensors(
    tracer: Tracer, model: nn.Module, numbers: _Numbers, batch: int
) -> tuple[ChannelTensor, ...]:
    trainable = {name for name, _ in model.named_parameters()}
    found = []
    for name, shape in tracer.shapes.items():
        axes = {
            d: numbers(tracer.axes[name, d]) for d in range(len(shape)) if (name, d) in tracer.axes
        }
        axes = {d: ids for d, ids in axes.items() if ids.numel() and int(ids.max()) >= 0}
        found.append(
            ChannelTensor(
                name=name,
                shape=shape,
                axes=axes,
                roles={d: tracer.roles.get((name, d), "follows") for d in axes},
                macs_per_element=round(tracer.positions.get(name, 0) / batch),
                trainable=name in trainable,
            )
        )
    return tuple(found)


def _products(tracer: Tracer, numbers: _Numbers, batch: int) -> tuple[Product, ...]:
    found: dict[tuple[tuple[int, ...], ...], float] = {}
    kept: dict[tuple[tuple[int, ...], ...], tuple[Tensor, ...]] = {}
    for work in tracer.works:
        axes = tuple(ids for ids in map(numbers, work.axes) if bool((ids >= 0).any()))
        each = work.macs / batch
        for ids in axes:
            each /= ids.shape[-1]
        key = tuple(tuple(ids.reshape(-1).tolist()) for ids in axes)
        found[key] = found.get(key, 0) + each
        kept[key] = axes
    return tuple(Product(round(each), kept[key]) for key, each in found.items())


def _mixes(tracer: Tracer, numbers: _Numbers) -> tuple[Mix, ...]:
    found = []
    for spot, mixing in tracer.mixings.items():
        axes = {d: numbers(axis) for d, axis in mixing.axes.items()}
        axes = {d: ids for d, ids in axes.items() if bool((ids >= 0).any())}
        if axes:
            found.append(Mix(spot, mixing.kind, axes))
    return tuple(found)


def _pinned(partition: Partition, makers: Mapping[str, Sequence[Axis]]) -> tuple[Pinned, ...]:
    found = []
    for name, parts in makers.items():
        axis = _whole(parts)
        reasons, held = partition.why(axis)
        if reasons:
            size = len(axis[0])
            part = "" if held == size else f"{held} of {size} channels: "
            found.append(Pinned(name, part + "; ".join(reasons)))
    return tuple(found)
