"""From what a traced forward pass gathered to the channel graph."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from alprune.pruning.graph.calls import Work
from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned, Product
from alprune.pruning.graph.gates import Mix
from alprune.pruning.graph.labels import PINNED, Axis, in_order
from alprune.pruning.graph.partition import Partition
from alprune.pruning.graph.place import Spot
from alprune.pruning.graph.tracer import Tracer


@dataclass
class _Numbers:
    """Channel ids of the components that can be pruned.

    Attributes:
        partition: The components.
        ids: `(components,)` int64, -1 for those without an id.
    """

    partition: Partition
    ids: Tensor

    def __call__(self, axis: Axis) -> Tensor:
        """Return the ids along an axis, `(k,)` or `(m, k)`; -1 where nothing has to stay."""
        rows = [self.ids[row] for row in self.partition.columns(axis)]
        rows = [row for row in rows if bool((row >= 0).any())]
        if not rows:
            return torch.full((len(axis[0]) if axis else 0,), -1, device="cpu")
        return rows[0] if len(rows) == 1 else torch.stack(rows)


def assemble(
    tracer: Tracer, model: nn.Module, example_shape: tuple[int, ...], batch: int
) -> tuple[ChannelGraph, Tensor]:
    """Build the graph from a finished trace.

    Returns:
        The graph, and `(N,)` int64: a node of each channel, with which it can be pinned later.
    """
    partition = Partition(*tracer.nodes.resolve())
    _pin_unread(tracer, partition)
    _pin_indivisible(tracer, partition)
    members = _groups(partition, tracer)
    channels = torch.cat([*members.values(), torch.empty(0, dtype=torch.int64, device="cpu")])
    numbers = _Numbers(partition, torch.full((len(partition.of),), -1, device="cpu"))
    numbers.ids[channels] = torch.arange(len(channels), device="cpu")
    counts = torch.tensor([len(m) for m in members.values()], dtype=torch.int64, device="cpu")
    groups = map(Group, members, numbers.ids[channels].split(counts.tolist()))
    sizes = {key: numbers(axis) for key, axis in tracer.sizes.items()}
    works = _for_one_example(tracer, batch)
    graph = ChannelGraph(
        tensors=_tensors(tracer, model, numbers, works),
        groups=tuple(groups),
        pinned=_pinned(partition, tracer.makers),
        example_shape=example_shape,
        channels=len(channels),
        group_of=torch.arange(len(members), device="cpu").repeat_interleave(counts),
        makers={name: numbers(_whole(parts)) for name, parts in tracer.makers.items()},
        sizes={key: ids for key, ids in sizes.items() if bool((ids >= 0).any())},
        products=_products(works, numbers),
        mixes=_mixes(tracer, numbers),
        normalised="follow" if tracer.follow else "pinned",
    )
    return graph, channels


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
    tie = torch.full_like(partition.of, -1)  # the first that each component takes part in
    for index in reversed(range(len(tracer.nodes.ties))):
        for row in partition.columns((tracer.nodes.ties[index][0],)):
            tie[row] = index
    axes = [*tracer.axes.values(), *_made(tracer)]
    for axis in axes:
        rows = partition.columns(axis)
        if not rows or not bool(torch.stack(rows).any(0).all()):
            continue  # an index that always stays keeps the layer alive
        for row in rows:
            if bool((row == row[0]).all()):
                index = int(tie[row[0]])
                reason = tracer.nodes.ties[index][1] if index >= 0 else "a single channel"
                partition.pin(row[:1], f"{reason}: nothing can leave alone")


def _pin_unread(tracer: Tracer, partition: Partition) -> None:
    """Pin what nothing reads: something opaque may, and then nothing else would tell."""
    unread = torch.ones(len(partition.of), dtype=torch.bool, device="cpu")
    unread[PINNED] = False
    readers = [tracer.axes[key] for key, role in tracer.roles.items() if "reads" in role]
    for mixing in tracer.mixings.values():
        readers += mixing.axes.values()
    for axis in readers:
        for row in partition.columns(axis):
            unread[row] = False
    made = [row for axis in _made(tracer) for row in partition.columns(axis)]
    found = in_order(torch.cat(made)) if made else unread.nonzero()[:0, 0]
    partition.pin(found[unread[found]], "not read by any layer")


def _made(tracer: Tracer) -> list[Axis]:
    return [axis for parts in tracer.makers.values() for axis in parts]


def _groups(partition: Partition, tracer: Tracer) -> dict[str, Tensor]:
    """Group components by the set of their makers, in order of appearance.

    Heads and the places within heads have the same makers, but are groups of their own, and so
    are the places that different layers or products read.
    """
    made: dict[tuple[str, int], list[Tensor]] = {}
    in_grid = torch.zeros(len(partition.of), dtype=torch.bool, device="cpu")
    for name, parts in tracer.makers.items():
        for axis in parts:
            rows = partition.columns(axis)
            for column, row in enumerate(rows):
                made.setdefault((name, column), []).append(row)
                in_grid[row] |= len(rows) > 1
    in_grid[PINNED] = False
    named = [(name, in_order(torch.cat(rows))) for (name, _), rows in made.items()]
    named = [(name, found[found != PINNED]) for name, found in named]
    kinds = torch.zeros_like(partition.of)  # one number for the components of one group
    count = 1
    for members in [*(found for _, found in named), *_read_in_grids(partition, tracer, in_grid)]:
        count += _refine(kinds, members, count)
    everything = in_order(torch.cat([found for _, found in named])) if named else kinds[:0]
    maker = torch.zeros_like(kinds)  # the first of each component
    for index in reversed(range(len(named))):
        maker[named[index][1]] = index
    groups: dict[str, Tensor] = {}
    seen: Counter[str] = Counter()
    for members in _alike(everything, kinds):
        name = named[int(maker[members[0]])][0]
        seen[name] += 1
        groups[f"{name}#{seen[name]}" if seen[name] > 1 else name] = members
    return groups


def _alike(components: Tensor, kinds: Tensor) -> Iterable[Tensor]:
    """Split components by their kind, in order of appearance."""
    kind = kinds[components]
    place = torch.zeros_like(kinds)
    place[in_order(kind)] = torch.arange(len(kind.unique()), device="cpu")
    order = torch.argsort(place[kind], stable=True)
    return components[order].split(torch.bincount(place[kind]).tolist())


def _refine(kinds: Tensor, members: Tensor, count: int) -> int:
    """Give members of one kind another kind than the others that had it, in place.

    Returns:
        How many kinds, from number `count` on, are new.
    """
    found, places = torch.unique(kinds[members], return_inverse=True)
    kinds[members] = count + places
    return len(found)


def _read_in_grids(partition: Partition, tracer: Tracer, in_grid: Tensor) -> list[Tensor]:
    """Return what each reader reads of the components that are one of several along some axis."""
    reading = [tracer.axes[key] for key, role in tracer.roles.items() if "reads" in role]
    reading += [axis for mixing in tracer.mixings.values() for axis in mixing.axes.values()]
    found = []
    for axis in reading if bool(in_grid.any()) else ():
        rows = partition.columns(axis)
        if rows:
            members = in_order(torch.cat(rows))
            found.append(members[in_grid[members]])
    return found


def _for_one_example(tracer: Tracer, batch: int) -> list[Work]:
    """Scale the work noted in each call to what the call costs for one example."""
    if tracer.macs is None:
        return [replace(work, macs=work.macs / batch) for work in tracer.works]
    noted: dict[Spot, float] = {}
    for work in tracer.works:
        noted[work.spot] = noted.get(work.spot, 0) + work.macs
    rest = [Work(macs, spot) for spot, macs in tracer.macs.items() if not noted.get(spot)]
    known = [work for work in tracer.works if work.macs and work.spot in tracer.macs]
    return rest + [
        replace(work, macs=work.macs * tracer.macs[work.spot] / noted[work.spot]) for work in known
    ]


def _tensors(
    tracer: Tracer, model: nn.Module, numbers: _Numbers, works: Sequence[Work]
) -> tuple[ChannelTensor, ...]:
    trainable = {name for name, _ in model.named_parameters()}
    macs, factors = defaultdict[str, float](float), defaultdict[str, float](float)
    for work in works:
        macs[work.weight] += work.macs
        factors[work.factor] += work.macs
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
                macs_per_element=round(macs[name] / max(prod(shape), 1)),
                trainable=name in trainable,
                places=factors[name] / max(prod(shape), 1),
            )
        )
    return tuple(found)


def _products(works: Sequence[Work], numbers: _Numbers) -> tuple[Product, ...]:
    found: dict[tuple[tuple[int, ...], ...], float] = {}
    kept: dict[tuple[tuple[int, ...], ...], tuple[Tensor, ...]] = {}
    for work in works:
        if work.weight:
            continue
        axes = tuple(ids for ids in map(numbers, work.axes) if bool((ids >= 0).any()))
        each = work.macs
        for ids in axes:
            each /= ids.shape[-1]
        key = tuple(tuple(ids.reshape(-1).tolist()) for ids in axes)
        found[key] = found.get(key, 0) + each
        kept[key] = axes
    return tuple(Product(each, kept[key]) for key, each in found.items())


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
