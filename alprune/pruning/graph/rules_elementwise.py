"""What elementwise operations, reductions and pooling do to channel labels; all rules by name."""

from torch import Tensor

from alprune.pruning.graph import rules_layers as layers
from alprune.pruning.graph import rules_products as products
from alprune.pruning.graph import rules_rows as rows
from alprune.pruning.graph import rules_shapes as moves
from alprune.pruning.graph import rules_spectra as spectra
from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.gates import moments_of
from alprune.pruning.graph.labels import Axis, Labels
from alprune.pruning.graph.tracer import Rule, Tracer

_ELEMENTWISE = """
    abs absolute acos acosh add addcdiv addcmul alpha_dropout angle asin asinh atan atan2 atanh
    bernoulli bfloat16 bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min clip
    clone complex conj contiguous copy_ copysign cos cosh cpu cuda detach div divide double dropout
    dropout1d dropout2d dropout3d elu empty_like eq erf erfc exp exp2 expm1 feature_alpha_dropout
    feature_dropout fill_ float floor floor_divide fmax fmin fmod frac full_like ge gelu gt half
    hardshrink hardsigmoid hardswish hardtanh heaviside hypot isfinite isinf isnan le leaky_relu
    lerp log log10 log1p log2 logaddexp logical_and logical_not logical_or logit logsigmoid lt
    masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative ones_like polar
    positive pow quick_gelu rand_like randn_like reciprocal relu relu6 remainder requires_grad_
    round rrelu rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softshrink softsign
    sqrt square sub subtract tan tanh tanhshrink _threshold threshold true_divide trunc where
    xlogy zero_ zeros_like
""".split()
_INPLACE = """
    abs add addcdiv addcmul ceil celu clamp clamp_max clamp_min clip cos detach div divide dropout
    elu erf exp floor hardsigmoid hardswish hardtanh leaky_relu lerp log masked_fill mul multiply
    neg pow reciprocal relu relu6 round rrelu rsqrt selu sigmoid sign silu sin sqrt square sub
    subtract tanh threshold true_divide
""".split()
_OPERATORS = """
    abs add and eq floordiv ge gt iadd iand ifloordiv imul invert ior ipow isub itruediv le lt mod
    mul ne neg or pos pow radd rdiv rfloordiv rmul rpow rsub rtruediv sub truediv div idiv rmod
""".split()
_REDUCTIONS = "all amax amin any argmax argmin count_nonzero logsumexp max median min mode prod"
_EXTREMA = {"amax": "largest", "max": "largest", "amin": "smallest", "min": "smallest"}
_SCANS = "cumsum cumprod logcumsumexp log_softmax softmin argsort sort gumbel_softmax topk"


def elementwise(t: Tracer, call: Call) -> None:
    """Couple the operands position by position; the result carries their channels."""
    shape: tuple[int, ...] = ()
    labels: Labels = ()
    for x in call.tensors():
        labels = t.nodes.broadcast((shape, labels), (x.shape, t.labels(x)), call.name)
        ranks = max(len(shape), x.dim())
        padded = ((1,) * (ranks - len(s)) + tuple(s) for s in (shape, x.shape))
        shape = tuple(max(pair) for pair in zip(*padded, strict=True))
    for result in call.results():
        t.set(result, labels)


def cast(t: Tracer, call: Call) -> None:
    """Keep the channels; a second tensor gives nothing but its type and device."""
    t.set(call.out, t.labels(call.args[0]))


def extremum(t: Tracer, call: Call) -> None:
    """`max` and `min` of two tensors are elementwise, of one they reduce."""
    other = call.get(1, "other")
    (elementwise if isinstance(other, Tensor) else reduction)(t, call)


def reduction(t: Tracer, call: Call) -> None:
    """Pin the channels that are reduced to one value; an extremum is taken of those left."""
    dims = call.get(1, "dim", call.kwargs.get("axis"))
    _reduce(t, call, dims, _EXTREMA.get(call.name))


def total(t: Tracer, call: Call) -> None:
    """Sum: a channel that leaves is a term less."""
    _reduce(t, call, call.get(1, "dim", call.kwargs.get("axis")), "zero")


def mean(t: Tracer, call: Call) -> None:
    """Average; over channels, the mean is taken over those that are left."""
    _reduce(t, call, call.get(1, "dim", call.kwargs.get("axis")), "mean")


def moments(t: Tracer, call: Call) -> None:
    """Variance and deviation; over channels, of those that are left."""
    dims, _, _ = moments_of(call.args[0], call.args[1:], call.kwargs)
    _reduce(t, call, tuple(dims), "moments")


def norm(t: Tracer, call: Call) -> None:
    """Reduce over the second argument of `norm(p, dim)`."""
    euclidean = call.get(1, "p", "fro") in (None, 2, 2.0, 1, 1.0, "fro")
    _reduce(t, call, call.get(2, "dim"), "zero" if euclidean else None)


def vector_norm(t: Tracer, call: Call) -> None:
    """Reduce over the third argument of `torch.linalg.vector_norm(x, ord, dim)`."""
    euclidean = call.get(1, "ord", 2) in (2, 2.0, 1, 1.0)
    _reduce(t, call, call.get(2, "dim"), "zero" if euclidean else None)


def weight_norm(t: Tracer, call: Call) -> None:
    """Scale the rows of a weight to given norms: a column that leaves is a term less."""
    weight, norms = call.get(0, "v"), call.get(1, "g")
    kept = call.get(2, "dim", 0) % weight.dim()
    labels = t.labels(weight)
    t.mix(call, "zero", {d: a for d, a in enumerate(labels) if d != kept}, counts=True)
    t.nodes.unite(t.labels(norms)[kept], labels[kept], call.name)
    t.set(call.out, labels)


