"""ResNet-9: few, wide convolutions and early pooling; it trains fast for what it learns."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions around a shortcut without parameters."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = _convolved(width, width), _convolved(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, width, h, w)` to the same shape."""
        return x + self.conv2(self.conv1(x))


def resnet9(classes: int, input_shape: tuple[int, int, int], width: int = 64) -> nn.Sequential:
    """Residual network of eight convolutions and a linear layer, for small images.

    Widths are 1, 2, 4 and 8 times `width`; each 3x3 convolution is followed by BatchNorm and ReLU,
    those that widen (but the first) by 2x2 max-pooling too. Takes `(b, c, h, w)` with h, w >= 8.

    At 3x32x32, 10 classes and width 64: 6,573,130 parameters, 379 M multiply-accumulates.

    Args:
        classes: Number of logits.
        input_shape: `(c, h, w)` of one image.
        width: Of the first layer.

    Source: the network that Page ("How to Train Your ResNet", 2018) trains on CIFAR-10 for the
    DAWNBench competition, without its scaling of the logits.
    """
    layers: list[nn.Module] = [_convolved(input_shape[0], width)]
    for stage, residual in enumerate((True, False, True)):
        reads = width * 2**stage
        layers += [_convolved(reads, 2 * reads), nn.MaxPool2d(2)]
        if residual:
            layers.append(Residual(2 * reads))
    head = nn.Linear(8 * width, classes)
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), head)


def resnet9_small(classes: int, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """ResNet-9 of width 16: the plain small network that a pruned one has to beat.

    At 3x32x32 and 10 classes: 412,954 parameters, 24 M multiply-accumulates.
    """
    return resnet9(classes, input_shape, width=16)


def _convolved(reads: int, makes: int) -> nn.Sequential:
    convolution = nn.Conv2d(reads, makes, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(makes), nn.ReLU())
