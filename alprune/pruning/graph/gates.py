"""Operations without weights that mix channels, run with some of the channels gone.

Most channels are read by a weight, and setting its columns to zero is as good as cutting them.
The product of queries and keys, a mean over channels or a LayerNorm have no such weight. `gated`
runs them with a gate of 0 or 1 for each channel, as the narrowed network runs them without the
channel: a product skips it; a mean, a variance, a norm is taken over the channels that are left.
The gates are differentiable, and a criterion can ask for the loss's derivative by them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alprune.pruning.graph.numbers import OPERATIONS, Numbers, exchanged, numbers_in
from alprune.pruning.graph.place import Place, Spot


@dataclass(frozen=True)
class Mix:
    """One operation that mixes channels of its first operand.

    Attributes:
        spot: Where it runs.
        kind: A key of `KINDS`.
        axes: `{dim of the first operand: ids}`, `(k,)` or `(m, k)` as in `ChannelTensor`.
    """

    spot: Spot
    kind: str
    axes: Mapping[int, Tensor]


class _Gating(TorchFunctionMode):
    """Run the mixing operations of a forward pass with gates, and note or exchange numbers."""

    def __init__(
        self,
        model: nn.Module,
        place: Place,
        mixes: Mapping[Spot, Mix],
        gates: Tensor,
        numbers: Numbers | None,
        noted: Numbers | None,
    ) -> None:
        super().__init__()
        self._model, self._place, self._mixes, self._gates = model, place, mixes, gates
        self._numbers, self._noted = numbers, noted
        self._operations = {spot.operation for spot in mixes}
        if numbers is not None or noted is not None:
            self._operations |= OPERATIONS

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation, gated where it mixes channels."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in self._operations:
            self._place.count(name)
            spot = self._place.spot(name, self._model.training)
            mix = self._mixes.get(spot)
            if mix is not None:
                weights = {dim: self._along(ids) for dim, ids in mix.axes.items()}
                return KINDS[mix.kind](func, args, kwargs, weights)
            if self._noted is not None and name in OPERATIONS:
                self._noted[spot] = numbers_in(name, args, kwargs)
            if self._numbers and spot in self._numbers:
                args, kwargs = exchanged(name, args, kwargs, self._numbers[spot])
        return func(*args, **kwargs)

    def _along(self, ids: Tensor) -> Tensor:
        padded = torch.cat([self._gates, self._gates.new_ones(1)])  # id -1 always stays
        return padded[ids].view(-1, ids.shape[-1]).prod(0)


@contextmanager
def gated(model: nn.Module, mixes: tuple[Mix, ...], gates: Tensor) -> Iterator[None]:
    """Let every forward pass of a model within this context run with gates.

    Args:
        model: The traced model, or a copy of it.
        mixes: `ChannelGraph.mixes`.
        gates: `(N,)`, one gate for each channel; 1 leaves everything as it is.
    """
    if not mixes:
        yield
        return
    handles = attach(model, mixes, gates)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attach(
    model: nn.Module,
    mixes: tuple[Mix, ...],
    gates: Tensor,
    numbers: Numbers | None = None,
    noted: Numbers | None = None,
) -> list[Any]:
    """Gate a model from now on.

    Args:
        model: The traced model, or a copy of it.
        mixes: `ChannelGraph.mixes`.
        gates: `(N,)`, one gate for each channel; 1 leaves everything as it is.
        numbers: Numbers to use in place of those that the forward computes.
        noted: Takes the numbers that the forward computes.

    Returns:
        The handles of its hooks.
    """
    place = Place()
    table = {mix.spot: mix for mix in mixes}
    running: list[_Gating] = []

    def enter(*_: Any) -> None:
        place.start()
        running.append(_Gating(model, place, table, gates, numbers, noted))
        running[-1].__enter__()

    def leave(*_: Any) -> None:
        running.pop().__exit__(None, None, None)

    # Hooks that were there before run outside of the gates, as they do in the narrowed model.
    handles = [model.register_forward_pre_hook(enter, prepend=True)]
    handles += place.watch(model)
    handles.append(model.register_forward_hook(leave, always_call=True))
    return handles


Gate = Mapping[int, Tensor]


def _shaped(x: Tensor, gate: Gate) -> Tensor:
    """Multiply the gates of several dimensions out, broadcast against `x`."""
    total = x.new_ones((1,) * x.dim())
    for dim, values in gate.items():
        view = [1] * x.dim()
        view[dim] = -1
        # where the batch is part of a dimension, it has the gates of two examples
        times = -(-x.shape[dim] // len(values))
        total = total * values.to(x).repeat(times)[: x.shape[dim]].view(view)
    return total


def _zero(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """Operations to which a channel of zeros adds nothing: sums, products, euclidean norms."""
    args, kwargs, x = _first(args, kwargs)
    return func(x * _shaped(x, gate), *args, **kwargs)


def _mean(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """A mean over the channels that are left."""
    args, kwargs, x = _first(args, kwargs)
    weights = _shaped(x, gate)
    share = func(weights.expand_as(x), *args, **kwargs)
    return func(x * weights, *args, **kwargs) / share


def _layer_norm(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """F.layer_norm over the channels that are left."""
    call = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False))
    call.update(kwargs)
    x = call["input"]
    dims = list(range(x.dim() - len(call["normalized_shape"]), x.dim()))
    eps = 1e-5 if call.get("eps") is None else call["eps"]
    out = _standard(x, _shaped(x, gate), dims, eps)
    out = out if call.get("weight") is None else out * call["weight"]
    return out if call.get("bias") is None else out + call["bias"]


def _rms_norm(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """F.rms_norm over the channels that are left."""
    call = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)) | kwargs
    x = call["input"]
    dims = list(range(x.dim() - len(call["normalized_shape"]), x.dim()))
    weights = _shaped(x, gate).expand_as(x)
    eps = torch.finfo(x.dtype).eps if call.get("eps") is None else call["eps"]
    square = (x * x * weights).sum(dims, keepdim=True) / weights.sum(dims, keepdim=True)
    out = x * (square + eps).rsqrt()
    return out if call.get("weight") is None else out * call["weight"]


def _group_norm(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """F.group_norm over the channels that are left in each group."""
    names = ("input", "num_groups", "weight", "bias", "eps")
    call = dict(zip(names, args, strict=False)) | kwargs
    x, groups = call["input"], int(call["num_groups"])
    weights = _shaped(x, gate).expand_as(x)
    split = (x.shape[0], groups, -1)
    out = _standard(x.reshape(split), weights.reshape(split), [2], call.get("eps", 1e-5))
    out, view = out.view_as(x), (1, -1) + (1,) * (x.dim() - 2)
    out = out if call.get("weight") is None else out * call["weight"].view(view)
    return out if call.get("bias") is None else out + call["bias"].view(view)


def _batch_norm(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """F.batch_norm without running statistics, as weights are standardised with it."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
    call = dict(zip((*names, "eps"), args, strict=False)) | kwargs
    x = call["input"]
    dims = [d for d in range(x.dim()) if d != 1]
    out = _standard(x, _shaped(x, gate), dims, call.get("eps", 1e-5))
    view = (1, -1) + (1,) * (x.dim() - 2)
    out = out if call.get("weight") is None else out * call["weight"].view(view)
    return out if call.get("bias") is None else out + call["bias"].view(view)


