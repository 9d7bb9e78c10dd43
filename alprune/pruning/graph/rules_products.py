"""What products do to channel labels: matrix products, einsum, linear layers, attention."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import Axis
from alprune.pruning.graph.tracer import Rule, Tracer


def contract(
    t: Tracer, call: Call, operands: Sequence[tuple[Tensor, str]], out: str, kind: str = "zero"
) -> dict[str, Axis]:
    """Follow a product in which every dimension has a letter, as `einsum` writes it.

    Dimensions of one letter are coupled. A letter that is missing in `out` is summed over: a
    parameter reads the channels there, and where no parameter takes part, the product itself
    does (`Tracer.mix`). A letter that only a parameter and `out` have is made by it.

    Args:
        t: The tracer.
        call: The operation, whose result is labelled.
        operands: Each factor and its letters.
        out: The letters of the result.
        kind: How to run the operation with channels gone.

    Returns:
        `{letter: axis}`.
    """
    axes: dict[str, Axis] = {}
    sizes: dict[str, int] = {}
    for x, letters in operands:
        for letter, size, axis in zip(letters, x.shape, t.labels(x), strict=True):
            if letter not in sizes or sizes[letter] == 1 < size:
                if axes.get(letter):
                    t.nodes.pin(axes[letter], f"a factor of all channels ({call.name})")
                axes[letter], sizes[letter] = axis, size
            elif size == sizes[letter]:
                known = axes[letter]
                t.nodes.unite(known, axis, call.name)
                axes[letter] = known if len(known) >= len(axis) else axis
            else:
                t.nodes.pin(axis, f"a factor of all channels ({call.name})")
    # between weights, whatever the batch: a spectral norm, the two factors of a LoRA
    among_weights = all(t.of_weights(x) for x, _ in operands)
    weights = [(x, letters) for x, letters in operands if t.trainable(x)]
    weight, its = weights[0] if len(weights) == 1 and not among_weights else (None, "")
    summed = [letter for letter in axes if letter not in out]
    first, letters = operands[0]
    mixed = {letters.index(c): axes[c] for c in summed if c in letters and c not in its}
    for letter in summed:
        if letter not in its and letter not in letters:
            t.nodes.pin(axes[letter], f"summed over by {call.name}")
    t.mix(call, kind, mixed, counts=among_weights)
    others = {c for x, letters in operands if x is not weight for c in letters}
    if weight is not None:
        for dim, letter in enumerate(its):
            if letter in summed:
                t.axis(weight, dim, "reads")
            elif letter not in others and sizes[letter] > 1:
                t.make(weight, t.axis(weight, dim, "makes"))
    elif call.name != "linear" and not among_weights:
        _made_by_computed(t, operands, out, axes)
    factors = [x for x, _ in operands if t.origin(x) and not t.stems(x)]
    factor = factors[0] if len(factors) == 1 and len(operands) == 2 else None
    for pair in _pairs([letters for _, letters in operands], out):
        whole = weight if len(operands) == 2 else None
        _count(t, {c: axes[c] for c in pair}, sizes, whole, its, factor)
    t.set(call.out, [axes[c] if sizes[c] > 1 else () for c in out])
    return axes


def _made_by_computed(
    t: Tracer, operands: Sequence[tuple[Tensor, str]], out: str, axes: dict[str, Axis]
) -> None:
    """Note what a factor makes that is computed from a parameter, or a view of it."""
    for x, letters in operands:
        if t.origin(x) and not t.stems(x):
            others = {c for y, them in operands if y is not x for c in them}
            for letter in letters:
                if letter in out and letter not in others and axes[letter]:
                    t.make(x, axes[letter])


def _count(
    t: Tracer,
    axes: dict[str, Axis],
    sizes: dict[str, int],
    weight: Tensor | None,
    its: str,
    factor: Tensor | None,
) -> None:
    macs = math.prod(sizes[c] for c in axes)
    if weight is not None and not any(axes[c] for c in axes if c not in its):
        t.count(weight, macs / weight.numel())
    else:
        t.work(macs, *axes.values(), factor=factor)


def _pairs(terms: Sequence[str], out: str) -> list[str]:
    """Return the letters of each product when factors are multiplied from left to right."""
    found = []
    while len(terms) > 1:
        first, second, *rest = terms
        found.append("".join(dict.fromkeys(first + second)))
        terms = ["".join(c for c in found[-1] if c in out + "".join(rest)), *rest]
    return found


def linear(t: Tracer, call: Call) -> None:
    """Read the last dimension of the input, make the weight's rows."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    rows = _letters(x.dim() - 1)
    owned(t, call, weight, t.labels(x)[-1])
    if not t.carries(weight):
        t.nodes.pin(t.labels(x)[-1], f"read by a {call.name} whose weight cannot be followed")
    if weight.dim() == 1:
        contract(t, call, [(x, rows + "y"), (weight, "y")], rows)
        return
    axes = contract(t, call, [(x, rows + "y"), (weight, "zy")], rows + "z")
    if not t.registered(weight):
        computed(t, weight, axes["z"], axes["y"])
    t.follow_axis(bias, axes["z"], call.name)


