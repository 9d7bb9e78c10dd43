"""AlexNet for CIFAR, in SNIP's two sizes."""

from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five strided convolutions and three linear layers, without pooling between them."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential):
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def alexnet(k: int, classes: int, input_shape: tuple[int, int, int]) -> AlexNet:
    """AlexNet-s (`k` = 1) and AlexNet-b (`k` = 2) of SNIP.

    Convolutions 11x11x96, 5x5x256, 3x3x384, 3x3x384, 3x3x256, each of stride 2 (the first of
    stride 4 from 64 pixels on, as for Tiny-ImageNet); linear 1024k, 1024k, `classes`; BatchNorm
    and ReLU after all but the last. At 3x32x32 and 10 classes: 5,070,218 and 8,490,378 weights
    and biases, the paper's 5.1 M and 8.5 M (BatchNorm's 6,848 and 10,944 not counted);
    69,912,576 and 73,330,688 multiply-accumulates. Takes `(b, c, h, w)` with h, w >= 8; at the
    paper's sizes one pixel is left before the linear layers, at others they read the mean.

    Source: Lee et al. 2019, tables 2 and 5. Section 5.3 says linear layers of 512 and 1024; table
    5 says 1024 and 2048, and only these give the counts. The paper's code pads unevenly on the
    right and below (TensorFlow's "same"), this one evenly.
    """
    first_stride = 4 if min(input_shape[1:]) >= 64 else 2
    layout = [(11, 96, first_stride), (5, 256, 2), (3, 384, 2), (3, 384, 2), (3, 256, 2)]
    features: list[nn.Module] = []
    channels = input_shape[0]
    for kernel, width, stride in layout:
        features += [
            nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    classifier: list[nn.Module] = []
    for _ in range(2):
        classifier += [nn.Linear(channels, 1024 * k), nn.BatchNorm1d(1024 * k), nn.ReLU()]
        channels = 1024 * k
    return AlexNet(
        nn.Sequential(*features), nn.Sequential(*classifier, nn.Linear(channels, classes))
    )
