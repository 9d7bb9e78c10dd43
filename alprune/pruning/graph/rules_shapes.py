"""What data movement does to channel labels: it moves them, and sizes must stay valid."""

from typing import Any

import torch
from torch import Tensor

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import Axis, joined
from alprune.pruning.graph.rules_parts import RULES as PARTS
from alprune.pruning.graph.rules_reshape import RULES as RESHAPES
from alprune.pruning.graph.tracer import Rule, Tracer

_STRIDE = 1 << 40


def move(t: Tracer, call: Call) -> None:
    """Reorder, add or drop dimensions: run the operation on the numbers of the dimensions."""
    x = call.args[0]
    labels = t.labels(x)
    # a tensor without data whose strides name its dimensions
    probe = torch.empty_strided(x.shape, [_STRIDE + d for d in range(x.dim())], device="meta")
    moved = call.func(probe, *call.args[1:], **call.kwargs)
    strides = {_STRIDE + d: d for d in range(x.dim())}
    found = [
        labels[strides[stride]] if stride in strides and size == x.shape[strides[stride]] else ()
        for size, stride in zip(moved.shape, moved.stride(), strict=True)
    ]
    t.set(call.out, found)


def expand(t: Tracer, call: Call) -> None:
    """Repeat along dimensions of size 1; the new sizes follow what they count."""
    x, out = call.args[0], call.out
    labels = ((),) * (out.dim() - x.dim()) + t.labels(x)
    shape = (1,) * (out.dim() - x.dim()) + tuple(x.shape)
    given = _sizes(t, call, out)
    found: list[Axis] = []
    for size, axis, after, number in zip(shape, labels, out.shape, given, strict=True):
        if size == after:
            found.append(axis)
            continue
        t.nodes.pin(axis, f"a single channel that {call.name} repeats")
        found.append(t.size_axis(number))
    t.set(out, found)


