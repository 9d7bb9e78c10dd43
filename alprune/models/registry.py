"""The learners and initialisations by name; reading the names imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alprune.registry import later

if TYPE_CHECKING:
    import torch
    from torch import nn

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


LIBRARIES = ("torchvision:", "timm:")
"""What the names of a library's networks begin with."""


def is_listed(name: str) -> bool:
    """Whether a name is a key of `MODELS` or of a library's network, not of the user's code."""
    return name in MODELS or name.startswith(LIBRARIES)


def _in(place: str, *first: Any) -> Callable[..., Any]:
    return later(f"alprune.models.{place}", *first)


_CIFAR = (3, 32, 32)
_PHOTO = (3, 128, 128)
_MNIST = (1, 28, 28)

MODELS: dict[str, ModelEntry] = {
    "alexnet-b": ModelEntry("AlexNet-b of SNIP, 8.5 M", _in("alexnet:alexnet", 2), _CIFAR, 8),
    "alexnet-s": ModelEntry("AlexNet-s of SNIP, 5.1 M", _in("alexnet:alexnet", 1), _CIFAR, 8),
    "efficientnet-b0": ModelEntry(
        "EfficientNet-B0, CIFAR form, 4.0 M", _in("mobilenet:efficientnet_b0"), _CIFAR, 8
    ),
    "efficientnet-lite0": ModelEntry(
        "EfficientNet-Lite0 for photos, 3.4 M; its ImageNet weights come with alprune",
        _in("efficientnet_lite:efficientnet_lite0"),
        _PHOTO,
        32,
    ),
    "efficientnet-lite0-levels": ModelEntry(
        "EfficientNet-Lite0 read at three depths, for frozen learners; the same weights",
        _in("efficientnet_lite:efficientnet_lite0_levels"),
        _PHOTO,
        32,
    ),
    "gru-b": ModelEntry(
        "GRU of 256 units over rows, SNIP, 404k", _in("recurrent:gru", 256), _MNIST
    ),
    "gru-s": ModelEntry(
        "GRU of 128 units over rows, SNIP, 104k", _in("recurrent:gru", 128), _MNIST
    ),
    "lenet-300-100": ModelEntry("two hidden layers, 267k", _in("lenet:lenet_300_100"), _MNIST),
    "lenet-5-caffe": ModelEntry("two convolutions, 431k", _in("lenet:lenet_5_caffe"), _MNIST, 16),
    "lstm-b": ModelEntry(
        "LSTM of 256 units over rows, SNIP, 535k", _in("recurrent:lstm", 256), _MNIST
    ),
    "lstm-s": ModelEntry(
        "LSTM of 128 units over rows, SNIP, 137k", _in("recurrent:lstm", 128), _MNIST
    ),
    "mobilenet-v1": ModelEntry(
        "MobileNetV1, CIFAR form, 3.2 M", _in("mobilenet:mobilenet_v1"), _CIFAR, 16
    ),
    "mobilenet-v2": ModelEntry(
        "MobileNetV2, CIFAR form, 2.2 M", _in("mobilenet:mobilenet_v2"), _CIFAR, 8
    ),
    "mobilenet-v3-small": ModelEntry(
        "MobileNetV3-small, CIFAR form, 1.5 M", _in("mobilenet:mobilenet_v3_small"), _CIFAR, 8
    ),
    "patches": ModelEntry(
        "one layer of typical patches of the images, for few labels, 75k",
        _in("patches:patches"),
        _CIFAR,
        10,
    ),
    "resnet18": ModelEntry(
        "ResNet-18, CIFAR form, 11.2 M", _in("resnet:resnet", "resnet18"), _CIFAR, 8
    ),
    "resnet20": ModelEntry(
        "ResNet-20, padded shortcuts, 0.27 M", _in("resnet:resnet20"), _CIFAR, 8
    ),
    "resnet34": ModelEntry(
        "ResNet-34, CIFAR form, 21.3 M", _in("resnet:resnet", "resnet34"), _CIFAR, 8
    ),
    "resnet50": ModelEntry(
        "ResNet-50, CIFAR form, 23.5 M", _in("resnet:resnet", "resnet50"), _CIFAR, 8
    ),
    "resnet9": ModelEntry("ResNet-9, trains fast, 6.6 M", _in("resnet9:resnet9"), _CIFAR, 8),
    "resnet9-small": ModelEntry(
        "ResNet-9 of a quarter of the width, 0.41 M", _in("resnet9:resnet9_small"), _CIFAR, 8
    ),
    "vgg-c": ModelEntry("VGG-C of SNIP, 10.5 M", _in("vgg:vgg_c"), _CIFAR, 16),
    "vgg-d": ModelEntry("VGG-D of SNIP, 15.2 M", _in("vgg:vgg_d"), _CIFAR, 16),
    "vgg-like": ModelEntry("VGG-like of SNIP, 15.0 M", _in("vgg:vgg_like"), _CIFAR, 16),
    "vgg19": ModelEntry("VGG-19 of 3SP, 22.7 M", _in("vgg:vgg19"), _CIFAR, 16),
    "wideresnet20": ModelEntry(
        "ResNet-20 of twice the width, 1.1 M", _in("resnet:wideresnet20"), _CIFAR, 8
    ),
    "wrn-16-10": ModelEntry("WRN-16-10, 17.1 M", _in("wrn:wide_resnet", 16, 10), _CIFAR, 8),
    "wrn-16-8": ModelEntry("WRN-16-8, 11.0 M", _in("wrn:wide_resnet", 16, 8), _CIFAR, 8),
    "wrn-22-8": ModelEntry("WRN-22-8, 17.2 M", _in("wrn:wide_resnet", 22, 8), _CIFAR, 8),
}

INITS: dict[str, Callable[[nn.Module, torch.Generator], None]] = {
    "default": _in("init:default_"),
    "he": _in("init:he_normal_"),
    "rn": _in("init:normal_"),
    "tn": _in("init:truncated_normal_"),
    "vs-h": _in("init:he_normal_"),
    "vs-l": _in("init:lecun_normal_"),
    "vs-x": _in("init:glorot_normal_"),
}
"""`(network, generator)` fills a network with fresh weights, in place."""
