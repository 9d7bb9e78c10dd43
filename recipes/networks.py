"""Networks for reduced runs of the recipes: `--model recipes.networks:vgg19_quarter`.

Found where the command is given in the root of the repository. Each is a function
`(classes, input_shape) -> nn.Module`, as any network of your own may be.
"""

from torch import nn


def vgg19_quarter(classes: int, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """Return 3SP's VGG-19 at a quarter of its width, initialised as PyTorch does.

    16 convolutions of 16x2, 32x2, 64x4, 128x4 and 128x4 channels, linear 256, 128, `classes`.
    At 3x32x32 and 10 classes: 1,421,002 parameters and 25,421,056 multiply-accumulates.
    """
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for width, count in ((16, 2), (32, 2), (64, 4), (128, 4), (128, 4)):
        if layers:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))
