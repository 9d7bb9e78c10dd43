"""What a network costs: parameters, multiply-accumulates, measured latency."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass of one example.

    Attributes:
        params: Parameters, frozen ones included, shared ones once.
        macs: Multiply-accumulates of all products: of an activation with a weight, whatever
            layer or function uses it, and of two activations, as in attention.
        by_layer: Multiply-accumulates by the name of the module that ran them itself, ""
            for the network's own forward; they add up to `macs`.
    """

    params: int
    macs: int
    by_layer: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x `macs`."""
        return 2 * self.macs


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Count what one example costs, by one forward pass in eval mode.

    Counted is what `torch.utils.flop_counter` counts: convolutions of every kind, matrix products
    and attention; and, beyond it, recurrent layers, bilinear forms and deformable convolutions,
    whose kernels it does not know. As in the papers, biases, normalisation, activations and
    pooling are not.

    Args:
        model: Left as found: mode, buffers, gradients, hooks.
        example: `(b, ...)` on the model's device; only the first is used.

    Returns:
        The cost of one example, whatever `b`.
    """
    by_layer = _macs_by_layer(model, example[:1])
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=sum(by_layer.values()),
        by_layer=by_layer,
    )


def _macs_by_layer(model: nn.Module, example: Tensor) -> dict[str, int]:
    found: dict[str, int] = {}
    running = [""]
    counted = 0

    def charge() -> None:
        nonlocal counted
        if (now := total()) > counted:
            found[running[-1]] = found.get(running[-1], 0) + now - counted
            counted = now

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            charge()
            running.append(name)

        return hook

    def leave(*_: Any) -> None:
        charge()
        running.pop()

    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; what it runs counts for the module around it
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
        with forward_only(model), counting_macs(model) as total:
            model(example)
            charge()
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def counting_macs(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count what forward passes of a model cost within this context.

    Yields:
        A function that returns the multiply-accumulates so far.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_beyond_torchs())
    with _frozen(model), _in_plain_operations(), counter:
        yield lambda: counter.get_total_flops() // 2


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require gradients.

    The counter hooks the gradients of what modules are given, and fails on a parameter, such as
    the queries of a decoder, where none are computed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _in_plain_operations() -> Iterator[None]:
    """Run attention and compiled parts as the plain products that the counter knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _recurrent(x: Sequence[int], *weights: Any, **_: Any) -> int:
    """Count one layer and direction of `mkldnn_rnn_layer`: rows by both matrices."""
    return 2 * prod(x[:-1]) * sum(prod(w) for w in weights[:2])


def _recurrent_cudnn(x: Sequence[int], weights: Sequence[Any], *_: Any, **__: Any) -> int:
    return 2 * prod(x[:-1]) * sum(prod(w) for w in weights if len(w) == 2)


def _trilinear(*given: Any, **_: Any) -> int:
    """Count a bilinear form: every element of the three factors, laid out side by side."""
    factors, places = [list(shape) for shape in given[:3]], given[3:6]
    for shape, at in zip(factors, places, strict=True):
        for dim in sorted(at):
            shape.insert(dim, 1)
    return 2 * prod(max(sizes) for sizes in zip(*factors, strict=True))


def _deformable(_x: Any, weight: Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def _beyond_torchs() -> dict[Any, Any]:
    known = dict(_BEYOND_TORCHS)
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # once torchvision is imported
        known[torch.ops.torchvision.deform_conv2d] = _deformable
    return known


_BEYOND_TORCHS: dict[Any, Any] = {
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._cudnn_rnn: _recurrent_cudnn,
    torch.ops.aten._trilinear: _trilinear,
}


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
    """Eval mode without gradients; modes and attributes of modules are restored on leaving."""
    with keeping_modes(model), keeping_state(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Restore every module's own mode on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def keeping_state(model: nn.Module) -> Iterator[None]:
    """Restore what a forward may change, on leaving: attributes and buffers.

    Lazy layers, to which their first forward gives a shape, and layers that it builds stay as it
    leaves them.
    """
    modules = [module for module in model.modules() if not _is_lazy(module)]
    before = {module: _attributes(module) for module in modules}
    scripted = torch.jit.ScriptModule  # cannot take other buffers
    buffers = [(m, dict(m._buffers)) for m in before if not isinstance(m, scripted)]
    values = [(b, b.detach().clone()) for m in modules for b in m.buffers(recurse=False)]
    filled: list[tuple[Any, Any]] = [
        (value, value.copy())
        for attributes in before.values()
        for value in attributes.values()
        if isinstance(value, dict | list | set)
    ]
    try:
        yield
    finally:
        for module, attributes in before.items():
            for name in _attributes(module).keys() - attributes.keys():
                delattr(module, name)
            built = {*module._modules.keys(), *module._parameters.keys()}
            vars(module).update({k: v for k, v in attributes.items() if k not in built})
        for module, registered in buffers:
            module._buffers.clear()
            module._buffers.update(registered)
        with torch.no_grad():
            for buffer, content in values:
                if buffer.shape == content.shape:
                    buffer.copy_(content)
                else:  # as observers of ranges, which take the size of what they see
                    buffer.data = content
        for container, content in filled:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Restore on leaving what a forward writes into its own parameters.

    Teachers that average a student's weights do so, and layers that mask or clip their own.
    """
    before = [(p, p.detach().clone()) for p in model.parameters() if not p.is_meta]
    try:
        yield
    finally:
        for parameter, content in before:
            if not torch.equal(parameter, content):
                parameter.data.copy_(content)


def _is_lazy(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(nn.parameter.is_lazy(tensor) for tensor in own)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training"
    }


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
