"""What `view`, `reshape` and `flatten` do to channel labels."""

from collections.abc import Sequence
from typing import Any

import torch

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import Axis, Labels, slim, spread
from alprune.pruning.graph.sizes import Part, Size, Times, Whole
from alprune.pruning.graph.tracer import Rule, Tracer


def reshape(t: Tracer, call: Call) -> None:
    """Move the labels, run by run of dimensions that cover each other."""
    x, out = call.args[0], call.out
    labels, given = t.labels(x), _given(call)
    for number in given:  # a number that divides another size cannot change
        source = number.source if isinstance(number, Size) else None
        if isinstance(source, Part) and isinstance(source.by, Size):
            t.fix(source.by, f"another size is divided by it ({call.name})")
    found: list[Axis] = [()] * out.dim()
    for before, after in _runs(x.shape, out.shape):
        axes = [labels[d] for d in before]
        sizes = [x.shape[d] for d in before]
        numbers = [given[d] for d in after]
        for d, axis in zip(after, _regroup(t, axes, sizes, numbers, out.shape, after), strict=True):
            found[d] = axis
    for dim, number in enumerate(given):
        found[dim] = _counted(t, labels, found[dim], number, call.name)
    for before, after in _runs(x.shape, out.shape):
        if len(after) == 1:
            _factors(t, [(x.shape[d], labels[d]) for d in before], given[after[0]], call.name)
        elif len(before) == 1:
            t.multiples += [(given[d], found[d]) for d in after if _of_two(given[d])]
    t.set(out, found)


def _given(call: Call) -> list[Any]:
    """Return the sizes asked for, as the forward wrote them; -1 where they are inferred."""
    out = call.out
    if call.name in ("flatten", "ravel"):
        return [-1] * out.dim()
    if call.name in ("view_as", "reshape_as"):
        return list(call.args[1].shape)
    if call.name == "unflatten":
        dim, sizes = call.get(1, "dim"), list(call.get(2, "sizes"))
        start = dim % call.args[0].dim()
        return [*[-1] * start, *sizes, *[-1] * (out.dim() - start - len(sizes))]
    rest = call.args[1:]
    if not rest:
        rest = (call.kwargs.get("shape", call.kwargs.get("size")),)
    if len(rest) == 1 and isinstance(rest[0], list | tuple):
        rest = tuple(rest[0])
    if len(rest) != out.dim():  # a view as another type
        raise ValueError("not a new shape")
    return list(rest)


def _regroup(
    t: Tracer,
    axes: Sequence[Axis],
    sizes: Sequence[int],
    numbers: Sequence[Any],
    shape: Sequence[int],
    after: Sequence[int],
) -> list[Axis]:
    """Return the axes of the dimensions that one run of dimensions becomes."""
    if len(axes) == len(after) == 1:
        return [axes[0]]
    flat: list[torch.Tensor] = []
    for place, axis in enumerate(axes):
        flat += spread(axis, place, sizes)
    grid = tuple(shape[d] for d in after)
    found: list[list[torch.Tensor]] = [[] for _ in after]
    for column in flat:
        for place, part in enumerate(_divide(t, column.view(grid), numbers)):
            if part is not None and not any(torch.equal(part, other) for other in found[place]):
                found[place].append(part)
    return [slim(tuple(columns)) for columns in found]


def _divide(t: Tracer, grid: torch.Tensor, numbers: Sequence[Any]) -> list[torch.Tensor | None]:
    """Write a grid of nodes as one column for each of its dimensions.

    Along dimensions whose size is a plain number in the code, the nodes are tied, since that
    number cannot change. Where the nodes still vary along several dimensions, each stands for
    one node of each dimension.
    """
    columns: list[torch.Tensor | None] = [None] * grid.dim()
    vary = [d for d in range(grid.dim()) if _varies(grid, d)]
    if not vary:
        columns[-1] = grid.reshape(-1)[:1].expand(grid.shape[-1])  # one channel, which must stay
        return columns
    free = [d for d in vary if t.may_change(numbers[d]) or numbers[d] == -1] or vary[-1:]
    t.nodes.tie(grid, [d for d in vary if d not in free], "channels viewed as a grid")
    for d in range(grid.dim()):
        grid = grid if d in free else grid.narrow(d, 0, 1)
    if len(free) == 1:
        columns[free[0]] = grid.reshape(-1)
        return columns
    parts = []
    for d in free:
        nodes = columns[d] = t.nodes.new(grid.shape[d])
        view = [1] * grid.dim()
        view[d] = -1
        parts.append(nodes.view(view).expand(grid.shape).reshape(-1))
    t.nodes.expand(grid.reshape(-1), tuple(parts), "channels viewed as a grid")
    return columns


