"""From what a traced forward pass gathered to the channel graph."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned
from alprune.pruning.graph.labels import PINNED
from alprune.pruning.graph.tracer import Tracer


@dataclass
class Partition:
    """The channels as components of nodes; a pinned component maps to its reason.

    Attributes:
        of: `(nodes,)` int64, the component of each node.
        pinned: `{component: reason}`.
    """

    of: Tensor
    pinned: dict[int, str]

    def __call__(self, nodes: Tensor) -> list[int]:
        """Return the component of each node, PINNED for those never pruned."""
        found: list[int] = self.of[nodes].tolist()
        return [PINNED if c in self.pinned else c for c in found]


def assemble(
    tracer: Tracer, model: nn.Module, example_shape: tuple[int, ...], batch: int
) -> tuple[ChannelGraph, Tensor]:
    """Build the graph from a finished trace.

    Returns:
        The graph, and `(N,)` int64: a node of each channel, with which it can be pinned later.
    """
    partition = Partition(tracer.nodes.components(), {})
    partition.pinned = tracer.nodes.pinned(partition.of)
    axes = _elementwise_axes(tracer, partition)
    makers = {name: torch.cat(found) for name, found in tracer.makers.items()}
    _pin_unread(tracer, partition, makers)
    _pin_indivisible(tracer, partition, [*axes.values(), *tracer.makers_parts()])
    members = _groups(partition, makers)
    ids = {component: i for i, component in enumerate(c for g in members.values() for c in g)}
    groups, group_of, start = [], [], 0
    for index, (name, components) in enumerate(members.items()):
        groups.append(Group(name, torch.arange(start, start + len(components), device="cpu")))
        group_of += [index] * len(components)
        start += len(components)

    def channel(nodes: Tensor) -> Tensor:
        return _ids([ids.get(c, -1) for c in partition(nodes)])

    tensors = _tensors(tracer, model, {key: channel(nodes) for key, nodes in axes.items()}, batch)
    graph = ChannelGraph(
        tensors=tensors,
        groups=tuple(groups),
        pinned=_pinned(partition, makers),
        example_shape=example_shape,
        channels=len(ids),
        group_of=_ids(group_of),
        makers={name: channel(nodes) for name, nodes in makers.items()},
        sizes={key: channel(nodes) for key, nodes in tracer.sizes.items()},
    )
    return graph, _ids(ids)


def _ids(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device="cpu")


def _elementwise_axes(tracer: Tracer, partition: Partition) -> dict[tuple[str, int], Tensor]:
    """Find the one dimension along which a tensor used elementwise carries channels, or pin it."""
    axes = dict(tracer.axes)
    changed = True
    while changed:
        changed = False
        for name, nodes in tracer.elements.items():
            carried = _ids(partition(nodes.reshape(-1))).view(nodes.shape)
            dims = [d for d in range(nodes.dim()) if not _constant(carried, d)]
            used = any(key[0] == name for key in tracer.axes)
            if not used and len(dims) == 1:
                rows = nodes.movedim(dims[0], 0)
                axes[name, dims[0]] = rows.reshape(len(rows), -1)[:, 0]
                continue
            reason = f"{name} is combined with activations in more than one dimension"
            loose = {c for c in carried.unique().tolist() if c != PINNED}
            if used:
                for key in [k for k in tracer.axes if k[0] == name]:
                    loose |= {c for c in partition(tracer.axes[key]) if c != PINNED}
            partition.pinned.update(dict.fromkeys(loose, reason))
            changed |= bool(loose)
            for key in [k for k in axes if k[0] == name and k not in tracer.axes]:
                del axes[key]
    return axes


def _constant(labels: Tensor, dim: int) -> bool:
    return bool((labels == labels.narrow(dim, 0, 1)).all())


def _pin_indivisible(tracer: Tracer, partition: Partition, axes: Sequence[Tensor]) -> None:
    """Pin a channel that is all that an axis has: without it the layer would be empty."""
    why: dict[int, str] = {}
    for nodes, reason in tracer.nodes.ties:
        for component in set(partition(nodes)):
            why.setdefault(component, reason)
    for nodes in axes:
        found = set(partition(nodes))
        if len(found) == 1 and PINNED not in found:
            only = found.pop()
            partition.pinned[only] = why.get(only, "a single channel") + ": nothing can leave alone"


def _pin_unread(tracer: Tracer, partition: Partition, makers: Mapping[str, Tensor]) -> None:
    """Pin what no layer reads: something opaque may, and then nothing else would tell."""
    read = {PINNED}
    for key, role in tracer.roles.items():
        if role == "reads":
            read.update(partition(tracer.axes[key]))
    for nodes in makers.values():
        loose = set(partition(nodes)) - read
        partition.pinned.update(dict.fromkeys(loose, "not read by any layer"))


def _groups(partition: Partition, makers: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Group components by the set of their makers, in order of appearance."""
    made_by: dict[int, list[str]] = {}
    for name, nodes in makers.items():
        for component in dict.fromkeys(partition(nodes)):
            if component != PINNED:
                made_by.setdefault(component, []).append(name)
    by_makers: dict[tuple[str, ...], list[int]] = {}
    for component, names in made_by.items():
        by_makers.setdefault(tuple(names), []).append(component)
    groups: dict[str, list[int]] = {}
    for layers, components in by_makers.items():
        count = sum(other.partition("#")[0] == layers[0] for other in groups)
        groups[f"{layers[0]}#{count + 1}" if count else layers[0]] = components
    return groups


def _tensors(
    tracer: Tracer, model: nn.Module, axes: Mapping[tuple[str, int], Tensor], batch: int
) -> tuple[ChannelTensor, ...]:
    trainable = {name for name, _ in model.named_parameters()}
    found = []
    for name, shape in tracer.shapes.items():
        dims = [d for d in range(len(shape)) if (name, d) in axes and int(axes[name, d].max()) >= 0]
        found.append(
            ChannelTensor(
                name=name,
                shape=shape,
                axes={d: axes[name, d] for d in dims},
                roles={d: tracer.roles.get((name, d), "follows") for d in dims},
                macs_per_element=round(tracer.positions.get(name, 0) / batch),
                trainable=name in trainable,
            )
        )
    return tuple(found)


def _pinned(partition: Partition, makers: Mapping[str, Tensor]) -> tuple[Pinned, ...]:
    found = []
    for name, nodes in makers.items():
        components = partition.of[nodes].tolist()
        reasons = [partition.pinned[c] for c in components if c in partition.pinned]
        if reasons:
            part = (
                ""
                if len(reasons) == len(components)
                else (f"{len(reasons)} of {len(components)} channels: ")
            )
            found.append(Pinned(name, part + "; ".join(dict.fromkeys(reasons))))
    return tuple(found)
