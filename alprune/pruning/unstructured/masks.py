"""Unstructured baselines: score every weight, mask the least, train with the mask kept.

Only the weights of convolutions, linear and recurrent layers are scored and masked; biases,
normalisation and embeddings never are, as in the papers. Masked weights save no time and no
memory: every product is still computed, with zeros. Their use here is comparison.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alprune.errors import PruneError
from alprune.models.copies import copy_network
from alprune.models.load_state import load_state

_SINGLE = nn.modules.conv._ConvNd | nn.Linear


def maskable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the maskable weights by state-dict name, masks applied.

    A weight that several layers share appears once, under its first name.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module, attribute in _weight_slots(model):
        if id(_stored(module, attribute)) not in seen:
            seen.add(id(_stored(module, attribute)))
            found[_join(prefix, attribute)] = _effective(module, attribute)
    return found


def weight_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep the weights of the largest scores, over all layers together.

    Exactly `n - round(sparsity * n)` of the n weights stay. Among equal scores the earlier
    weight stays: earlier in the mapping, then in memory order.

    Args:
        scores: `{weight name: tensor like the weight}`, larger is kept, all finite.
        sparsity: Share of the weights to mask, in [0, 1).

    Returns:
        `{weight name: bool tensor}`, True where the weight stays. A layer that loses every
        weight is named in a `UserWarning`: the network may have fallen apart there.

    Raises:
        PruneError: The sparsity is out of range or keeps no weight, or a score is not finite.

    Source: equation 7 of Lee et al. 2019.
    """
    check_sparsity(sparsity)
    if not scores:
        raise PruneError("no scores: the model has no convolution, linear or recurrent weight.")
    flat = torch.cat([score.flatten() for score in scores.values()])
    if not torch.isfinite(flat).all():
        bad = [name for name, score in scores.items() if not torch.isfinite(score).all()]
        raise PruneError(f"scores of {', '.join(bad)} are not finite; a ranking needs finite ones.")
    kept = flat.numel() - round(sparsity * flat.numel())
    if kept < 1:
        raise PruneError(
            f"sparsity {sparsity:g} keeps none of {flat.numel()} weights. Lower it, to at most "
            f"{1 - 1 / flat.numel():g}."
        )
    parts = largest(flat, kept).split([score.numel() for score in scores.values()])
    masks = {
        name: part.view(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }
    emptied = [name for name, mask in masks.items() if not mask.any()]
    if emptied:
        warnings.warn(
            f"sparsity {sparsity:g} masks every weight of {', '.join(emptied)}.", stacklevel=2
        )
    return masks


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Copy a model and keep some of its weights at exactly zero, whatever the optimiser does.

    The gradient of a masked weight is zero too. Convolutions, linear layers and recurrent cells
    are parametrised with a `Mask`; `nn.RNN`, `nn.LSTM` and `nn.GRU`, whose weights PyTorch keeps
    in a second list, swap masked weights in for the length of a forward pass. Saves no time.

    Args:
        model: Left as found.
        masks: `{weight name: bool tensor like the weight}`, True where the weight stays. Names
            are those of `maskable_weights(model)`; weights without a mask stay dense.

    Returns:
        A copy that trains, deep-copies and round-trips through `state_dict` (see `load_masked`).
        Build its optimiser afterwards. `bake_masks` turns it back into a plain model.

    Raises:
        PruneError: A mask fits no weight, or the model is masked already.
    """
    found = maskable_weights(model)
    _refuse_masked(model)
    for name, mask in masks.items():
        if name not in found:
            raise PruneError(f"no weight {name!r} to mask; maskable: {', '.join(found)}.")
        if mask.dtype != torch.bool or mask.shape != found[name].shape:
            raise PruneError(
                f"the mask of {name!r} must be bool of shape {tuple(found[name].shape)}, got "
                f"{mask.dtype} of {tuple(mask.shape)}."
            )
    model = copy_network(model)
    sharers = defaultdict(list)
    for prefix, module, attribute in _weight_slots(model):
        sharers[id(_stored(module, attribute))].append((prefix, module, attribute))
    for slots in sharers.values():
        prefix, module, attribute = slots[0]
        if _join(prefix, attribute) not in masks:
            continue
        weight = _stored(module, attribute)
        mask = masks[_join(prefix, attribute)].to(weight.device)
        with torch.no_grad():
            weight.masked_fill_(~mask, 0)
        for _, module, attribute in slots:
            _mask_weight(module, attribute, mask)
    return model


def with_masks_of(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a plain model, with the masks that a masked model's state dict holds."""
    masks = {}
    for name in maskable_weights(model):
        prefix, _, attribute = name.rpartition(".")
        for key in (f"parametrizations.{attribute}.0.mask", f"{attribute}_mask"):
            if _join(prefix, key) in state:
                masks[name] = state[_join(prefix, key)]
    return apply_masks(model, masks)


def load_masked(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load the state dict of a masked model, masks included, into a copy of the plain model.

    Args:
        model: The unmasked network, as its builder makes it; left as found.
        state: `masked.state_dict()`, for example from `torch.load(..., weights_only=True)`.
    """
    masked = with_masks_of(model, state)
    load_state(masked, state)
    return masked


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of a masked model by weight, as `apply_masks` takes them."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module, attribute in _weight_slots(model):
        mask = module._buffers.get(f"{attribute}_mask")
        if parametrize.is_parametrized(module, attribute):
            first = module.parametrizations[attribute][0]  # type: ignore[index, union-attr]
            mask = first.mask if isinstance(first, Mask) else None
        if mask is not None and id(mask) not in seen:  # shared weights have one
            seen.add(id(mask))
            found[_join(prefix, attribute)] = mask
    return found


def bake_masks(model: nn.Module) -> nn.Module:
    """Copy a masked model into a plain one, its masked weights zero but free to change.

    Export, narrow or share the result: its state dict has the names of the unmasked model.
    """
    model = copy_network(model)
    baked: dict[nn.Parameter, nn.Parameter] = {}  # shared weights stay shared
    for module in list(model.modules()):
        if isinstance(module, nn.RNNBase):
            _bake_recurrent(module)
        elif isinstance(module, _SINGLE | nn.RNNCellBase) and parametrize.is_parametrized(module):
            _bake_parametrized(module, baked)
    return model


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise PruneError(
            f"sparsity must be at least 0 and less than 1, got {sparsity:g}: 0.9 masks 90% of "
            "the weights."
        )


class Mask(nn.Module):
    """A parametrisation that reads a weight as zero wherever its mask is False."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight, same shape, masked."""
        return torch.where(self.mask, weight, 0)


def scorable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return `maskable_weights(model)`, as parameters, of a model that is not masked yet."""
    found = maskable_weights(model)
    if not found:
        raise PruneError(
            "nothing to score: the model has no convolution, linear or recurrent weight."
        )
    _refuse_masked(model)
    return found


def largest(values: Tensor, count: int) -> Tensor:
    """Mark the `count` largest of `(n,)` as `(n,)` bool, the earlier among equals, in O(n)."""
    threshold = values.kthvalue(values.numel() - count + 1).values
    chosen = values > threshold
    ties = torch.nonzero(values == threshold)[:, 0]
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def _weight_slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (module name, module, attribute) of every maskable weight."""
    for prefix, module in model.named_modules():
        if isinstance(module, _SINGLE):
            yield prefix, module, "weight"
        elif isinstance(module, nn.RNNCellBase):
            yield prefix, module, "weight_ih"
            yield prefix, module, "weight_hh"
        elif isinstance(module, nn.RNNBase):
            for attribute in [name for name in module._parameters if name.startswith("weight")]:
                yield prefix, module, attribute


def _stored(module: nn.Module, attribute: str) -> nn.Parameter:
    """Return the parameter behind a weight, below its parametrisation if it has one."""
    if not parametrize.is_parametrized(module, attribute):
        return module.get_parameter(attribute)
    originals = [*module.parametrizations[attribute].parameters(recurse=False)]  # type: ignore[index, union-attr]
    if len(originals) != 1:
        raise PruneError(
            f"the {attribute} of a {type(module).__name__} is computed from {len(originals)} "
            "parameters, as with weight_norm, and a mask needs a weight that is stored. Take that "
            "off (torch.nn.utils.parametrize.remove_parametrizations), or choose a method that "
            "removes channels."
        )
    return originals[0]


def _effective(module: nn.Module, attribute: str) -> Tensor:
    weight = getattr(module, attribute)
    mask = module._buffers.get(f"{attribute}_mask")
    return weight if mask is None else torch.where(mask, weight, 0)


def _refuse_masked(model: nn.Module) -> None:
    for prefix, module, attribute in _weight_slots(model):
        if parametrize.is_parametrized(module) or f"{attribute}_mask" in module._buffers:
            raise PruneError(
                f"{_join(prefix, attribute)!r} is masked or parametrised already. Call "
                "bake_masks(model) first, or start from the plain model."
            )


def _mask_weight(module: nn.Module, attribute: str, mask: Tensor) -> None:
    if not isinstance(module, nn.RNNBase):
        parametrize.register_parametrization(module, attribute, Mask(mask))
        return
    module.register_buffer(f"{attribute}_mask", mask)
    if _swap_in not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_swap_in)
        module.register_forward_hook(_swap_out, always_call=True)


def _swap_in(module: nn.Module, inputs: Any) -> None:
    """Stand masked weights in for the stored ones; `nn.RNNBase.forward` notices the change."""
    stored = {f"{name}_mask": (name, weight) for name, weight in module._parameters.items()}
    module.__dict__["_unmasked"] = {}
    for key, mask in module._buffers.items():
        if mask is not None and key in stored:
            name, weight = stored[key]
            module.__dict__["_unmasked"][name] = weight
            module._parameters[name] = torch.where(mask, weight, 0)  # type: ignore


def _swap_out(module: nn.Module, inputs: Any, output: Any) -> None:
    for name, weight in module.__dict__.pop("_unmasked", {}).items():
        setattr(module, name, weight)  # also puts it back in the RNN's own list


def _bake_parametrized(module: nn.Module, baked: dict[nn.Parameter, nn.Parameter]) -> None:
    # Not remove_parametrizations: it edits the class, which deep copies share.
    plain = {}
    for _, _, attribute in _weight_slots(module):
        stored = _stored(module, attribute)
        if stored not in baked:
            value = getattr(module, attribute).detach().clone()
            baked[stored] = nn.Parameter(value, requires_grad=stored.requires_grad)
        plain[attribute] = baked[stored]
    rest = dict(module._parameters)
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    module._parameters.clear()
    module._parameters.update({**plain, **rest})


def _bake_recurrent(module: nn.RNNBase) -> None:
    for attribute in [name for name in module._parameters if f"{name}_mask" in module._buffers]:
        with torch.no_grad():
            getattr(module, attribute).copy_(_effective(module, attribute))
        del module._buffers[f"{attribute}_mask"]
    for key in [k for k, hook in module._forward_pre_hooks.items() if hook is _swap_in]:
        del module._forward_pre_hooks[key]
    for key in [k for k, hook in module._forward_hooks.items() if hook is _swap_out]:
        del module._forward_hooks[key]
        module._forward_hooks_always_called.pop(key, None)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
