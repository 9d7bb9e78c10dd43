"""Networks for reduced runs of the recipes: `--model recipes.networks:small_vgg`.

Found where the command is given in the root of the repository. Each is a function
`(classes, input_shape) -> nn.Module`, as any network of your own may be.
"""

from functools import partial

import torch
from torch import nn

from alprune.models import he_normal_
from alprune.models.vgg import vgg_c, vgg_d, vgg_like

# SNIP's, for the 64 pixels of Tiny-ImageNet (table 4): the first convolution has stride 2.
vgg_c_tiny = partial(vgg_c, first_stride=2)
vgg_d_tiny = partial(vgg_d, first_stride=2)
vgg_like_tiny = partial(vgg_like, first_stride=2)


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
