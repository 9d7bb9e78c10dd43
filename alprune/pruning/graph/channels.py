"""The channel graph: which channels leave together, who makes, reads and follows them.

A channel id stands for one set of coupled channels and for one entry of a mask. `trace` in
`alprune.pruning.graph` builds the graph; everything here is arithmetic on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from alprune.errors import PruneError
from alprune.pruning.graph.gates import Mix

OUTPUT = "output of the model"
"""The reason why what a network returns is pinned."""


@dataclass(frozen=True)
class ChannelTensor:
    """One parameter or buffer of the model, and the channels its dimensions carry.

    Attributes:
        name: State-dict name, "features.0.weight"; a shared tensor stands once, under its first.
        shape: Its shape in the traced model.
        axes: `{dim: (shape[dim],)}` int64, the channel id of each index, -1 where it is always
            kept. Where an index belongs to several channels, a head and a place within it, the
            ids are `(m, shape[dim])` and the index stays if all of them do. Dimensions that
            carry no prunable channel are absent.
        roles: `{dim: "makes" | "reads" | "makes and reads" | "follows"}` for the dimensions in
            `axes`; a weight that is used twice, as by a tied decoder, may both make and read.
        macs_per_element: Multiply-accumulates one element costs in a forward of one example,
            whatever else is kept; 0 for biases, norms, embeddings and buffers, and for weights
            whose cost is among the graph's `products`.
        trainable: True for a parameter (frozen ones too), False for a buffer.
        places: Places at which each element is multiplied in a forward of one example of the
            traced model; 0 for biases, norms, embeddings and buffers.
    """

    name: str
    shape: tuple[int, ...]
    axes: Mapping[int, Tensor]
    roles: Mapping[int, str]
    macs_per_element: int
    trainable: bool
    places: float = 0.0

    def dims(self, role: str) -> list[int]:
        """Return the dimensions that play a role: "makes", "reads" or "follows"."""
        return [dim for dim, roles in self.roles.items() if role in roles]


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of a product of two activations, or with a computed weight.

    Attributes:
        macs: Those for one example and one index of each of the axes; less than one where an
            index takes part in some of the products only.
        axes: Ids `(k,)` or `(m, k)` of the dimensions that may be narrowed.
    """

    macs: float
    axes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Group:
    """Channels made by the same layers: the unit for widths and for the floor.

    Attributes:
        name: Module name of the first layer that makes them.
        channels: `(k,)` int64, contiguous channel ids.
    """

    name: str
    channels: Tensor


