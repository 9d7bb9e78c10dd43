"""The learners by name, built with He initialisation and without touching global random state."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from alprune.errors import ConfigError, ModelError
from alprune.models.init import INITS, forked_rng, he_normal_, reinit
from alprune.models.stems import replace_stem
from alprune.models.vgg import vgg19
from alprune.names import lookup, unknown

__all__ = ["INITS", "MODELS", "ModelEntry", "build", "he_normal_", "reinit"]

Shape = tuple[int, int, int]
"""One input without the batch: `(c, h, w)`."""


@dataclass(frozen=True)
class ModelEntry:
    """One learner of the registry.

    Attributes:
        summary: One line for `alprune list`.
        build: `(classes, (c, h, w)) -> nn.Module`, initialised as PyTorch does.
        input_shape: `(c, h, w)` of the paper.
        least: Smallest height and width that it takes, in pixels.
    """

    summary: str
    build: Callable[[int, Shape], nn.Module]
    input_shape: Shape
    least: int = 1


_CIFAR = (3, 32, 32)
_MNIST = (1, 28, 28)

MODELS: dict[str, ModelEntry] = {
    "vgg19": ModelEntry("VGG-19 of the 3SP paper, 22.7 M parameters", vgg19, _CIFAR, least=16),
}


def build(name: str, classes: int, input_shape: Shape | None = None, seed: int = 0) -> nn.Module:
    """Build a learner on the CPU.

    Args:
        name: A key of `MODELS`, whose weights are drawn by `he_normal_`;
            `torchvision:NAME` for a classifier of torchvision, untrained; or
            `package.module:function`, called as `function(classes=..., input_shape=...)` and
            returning an `nn.Module`. The last two keep their own initialisation.
        classes: Number of outputs.
        input_shape: `(c, h, w)` of one input; by default the paper's (3x224x224 for
            torchvision). A torchvision network for other than 3 channels gets a new first
            convolution.
        seed: Of all random draws; the global random state stays as it was.

    Returns:
        The network, mapping `(b, c, h, w)` to logits `(b, classes)`.

    Raises:
        ConfigError: Unknown name, or not callable as said above.
        ModelError: `classes` or `input_shape` not possible for this learner, or what was built
            isn't an `nn.Module`.
    """
    if classes < 1:
        raise ModelError(f"model {name!r}: got {classes} classes; at least 1 is needed.")
    if input_shape is not None and (len(input_shape) != 3 or min(input_shape) < 1):
        raise ModelError(
            f"model {name!r}: got input shape {tuple(input_shape)}; expected (channels, height, "
            "width), each at least 1."
        )
    with forked_rng(seed):
        if name.startswith("torchvision:"):
            return _from_torchvision(name.partition(":")[2], classes, input_shape or (3, 224, 224))
        found = lookup("model", name, MODELS)
        if not isinstance(found, ModelEntry):
            return _from_user(name, found, classes, input_shape or _CIFAR)
        return _from_registry(name, found, classes, input_shape or found.input_shape, seed)


def _from_registry(
    name: str, entry: ModelEntry, classes: int, shape: Shape, seed: int
) -> nn.Module:
    if min(shape[1:]) < entry.least:
        raise ModelError(
            f"model {name!r}: got inputs of {shape[1]}x{shape[2]} pixels; it takes "
            f"{entry.least}x{entry.least} or more. Resize the images or choose a smaller model."
        )
    model = entry.build(classes, shape)
    he_normal_(model, torch.Generator().manual_seed(seed))
    return model


def _from_torchvision(name: str, classes: int, shape: Shape) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    model = torchvision.models.get_model(name, weights=None, num_classes=classes)
    if shape[0] != 3:
        replace_stem(model, shape[0])
    return model


def _from_user(name: str, function: object, classes: int, shape: Shape) -> nn.Module:
    contract = f"expected {name.partition(':')[2]}(classes=..., input_shape=...) -> nn.Module"
    if not callable(function):
        raise ConfigError(f"model {name!r} is a {type(function).__name__}; {contract}.")
    try:
        inspect.signature(function).bind(classes=classes, input_shape=shape)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {error}; {contract}.") from error
    model = function(classes=classes, input_shape=shape)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned a {type(model).__name__}; {contract}.")
    return model