def owned(t: Tracer, call: Call, weight: Tensor, read: Axis) -> None:
    """Pin what is read by a weight that does not belong to the network."""
    if isinstance(weight, nn.Parameter) and not t.carries(weight):
        t.nodes.pin(
            read,
            f"read by a {call.name} whose weight is not a parameter of the network (is its layer "
            "in a plain list or dict? nn.ModuleList and nn.ModuleDict register it)",
        )


def computed(t: Tracer, weight: Tensor, made: Axis, read: Axis) -> None:
    """Note that the module that is running makes channels with a weight that is computed."""
    if not t.carries(weight):
        return
    t.make(weight, made)
    inside = f"{t.module}." if t.module else ""
    for name, shape in t.shapes.items():  # what it is computed from, for criteria
        if name.startswith(inside) and shape == tuple(weight.shape) and (name, 0) in t.axes:
            t.roles[name, 0] = "makes"


def matmul(t: Tracer, call: Call) -> None:
    """Multiply two tensors, with any number of leading dimensions."""
    x, y = call.get(0, "input"), call.get(1, "other")
    if y is None:
        y = next(call.kwargs[k] for k in ("mat2", "vec", "tensor") if k in call.kwargs)
    if call.name == "inner" and (x.dim() != 1 or y.dim() != 1):
        t.give_up(call, "inner of matrices")
        return
    _matmul(t, call, x, y)


def _matmul(t: Tracer, call: Call, x: Tensor, y: Tensor, kind: str = "zero") -> dict[str, Axis]:
    if x.dim() == 1 or y.dim() == 1:
        left = "x" if x.dim() == 1 else _letters(x.dim() - 1) + "x"
        right = "x" if y.dim() == 1 else _letters(y.dim() - 2) + "xz"
        out = (left[:-1] if x.dim() > 1 else right[:-2]) + ("z" if y.dim() > 1 else "")
    else:
        deep = _letters(max(x.dim(), y.dim()) - 2)
        left, right = deep[len(deep) - x.dim() + 2 :] + "wx", deep[len(deep) - y.dim() + 2 :] + "xz"
        out = deep + "wz"
    return contract(t, call, [(x, left), (y, right)], out, kind)


def addmm(t: Tracer, call: Call) -> None:
    """Multiply two matrices, or stacks of them, and add another."""
    bias, x, y = call.args[0], call.get(1, "mat1"), call.get(2, "mat2")
    if bias is None or not isinstance(x, Tensor):
        x, y = call.kwargs.get("batch1"), call.kwargs.get("batch2")
    if call.name == "addmv":
        axes = contract(t, call, [(x, "wx"), (y, "x")], "w", "added")
        labels = [axes["w"]]
    elif x.dim() == 2:
        axes = contract(t, call, [(x, "wx"), (y, "xz")], "wz", "added")
        labels = [axes["w"], axes["z"]]
    else:
        axes = contract(t, call, [(x, "awx"), (y, "axz")], "awz", "added")
        labels = [axes["a"], axes["w"], axes["z"]]
    t.nodes.broadcast((call.out.shape, tuple(labels)), (bias.shape, t.labels(bias)), call.name)


