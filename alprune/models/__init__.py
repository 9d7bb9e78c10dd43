"""The learners by name, built with He initialisation and without touching global random state."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from alprune.errors import AlpruneError, ConfigError, ModelError, failure
from alprune.models.alexnet import alexnet
from alprune.models.cost import forward_only
from alprune.models.efficientnet_lite import efficientnet_lite0
from alprune.models.init import INITS, forked_rng, he_normal_, reinit
from alprune.models.lenet import lenet_5_caffe, lenet_300_100
from alprune.models.mobilenet import efficientnet_b0, mobilenet_v1, mobilenet_v2, mobilenet_v3_small
from alprune.models.pretrained import load_pretrained
from alprune.models.recurrent import gru, lstm
from alprune.models.resnet import resnet, resnet20, wideresnet20
from alprune.models.stems import replace_stem
from alprune.models.vgg import vgg19, vgg_c, vgg_d, vgg_like
from alprune.models.wrn import wide_resnet
from alprune.registry import lookup, unknown

__all__ = ["INITS", "MODELS", "ModelEntry", "build", "he_normal_", "load_pretrained", "reinit"]

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
        lr: Peak rate of a run, where that of the others is too high; None: as the others.
    """

    summary: str
    build: Callable[[int, Shape], nn.Module]
    input_shape: Shape
    least: int = 1
    lr: float | None = None


_WITH_SIDE_OUTPUTS = ("googlenet", "inception_v3")
_CIFAR = (3, 32, 32)
_PHOTO = (3, 128, 128)
_MNIST = (1, 28, 28)

MODELS: dict[str, ModelEntry] = {
    "alexnet-b": ModelEntry("AlexNet-b of SNIP, 8.5 M", partial(alexnet, 2), _CIFAR, 8),
    "alexnet-s": ModelEntry("AlexNet-s of SNIP, 5.1 M", partial(alexnet, 1), _CIFAR, 8),
    "efficientnet-b0": ModelEntry("EfficientNet-B0, CIFAR form, 4.0 M", efficientnet_b0, _CIFAR, 8),
    "efficientnet-lite0": ModelEntry(
        "EfficientNet-Lite0 for photos, 3.4 M; its ImageNet weights come with alprune",
        efficientnet_lite0,
        _PHOTO,
        32,
    ),
    "gru-b": ModelEntry("GRU of 256 units over rows, SNIP, 404k", partial(gru, 256), _MNIST),
    "gru-s": ModelEntry("GRU of 128 units over rows, SNIP, 104k", partial(gru, 128), _MNIST),
    "lenet-300-100": ModelEntry("two hidden layers, 267k", lenet_300_100, _MNIST),
    "lenet-5-caffe": ModelEntry("two convolutions, 431k", lenet_5_caffe, _MNIST, 16, lr=0.01),
    "lstm-b": ModelEntry("LSTM of 256 units over rows, SNIP, 535k", partial(lstm, 256), _MNIST),
    "lstm-s": ModelEntry("LSTM of 128 units over rows, SNIP, 137k", partial(lstm, 128), _MNIST),
    "mobilenet-v1": ModelEntry("MobileNetV1, CIFAR form, 3.2 M", mobilenet_v1, _CIFAR, 16),
    "mobilenet-v2": ModelEntry("MobileNetV2, CIFAR form, 2.2 M", mobilenet_v2, _CIFAR, 8),
    "mobilenet-v3-small": ModelEntry(
        "MobileNetV3-small, CIFAR form, 1.5 M", mobilenet_v3_small, _CIFAR, 8
    ),
    "resnet18": ModelEntry("ResNet-18, CIFAR form, 11.2 M", partial(resnet, "resnet18"), _CIFAR, 8),
    "resnet20": ModelEntry("ResNet-20, padded shortcuts, 0.27 M", resnet20, _CIFAR, 8),
    "resnet34": ModelEntry("ResNet-34, CIFAR form, 21.3 M", partial(resnet, "resnet34"), _CIFAR, 8),
    "resnet50": ModelEntry("ResNet-50, CIFAR form, 23.5 M", partial(resnet, "resnet50"), _CIFAR, 8),
    "vgg-c": ModelEntry("VGG-C of SNIP, 10.5 M", vgg_c, _CIFAR, 16),
    "vgg-d": ModelEntry("VGG-D of SNIP, 15.2 M", vgg_d, _CIFAR, 16),
    "vgg-like": ModelEntry("VGG-like of SNIP, 15.0 M", vgg_like, _CIFAR, 16),
    "vgg19": ModelEntry("VGG-19 of 3SP, 22.7 M", vgg19, _CIFAR, 16),
    "wideresnet20": ModelEntry("ResNet-20 of twice the width, 1.1 M", wideresnet20, _CIFAR, 8),
    "wrn-16-10": ModelEntry("WRN-16-10, 17.1 M", partial(wide_resnet, 16, 10), _CIFAR, 8),
    "wrn-16-8": ModelEntry("WRN-16-8, 11.0 M", partial(wide_resnet, 16, 8), _CIFAR, 8),
    "wrn-22-8": ModelEntry("WRN-22-8, 17.2 M", partial(wide_resnet, 22, 8), _CIFAR, 8),
}


