"""Networks of depthwise convolutions for small images: MobileNetV1, V2, V3, EfficientNet."""

from torch import Tensor, nn

from alprune.models.stems import keep_resolution, replace_stem


class MobileNetV1(nn.Module):
    """A 3x3 convolution, then pairs of a depthwise 3x3 and a pointwise convolution."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        layers = _conv_bn_relu(channels, 32, 3)
        reads = 32
        plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
        plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
        for width, stride in plan:
            layers += _conv_bn_relu(reads, reads, 3, stride, groups=reads)
            layers += _conv_bn_relu(reads, width, 1)
            reads = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(reads, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        return self.fc(self.pool(self.features(x)).flatten(1))


def mobilenet_v1(classes: int, input_shape: tuple[int, int, int]) -> MobileNetV1:
    """MobileNetV1 with a stem of stride 1: 32 pixels shrink to 2.

    At 3x32x32 and 10 classes: 3,217,226 parameters, 46,354,432 multiply-accumulates. Takes
    `(b, c, h, w)` with h, w >= 16.

    Source: Howard et al. 2017, table 1, whose first stride is 2, for ImageNet; When to Prune
    (Shen et al. 2022) prunes it there.
    """
    return MobileNetV1(input_shape[0], classes)


def mobilenet_v2(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Torchvision's MobileNetV2 with its first two strides set to 1: 32 pixels shrink to 4.

    At 3x32x32 and 10 classes: 2,236,682 parameters, 87,976,448 multiply-accumulates. Takes
    `(b, c, h, w)` with h, w >= 8.

    Source: Sandler et al. 2018; PreCrop (Cai et al. 2022) trains such a form on CIFAR-10
    without giving its strides.
    """
    return _small(_torchvision("mobilenet_v2", classes), input_shape[0])


def mobilenet_v3_small(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Torchvision's MobileNetV3-small with its first two strides set to 1: 32 pixels shrink to 4.

    At 3x32x32 and 10 classes: 1,528,106 parameters, 17,507,328 multiply-accumulates. Takes
    `(b, c, h, w)` with h, w >= 8.

    Source: Howard et al. 2019; used on ImageNet in the appendix of When to Prune.
    """
    return _small(_torchvision("mobilenet_v3_small", classes), input_shape[0])


def efficientnet_b0(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Torchvision's EfficientNet-B0 with its first two strides set to 1: 32 pixels shrink to 4.

    Stochastic depth is off, as in PreCrop. At 3x32x32 and 10 classes: 4,020,358 parameters,
    116,167,168 multiply-accumulates. Takes `(b, c, h, w)` with h, w >= 8.

    Source: Tan & Le 2019; PreCrop (Cai et al. 2022) reconfigures it on ImageNet.
    """
    model = _torchvision("efficientnet_b0", classes, stochastic_depth_prob=0.0)
    return _small(model, input_shape[0])


def _torchvision(name: str, classes: int, **options: float) -> nn.Module:
    from torchvision import models  # here, as it takes more than a second

    return models.get_model(name, weights=None, num_classes=classes, **options)


def _small(model: nn.Module, channels: int) -> nn.Module:
    keep_resolution(model, 2)
    if channels != 3:
        replace_stem(model, channels)
    return model


def _conv_bn_relu(
    reads: int, makes: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(reads, makes, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(makes),
        nn.ReLU(),
    ]
