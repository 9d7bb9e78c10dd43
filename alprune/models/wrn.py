"""Wide residual networks: WRN-16-8, WRN-16-10 and WRN-22-8."""

from torch import Tensor, nn


class WideBlock(nn.Module):
    """BatchNorm - ReLU - 3x3 convolution, twice, around a shortcut."""

    def __init__(self, reads: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(reads)
        self.conv1 = nn.Conv2d(reads, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(reads, width, 1, stride, bias=False) if reads != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, reads, h, w)` to `(b, width, h / stride, w / stride)`."""
        active = self.bn1(x).relu()
        out = self.conv2(self.bn2(self.conv1(active)).relu())
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Three stages of `WideBlock`s, then BatchNorm, ReLU, the mean over pixels, linear."""

    def __init__(self, channels: int, classes: int, depth: int, widen: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks = []
        reads = 16
        for stage in range(3):
            for block in range((depth - 4) // 6):
                width = 16 * widen * 2**stage
                blocks.append(WideBlock(reads, width, 2 if stage and not block else 1))
                reads = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(reads)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(reads, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        x = self.bn(self.blocks(self.conv(x))).relu()
        return self.fc(self.pool(x).flatten(1))


def wide_resnet(
    depth: int, widen: int, classes: int, input_shape: tuple[int, int, int]
) -> WideResNet:
    """WRN-`depth`-`widen`: widths 16, then 16, 32, 64 times `widen`.

    At 3x32x32 and 10 classes, WRN-16-8, WRN-16-10 and WRN-22-8: 10,961,370, 17,116,634 and
    17,158,106 parameters; 1,548,145,664, 2,412,173,568 and 2,454,115,328 multiply-accumulates.
    Takes `(b, c, h, w)` with h, w >= 8.

    Source: Zagoruyko & Komodakis 2016, without dropout. SNIP's table 2 prints 17.1 M and 17.2 M
    for the last two, as here, and 10.0 M for WRN-16-8: a slip for 11.0 M, since the 548k that it
    keeps at 95% sparsity are 5% of 10.96 M. Unlike its VGGs', these counts include BatchNorm.
    """
    return WideResNet(input_shape[0], classes, depth, widen)
