"""Networks for reduced runs of the recipes: `--model recipes.networks:small_vgg`.

Found where the command is given in the root of the repository. Each is a function
`(classes, input_shape) -> nn.Module`, as any network of your own may be.
"""

from functools import partial

import torch
import torchvision
from torch import nn

from alprune.models import he_normal_
from alprune.models.stems import keep_resolution
from alprune.models.vgg import vgg_c, vgg_d, vgg_like
from alprune.models.wrn import wide_resnet

# SNIP's, for the 64 pixels of Tiny-ImageNet (table 4): the first convolution has stride 2.
vgg_c_tiny = partial(vgg_c, first_stride=2)
vgg_d_tiny = partial(vgg_d, first_stride=2)
vgg_like_tiny = partial(vgg_like, first_stride=2)

# The plain small networks of recipes/clock.
wrn_16_1 = partial(wide_resnet, 16, 1)


def vgg19_quarter(classes: int, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """Return VGG-19's convolutions at a quarter of their widths, and one linear layer."""
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for width, depth in ((16, 2), (32, 2), (64, 4), (128, 4), (128, 4)):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def mobilenet_v2_half(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Return MobileNetV2 at half its width, with its first two strides set to 1."""
    model = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=0.5)
    keep_resolution(model, 2)
    return model


def small_vgg(classes: int, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """Return a VGG of 6 convolutions and 2 linear layers, initialised as He et al. do.

    32, 64, 128x2 and 256x2 channels, each 3x3 convolution - BatchNorm - ReLU, 2x2 max-pooling
    between the four blocks; average pooling to 1x1, linear 256, ReLU, linear `classes`.
    """
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for widths in ((32,), (64,), (128, 128), (256, 256)):
        if layers:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 256), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(256, classes))
    he_normal_(model, torch.default_generator)
    return model
