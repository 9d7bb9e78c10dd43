"""What data movement does to channel labels: it moves them, and sizes must stay valid."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from alprune.pruning.graph.labels import PINNED, along, canonical, core, varies, varying
from alprune.pruning.graph.tracer import Call, Rule, Tracer


def move(t: Tracer, call: Call) -> None:
    """Run the operation on the labels too (transpose, expand, squeeze, repeat ...)."""
    t.set(call.out, call.func(t.labels(call.args[0]), *call.args[1:], **call.kwargs))


def roll(t: Tracer, call: Call) -> None:
    """Rearranging indices by count is harmless except along channels, which it pins."""
    labels = t.labels(call.args[0])
    moved = canonical(call.func(labels, *_on_cpu(call.args[1:]), **_on_cpu(call.kwargs)))
    if not torch.equal(core(moved), core(labels)):
        t.nodes.pin(labels, f"{call.name} along channels")
    t.set(call.out, moved)


def constant(t: Tracer, call: Call) -> None:
    """A new tensor that only takes its type from another carries no channels."""


def repack(t: Tracer, call: Call) -> None:
    """Packing and padding sequences rearranges rows and leaves the last dimension alone."""
    x, out = call.args[0], call.results()[0]
    t.set(out, along(t.channel(x, -1, call.name), out.dim() - 1, out.shape))


def reshape(t: Tracer, call: Call) -> None:
    """Move the labels; where channels are split into a grid, whole columns leave together."""
    x, out = call.args[0], call.out
    before = t.labels(x)
    after = canonical(before.reshape(out.shape))
    for dims in _regrouped(x.shape, out.shape):
        split = [d for d in dims if varies(after, d)]
        if len(split) > 1:
            t.nodes.tie(after, split[:-1], "channels viewed as a grid")
    t.set(out, after)


def cat(t: Tracer, call: Call) -> None:
    """Join the labels; what lies beside each other in the other dimensions is coupled."""
    tensors, dim = call.get(0, "tensors"), call.get(1, "dim", call.kwargs.get("axis", 0))
    parts = [t.labels(x) for x in tensors if x.numel()]
    dim %= parts[0].dim()
    if any(varies(p, d) for p in parts for d in range(p.dim()) if d != dim):
        for part in parts:
            t.nodes.tie(part, [dim], "concatenation across channels")
            t.nodes.unite(part.narrow(dim, 0, 1), parts[0].narrow(dim, 0, 1), call.name)
    t.set(call.out, torch.cat(parts, dim))


def stack(t: Tracer, call: Call) -> None:
    """Stacked tensors keep equal sizes, so they are coupled position by position."""
    tensors, dim = call.get(0, "tensors"), call.get(1, "dim", 0)
    parts = [t.labels(x) for x in tensors]
    for part in parts[1:]:
        t.nodes.unite(part, parts[0], call.name)
    t.set(call.out, torch.stack(parts, dim))


def split(t: Tracer, call: Call) -> None:
    """Equal parts of the channels stay equal: the i-th channels of all leave together."""
    x = call.args[0]
    dim = call.get(2, "dim", 0) % x.dim()
    labels, parts = t.labels(x), call.results()
    if varies(labels, dim):
        sizes = {part.shape[dim] for part in parts}
        if len(sizes) == 1:
            _tie_parts(t, labels, dim, len(parts))
        else:
            t.nodes.pin(labels, f"{call.name} into unequal parts")
    start = 0
    for part in parts:
        t.set(part, labels.narrow(dim, start, part.shape[dim]))
        start += part.shape[dim]


def unbind(t: Tracer, call: Call) -> None:
    """Taking single indices out of a channel dimension pins it."""
    x = call.args[0]
    dim = call.get(1, "dim", 0) % x.dim()
    labels = t.labels(x)
    if varies(labels, dim):
        t.nodes.pin(labels, f"{call.name} along channels")
    for index, part in enumerate(call.results()):
        t.set(part, labels.select(dim, index))


def select(t: Tracer, call: Call) -> None:
    """Taking one index, or indices from a list, out of a channel dimension pins it."""
    labels = t.labels(call.args[0])
    dim = call.get(1, "dim", 0) % labels.dim()
    if varies(labels, dim):
        t.nodes.pin(labels, f"{call.name} along channels")
    t.set(call.out, call.func(labels, *_on_cpu(call.args[1:]), **_on_cpu(call.kwargs)))


def narrow(t: Tracer, call: Call) -> None:
    """Slice `length` indices from `start`."""
    labels = t.labels(call.args[0])
    dim, start, length = (call.get(i, n) for i, n in ((1, "dim"), (2, "start"), (3, "length")))
    _slice(t, labels, dim % labels.dim(), slice(int(start), int(start) + int(length)))
    t.set(call.out, labels.narrow(dim, start, length))


def getitem(t: Tracer, call: Call) -> None:
    """Index or slice; a slice of the channels must stay where it is."""
    x, index = call.args
    labels = t.labels(x)
    dim = 0
    for item in _items(index, x.dim()):
        if item is None:
            continue
        if isinstance(item, slice):
            _slice(t, labels, dim, item)
        elif isinstance(item, Tensor) and item.dtype == torch.bool:
            t.nodes.pin(labels, "indexed by a mask") if varying(labels) else None
            dim += item.dim() - 1
        elif varies(labels, dim):
            t.nodes.pin(labels, "indexed along channels")
        dim += 1
    t.set(call.out, labels[_on_cpu(index)])


def setitem(t: Tracer, call: Call) -> None:
    """Write a value's labels into a part of another tensor."""
    x, index, value = call.args
    labels = t.labels(x).clone(memory_format=torch.contiguous_format)
    labels[_on_cpu(index)] = t.labels(value) if isinstance(value, Tensor) else PINNED
    if x._is_view() or t.registered(x):
        t.nodes.pin(labels, "written into a view")
    for item in _items(index, x.dim()):
        if not isinstance(item, (slice, int, type(None))):
            t.nodes.pin(labels, "written at computed indices")
    t.set(x, labels)


