"""What taking parts does to channel labels: splits, slices, indices, and writing into parts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import PINNED, Axis, in_order, slim, take
from alprune.pruning.graph.sizes import Less, Part, Size, Times
from alprune.pruning.graph.tracer import Rule, Tracer


def split(t: Tracer, call: Call) -> None:
    """Split channels: parts that a number divides stay equal, parts named one by one are free."""
    x = call.args[0]
    dim = call.get(2, "dim", 0) % x.dim()
    labels, parts = list(t.labels(x)), call.results()
    axis = labels[dim]
    given = call.get(1, "split_size", call.get(1, "chunks", call.kwargs.get("split_sizes")))
    if given is None:
        given = call.kwargs.get("indices_or_sections", call.kwargs.get("split_size_or_sections"))
    widths = [part.shape[dim] for part in parts]
    ends = [sum(widths[:i]) for i in range(len(parts) + 1)]
    pieces = [take(axis, slice(a, b)) for a, b in zip(ends, ends[1:], strict=False)]
    if axis and isinstance(given, list | tuple) and call.name != "tensor_split":
        for size in given:
            source = size.source if isinstance(size, Size) else None
            if isinstance(source, Less) and int(source.of) == x.shape[dim]:
                if (whole := t.size_axis(source.of)) and not t.nodes.permuted(whole, axis):
                    t.nodes.unite(whole, axis, call.name)
        _named_parts(t, given, pieces, call.name)
    elif axis and len(set(widths)) == 1 and (made := _rerouted(t, axis, pieces)):
        t.mix(call, "parts", {dim: axis, x.dim(): made}, counts=True)
        _keep_size(t, call.name, given, axis, made)
        pieces = [made] * len(parts)
    elif axis and len(set(widths)) == 1:
        for piece in pieces[1:]:
            _balance(t, pieces[0], piece, "equal parts of the channels")
        _keep_size(t, call.name, given, axis, pieces[0])
    elif axis and _may_be_unequal(call.name, given, len(parts)):
        _rest(t, pieces, call.name)
        _keep_size(t, call.name, given, axis, pieces[0])
    elif axis:
        t.nodes.pin(axis, f"{call.name} into unequal parts")
    for part, piece in zip(parts, pieces, strict=True):
        labels[dim] = piece
        t.set(part, labels)


def _may_be_unequal(name: str, given: Any, parts: int) -> bool:
    """Whether all parts but the last stay equal when the call cuts fewer channels."""
    return isinstance(given, Size) if name == "split" else name == "chunk" and parts == given


def _keep_size(t: Tracer, name: str, given: Any, axis: Axis, piece: Axis) -> None:
    """Couple what a call says about its equal parts: their size, or their number."""
    if name in ("chunk", "tensor_split"):
        t.fix(given, f"the number of parts of {name}")
    elif isinstance(given, Size):
        _split_evenly(t, given, axis, piece, name)


def _rest(t: Tracer, pieces: Sequence[Axis], reason: str) -> None:
    """Keep parts of equal size and a smaller last one: it shares its channels with the others.

    Then the last part stays at most as wide as the others, and less narrow by no more than now,
    which is what cutting the fewer channels into as many parts gives. One channel of it stays.
    """
    *equal, rest = pieces
    for piece in equal[1:]:
        t.nodes.unite(equal[0], piece, f"{reason} into unequal parts")
    t.nodes.unite(take(equal[0], slice(0, len(rest[0]))), rest, f"{reason} into unequal parts")
    t.nodes.pin(take(rest, slice(0, 1)), f"{reason} into unequal parts, none of them empty")


def _rerouted(t: Tracer, axis: Axis, pieces: Sequence[Axis]) -> Axis:
    """Let equal parts be made of the channels that are left, wherever these come to lie.

    After a chain of channel shuffles, equal parts at fixed places would leave together whole.
    Where channels that leave together take as many places as there are parts, or a multiple,
    the parts stay equal whatever leaves.

    Returns:
        What the places of each part leave with; () if the parts are to stay in place.
    """
    if not t.follow or len(axis) != 1:
        return ()
    of = t.nodes.components()[axis[0]]
    found, counts = of.unique(return_counts=True)
    even = [of[i * len(p[0]) : (i + 1) * len(p[0])] if p else of[:0] for i, p in enumerate(pieces)]
    if bool((counts % len(pieces)).any()) or all(
        torch.equal(part.sort().values, even[0].sort().values) for part in even
    ):
        return ()
    times = (counts // len(pieces))[torch.searchsorted(found, in_order(of))]
    return (in_order(of).repeat_interleave(times),)


def _balance(t: Tracer, a: Axis, b: Axis, reason: str) -> None:
    """Couple two parts that must stay equally wide, by as few couplings as that takes.

    Channels that are coupled already and take as many places in one part as in the other need
    nothing more; of the rest, those with as many places too many pair up with those with as many
    too few. So a chain of channel shuffles does not couple everything with everything.
    """
    if len(a) != 1 or len(b) != 1:
        t.nodes.unite(a, b, reason)
        return
    of = t.nodes.components()
    excess: Counter[int] = Counter()
    for column, sign in ((a[0], 1), (b[0], -1)):
        for component in of[column].tolist():
            excess[component] += sign
    more: dict[int, list[int]] = {}
    for component, count in excess.items():
        more.setdefault(count, []).append(component)
    left, right = [], []
    for count in [c for c in more if c > 0]:
        pairs = min(len(more[count]), len(more.get(-count, ())))
        left += more[count][:pairs]
        right += more.get(-count, [])[:pairs]
        more[count], more[-count] = more[count][pairs:], more.get(-count, [])[pairs:]
    odd = [c for count, found in more.items() if count for c in found]
    left, right = left + odd[:-1], right + odd[1:]  # what finds no partner leaves together
    t.nodes.join(
        torch.tensor(left, dtype=torch.int64), torch.tensor(right, dtype=torch.int64), reason
    )


def _split_evenly(t: Tracer, size: Size, axis: Axis, piece: Axis, reason: str) -> None:
    """Couple equal parts with the size that was given for one of them."""
    if known := t.size_axis(size):
        t.nodes.unite(known, piece, reason)
    elif isinstance(size.source, Part):
        t.fix(size.source.by, f"another size is divided by it ({reason})")
        whole = t.size_axis(size.source.of)
        if whole and len(whole[0]) == len(axis[0]) and not t.nodes.permuted(whole, axis):
            t.nodes.unite(whole, axis, reason)


def _named_parts(t: Tracer, given: Sequence[Any], pieces: Sequence[Axis], reason: str) -> None:
    """Let each part follow its size; a part whose size is written into the code stays whole."""
    for size, piece in zip(given, pieces, strict=True):
        if known := t.size_axis(size):
            t.nodes.unite(known, piece, reason)
        elif not isinstance(size, Size):
            t.nodes.pin(piece, f"{reason} into parts of fixed size")
        else:
            _divided(t, size, piece, reason)


def _divided(t: Tracer, size: Size, piece: Axis, reason: str) -> None:
    """Couple the channels of a part whose size is a fraction of another axis."""
    source = size.source
    if isinstance(source, Times):  # two of three parts
        source = source.of.source
    if isinstance(source, Part) and (whole := t.size_axis(source.of)):
        for column in whole:
            t.nodes.tie(column.view(int(source.by), -1), [0], reason)


def unbind(t: Tracer, call: Call) -> None:
    """Taking single indices out of a channel dimension pins it."""
    x = call.args[0]
    dim = call.get(1, "dim", 0) % x.dim()
    labels = t.labels(x)
    t.nodes.pin(labels[dim], f"{call.name} along channels")
    for part in call.results():
        t.set(part, [*labels[:dim], *labels[dim + 1 :]])


def select(t: Tracer, call: Call) -> None:
    """Taking one index, or indices from a list, out of a channel dimension pins it."""
    labels = list(t.labels(call.args[0]))
    dim = call.get(1, "dim", 0) % len(labels)
    t.look(call.out, labels[dim], f"{call.name} along channels", compared=False)
    if call.out.dim() == len(labels):
        labels[dim] = ()
    else:
        del labels[dim]
    t.set(call.out, labels)


def narrow(t: Tracer, call: Call) -> None:
    """Slice `length` indices from `start`."""
    labels = list(t.labels(call.args[0]))
    dim, start, length = (call.get(i, n) for i, n in ((1, "dim"), (2, "start"), (3, "length")))
    size = call.args[0].shape[dim]
    stop = None if int(start) + int(length) == size else start + length
    labels[dim] = _slice(t, labels[dim], size, slice(start, stop))
    t.set(call.out, labels)


def getitem(t: Tracer, call: Call) -> None:
    """Index or slice; a slice of the channels must stay where it is."""
    x, index = call.args
    labels = t.labels(x)
    found: list[Axis] = []
    dim, first, taken = 0, -1, 0
    for item in _items(index, x.dim()):
        if item is None:
            found.append(())
        elif isinstance(item, slice):
            found.append(_slice(t, labels[dim], x.shape[dim], item))
            dim += 1
        else:
            wide = item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1
            for axis in labels[dim : dim + wide]:
                t.look(call.out, axis, "indexed along channels", compared=False)
            if not isinstance(item, int) or isinstance(item, bool):
                first = len(found) if first < 0 else first
                taken += 1
            dim += wide
    extra = call.out.dim() - len(found)
    if first >= 0 or extra:
        at = max(first, 0)
        if taken > 1 and _apart(_items(index, x.dim())):
            at = 0
        found[at:at] = [()] * extra
    t.set(call.out, found)


def _apart(items: list[Any]) -> bool:
    """Whether lists of indices stand apart, so that their dimensions come first."""
    places = [i for i, item in enumerate(items) if not isinstance(item, slice | type(None))]
    return places != list(range(places[0], places[0] + len(places)))


def setitem(t: Tracer, call: Call) -> None:
    """Write a value's labels into a part of another tensor."""
    x, index, value = call.args
    labels = list(t.labels(x))
    items = _items(index, x.dim())
    if not isinstance(value, Tensor) and not t.registered(x) and _off_channels(t, items, labels):
        return
    simple = all(isinstance(i, slice) and i.step in (None, 1) for i in items)
    given = t.labels(value) if isinstance(value, Tensor) else ()
    given = ((),) * (x.dim() - len(given)) + tuple(given)
    if not simple or x._is_view() or t.registered(x) or len(given) != x.dim():
        for axis in (*labels, *given):
            t.nodes.pin(axis, "written at computed indices or into a view")
        return
    for dim, (item, axis) in enumerate(zip(items, given, strict=True)):
        start, stop, _ = item.indices(x.shape[dim])
        if isinstance(value, Tensor) and axis and len(axis[0]) != stop - start:
            t.nodes.pin(axis, "written into several channels")
        elif (start, stop) == (0, x.shape[dim]):
            if axis and not labels[dim]:
                labels[dim] = axis
            elif axis:
                t.nodes.unite(labels[dim], axis, call.name)
        elif axis:
            labels[dim] = _written(labels[dim], axis, start, stop, x.shape[dim])
    t.set(x, labels)


