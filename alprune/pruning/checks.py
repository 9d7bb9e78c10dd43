"""Refuse what cannot be pruned, or pruned with, and say what is wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ModelError, PruneError
from alprune.pruning.criteria.base import Batch, all_finite
from alprune.pruning.graph.surgery import unwrap


def as_batches(batch: Batch | Sequence[Batch]) -> list[Batch]:
    """Return the pruning batches, one or several, as a list.

    Raises:
        PruneError: They are no pairs of inputs and labels, or the inputs are not finite.
    """
    given: list[Any] = list(batch) if isinstance(batch, Sequence) else [batch]
    batches = [tuple(given)] if len(given) == 2 and isinstance(given[0], Tensor) else given
    if not batches or not all(_is_batch(pair) for pair in batches):
        raise PruneError(
            "the pruning batch must be inputs (b, ...) and labels (b,) with b >= 2, or several "
            f"such pairs; got {_shapes(batches)}."
        )
    for inputs, _ in batches:
        bad = int((~torch.isfinite(inputs)).sum())
        if bad:
            raise PruneError(
                f"{bad} of {inputs.numel()} numbers in the pruning batch's inputs are not finite. "
                "Clean the data, or check its normalisation (a deviation of 0?)."
            )
    # What was made in inference mode cannot be differentiated through; a copy can.
    return [tuple(x.clone() if x.is_inference() else x for x in pair) for pair in batches]


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [_shapes(part) for part in value] if isinstance(value, list | tuple) else value


def checked_model(model: nn.Module) -> nn.Module:
    """Take off wrappers and refuse what is no network, or one with weights that are not finite."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"the model must be an nn.Module, built and ready to run; got {what}.")
    model = unwrap(model)
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta:
            continue  # tracing names these
        if not all_finite(parameter.detach()):
            raise PruneError(
                f"weight {name!r} holds numbers that are not finite; nothing can be scored with "
                "it. Initialise or load the network anew."
            )
    return model


def check_numbers(reductions: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Refuse shares that are no numbers and counts that are no whole ones."""
    for name, value in reductions.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PruneError(f"{name} must be a number in [0, 1), got {value!r}.")
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise PruneError(f"{name} must be a whole number, at least 1; got {value!r}.")


def _is_batch(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    if not all(isinstance(part, Tensor) for part in pair):
        return False
    inputs, labels = pair
    return inputs.ndim > 1 and inputs.shape[0] >= 2 and labels.shape == inputs.shape[:1]