def pad(t: Tracer, call: Call) -> None:
    """Padding along channels adds pinned ones; around the image it adds nothing."""
    x, widths = call.args[0], list(call.get(1, "pad"))
    mode = call.get(2, "mode", "constant")
    labels = core(t.labels(x))
    changes = [varies(t.labels(x), d) for d in range(x.dim())]
    for i in range(0, len(widths), 2):
        dim = x.dim() - 1 - i // 2
        if not changes[dim]:
            widths[i] = widths[i + 1] = 0
        elif mode != "constant" or min(widths[i], widths[i + 1]) < 0:
            t.nodes.pin(labels, f"{mode} padding along channels")
    t.set(call.out, F.pad(labels, widths, value=PINNED).expand(call.out.shape))


def pixel_shuffle(t: Tracer, call: Call) -> None:
    """Channels that become one channel leave together."""
    x, factor = call.args[0], call.get(1, "upscale_factor")
    nodes = t.channel(x, -3, call.name).reshape(-1, factor**2)
    t.nodes.tie(nodes, [1], call.name)
    t.set(call.out, along(nodes[:, 0], x.dim() - 3, call.out.shape))


def pixel_unshuffle(t: Tracer, call: Call) -> None:
    """One channel becomes several that leave together."""
    x, factor = call.args[0], call.get(1, "downscale_factor")
    nodes = t.channel(x, -3, call.name).repeat_interleave(factor**2)
    t.set(call.out, along(nodes, x.dim() - 3, call.out.shape))


def channel_shuffle(t: Tracer, call: Call) -> None:
    """The i-th channels of all groups leave together."""
    x, groups = call.args[0], call.get(1, "groups")
    grid = t.channel(x, 1, call.name).reshape(groups, -1)
    t.nodes.tie(grid, [0], call.name)
    t.set(call.out, along(grid.t().reshape(-1), 1, x.shape))


def _slice(t: Tracer, labels: Tensor, dim: int, part: slice) -> None:
    """Keep a slice of channels valid: equal parts stay equal, else what it counts is pinned."""
    size = labels.shape[dim]
    start, stop, step = part.indices(size)
    if not varies(labels, dim) or (start, stop, step) == (0, size, 1):
        return
    width = stop - start
    if step == 1 and width and size % width == 0 and start % width == 0:
        _tie_parts(t, labels, dim, size // width)
        return
    reason = "sliced along channels"
    if step != 1 or width <= 0:
        t.nodes.pin(labels, reason)
        return
    for edge in (part.start, part.stop):  # a fixed count from the front, or from the back
        if edge is not None and 0 <= edge < size:
            t.nodes.pin(labels.narrow(dim, 0, edge), reason)
        elif edge is not None and edge < 0:
            t.nodes.pin(labels.narrow(dim, size + edge, -edge), reason)


def _tie_parts(t: Tracer, labels: Tensor, dim: int, parts: int) -> None:
    first, *others = core(labels).chunk(parts, dim)
    for other in others:
        t.nodes.unite(first, other, "equal parts of the channels")


def _on_cpu(tree: Any) -> Any:
    """Bring index tensors to where the labels are."""
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, tree)


def _items(index: Any, rank: int) -> list[Any]:
    """Write an index out: one item a dimension, `...` replaced by full slices."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(
        i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else 1
        for i in items
        if i is not None and i is not Ellipsis
    )
    full = [slice(None)] * (rank - used)
    at = next((k for k, item in enumerate(items) if item is Ellipsis), None)
    return [*items, *full] if at is None else [*items[:at], *full, *items[at + 1 :]]


def _regrouped(before: Sequence[int], after: Sequence[int]) -> list[list[int]]:
    """Group the dimensions of `after` by the runs that cover whole dimensions of `before`."""
    groups, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        left, right, first = before[i], after[j], j
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        groups.append(list(range(first, j)))
    return groups


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """expand expand_as broadcast_to repeat tile permute transpose swapaxes swapdims movedim
        moveaxis t adjoint squeeze unsqueeze flip""".split(),
        move,
    ),
    **{f"get {name}": move for name in ("T", "mT", "H", "mH")},
    **dict.fromkeys("view reshape flatten unflatten view_as reshape_as ravel".split(), reshape),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(("roll", "rot90", "repeat_interleave"), roll),
    **dict.fromkeys("new_zeros new_ones new_full new_empty new_tensor".split(), constant),
    **dict.fromkeys(("_pack_padded_sequence", "_pad_packed_sequence"), repack),
    "stack": stack,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), split),
    "unbind": unbind,
    **dict.fromkeys(("select", "index_select"), select),
    "narrow": narrow,
    "__getitem__": getitem,
    "__setitem__": setitem,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
}
