"""Refuse networks, batches and numbers that cannot be used, and say what is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ModelError, PruneError
from alprune.pruning.criteria.base import Batch, all_finite
from alprune.pruning.graph.surgery import refuse_exported, unwrap
from alprune.pruning.inputs import Inputs, Part, packed, parts_of
from alprune.pruning.option_values import check_count


def as_batches(
    batch: tuple[Inputs, Tensor] | Sequence[tuple[Inputs, Tensor]],
) -> tuple[list[Batch], tuple[Part, ...]]:
    """Return the pruning batches, one or several, as a list of pairs of one tensor and labels.

    Returns:
        The pairs, several inputs laid side by side, and how to take them apart; () for one.

    Raises:
        PruneError: They are not pairs of inputs and labels, or the inputs are not finite.
    """
    given: list[Any] = list(batch) if isinstance(batch, Sequence) else [batch]
    one = len(given) == 2 and isinstance(given[1], Tensor)
    pairs = [tuple(given)] if one else given
    if not pairs or not all(_is_batch(pair) for pair in pairs):
        raise PruneError(
            "the pruning batch must be inputs (b, ...) and labels (b,) with b >= 2, or several "
            f"such pairs; got {_shapes(pairs)}. Several inputs are a tuple, or a dict by the names "
            "of the arguments."
        )
    parts = parts_of(pairs[0][0])
    for inputs, _ in pairs:
        if parts_of(inputs) != parts:
            raise PruneError("the pruning batches differ in the names, shapes or types of inputs.")
        for x in _several(inputs):
            bad = int((~torch.isfinite(x)).sum())
            if bad:
                raise PruneError(
                    f"{bad} of {x.numel()} numbers in the pruning batch's inputs are not finite. "
                    "Clean the data, or check its normalisation (a deviation of 0?)."
                )
    # What was made in inference mode cannot be differentiated through; a copy can.
    whole = [(packed(inputs), labels) for inputs, labels in pairs]
    return [(_owned(inputs), _owned(labels)) for inputs, labels in whole], parts


def _owned(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x


def _several(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {name: _shapes(part) for name, part in value.items()}
    return [_shapes(part) for part in value] if isinstance(value, list | tuple) else value


def checked_model(model: nn.Module) -> nn.Module:
    """Remove wrappers; refuse what is not a network, and weights that are not finite."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"the model must be an nn.Module, built and ready to run; got {what}.")
    model = unwrap(model)
    refuse_exported(model)
    lazy = [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise ModelError(
            f"{len(lazy)} weights have no shape yet, {lazy[0]!r} first: their layers are lazy. Run "
            "the network once, model(inputs), before it is pruned."
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue  # tracing names these
        if not all_finite(parameter.detach()):
            raise PruneError(
                f"weight {name!r} holds numbers that are not finite; nothing can be scored with "
                "it. Re-initialise the network, or load it again."
            )
    return model


def check_numbers(reductions: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Refuse shares that are not numbers and counts that are not whole numbers."""
    for name, value in reductions.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PruneError(f"{name} must be a number in [0, 1), got {value!r}.")
    for name, value in counts.items():
        check_count(name, value, 1)


def _is_batch(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    inputs, labels = _several(pair[0]), pair[1]
    if not inputs or not all(isinstance(x, Tensor) for x in (*inputs, labels)):
        return False
    if isinstance(pair[0], Tensor) and pair[0].ndim < 2:
        return False
    if isinstance(pair[0], Mapping) and not all(isinstance(name, str) for name in pair[0]):
        return False
    return all(x.ndim and len(x) >= 2 and labels.shape == x.shape[:1] for x in inputs)