def repeat(t: Tracer, call: Call) -> None:
    """Tile; copies of a channel leave together."""
    x, out = call.args[0], call.out
    labels = ((),) * (out.dim() - x.dim()) + t.labels(x)
    shape = (1,) * (out.dim() - x.dim()) + tuple(x.shape)
    given = _sizes(t, call, out)
    found: list[Axis] = []
    for size, axis, after, number in zip(shape, labels, out.shape, given, strict=True):
        if size == 1 and after > 1:
            t.nodes.pin(axis, f"a single channel that {call.name} repeats")
            axis = t.size_axis(number)
            found.append(axis)
            continue
        found.append(tuple(column.repeat(after // size) for column in axis))
    t.set(out, found)


def repeat_interleave(t: Tracer, call: Call) -> None:
    """Repeat every channel a number of times; its copies leave together."""
    x, times = call.args[0], call.get(1, "repeats")
    dim = call.get(2, "dim")
    if dim is None or not isinstance(times, int):
        t.give_up(call, call.name)
        return
    labels = list(t.labels(x))
    labels[dim] = tuple(column.repeat_interleave(int(times)) for column in labels[dim])
    t.set(call.out, labels)


def flip(t: Tracer, call: Call) -> None:
    """Reverse the order of indices."""
    dims = call.get(1, "dims")
    dims = {int(d) % call.out.dim() for d in ((dims,) if isinstance(dims, int) else dims)}
    labels = t.labels(call.args[0])
    t.set(
        call.out,
        [tuple(c.flip(0) for c in axis) if d in dims else axis for d, axis in enumerate(labels)],
    )


def roll(t: Tracer, call: Call) -> None:
    """Rearranging indices by count is harmless except along channels, which it pins."""
    labels = list(t.labels(call.args[0]))
    dims = call.get(2, "dims", (0, 1) if call.name == "rot90" else ())
    if dims in ((), None):
        dims = range(len(labels))
    for dim in (dims,) if isinstance(dims, int) else dims:
        t.nodes.pin(labels[dim], f"{call.name} along channels")
        labels[dim] = ()
    t.set(call.out, labels)


def constant(t: Tracer, call: Call) -> None:
    """A new tensor carries channels where its sizes do."""
    t.set(call.out, [t.size_axis(size) for size in _sizes(t, call, call.out)])


def repack(t: Tracer, call: Call) -> None:
    """Packing and padding sequences rearranges rows and leaves the last dimension alone."""
    x, out = call.args[0], call.results()[0]
    t.set(out, [*[()] * (out.dim() - 1), t.labels(x)[-1]])


def cat(t: Tracer, call: Call) -> None:
    """Join the labels; what lies beside each other in the other dimensions is coupled."""
    tensors, dim = call.get(0, "tensors"), call.get(1, "dim", call.kwargs.get("axis", 0))
    if call.name in ("hstack", "vstack"):
        dim = int(call.name == "hstack" and tensors[0].dim() > 1)
    tensors = [x for x in tensors if x.numel() or x.dim() > 1]
    dim %= tensors[0].dim()
    parts = [t.labels(x) for x in tensors]
    labels = list(parts[0])
    for part in parts[1:]:
        for d, axis in enumerate(part):
            if d != dim:
                t.nodes.unite(labels[d], axis, call.name)
                labels[d] = labels[d] if len(labels[d]) >= len(axis) else axis
    pairs = zip(parts, tensors, strict=True)
    labels[dim] = joined([(part[dim], x.shape[dim]) for part, x in pairs])
    t.set(call.out, labels)


def stack(t: Tracer, call: Call) -> None:
    """Stacked tensors keep equal sizes, so they are coupled position by position."""
    tensors, dim = call.get(0, "tensors"), call.get(1, "dim", 0)
    labels = t.labels(tensors[0])
    for x in tensors[1:]:
        labels = t.nodes.broadcast((x.shape, labels), (x.shape, t.labels(x)), call.name)
    dim %= call.out.dim()
    t.set(call.out, [*labels[:dim], (), *labels[dim:]])


def pad(t: Tracer, call: Call) -> None:
    """Padding along channels adds pinned ones; around the image it adds nothing."""
    x, widths = call.args[0], list(call.get(1, "pad"))
    mode = call.get(2, "mode", "constant")
    labels = list(t.labels(x))
    for i in range(0, len(widths), 2):
        dim, (left, right) = x.dim() - 1 - i // 2, widths[i : i + 2]
        if not labels[dim] or left == right == 0:
            continue
        if mode != "constant" or min(left, right) < 0:
            t.nodes.pin(labels[dim], f"{mode} padding along channels")
            labels[dim] = ()
        else:
            sides = (((), left), (labels[dim], x.shape[dim]), ((), right))
            labels[dim] = joined([(axis, int(size)) for axis, size in sides])
    t.set(call.out, labels)


def pixel_shuffle(t: Tracer, call: Call) -> None:
    """Channels that become one channel leave together."""
    x, factor = call.args[0], call.get(1, "upscale_factor")
    labels = list(t.labels(x))
    for column in labels[-3]:
        t.nodes.tie(column.view(-1, factor**2), [1], call.name)
    labels[-3] = tuple(column.view(-1, factor**2)[:, 0] for column in labels[-3])
    t.set(call.out, labels)


def pixel_unshuffle(t: Tracer, call: Call) -> None:
    """One channel becomes several that leave together."""
    labels = list(t.labels(call.args[0]))
    factor = call.get(1, "downscale_factor")
    labels[-3] = tuple(column.repeat_interleave(factor**2) for column in labels[-3])
    t.set(call.out, labels)


def channel_shuffle(t: Tracer, call: Call) -> None:
    """The i-th channels of all groups leave together."""
    groups = call.get(1, "groups")
    labels = list(t.labels(call.args[0]))
    for column in labels[1]:
        t.nodes.tie(column.view(groups, -1), [0], call.name)
    labels[1] = tuple(column.view(groups, -1).t().reshape(-1) for column in labels[1])
    t.set(call.out, labels)


def unfold(t: Tracer, call: Call) -> None:
    """`F.unfold`: the patches of a channel leave together; `Tensor.unfold` slides along one."""
    x, out = call.args[0], call.out
    if call.func is Tensor.unfold:
        labels, dim = list(t.labels(x)), call.get(1, "dimension") % x.dim()
        t.nodes.pin(labels[dim], f"{call.name} along channels")
        labels[dim] = ()
        t.set(out, [*labels, ()])
        return
    times = out.shape[1] // x.shape[1]
    axis = tuple(column.repeat_interleave(times) for column in t.labels(x)[1])
    t.set(out, [(), axis, ()])


def fold(t: Tracer, call: Call) -> None:
    """`F.fold` adds the patches of a channel up again: they leave together."""
    x, out = call.args[0], call.out
    labels = list(t.labels(x))
    times = x.shape[-2] // out.shape[-3]
    for column in labels[-2]:
        t.nodes.tie(column.view(-1, times), [1], call.name)
    t.nodes.pin(labels[-1], f"positions of {call.name}")
    made = tuple(column.view(-1, times)[:, 0] for column in labels[-2])
    t.set(out, [*labels[:-2], made, (), ()])


def _sizes(t: Tracer, call: Call, out: Tensor) -> list[Any]:
    """Return the sizes that a call gives for the dimensions of its result, as it wrote them."""
    given: list[Any] = []
    for name in ("size", "shape", "sizes", "dims"):
        if name in call.kwargs:
            given = list(call.kwargs[name])
    for place, arg in enumerate(call.args if not given else ()):
        if isinstance(arg, Tensor):
            if place and arg.dim() == 0:
                given.append(arg)  # a size that was computed, as of the first step of a sequence
            continue
        if isinstance(arg, list | tuple):
            given = list(arg)
            break
        if isinstance(arg, int) and not isinstance(arg, bool):
            given.append(arg)
    return given if len(given) == out.dim() else list(out.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "permute transpose swapaxes swapdims movedim moveaxis t adjoint squeeze unsqueeze".split(),
        move,
    ),
    **{f"get {name}": move for name in ("T", "mT", "H", "mH")},
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
    "flip": flip,
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack", "vstack"), cat),
    **dict.fromkeys(("roll", "rot90"), roll),
    **dict.fromkeys(
        "new_zeros new_ones new_full new_empty zeros ones full empty".split(), constant
    ),
    **dict.fromkeys("rand randn new_tensor".split(), constant),
    **dict.fromkeys(("_pack_padded_sequence", "_pad_packed_sequence"), repack),
    "stack": stack,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
    "unfold": unfold,
    "fold": fold,
    **RESHAPES,
    **PARTS,
}
