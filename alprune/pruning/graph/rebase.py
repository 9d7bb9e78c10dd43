"""Put a narrowed network in the place of the one that is being trained."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Product
from alprune.pruning.graph.surgery import registered, unwrap


def narrow_graph(graph: ChannelGraph, keep: Tensor) -> ChannelGraph:
    """Return the channel graph of the narrowed model, without tracing it.

    Channels keep their order and are numbered anew; a group that is gone is left out.

    Args:
        graph: Of the model before.
        keep: `(N,)` bool, True where the channel stays.

    Returns:
        The graph of `narrow(model, graph, keep)`.

    Raises:
        PruneError: `keep` has another shape or dtype.
    """
    keep = graph.check(keep)
    number = torch.cat([keep.cumsum(0) - 1, torch.tensor([-1])])  # id -1 stays -1

    def ids(axis: Tensor) -> Tensor:
        return number[axis[..., graph.kept(axis, keep)]]

    groups = [Group(g.name, ids(g.channels)) for g in graph.groups]
    groups = [g for g in groups if g.channels.numel()]
    counts = torch.tensor([g.channels.numel() for g in groups], dtype=torch.int64)
    return replace(
        graph,
        tensors=tuple(
            _narrow_entry(t, {d: ids(a) for d, a in t.axes.items()}) for t in graph.tensors
        ),
        groups=tuple(groups),
        channels=int(keep.sum()),
        group_of=torch.arange(len(groups)).repeat_interleave(counts),
        makers={name: ids(axis) for name, axis in graph.makers.items()},
        sizes={key: ids(axis) for key, axis in graph.sizes.items()},
        products=tuple(Product(p.macs, tuple(map(ids, p.axes))) for p in graph.products),
        mixes=tuple(
            replace(mix, axes={d: ids(axis) for d, axis in mix.axes.items()}) for mix in graph.mixes
        ),
    )


def narrow_optimiser(
    optimiser: torch.optim.Optimizer,
    model: nn.Module,
    small: nn.Module,
    graph: ChannelGraph,
    keep: Tensor,
) -> None:
    """Let a running optimiser continue with the narrowed model, in place.

    Parameters are replaced by those of the narrowed model and what the optimiser remembers of
    each (momentum, second moments) is cut along the same channels, so the kept weights move as
    if the others had never been there. Groups, rates and schedulers stay; parameters that are
    not the model's stay too. "When to Prune" does not mention momentum: algorithm 1 just goes
    on updating the weights that remain, and so does this.

    Args:
        optimiser: Any of torch's that remembers nothing, scalars, or tensors of the shape of
            their parameter: SGD, Adam, AdamW, RMSprop and more.
        model: The model before, whose parameters the optimiser holds.
        small: `narrow(model, graph, keep)`.
        graph: Of `model`.
        keep: `(N,)` bool.

    Raises:
        PruneError: The optimiser holds none of the model's parameters, the models do not
            belong together, or its memory cannot be cut; nothing has been changed then.
    """
    keep = graph.check(keep)
    before, after = registered(unwrap(model)), registered(unwrap(small))
    entries = {id(before[t.name]): t for t in graph.tensors if t.trainable and t.name in before}
    held = [p for group in optimiser.param_groups for p in group["params"]]
    if not any(id(p) in entries for p in held):
        raise PruneError("the optimiser holds no parameter of the model it should follow.")
    swapped: dict[int, Tensor] = {}
    memory: dict[Tensor, dict[str, object]] = {}
    for parameter in held:
        entry, old = entries.get(id(parameter)), optimiser.state.get(parameter)
        if entry is None:
            new = parameter
        else:
            index = {d: _where(graph.kept(ids, keep)) for d, ids in entry.axes.items()}
            new = _counterpart(after, entry, index)
            old = old and {
                k: _cut(f"{k} of {entry.name}", v, parameter, new, index) for k, v in old.items()
            }
        swapped[id(parameter)] = new
        if old is not None:
            memory[new] = old
    for group in optimiser.param_groups:
        group["params"] = [swapped[id(p)] for p in group["params"]]
    optimiser.state.clear()
    optimiser.state.update(memory)


def _narrow_entry(tensor: ChannelTensor, axes: Mapping[int, Tensor]) -> ChannelTensor:
    shape = tuple(axes[d].shape[-1] if d in axes else size for d, size in enumerate(tensor.shape))
    live = {d: ids for d, ids in axes.items() if bool((ids >= 0).any())}
    return replace(tensor, shape=shape, axes=live, roles={d: tensor.roles[d] for d in live})


def _where(mask: Tensor) -> Tensor:
    return torch.nonzero(mask)[:, 0]


def _counterpart(
    after: Mapping[str, Tensor], entry: ChannelTensor, index: Mapping[int, Tensor]
) -> Tensor:
    found = after.get(entry.name)
    shape = tuple(len(index[d]) if d in index else size for d, size in enumerate(entry.shape))
    if found is None or tuple(found.shape) != shape:
        got = "nothing" if found is None else f"shape {tuple(found.shape)}"
        raise PruneError(
            f"{entry.name!r} should have shape {shape} in the narrowed model, got {got}. Give "
            "narrow(model, graph, keep) of the same graph and keep."
        )
    return found


def _cut(
    what: str, value: object, parameter: Tensor, new: Tensor, index: Mapping[int, Tensor]
) -> object:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != parameter.shape:
        raise PruneError(
            f"the optimiser's {what} has shape {tuple(value.shape)}, its parameter "
            f"{tuple(parameter.shape)}: it cannot be narrowed. Use SGD or Adam, or make the "
            "optimiser anew."
        )
    for dim, kept in index.items():
        value = value.index_select(dim, kept.to(value.device))
    # Fused steps walk parameter and memory side by side: both need the same strides.
    return torch.empty_like(new, dtype=value.dtype, requires_grad=False).copy_(value)
