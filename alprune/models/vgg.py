"""VGG networks for small images: the 3SP paper's VGG-19 and SNIP's VGG-C, VGG-D, VGG-like."""

from collections.abc import Sequence

from torch import Tensor, nn

Block = Sequence[tuple[int, int]]
"""`(width, kernel)` of each convolution between two poolings."""


class VGG(nn.Module):
    """Convolutions with pooling between them, then linear layers."""

    def __init__(self, features: nn.Sequential, pool: nn.Module, classifier: nn.Sequential):
        super().__init__()
        self.features = features
        self.pool = pool
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def vgg19(classes: int, input_shape: tuple[int, int, int]) -> VGG:
    """VGG-19 of the 3SP paper: 16 convolutions and 3 linear layers.

    Blocks of 64x2, 128x2, 256x4, 512x4, 512x4 channels, each 3x3 convolution (with bias) -
    BatchNorm - ReLU, 2x2 max-pooling between the five blocks; average pooling to 2x2, linear
    1024, ReLU, linear 512, ReLU, linear `classes`.

    At 3x32x32 and 10 classes: 22,663,498 parameters and 400,757,760 multiply-accumulates;
    the state file in fp32 takes 90.7 MB = 86.5 MiB. Takes `(b, c, h, w)` with h, w >= 16.

    Source: van Amersfoort et al. 2020, appendix A and table 2. Appendix A's text gives the last
    three blocks three convolutions each: 13 in all, 17.3 M parameters, 66 MiB. That is a VGG-16,
    against the network's name and against table 2's 87 MB, which this layout gives (in MiB).
    """
    blocks = [[(64, 3)] * 2, [(128, 3)] * 2, [(256, 3)] * 4, [(512, 3)] * 4, [(512, 3)] * 4]
    return VGG(
        _features(input_shape[0], blocks),
        nn.AdaptiveAvgPool2d(2),
        nn.Sequential(
            nn.Linear(512 * 2 * 2, 1024),
            nn.ReLU(),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Linear(512, classes),
        ),
    )


def vgg_c(classes: int, input_shape: tuple[int, int, int], first_stride: int = 1) -> VGG:
    """VGG-C of SNIP: 13 convolutions, three of them 1x1, and 3 linear layers.

    The third convolution of each of the last three blocks is 1x1; 2x2 max-pooling after every
    block; linear 512, 512, `classes`, BatchNorm and ReLU after all but the last. At 3x32x32 and
    10 classes: 10,526,538 weights and biases, the paper's 10.5 M, which leaves BatchNorm's
    10,496 out; 238,228,480 multiply-accumulates. Takes h, w >= 16.

    With `first_stride` 2, the paper's for Tiny-ImageNet, 64 pixels are halved by the first
    convolution, and all maps behind it are as large as those of 32 pixels. The names of the model
    registry have stride 1; see `recipes/networks.py` for the others.

    Source: Lee et al. 2019, tables 2, 4 and 6.
    """
    return _snip(classes, input_shape, 1, 2, first_stride)


def vgg_d(classes: int, input_shape: tuple[int, int, int], first_stride: int = 1) -> VGG:
    """VGG-D of SNIP: 13 convolutions of 3x3 and 3 linear layers.

    Otherwise as `vgg_c`. At 3x32x32 and 10 classes: 15,245,130 weights and biases (paper:
    15.2 M; BatchNorm's 10,496 not counted); 313,725,952 multiply-accumulates.

    Source: Lee et al. 2019, tables 2, 4 and 6.
    """
    return _snip(classes, input_shape, 3, 2, first_stride)


def vgg_like(classes: int, input_shape: tuple[int, int, int], first_stride: int = 1) -> VGG:
    """VGG-like of SNIP (Zagoruyko's): `vgg_d` with one linear layer of 512 fewer.

    At 3x32x32 and 10 classes: 14,982,474 weights and biases (paper: 15.0 M; BatchNorm's 9,472
    not counted); 313,463,808 multiply-accumulates.

    Source: Lee et al. 2019, tables 2, 4 and 6.
    """
    return _snip(classes, input_shape, 3, 1, first_stride)


def _snip(
    classes: int,
    input_shape: tuple[int, int, int],
    third_kernel: int,
    linear: int,
    first_stride: int,
) -> VGG:
    blocks = [[(64, 3)] * 2, [(128, 3)] * 2]
    blocks += [[(width, 3), (width, 3), (width, third_kernel)] for width in (256, 512, 512)]
    head: list[nn.Module] = []
    for _ in range(linear):
        head += [nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU()]
    # The paper's fifth pooling leaves one pixel of its 32 (or of 64, at stride 2): an average
    # over what is left changes nothing there and takes other sizes too.
    pool = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(1))
    return VGG(
        _features(input_shape[0], blocks, first_stride),
        pool,
        nn.Sequential(*head, nn.Linear(512, classes)),
    )


def _features(channels: int, blocks: Sequence[Block], first_stride: int = 1) -> nn.Sequential:
    """Stack convolution - BatchNorm - ReLU, with 2x2 max-pooling between the blocks."""
    layers: list[nn.Module] = []
    for block in blocks:
        if layers:  # rounding up lets images of 28 or 16 pixels through
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for width, kernel in block:
            stride = 1 if layers else first_stride
            layers += [
                nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
    return nn.Sequential(*layers)