def scan(t: Tracer, call: Call) -> None:
    """Pin along `dim` (softmax, cumulative sums); the shape stays."""
    position = 2 if call.name == "topk" else 1
    _through(t, call, call.get(position, "dim", call.kwargs.get("axis")))


def softmax(t: Tracer, call: Call) -> None:
    """Weigh along `dim`; channels there share the weight of one that leaves."""
    labels = t.labels(call.args[0])
    dims = _dims(call.get(1, "dim"), call.out.dim())
    t.mix(call, "softmax", {d: labels[d] for d in dims}, counts=True)
    t.set(call.out, labels)


def normalize(t: Tracer, call: Call) -> None:
    """Divide by the norm along the `dim` of `F.normalize(x, p, dim)`."""
    x = call.get(0, "input")
    labels = t.labels(x)
    dims = _dims(call.get(2, "dim", 1), x.dim())
    if call.get(1, "p", 2.0) in (1, 2):
        t.mix(call, "zero", {d: labels[d] for d in dims}, counts=False)
    else:
        _pin(t, labels, dims, f"{call.name} over channels")
    t.set(call.out, labels)


def pool(t: Tracer, call: Call) -> None:
    """Keep the channels, and pin what the trailing spatial dimensions carry."""
    x = call.get(0, "input")
    digits = [int(c) for c in call.name if c.isdigit()]
    spatial = digits[0] if digits else x.dim() - 2
    labels = t.labels(x)
    _pin(t, labels, range(x.dim() - spatial, x.dim()), call.name)
    for result in call.results():
        t.set(result, [*labels[: x.dim() - spatial], *[()] * spatial])


def unpool(t: Tracer, call: Call) -> None:
    """Put values back where a pooling took them from, channel by channel."""
    x, indices = call.get(0, "input"), call.get(1, "indices")
    labels = t.nodes.broadcast((x.shape, t.labels(x)), (x.shape, t.labels(indices)), call.name)
    spatial = int(call.name[-2])
    _pin(t, labels, range(x.dim() - spatial, x.dim()), call.name)
    t.set(call.out, [*labels[: x.dim() - spatial], *[()] * spatial])


def unlabelled(t: Tracer, call: Call) -> None:
    """Leave the result without labels: channels it is combined with later are pinned then."""


def _pin(t: Tracer, labels: Labels, dims: range | list[int], reason: str) -> None:
    for dim in dims:
        t.nodes.pin(labels[dim], reason)


def _through(t: Tracer, call: Call, dim: int | tuple[int, ...] | None) -> None:
    x = call.get(0, "input")
    labels = t.labels(x)
    dims = _dims(dim, x.dim()) if dim is not None or call.name != "topk" else [x.dim() - 1]
    _pin(t, labels, dims, f"{call.name} over channels")
    for result in call.results():
        t.set(result, [() if d in dims else axis for d, axis in enumerate(labels)])


def _reduce(t: Tracer, call: Call, dim: int | tuple[int, ...] | None, kind: str | None) -> None:
    """Drop the dimensions reduced; channels among them are pinned, or mixed as `kind` says."""
    x = call.get(0, "input")
    labels = t.labels(x)
    dims = _dims(dim, x.dim())
    mixed: dict[int, Axis] = {d: labels[d] for d in dims}
    if kind is None and len(dims) == x.dim() and isinstance(call.out, Tensor):
        for axis in labels:
            t.look(call.out, axis, f"{call.name} over channels")
    elif kind is None:
        _pin(t, labels, dims, f"{call.name} over channels")
    else:
        t.mix(call, kind, mixed, counts=kind != "zero")
    kept = [() if d in dims else axis for d, axis in enumerate(labels)]
    dropped = [axis for d, axis in enumerate(labels) if d not in dims]
    for result in call.results():
        t.set(result, kept if result.dim() == len(kept) else dropped)


def _dims(dim: int | tuple[int, ...] | None, rank: int) -> list[int]:
    if dim is None or isinstance(dim, bool) or dim == () or dim == []:
        return list(range(rank))
    return [int(d) % rank for d in ((dim,) if isinstance(dim, int) else dim)]


def _pools() -> list[str]:
    kinds = ("avg_pool", "max_pool", "lp_pool", "adaptive_avg_pool", "adaptive_max_pool")
    plain = [f"{kind}{n}d" for kind in kinds for n in (1, 2, 3)]
    return [
        *plain,
        *[f"{name}_with_indices" for name in plain],
        *("interpolate", "upsample", "upsample_nearest", "upsample_bilinear"),
    ]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **{f"{name}_": elementwise for name in _INPLACE},
    **{f"__{name}__": elementwise for name in _OPERATORS},
    **{f"get {name}": elementwise for name in ("data", "real", "imag")},
    **dict.fromkeys(_REDUCTIONS.split(), reduction),
    **dict.fromkeys(("sum", "nansum"), total),
    **dict.fromkeys(("mean", "nanmean"), mean),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), moments),
    **dict.fromkeys(("to", "type", "type_as"), cast),
    "max": extremum,
    "min": extremum,
    "norm": norm,
    **dict.fromkeys(("vector_norm", "linalg_vector_norm"), vector_norm),
    "_weight_norm": weight_norm,
    **dict.fromkeys(("isnan", "isinf", "isfinite"), unlabelled),
    **dict.fromkeys(_SCANS.split(), scan),
    "softmax": softmax,
    "normalize": normalize,
    **dict.fromkeys(_pools(), pool),
    **{f"max_unpool{n}d": unpool for n in (1, 2, 3)},
    **moves.RULES,
    **products.RULES,
    **layers.RULES,
    **rows.RULES,
    **spectra.RULES,
}
# Rules that make channels run whatever their operands carry.
ALWAYS = frozenset((*layers.RULES, *products.RULES))