def _off_channels(t: Tracer, items: list[Any], labels: Sequence[Axis]) -> bool:
    """Whether an index takes all channels wherever it takes any."""
    dim = 0
    for item in items:
        if item is None:
            continue
        wide = item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1
        whole = isinstance(item, slice) and item == slice(None)
        if any(labels[dim : dim + wide]) and not whole:
            return False
        if isinstance(item, Tensor) and any(t.labels(item)):
            return False
        dim += wide
    return True


def _written(old: Axis, new: Axis, start: int, stop: int, size: int) -> Axis:
    blank = torch.zeros(size, dtype=torch.int64, device="cpu")
    columns = [column.clone() for column in old]
    while len(columns) < len(new):
        columns.append(blank.clone())
    for k, column in enumerate(columns):
        column[start:stop] = new[k] if k < len(new) else PINNED
    return slim(tuple(columns))


def _slice(t: Tracer, axis: Axis, size: int, part: slice) -> Axis:
    """Keep a slice of channels valid: parts of a fraction stay equal, what a number counts stays.

    Returns:
        The sliced axis.
    """
    start, stop, step = part.indices(size)
    if (start, stop, step) == (0, size, 1):
        return axis
    if not axis:
        return axis
    found = take(axis, slice(start, stop, step))
    reason = "sliced along channels"
    if step != 1 or stop <= start:
        t.nodes.pin(axis, reason)
        return found
    for edge in (part.start, part.stop):
        if edge is None or edge == 0 or abs(edge) >= size:
            continue
        if not isinstance(edge, Size):  # a fixed count from the front, or from the back
            t.nodes.pin(take(axis, slice(0, edge) if edge > 0 else slice(edge, None)), reason)
            continue
        front = take(axis, slice(0, edge) if edge > 0 else slice(edge, None))
        if known := t.size_axis(edge):
            t.nodes.unite(known, front, reason)
        else:
            _divided(t, edge, front, reason)
    return found


def _items(index: Any, rank: int) -> list[Any]:
    """Write an index out: one item for each dimension, `...` replaced by full slices."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(
        i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else 1
        for i in items
        if i is not None and i is not Ellipsis
    )
    full = [slice(None)] * (rank - used)
    at = next((k for k, item in enumerate(items) if item is Ellipsis), None)
    return [*items, *full] if at is None else [*items[:at], *full, *items[at + 1 :]]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), split),
    "unbind": unbind,
    **dict.fromkeys(("select", "index_select"), select),
    "narrow": narrow,
    "__getitem__": getitem,
    "__setitem__": setitem,
}
