"""What gathering, scattering and comparing rows does to channel labels."""

from torch import Tensor

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import Axis, Labels
from alprune.pruning.graph.tracer import Rule, Tracer


def gather(t: Tracer, call: Call) -> None:
    """Take values along one dimension; in the others, equal places leave together."""
    x, dim, index = call.args[0], call.get(1, "dim"), call.get(2, "index")
    if call.name == "take_along_dim":
        index, dim = call.get(1, "indices"), call.get(2, "dim")
    _along(t, call, dim % x.dim(), [x, index], call.out)


def scatter(t: Tracer, call: Call) -> None:
    """Write or add rows along one dimension; in the others, equal places leave together."""
    x, dim = call.args[0], call.get(1, "dim") % call.args[0].dim()
    others = [y for y in call.tensors() if y is not x and y.dim() == x.dim()]
    _along(t, call, dim, [x, *others], call.out)


def compare(t: Tracer, call: Call) -> None:
    """Distances and cosines: a channel of zeros in both operands adds nothing."""
    x, y = call.get(0, "x1"), call.get(1, "x2")
    rank = max(x.dim(), y.dim())
    place = int(call.get(2, "dim", 1)) % rank if call.name == "cosine_similarity" else rank - 1
    if call.name == "cdist":
        own, other = list(t.labels(x)), list(t.labels(y))
        if call.get(2, "p", 2.0) not in (1, 2):
            t.give_up(call, f"{call.name} of this order")
            return
        t.nodes.unite(own[-1], other[-1], call.name)
        mixed = own[-1] or other[-1]
        found: Labels = (*own[:-2], own[-2], other[-2])
    else:
        labels = t.nodes.broadcast((x.shape, t.labels(x)), (y.shape, t.labels(y)), call.name)
        mixed = labels[place]
        kept = call.out.dim() == rank
        found = (*labels[:place], *([()] if kept else []), *labels[place + 1 :])
    if mixed:
        t.mix(call, "both", {place - rank + x.dim(): mixed}, counts=False)
    t.set(call.out, found)


def _along(t: Tracer, call: Call, dim: int, operands: list[Tensor], out: Tensor) -> None:
    found: list[Axis] = [()] * out.dim()
    for x in operands:
        for d, axis in enumerate(t.labels(x)):
            if d == dim or x.shape[d] != out.shape[d]:
                t.nodes.pin(axis, f"{call.name} along channels")
            elif axis and found[d]:
                t.nodes.unite(found[d], axis, call.name)
            else:
                found[d] = found[d] or axis
    constants = [x for x in operands[1:] if not t.carries(x) and x.is_floating_point()]
    for x in constants:
        for d, axis in enumerate(found):
            if axis and x.dim() == out.dim() and x.shape[d] > 1:
                t.nodes.pin(axis, f"combined with the input or a constant ({call.name})")
    t.set(out, found)


_SCATTERS = "scatter scatter_add scatter_reduce index_add index_copy"
RULES: dict[str, Rule] = {
    **dict.fromkeys(("gather", "take_along_dim"), gather),
    **{f"{name}{end}": scatter for name in _SCATTERS.split() for end in ("", "_")},
    **dict.fromkeys(("cdist", "cosine_similarity", "pairwise_distance"), compare),
}
