"""Cut channels out of a model, or silence them in place."""

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from alprune.errors import ModelError, PruneError
from alprune.models.copies import empty_twins, follow_functions, keep_modes
from alprune.pruning.graph.attention import OpenAttention, open_attention
from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor
from alprune.pruning.graph.gates import attach
from alprune.pruning.graph.numbers import Numbers
from alprune.pruning.graph.sizes import get_size, set_size

_RECURRENT = {"input_size": "weight_ih", "hidden_size": "weight_hh"}


@torch.inference_mode(False)  # the copy must be trainable wherever it is made
def narrow(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> nn.Module:
    """Copy a model without the channels that are not kept.

    The copy is a plain module of the same classes: names, mode, device, dtype, memory format and
    `requires_grad` are those of `model`, gradients are not copied. It can be traced and narrowed
    again. A compiled or DataParallel wrapper is taken off.

    Args:
        model: The traced model, or another of the same architecture and sizes; left untouched.
        graph: `trace(model, example)`.
        keep: `(N,)` bool, True where the channel stays.

    Returns:
        The smaller model, with the weights of the kept channels.

    Raises:
        PruneError: `keep` has another shape or dtype, would empty a layer, or the graph belongs
            to another model.
        ModelError: The model cannot be copied.
    """
    keep = graph.check(keep)
    model = unwrap(model)
    tensors = registered(model)
    memo: dict[int, Any] = {}
    for entry in graph.tensors:
        tensor = _find(tensors, entry)
        _refuse_empty(graph, entry, keep)
        if entry.axes:
            memo[id(tensor)] = _cut(tensor, entry, graph, keep)
        elif isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = _like(tensor, tensor.detach().clone())
    small = copied(model, memo)
    if not bool(keep.all()):
        open_attention(small)
    _resize(small, graph, keep)
    modes = [(module, module.training) for module in small.modules()]
    for module, _ in modes:  # reading a weight in training moves what a spectral norm remembers
        module.training = False
    recompute(small)
    for module, training in modes:
        _resize_by_weight(module)
        module.training = training
    return small


@torch.inference_mode(False)
def masked(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> nn.Module:
    """Copy a model with the removed channels silenced where they are read.

    Its outputs, and its gradients on the kept weights, equal those of `narrow`: in evaluation
    and in training mode, random layers such as dropout aside.

    Args:
        model: The traced model; left untouched.
        graph: `trace(model, example)`.
        keep: `(N,)` bool, True where the channel stays.

    Returns:
        A copy of the same size.

    Raises:
        PruneError: `keep` has another shape or dtype, or the graph belongs to another model.
        ModelError: The model cannot be copied.
    """
    whole = copied(unwrap(model), {})
    open_attention(whole)
    silence(whole, graph, keep, _numbers(model, graph, keep) if graph.numbers else None)
    return whole


def silence(
    model: nn.Module,
    graph: ChannelGraph,
    keep: Tensor,
    numbers: Numbers | None = None,
    noted: Numbers | None = None,
) -> None:
    """Set the weights that read removed channels to zero, in place (see `masked`).

    Operations that mix channels without a weight are gated (`alprune.pruning.graph.gates`) by
    hooks that stay on the model; so are numbers, exchanged for the given ones.
    """
    keep = graph.check(keep)
    if graph.mixes or numbers is not None or noted is not None:
        attach(model, graph.mixes, keep.to(torch.get_default_dtype()), numbers, noted)
    tensors = registered(model)
    with torch.no_grad():
        for entry in graph.tensors:
            tensor = _find(tensors, entry)
            for dim in entry.dims("reads"):
                gone = torch.nonzero(~graph.kept(entry.axes[dim], keep))[:, 0]
                tensor.index_fill_(dim, gone.to(tensor.device), 0)


def _numbers(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> Numbers:
    """Run the narrowed model for the numbers that it computes from its widths."""
    small = narrow(model, graph, keep)
    found: Numbers = {}
    attach(small, (), keep, noted=found)
    weight = next(p for p in model.parameters() if p.is_floating_point())
    device = weight.device
    if getattr(torch, graph.example_dtype).is_floating_point:
        generator = torch.Generator(device).manual_seed(0)
        example = torch.randn((2, *graph.example_shape), generator=generator, device=device)
        example = example.to(weight.dtype)
    else:
        example = torch.zeros((2, *graph.example_shape), dtype=torch.int64, device=device)
    with torch.no_grad(), torch.random.fork_rng([device] if example.is_cuda else []):
        small.eval()(example)
        with contextlib.suppress(Exception):  # two examples can be too few for training
            small.train()(example)
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """Take off the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def refuse_exported(model: nn.Module) -> None:
    """Refuse TorchScript and exported programs: neither can be followed nor narrowed.

    Raises:
        ModelError: A module of the model is one.
    """
    for name, module in model.named_modules():
        where = repr(name) if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"TorchScript modules cannot be traced, and {where} is one: give the plain module."
            )
        if {"train", "eval"} & vars(module).keys():  # replaced by what raises
            raise ModelError(
                f"{where} cannot change between training and evaluation, as what torch.export "
                "made: give the module that was exported."
            )


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy a model; `memo` maps the id of an object to what stands for it in the copy.

    Raises:
        ModelError: Something in the model cannot be copied.
    """
    left = [*_recomputed(model), *computed_attributes(model).values()]
    memo.update({id(t): t.detach().clone() for t in left if id(t) not in memo})
    try:
        memo.update({k: v for k, v in empty_twins(model).items() if k not in memo})
        copied_model = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be deep-copied: {error}. Pruning works on a copy: "
            "give the model no open handles."
        ) from error
    follow_functions(copied_model, memo)
    keep_modes(model, copied_model)
    if left:  # modules clear what they cache for predicting once they train
        modes = [(module, module.training) for module in copied_model.modules()]
        copied_model.train()
        for module, training in modes:
            module.training = training
    return copied_model


def computed_attributes(model: nn.Module) -> dict[str, Tensor]:
    """Find tensors computed from parameters that modules hold as attributes, by name."""
    found = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            for tensor in tree_leaves(value) if not name.startswith("_") else ():
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    found[f"{prefix}.{name}".lstrip(".")] = tensor
    return found


def recompute(model: nn.Module) -> None:
    """Run the hooks that compute a weight before each forward, so that it has its new shape."""
    with torch.no_grad():
        for module, hook, _ in _weight_hooks(model):
            training, module.training = module.training, False  # updates no running estimate
            hook(module, ())
            module.training = training


def _weight_hooks(model: nn.Module) -> list[tuple[nn.Module, Any, str]]:
    """Find what `torch.nn.utils.weight_norm` and `torch.nn.utils.prune` leave on modules."""
    found = []
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            name = getattr(hook, "_tensor_name", getattr(hook, "name", None))
            if isinstance(name, str) and isinstance(vars(module).get(name), Tensor):
                found.append((module, hook, name))
    return found


def _recomputed(model: nn.Module) -> list[Tensor]:
    return [vars(module)[name] for module, _, name in _weight_hooks(model)]


def registered(model: nn.Module) -> dict[str, Tensor]:
    """Return `{name: parameter or buffer}`; a shared one stands once, under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _find(tensors: Mapping[str, Tensor], entry: ChannelTensor) -> Tensor:
    tensor = tensors.get(entry.name)
    if tensor is None or tuple(tensor.shape) != entry.shape:
        got = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise PruneError(
            f"the graph belongs to another model: {entry.name!r} of shape {entry.shape} there "
            f"{got} here. Trace this model."
        )
    return tensor


def _refuse_empty(graph: ChannelGraph, entry: ChannelTensor, keep: Tensor) -> None:
    for ids in entry.axes.values():
        if not bool(graph.kept(ids, keep).any()):
            layer = entry.name.rpartition(".")[0] or entry.name
            group = graph.groups[int(graph.group_of[ids.view(-1)[0]])].name
            raise PruneError(
                f"group {group!r} would keep 0 of {ids.shape[-1]} channels of layer {layer!r}. "
                "Prune less, or raise the number of channels that every layer keeps."
            )


def _cut(tensor: Tensor, entry: ChannelTensor, graph: ChannelGraph, keep: Tensor) -> Tensor:
    small = tensor.detach()
    for dim, ids in entry.axes.items():
        index = torch.nonzero(graph.kept(ids, keep))[:, 0]
        small = small.index_select(dim, index.to(small.device))
    for layout, rank in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.dim() == rank and not tensor.is_contiguous():
            if tensor.is_contiguous(memory_format=layout):
                small = small.contiguous(memory_format=layout)
    return _like(tensor, small)


def _like(tensor: Tensor, data: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data.requires_grad_(tensor.requires_grad) if data.is_floating_point() else data


def _resize(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> None:
    """Bring the size attributes in line with the tensors."""
    for (name, attribute), ids in graph.sizes.items():
        module = model.get_submodule(name)
        if get_size(module, attribute) == ids.shape[-1]:
            set_size(module, attribute, int(graph.kept(ids, keep).sum()))


def _resize_by_weight(module: nn.Module) -> None:
    if isinstance(module, _ConvNd):
        outer, inner = module.weight.shape[:2]
        transposed = isinstance(module, _ConvTransposeNd)
        sizes = (outer, inner * module.groups) if transposed else (inner * module.groups, outer)
        module.in_channels, module.out_channels = sizes
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.RNNBase):
        kinds = ("ih", "hh", "hr") if module.proj_size else ("ih", "hh")
        widths = [getattr(module, f"weight_{kind}_l0").shape[1] for kind in kinds]
        module.input_size, *returned, module.hidden_size = widths
        if returned:
            [module.proj_size] = returned
        module.flatten_parameters()
    elif isinstance(module, OpenAttention):
        module.embed_dim = module.out_proj.weight.shape[0]
    elif isinstance(module, nn.RNNCellBase):
        for name in ("input_size", "hidden_size"):
            setattr(module, name, getattr(module, _RECURRENT[name]).shape[1])
