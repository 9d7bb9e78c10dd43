"""What a network costs: parameters, multiply-accumulates, bytes, measured latency."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass of one example.

    Attributes:
        params: Parameters, frozen ones included, shared ones once.
        macs: Multiply-accumulates of convolutions, linear layers and recurrent layers.
        bytes: Of the state file without its header: parameters and persistent buffers (such as
            BatchNorm's running statistics) in the precision they have.
        by_layer: Multiply-accumulates of every layer that ran, by module name.
        uncounted: Modules that own a weight matrix that no rule counted: of an unknown kind, or
            not run as a module (attention reads its projections' weights itself).
    """

    params: int
    macs: int
    bytes: int
    by_layer: dict[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x `macs`."""
        return 2 * self.macs


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Count what one example costs, by one forward pass in eval mode.

    Counted are the products with a weight: convolutions of every kind, grouped and transposed,
    `Linear`, and `RNN` / `GRU` / `LSTM` with their cells. As in the papers, biases,
    normalisation, activations, pooling, and products of two activations are not. thop, the
    counter of the 3SP paper, counts convolutions and linear layers alike, ReLU and max-pooling
    as nothing, and adds 4 an element for BatchNorm, average pooling's sums, and a recurrent
    layer's biases and elementwise work: for VGG-19 it says 401,974,272, 0.3% more than here.
    torch.utils.flop_counter says exactly `flops` for networks of convolutions and linear layers.

    Args:
        model: Left as found: mode, buffers, gradients, hooks.
        example: `(b, ...)` on the model's device; only the first is used.

    Returns:
        The cost of one example, whatever `b`.
    """
    by_layer: dict[str, int] = {}
    handles = []
    try:
        for name, module in model.named_modules():
            rule = _rule(module)
            if rule is not None:
                hook = _counter(name, rule, by_layer)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        with forward_only(model):
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    stored = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=sum(by_layer.values()),
        bytes=sum(t.numel() * t.element_size() for t in stored.values()),
        by_layer=by_layer,
        uncounted=tuple(
            name
            for name, module in model.named_modules()
            if name not in by_layer and not isinstance(module, nn.Embedding) and _has_matrix(module)
        ),
    )


def latency_ms(model: nn.Module, example: Tensor, repeats: int = 30, warmup: int = 5) -> float:
    """Measure one forward pass in eval mode: the median of `repeats`, in milliseconds.

    Args:
        model: Left as found.
        example: `(b, ...)` on the model's device; the whole batch is one pass.
        repeats: Passes measured, at least 1. On CUDA by events on the stream, elsewhere by the
            clock.
        warmup: Passes before, not measured.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    timer = _cuda_pass_ms if example.device.type == "cuda" else _pass_ms
    with forward_only(model):
        for _ in range(warmup):
            model(example)
        return statistics.median(timer(model, example) for _ in range(repeats))


@contextmanager
def forward_only(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is restored on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _pass_ms(model: nn.Module, example: Tensor) -> float:
    start = time.perf_counter()
    model(example)
    if example.device.type != "cpu":
        torch.accelerator.synchronize(example.device)
    return 1e3 * (time.perf_counter() - start)


def _cuda_pass_ms(model: nn.Module, example: Tensor) -> float:
    with torch.cuda.device(example.device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        model(example)
        end.record()
        end.synchronize()
    return start.elapsed_time(end)


Rule = Callable[[Any, Tensor, Tensor], int]
"""`(module, its input, its output) -> multiply-accumulates`."""


def _rule(module: nn.Module) -> Rule | None:
    if isinstance(module, (*_CONVS, nn.Linear)):
        return _made_by_weight
    if isinstance(module, _TRANSPOSED):
        return _spread_by_weight
    if isinstance(module, nn.RNNBase):
        return _recurrent
    if isinstance(module, nn.RNNCellBase):
        return _recurrent_cell
    return None


def _made_by_weight(module: Any, x: Tensor, out: Tensor) -> int:
    # Each output position of all channels together takes the whole weight once, groups or not.
    return out.numel() // module.weight.shape[0] * module.weight.numel()


def _spread_by_weight(module: Any, x: Tensor, out: Tensor) -> int:
    return x.numel() // module.weight.shape[0] * module.weight.numel()


def _recurrent(module: nn.RNNBase, x: Any, out: Any) -> int:
    # A packed sequence holds its data as (steps of all sequences, features).
    data = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
    return data.numel() // data.shape[-1] * _matrices(module)


def _recurrent_cell(module: nn.RNNCellBase, x: Tensor, out: Any) -> int:
    return x.numel() // x.shape[-1] * _matrices(module)


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False) if p.dim() == 2)


def _has_matrix(module: nn.Module) -> bool:
    return any(p.dim() >= 2 for p in module.parameters(recurse=False))


def _counter(name: str, rule: Rule, by_layer: dict[str, int]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        by_layer[name] = by_layer.get(name, 0) + rule(module, x, out)

    return hook
