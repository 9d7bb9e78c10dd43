"""Residual networks for small images: ResNet-20 and its wide form, ResNet-18/34/50."""

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters."""

    def __init__(self, reads: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(reads, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, reads, h, w)` to `(b, width, h / stride, w / stride)`."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out))
        return (out + self._shortcut(x, out.shape[1])).relu()

    def _shortcut(self, x: Tensor, width: int) -> Tensor:
        # Zero channels come last, as many as are missing: still right when channels are gone.
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, width - x.shape[1])) if width > x.shape[1] else x


class PaddedResNet(nn.Module):
    """Three stages of `PaddedBlock`s, halving the picture and doubling the width."""

    def __init__(self, channels: int, classes: int, width: int, blocks_per_stage: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks = []
        reads = width
        for stage in range(3):
            for block in range(blocks_per_stage):
                makes = width * 2**stage
                blocks.append(PaddedBlock(reads, makes, 2 if stage and not block else 1))
                reads = makes
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(reads, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        x = self.bn(self.conv(x)).relu()
        return self.fc(self.pool(self.blocks(x)).flatten(1))


def resnet20(classes: int, input_shape: tuple[int, int, int]) -> PaddedResNet:
    """ResNet-20 for CIFAR: widths 16, 32, 64, three blocks each, zero-padded shortcuts.

    At 3x32x32 and 10 classes: 269,722 parameters, 40,551,040 multiply-accumulates. Takes
    `(b, c, h, w)` with h, w >= 8.

    Source: He et al. 2016, section 4.2 (option A, 0.27 M). The paper does not say where the zero
    channels go; here they follow the others, as in figure 4 of PreCrop (Cai et al. 2022).
    """
    return PaddedResNet(input_shape[0], classes, width=16, blocks_per_stage=3)


def wideresnet20(classes: int, input_shape: tuple[int, int, int]) -> PaddedResNet:
    """WideResNet-20 of PreCrop: `resnet20` with twice the channels.

    At 3x32x32 and 10 classes: 1,073,962 parameters, 161,318,144 multiply-accumulates.

    Source: Cai et al. 2022, figure 5. The paper gives no widths; its SynFlow code base (Tanaka
    et al. 2020) has a network of this name with widths 32, 64, 128.
    """
    return PaddedResNet(input_shape[0], classes, width=32, blocks_per_stage=3)


def resnet(name: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Torchvision's `resnet18`, `resnet34` or `resnet50` with a stem for small images.

    The stem is a 3x3 convolution of stride 1 and no pooling. At 3x32x32 and 10 classes:
    11,173,962, 21,282,122 and 23,520,842 parameters; 555,422,720, 1,159,402,496 and
    1,297,829,888 multiply-accumulates. Takes `(b, c, h, w)` with h, w >= 8.

    Source: He et al. 2016, table 1, for ImageNet; the stem is the field's custom for CIFAR. At
    224 pixels use `torchvision:resnet50`, as When to Prune (Shen et al. 2022) does.
    """
    from torchvision import models  # here, as it takes more than a second

    model = models.get_model(name, weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
