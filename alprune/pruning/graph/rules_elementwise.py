"""What elementwise operations, reductions and pooling do to channel labels; all rules by name."""

from torch import Tensor

from alprune.pruning.graph import rules_layers as layers
from alprune.pruning.graph import rules_shapes as moves
from alprune.pruning.graph.tracer import Call, Rule, Tracer

_ELEMENTWISE = """
    abs absolute add addcdiv addcmul alpha_dropout atan bernoulli bfloat16 bitwise_and bitwise_or
    bitwise_not ceil celu clamp clamp_max clamp_min clip clone contiguous copy_ cos cpu cuda detach
    div divide double dropout dropout1d dropout2d dropout3d elu empty_like eq erf exp exp2 expm1
    feature_alpha_dropout feature_dropout fill_ float floor floor_divide fmod full_like ge gelu gt
    half hardshrink hardsigmoid hardswish hardtanh heaviside isfinite isinf isnan le leaky_relu
    lerp log log10 log1p log2 logical_and logical_not logical_or logit logsigmoid lt masked_fill
    maximum minimum mish mul multiply nan_to_num ne neg negative ones_like positive pow quick_gelu
    rand_like randn_like reciprocal relu relu6 remainder requires_grad_ round rrelu rsqrt rsub selu
    sigmoid sign silu sin softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink
    threshold _threshold to true_divide trunc type type_as where xlogy zero_ zeros_like
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
_REDUCTIONS = """
    all amax amin any argmax argmin count_nonzero logsumexp max mean median min mode nanmean nansum
    prod std std_mean sum var var_mean
""".split()
_SCANS = "cumsum cumprod logcumsumexp softmax log_softmax softmin argsort sort gumbel_softmax"


def elementwise(t: Tracer, call: Call) -> None:
    """Couple the operands position by position; the result carries their channels."""
    operands = [t.labels(x) for x in call.tensors()]
    labels = operands[0]
    for other in operands[1:]:
        labels = t.combine(labels, other, call.name)
    for result in call.results():
        t.set(result, labels.expand(result.shape))


def extremum(t: Tracer, call: Call) -> None:
    """`max` and `min` of two tensors are elementwise, of one they reduce."""
    other = call.get(1, "other")
    (elementwise if isinstance(other, Tensor) else reduction)(t, call)


def reduction(t: Tracer, call: Call) -> None:
    """Couple everything that is reduced to one value."""
    _reduce(t, call, call.get(1, "dim", call.kwargs.get("axis")))


def norm(t: Tracer, call: Call) -> None:
    """Reduce over the second argument of `norm(p, dim)`."""
    _reduce(t, call, call.get(2, "dim"))


def scan(t: Tracer, call: Call) -> None:
    """Couple along `dim` (softmax, cumulative sums); the shape stays."""
    _mix(t, call, call.get(1, "dim", call.kwargs.get("axis")))


def normalize(t: Tracer, call: Call) -> None:
    """Couple along the `dim` of `F.normalize(x, p, dim)`."""
    _mix(t, call, call.get(2, "dim", 1))


def pool(t: Tracer, call: Call) -> None:
    """Couple over the trailing spatial dimensions, channel by channel."""
    x = call.get(0, "input")
    digits = [int(c) for c in call.name if c.isdigit()]
    spatial = digits[0] if digits else x.dim() - 2
    labels = t.labels(x)
    dims = range(x.dim() - spatial, x.dim())
    t.nodes.tie(labels, dims, call.name)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    for result in call.results():
        t.set(result, labels.expand(result.shape))


def unlabelled(t: Tracer, call: Call) -> None:
    """Leave the result without labels: channels it is combined with later are pinned then."""


def _mix(t: Tracer, call: Call, dim: int | tuple[int, ...] | None) -> None:
    x = call.get(0, "input")
    labels = t.labels(x)
    t.nodes.tie(labels, _dims(dim, x.dim()), f"{call.name} over channels")
    for result in call.results():
        t.set(result, labels)


def _reduce(t: Tracer, call: Call, dim: int | tuple[int, ...] | None) -> None:
    x = call.get(0, "input")
    labels = t.labels(x)
    dims = _dims(dim, x.dim())
    t.nodes.tie(labels, dims, f"{call.name} over channels")
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    squeezed = labels
    for d in sorted(dims, reverse=True):
        squeezed = squeezed.squeeze(d)
    for result in call.results():
        t.set(result, labels if result.dim() == labels.dim() else squeezed)


def _dims(dim: int | tuple[int, ...] | None, rank: int) -> list[int]:
    if dim is None or isinstance(dim, bool) or dim == () or dim == []:
        return list(range(rank))
    return [d % rank for d in ((dim,) if isinstance(dim, int) else dim)]


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
    "get data": elementwise,
    **dict.fromkeys(_REDUCTIONS, reduction),
    "max": extremum,
    "min": extremum,
    "norm": norm,
    **dict.fromkeys(("isnan", "isinf", "isfinite"), unlabelled),
    **dict.fromkeys(_SCANS.split(), scan),
    "normalize": normalize,
    **dict.fromkeys(_pools(), pool),
    **moves.RULES,
    **layers.RULES,
}
ALWAYS = frozenset(layers.RULES)
