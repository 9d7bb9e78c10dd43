"""Find the channels of any model: which leave together, who makes and who reads them."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from alprune.errors import ModelError
from alprune.pruning.graph.build import assemble
from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned
from alprune.pruning.graph.rules_elementwise import ALWAYS, RULES
from alprune.pruning.graph.surgery import copied, registered, unwrap
from alprune.pruning.graph.tracer import Tracer
from alprune.pruning.graph.verify import faults, run

__all__ = ["ChannelGraph", "ChannelTensor", "Group", "Pinned", "trace"]


@torch.inference_mode(False)
def trace(model: nn.Module, example: Tensor, verify: bool = True) -> ChannelGraph:
    """Find the prunable channels of a model by one forward pass in evaluation mode.

    Grouped convolutions are coupled by whole groups, or the i-th channels of all groups,
    whichever leaves more to prune. The pass runs on a copy that shares the parameters, so mode,
    gradients, buffers and hooks of `model`, and the global random state, are left as they are.

    One pass shows one path. Branching on shapes, modes and settings is fine: the narrowed model
    takes the same path. A forward that reads values of the input or of activations into Python
    (`if x.mean() > 0`, `.item()`, `.tolist()`) may take another path on another input, and is
    refused; `isnan`, `isinf` and `isfinite` may be asked, and PyTorch's own layers and hooks on
    them may read. Layers that did not run are left whole and reported as pinned, unless tensors
    are sized by values (boolean indices, `nonzero`) or go through numpy, as in routing: then
    another input may reach those layers, and the forward is refused as well. Where an auxiliary
    layer runs only in training, a second pass in train mode follows it.

    Args:
        model: Any module from one tensor to a tensor, or to a tuple, list or dict of tensors.
        example: `(b, ...)`, a small batch; at most its first two examples are used.
        verify: Also remove a channel of every group and compare with the masked model; what
            fails is pinned with the reason.

    Returns:
        The channel graph. It may be empty; `pinned` then says why.

    Raises:
        ModelError: The model cannot be copied, fails on the example, or branches on the values
            of its input.
    """
    model = unwrap(model)
    example = _checked(model, example)
    tracer = _traced(model, example)
    graph = _graph(tracer, model, example, verify)
    if tracer.grouped:
        other = _graph(_traced(model, example, symmetric=True), model, example, verify)
        graph = other if other.channels > graph.channels else graph
    idle = tuple(Pinned(name, "never ran on the example") for name in tracer.idle())
    dtype = str(example.dtype).removeprefix("torch.")
    return replace(graph, pinned=graph.pinned + idle, example_dtype=dtype)


def _graph(tracer: Tracer, model: nn.Module, example: Tensor, verify: bool) -> ChannelGraph:
    shape, batch = tuple(example.shape[1:]), example.shape[0]
    graph, nodes = assemble(tracer, model, shape, batch)
    blamed = faults(model, example, graph) if verify and graph.channels else {}
    for group, reason in blamed.items():
        tracer.nodes.pin(nodes[graph.groups[group].channels], reason)
    return assemble(tracer, model, shape, batch)[0] if blamed else graph


def _checked(model: nn.Module, example: Any) -> Tensor:
    if not isinstance(example, Tensor) or example.dim() < 1 or example.shape[0] < 1:
        got = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ModelError(f"the example must be a tensor (b, ...) with b >= 1, got {got}.")
    for name, tensor in registered(model).items():
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{name!r} is not initialised: run one forward pass first.")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError("TorchScript modules cannot be traced: give the plain module.")
    return example[:2].detach()


def _traced(model: nn.Module, example: Tensor, symmetric: bool = False) -> Tracer:
    """Run the forward pass of a copy that shares the parameters, and follow its channels."""
    probe = copied(model, {id(p): p for p in model.parameters()}).eval()
    tracer = Tracer(probe, RULES, ALWAYS, symmetric)
    _watch_modules(probe, tracer)
    _follow_forward(tracer, probe, example)
    if tracer.untouched():  # auxiliary heads, say, that only run in training
        tracer.counting = False
        with contextlib.suppress(ModelError):  # a batch of two can be too small for training
            _follow_forward(tracer, probe.train(), example)
    _refuse_branches(tracer, type(model).__name__)
    return tracer


def _refuse_branches(tracer: Tracer, name: str) -> None:
    if tracer.decided:
        raise ModelError(
            f"{name}'s forward reads values that stem from its input into Python "
            f"({tracer.decided}), so it may branch on them, and one pass shows only one branch. "
            "Compute both branches and choose with torch.where, or take such checks and logging "
            "(also in hooks) out while pruning; branching on shapes is fine."
        )
    if tracer.sized and tracer.idle():
        raise ModelError(
            f"{name}'s forward uses values that stem from its input beyond tensors of fixed size "
            f"({tracer.sized}), and {', '.join(tracer.idle()[:3])} did not run on the example: "
            "another input may reach it. Give an example that runs every layer, or run all and "
            "choose with torch.where."
        )


def _follow_forward(tracer: Tracer, probe: nn.Module, example: Tensor) -> None:
    tracer.stem(example)
    with tracer:
        out = run(probe, example)
    leaves = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    if not leaves:
        raise ModelError(
            f"{type(probe).__name__} returned {type(out).__name__}; expected a tensor, or a "
            "tuple, list or dict of tensors."
        )
    for leaf in leaves:
        tracer.pin(leaf, "output of the model")


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