def einsum(t: Tracer, call: Call) -> None:
    """Follow the letters of the equation."""
    equation, *operands = call.args
    if not isinstance(equation, str):
        t.give_up(call, "einsum without an equation in letters")
        return
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
        right = "..." + right if "..." in left else right
    deep = 0
    for term, x in zip(terms, operands, strict=True):
        if "..." in term:
            deep = max(deep, x.dim() - len(term) + 3)
    dots = "".join(chr(0x3B1 + i) for i in range(deep))  # Greek letters for "..."
    written = []
    for term, x in zip(terms, operands, strict=True):
        own = x.dim() - len(term) + 3 if "..." in term else 0
        written.append((x, term.replace("...", dots[deep - own :])))
    if any(len(set(letters)) < len(letters) for _, letters in written):
        t.give_up(call, "einsum along a diagonal")
        return
    contract(t, call, written, right.replace("...", dots), "einsum")


def tensordot(t: Tracer, call: Call) -> None:
    """Sum over the dimensions named, or the last of one and the first of the other."""
    x, y, dims = call.get(0, "a"), call.get(1, "b"), call.get(2, "dims", 2)
    if isinstance(dims, int):
        dims = list(range(x.dim() - dims, x.dim())), list(range(dims))
    left, right = ([int(d) % s.dim() for d in part] for s, part in zip((x, y), dims, strict=True))
    first = [_letter(i) for i in range(x.dim())]
    second = [_letter(x.dim() + i) for i in range(y.dim())]
    for a, b in zip(left, right, strict=True):
        second[b] = first[a]
    out = [c for i, c in enumerate(first) if i not in left]
    out += [c for i, c in enumerate(second) if i not in right]
    contract(t, call, [(x, "".join(first)), (y, "".join(second))], "".join(out))


def bilinear(t: Tracer, call: Call) -> None:
    """`x^T W y + b` with a stack of matrices."""
    x, y, weight = (call.get(i, n) for i, n in enumerate(("input1", "input2", "weight")))
    bias = call.get(3, "bias")
    rows = _letters(x.dim() - 1)
    operands = [(x, rows + "x"), (y, rows + "y"), (weight, "zxy")]
    axes = contract(t, call, operands, rows + "z")
    t.follow_axis(bias, axes["z"], call.name)


def attention(t: Tracer, call: Call) -> None:
    """Scaled dot-product attention: keys read queries, and heads and values pass.

    Without a scale of its own the operation divides by the root of the number of channels, so
    that removing one re-normalises the others.
    """
    query, key, value = (call.get(i, n) for i, n in enumerate(("query", "key", "value")))
    labels = [list(t.labels(x)) for x in (query, key, value)]
    heads = query.dim() - 3
    if call.kwargs.get("enable_gqa") and heads >= 0:
        _share(t, labels, heads, call.name)
    for dim in range(query.dim() - 2):
        for other in labels[1:]:
            if len(other) == query.dim():
                t.nodes.unite(labels[0][dim], other[dim], call.name)
    t.nodes.unite(labels[0][-1], labels[1][-1], call.name)
    for sequence in (labels[0][-2], labels[1][-2], labels[2][-2]):
        t.nodes.pin(sequence, f"positions of {call.name}")
    counts = call.kwargs.get("scale") is None
    t.mix(call, "attention", {query.dim() - 1: labels[0][-1]}, counts)
    mask = call.get(3, "attn_mask")
    if isinstance(mask, Tensor):
        shape = (*query.shape[:-1], key.shape[-2])
        scores = (*labels[0][:-2], (), ())
        t.nodes.broadcast((shape, tuple(scores)), (mask.shape, t.labels(mask)), call.name)
    pairs = query.numel() // query.shape[-1] * key.shape[-2]
    t.work(pairs * query.shape[-1], *labels[0])
    t.work(pairs * value.shape[-1], *labels[0][:-1], labels[2][-1])
    t.set(call.out, [*labels[0][:-2], (), labels[2][-1]])


def _share(t: Tracer, labels: list[list[Axis]], dim: int, reason: str) -> None:
    """Couple the heads of queries with the fewer heads of keys and values that they share."""
    query, key, value = (part[dim] for part in labels)
    t.nodes.unite(key, value, reason)
    if not query or not key:
        t.nodes.pin((*query, *key), f"heads shared in {reason}")
    else:
        times = len(query[0]) // len(key[0])
        t.nodes.unite(query, tuple(c.repeat_interleave(times) for c in key), reason)
    for part in labels[1:]:
        part[dim] = query


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _letters(count: int) -> str:
    return "".join(_letter(i) for i in range(count))


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv", "dot", "vdot", "inner"), matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    "einsum": einsum,
    "tensordot": tensordot,
    "bilinear": bilinear,
    "scaled_dot_product_attention": attention,
}