def build(name: str, classes: int, input_shape: Shape | None = None, seed: int = 0) -> nn.Module:
    """Build a learner on the CPU.

    Args:
        name: A key of `MODELS`, whose weights are drawn by `he_normal_`;
            `torchvision:NAME` for a classifier of torchvision, untrained; or
            `package.module:function`, called as `function(classes=..., input_shape=...)`, or
            with these by position if its parameters have other names, and returning an
            `nn.Module`. The last two keep their own initialisation.
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
            isn't an `nn.Module` that maps them to `(b, classes)`.
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
    options: dict[str, Any] = {}
    if name in _WITH_SIDE_OUTPUTS:  # for training, which would make theirs a tuple
        options = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):  # one position a patch: these are made for one size
        options = {"image_size": shape[1]}
    if name == "maxvit_t":
        options = {"input_size": shape[1:]}
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"model 'torchvision:{name}' cannot be made for images of {shape[1]}x{shape[2]} "
            f"pixels: {error}. Choose another --image-size (it was published at 224)."
        ) from error
    if shape[0] != 3:
        replace_stem(model, shape[0])
    return _checked(f"torchvision:{name}", model, classes, shape)


def _from_user(name: str, function: object, classes: int, shape: Shape) -> nn.Module:
    contract = f"expected {name.partition(':')[2]}(classes=..., input_shape=...) -> nn.Module"
    if not callable(function):
        raise ConfigError(f"model {name!r} is a {type(function).__name__}; {contract}.")
    given: tuple[Any, ...] = ()
    named: dict[str, Any] = {"classes": classes, "input_shape": shape}
    try:
        signature = inspect.signature(function)
        if not _binds(signature, *given, **named) and _binds(signature, classes, shape):
            given, named = (classes, shape), {}
        signature.bind(*given, **named)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {error}; {contract}.") from error
    try:
        model = function(*given, **named)
    except AlpruneError:
        raise
    except Exception as error:
        raise ModelError(failure(f"model {name!r}", error)) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned a {type(model).__name__}; {contract}.")
    return _checked(name, model, classes, shape)


def _binds(signature: inspect.Signature, *given: Any, **named: Any) -> bool:
    try:
        signature.bind(*given, **named)
    except TypeError:
        return False
    return True


def _checked(name: str, model: nn.Module, classes: int, shape: Shape) -> nn.Module:
    """Run one blank input through a network whose limits nobody wrote down."""
    try:
        with forward_only(model):
            logits = model(torch.zeros(1, *shape))
    except Exception as error:  # whatever a stranger's forward raises
        raise ModelError(
            f"model {name!r} fails on an input of shape {tuple(shape)}: {error}. Give the input "
            "shape that it takes, on the CPU and in float32."
        ) from error
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != (1, classes):
        raise ModelError(
            f"model {name!r} maps an input of shape {(1, *shape)} to {got}; expected a tensor of "
            f"shape {(1, classes)}, (batch, classes)."
        )
    return model
