"""Find the channels of any model: which leave together, who makes and who reads them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from alprune.errors import ModelError
from alprune.prune.build import assemble
from alprune.prune.graph import ChannelGraph, ChannelTensor, Group, Pinned
from alprune.prune.rules import ALWAYS, RULES
from alprune.prune.surgery import copied, registered, unwrap
from alprune.prune.tracer import Tracer

__all__ = ["ChannelGraph", "ChannelTensor", "Group", "Pinned", "trace"]


def trace(model: nn.Module, example: Tensor, verify: bool = True) -> ChannelGraph:
    """Find the prunable channels of a model by one forward pass in evaluation mode.

    The pass runs on a copy that shares the parameters, so mode, gradients, buffers and hooks of
    `model`, and the global random state, are left as they are.

    Args:
        model: Any module from one tensor to a tensor, or to a tuple, list or dict of tensors.
        example: `(b, ...)`, a small batch; at most its first two examples are used.
        verify: Also remove a channel of every group and compare with the masked model; what
            fails is pinned with the reason.

    Returns:
        The channel graph. It may be empty; `pinned` then says why.

    Raises:
        ModelError: The model cannot be copied, or fails on the example.
    """
    model = unwrap(model)
    example = _checked(model, example)
    tracer = _traced(model, example)
    shape = tuple(example.shape[1:])
    graph, _ = assemble(tracer, model, shape, example.shape[0])
    return graph


def _checked(model: nn.Module, example: Any) -> Tensor:
    if not isinstance(example, Tensor) or example.dim() < 1 or example.shape[0] < 1:
        got = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ModelError(f"the example must be a tensor (b, ...) with b >= 1, got {got}.")
    for name, tensor in registered(model).items():
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ModelError(f"{name!r} is not initialised: run one forward pass first.")
    return example[:2].detach()


def _traced(model: nn.Module, example: Tensor, symmetric: bool = False) -> Tracer:
    """Run the forward pass of a copy that shares the parameters, and follow its channels."""
    probe = copied(model, {id(p): p for p in model.parameters()}).eval()
    tracer = Tracer(probe, RULES, ALWAYS, symmetric)
    _watch_modules(probe, tracer)
    with tracer:
        out = run(probe, example)
    leaves = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    if not leaves:
        raise ModelError(f"{type(model).__name__} returned {type(out).__name__}, not a tensor.")
    for leaf in leaves:
        tracer.nodes.pin(tracer.labels(leaf), "output of the model")
    return tracer


def run(model: nn.Module, example: Tensor) -> Any:
    """Run a forward pass without gradients; the global random state stays.

    Raises:
        ModelError: The forward fails.
    """
    devices = [example.device] if example.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        try:
            return model(example)
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} fails on an example of shape {tuple(example.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _watch_modules(model: nn.Module, tracer: Tracer) -> None:
    """Let the tracer know which module is running."""
    stack: list[str] = []

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            stack.append(tracer.module)
            tracer.module = name

        return hook

    def leave(*_: Any) -> None:
        tracer.module = stack.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(leave)