def _moments(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """`var`, `std`, `var_mean` and `std_mean` over the channels that are left."""
    args, kwargs, x = _first(args, kwargs)
    dims, correction, keepdim = moments_of(x, args, kwargs)
    weights = _shaped(x, gate).expand_as(x)
    count = weights.sum(dims, keepdim=True)
    mean = (x * weights).sum(dims, keepdim=True) / count
    spread = (weights * (x - mean) ** 2).sum(dims, keepdim=True) / (count - correction)
    name = func.__name__
    spread = spread.sqrt() if name.startswith("std") else spread
    if not keepdim:
        mean, spread = (_squeezed(value, dims) for value in (mean, spread))
    return (spread, mean) if name.endswith("_mean") else spread


def moments_of(x: Tensor, args: Any, kwargs: Any) -> tuple[list[int], float, bool]:
    """Read the dimensions, the correction and `keepdim` of a call of `var`, whatever its form."""
    rest = list(args)
    dim = kwargs.get("dim", kwargs.get("axis"))
    correction = kwargs.get("correction", 1)
    correction = correction if kwargs.get("unbiased", True) else 0
    if rest and isinstance(rest[0], bool):
        correction = 1 if rest.pop(0) else 0
    elif rest:
        dim = rest.pop(0)
        if rest and isinstance(rest[0], bool):
            correction = 1 if rest.pop(0) else 0
    keepdim = rest[0] if rest else kwargs.get("keepdim", False)
    everything = list(range(x.dim()))
    dims = everything if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return (
        [int(d) % x.dim() for d in dims] or everything,
        1 if correction is None else correction,
        keepdim,
    )


def _attention(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """Scaled dot-product attention whose own scale counts the channels that are left."""
    args, kwargs, query = _first(args, kwargs, "query")
    if kwargs.get("scale") is None:
        count = _shaped(query, gate).sum()
        kwargs = {**kwargs, "scale": 1.0}
        query = query * count.rsqrt()
    return func(query * _shaped(query, gate), *args, **kwargs)


def _neighbours(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """A convolution that slides over channels: over those that are left."""
    args, kwargs, x = _first(args, kwargs)
    x = x * _shaped(x, gate)
    [(dim, values)] = gate.items()
    kept = values.nonzero()[:, 0]
    out = func(x.index_select(dim, kept), *args, **kwargs)
    return _spread(out, dim, kept, len(values))


def _parts(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """A split into equal parts of the channels that are left.

    `gate` has the dimension that is split, and beyond the last one that of the parts.
    """
    args, kwargs, x = _first(args, kwargs)
    given, made = sorted(gate)
    kept = gate[given].nonzero()[:, 0]
    count = len(func(x, *args, **kwargs))
    parts = torch.chunk(x.index_select(given, kept), count, given)
    places = gate[made].nonzero()[:, 0]
    return tuple(_spread(part, given, places, len(gate[made])) for part in parts)


def _both(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """Distances and cosines of two operands, without the channels that are gone from both."""
    args, kwargs, x = _first(args, kwargs, "x1")
    args, kwargs, y = _first(args, kwargs, "x2")
    theirs = {dim - x.dim() + y.dim(): values for dim, values in gate.items()}
    return func(x * _shaped(x, gate), y * _shaped(y, theirs), *args, **kwargs)


def _spread(small: Tensor, dim: int, places: Tensor, size: int) -> Tensor:
    """Put what was computed with fewer channels at their places, zeros elsewhere."""
    if len(places) == size:
        return small
    shape = [size if d == dim else s for d, s in enumerate(small.shape)]
    return small.new_zeros(shape).index_copy(dim, places, small)


def _largest(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """A maximum or softmax over the channels that are left: no others weigh anything."""
    args, kwargs, x = _first(args, kwargs)
    return func(x + _shaped(x, gate).log(), *args, **kwargs)


def _smallest(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """A minimum over the channels that are left."""
    args, kwargs, x = _first(args, kwargs)
    return func(x - _shaped(x, gate).log(), *args, **kwargs)


def _standard(x: Tensor, weights: Tensor, dims: list[int], eps: float) -> Tensor:
    weights = weights.expand_as(x)
    count = weights.sum(dims, keepdim=True)
    mean = (x * weights).sum(dims, keepdim=True) / count
    variance = (weights * (x - mean) ** 2).sum(dims, keepdim=True) / count
    return (x - mean) * (variance + eps).rsqrt()


def _squeezed(value: Tensor, dims: list[int]) -> Tensor:
    for dim in sorted(dims, reverse=True):
        value = value.squeeze(dim)
    return value


def _first(args: Any, kwargs: Any, name: str = "input") -> tuple[Any, dict[str, Any], Tensor]:
    """Take the first operand out of a call."""
    if args:
        return args[1:], kwargs, args[0]
    rest = dict(kwargs)
    return (), rest, rest.pop(name)


def _einsum(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """`einsum`, whose first operand stands behind the equation."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    operands[0] = operands[0] * _shaped(operands[0], gate)
    return func(equation, *operands, **kwargs)


def _added(func: Any, args: Any, kwargs: Any, gate: Gate) -> Any:
    """`addmm` and `baddbmm`, whose first factor is the second argument."""
    factor = args[1] * _shaped(args[1], gate)
    return func(args[0], factor, *args[2:], **kwargs)


KINDS: dict[str, Callable[[Any, Any, Any, Gate], Any]] = {
    "zero": _zero,
    "mean": _mean,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "moments": _moments,
    "attention": _attention,
    "neighbours": _neighbours,
    "parts": _parts,
    "both": _both,
    "largest": _largest,
    "smallest": _smallest,
    "softmax": _largest,
    "einsum": _einsum,
    "added": _added,
}