def _varies(grid: torch.Tensor, dim: int) -> bool:
    return grid.shape[dim] > 1 and not bool((grid == grid.narrow(dim, 0, 1)).all())


def _counted(t: Tracer, before: Labels, axis: Axis, number: Any, reason: str) -> Axis:
    """Couple a new dimension with what its size counts.

    A size that counts the very channels that are moved follows them without more ado.
    """
    source = number.source if isinstance(number, Size) else None
    if isinstance(source, Whole):
        known = t.size_axis(number)
        if t.nodes.permuted(known, axis):
            return axis
        t.nodes.unite(known, axis, reason)
        return known if len(known) > len(axis) and axis else axis
    if isinstance(source, Part):
        whole = t.size_axis(source.of)
        if any(t.nodes.permuted(whole, other) for other in before):
            return axis
        grids = [c.view(int(source.by), -1) for c in whole]
        for row in range(int(source.by) if grids else 0):
            t.nodes.unite(tuple(grid[row] for grid in grids), axis, reason)
    if (
        isinstance(source, Times)
        and not isinstance(source.by, Size)
        and (whole := t.size_axis(source.of))
    ):
        _multiple(t, whole, source.by, axis, reason)
    return axis


def _multiple(t: Tracer, whole: Axis, times: int, axis: Axis, reason: str) -> None:
    """Couple a dimension whose size is a number of times what another axis counts.

    Its channels lie in runs where other dimensions were merged into theirs, as where channels and
    rows become the features of a sequence, and else one after the other, again and again.
    """
    runs = all(_in_runs(column.view(-1, times)) for column in axis)
    laid = tuple(c.repeat_interleave(times) if runs else c.repeat(times) for c in whole)
    if not t.nodes.permuted(laid, axis):
        t.nodes.unite(laid, axis, reason)


def _in_runs(rows: torch.Tensor) -> bool:
    return bool((rows == rows[:, :1]).all())


def _factors(t: Tracer, merged: list[tuple[int, Axis]], number: Any, reason: str) -> None:
    """Couple the factors of a product with the dimensions that it merges, in their order."""
    factors: list[Any] = []
    waiting = [number]
    while waiting:
        part = waiting.pop()
        source = part.source if isinstance(part, Size) else None
        if isinstance(source, Times):
            waiting += [source.by, source.of]
        else:
            factors.append(part)
    factors = [part for part in factors if part != 1]
    merged = [(size, axis) for size, axis in merged if size != 1]
    if len(factors) > 1 and [int(f) for f in factors] == [size for size, _ in merged]:
        for factor, (_, axis) in zip(factors, merged, strict=True):
            if (known := t.size_axis(factor)) and not t.nodes.permuted(known, axis):
                t.nodes.unite(known, axis, reason)


def _of_two(number: Any) -> bool:
    """Whether a size is the product of two attributes."""
    source = number.source if isinstance(number, Size) else None
    return isinstance(source, Times) and all(
        isinstance(part, Size) and isinstance(part.source, Whole) and bool(part.source.attribute)
        for part in (source.of, source.by)
    )


def couple_multiples(t: Tracer) -> None:
    """Couple dimensions whose size is a width times a number of parts, both attributes.

    The number of parts is what nothing else counts, or the smaller of the two.
    """
    for number, axis in t.multiples:
        pair = sorted((number.source.of, number.source.by))
        counted = [size.source.attribute in t.sizes for size in pair]
        if not axis or all(counted):
            continue
        parts, width = pair[::-1] if counted[0] else pair
        t.fix(parts, "a number of parts")
        tiled = tuple(column.repeat(int(parts)) for column in t.size_axis(width))
        t.nodes.unite(tiled, axis, "a width and a number of parts")
    t.multiples.clear()


def _runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair runs of dimensions before with the runs of dimensions after that cover them."""
    runs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        left, right, first, start = before[i], after[j], j, i
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        runs.append((list(range(start, i)), list(range(first, j))))
    return runs


RULES: dict[str, Rule] = dict.fromkeys(
    "view reshape flatten unflatten view_as reshape_as ravel".split(), reshape
)