@dataclass(frozen=True)
class Pinned:
    """A layer some or all of whose channels are never pruned, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """What can be pruned in a model, and what each mask costs.

    Keeping at least one channel of every group leaves every layer at least one channel.

    Attributes:
        tensors: Every parameter and buffer of the model.
        groups: A partition of the channel ids, in the order of the layers.
        pinned: Layers with channels that are never pruned.
        example_shape: Shape of one example, without the batch.
        channels: N, the number of mask entries; ids are 0 to N - 1.
        group_of: `(N,)` int64, the index in `groups` of each id.
        makers: `{module name: (width,)}`, the id of each output channel, -1 where always kept.
            Recurrent layers of one module are one maker, named after the module.
        sizes: `{(module name, attribute): (k,)}`, ids whose kept count is that attribute's value
            in a narrowed model (`num_features`, `num_heads`, `sizes[1]` ...).
        products: What products of activations cost.
        mixes: Operations without weights that mix channels (see `alprune.pruning.graph.gates`).
        normalised: "pinned" if channels over which an operation normalises are never pruned;
            then removing a channel equals silencing it. "follow" if they may leave: then the
            operation normalises over the channels that are left.
        example_dtype: Of the traced inputs, "float32" or "int64".
        numbers: Whether the forward computes numbers from widths that may change, as the scale
            1 / sqrt(width); the masked model then uses those of the narrowed one.
    """

    tensors: tuple[ChannelTensor, ...]
    groups: tuple[Group, ...]
    pinned: tuple[Pinned, ...]
    example_shape: tuple[int, ...]
    channels: int
    group_of: Tensor
    makers: Mapping[str, Tensor]
    sizes: Mapping[tuple[str, str], Tensor]
    products: tuple[Product, ...] = ()
    mixes: tuple[Mix, ...] = ()
    normalised: str = "pinned"
    example_dtype: str = "float32"
    numbers: bool = False

    def macs(self, keep: Tensor) -> int:
        """Multiply-accumulates of all products for one example, elementwise work left out.

        Args:
            keep: `(N,)` bool, True where the channel stays.
        """
        sizes = self._kept_elements(keep)
        weights = sum(t.macs_per_element * n for t, n in zip(self.tensors, sizes, strict=True))
        products = (
            p.macs * prod(int(self.kept(ids, keep).sum()) for ids in p.axes) for p in self.products
        )
        return weights + round(sum(products))

    def params(self, keep: Tensor) -> int:
        """Number of parameter elements, buffers left out.

        Args:
            keep: `(N,)` bool, True where the channel stays.
        """
        sizes = self._kept_elements(keep)
        return sum(n for t, n in zip(self.tensors, sizes, strict=True) if t.trainable)

    def widths(self, keep: Tensor) -> dict[str, int]:
        """Output channels kept by each layer that makes channels, pinned ones counted as kept.

        Args:
            keep: `(N,)` bool, True where the channel stays.
        """
        return {name: int(self.kept(ids, keep).sum()) for name, ids in self.makers.items()}

    def all_kept(self) -> Tensor:
        """Return the mask of the unpruned model, `(N,)` bool."""
        return torch.ones(self.channels, dtype=torch.bool, device="cpu")

    def kept(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Translate a mask over channel ids to one over the indices of an axis.

        Args:
            ids: `(k,)` int64 ids, -1 where always kept, or `(m, k)`: kept if all m are.
            keep: `(N,)` bool.

        Returns:
            `(k,)` bool.
        """
        kept = _with_pinned(self.check(keep))[ids]
        return kept.all(0) if ids.dim() == 2 else kept

    def check(self, keep: Tensor) -> Tensor:
        """Return `keep` on the CPU, or refuse it.

        Raises:
            PruneError: It is not a bool tensor of shape `(N,)`.
        """
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            got = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
            raise PruneError(f"keep must be a torch.bool tensor, got {got}.")
        if keep.shape != (self.channels,):
            raise PruneError(
                f"keep has shape {tuple(keep.shape)}, this graph has {self.channels} channels: "
                f"expected ({self.channels},). Trace the graph of a narrowed model again."
            )
        return keep.detach().cpu()

    @cached_property
    def _flat_axes(self) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
        axes: list[Tensor] = []
        ends: list[int] = []
        spans: list[tuple[int, int, int]] = []
        total = 0
        for tensor in self.tensors:
            first = len(ends)
            for ids in tensor.axes.values():
                axes.append(rows(ids))
                total += ids.shape[-1]
                ends.append(total)
            fixed = prod(s for d, s in enumerate(tensor.shape) if d not in tensor.axes)
            spans.append((fixed, first, len(ends)))
        most = max((len(ids) for ids in axes), default=1)
        flat = torch.full((most, total), -1, dtype=torch.int64, device="cpu")
        for end, ids in zip(ends, axes, strict=True):
            flat[: len(ids), end - ids.shape[1] : end] = ids
        return flat, torch.tensor(ends, device="cpu").long() - 1, spans

    def _kept_elements(self, keep: Tensor) -> list[int]:
        flat, last, spans = self._flat_axes
        running = _with_pinned(self.check(keep))[flat].all(0).cumsum(0)
        upto = running[last].tolist()
        counts = [b - a for a, b in zip([0, *upto], upto, strict=False)]
        return [fixed * prod(counts[start:stop]) for fixed, start, stop in spans]


def rows(ids: Tensor) -> Tensor:
    """Return the ids of an axis as `(m, k)`, one row for each channel that an index belongs to."""
    return ids.view(-1, ids.shape[-1])


def _with_pinned(keep: Tensor) -> Tensor:
    return torch.cat([keep, keep.new_ones(1)])  # index -1, the pinned id, is always kept
