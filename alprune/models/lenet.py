"""LeNets for MNIST: LeNet-300-100 and LeNet-5-Caffe."""

from torch import Tensor, nn


class LeNet300(nn.Module):
    """A perceptron with two hidden layers."""

    def __init__(self, pixels: int, classes: int):
        super().__init__()
        self.fc1 = nn.Linear(pixels, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        x = self.fc1(x.flatten(1)).relu()
        return self.fc3(self.fc2(x).relu())


class LeNet5(nn.Module):
    """Caffe's LeNet: no activation after the convolutions, max-pooling is their only one."""

    def __init__(self, channels: int, pixels: int, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        self.fc1 = nn.Linear(50 * pixels, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        return self.fc2(self.fc1(self.features(x).flatten(1)).relu())


def lenet_300_100(classes: int, input_shape: tuple[int, int, int]) -> LeNet300:
    """LeNet-300-100: linear layers of 300, 100 and `classes`, ReLU between.

    At 1x28x28 and 10 classes: 266,610 parameters, 266,200 multiply-accumulates. Takes
    `(b, c, h, w)` of `input_shape` alone.

    Source: LeCun et al. 1998; Lee et al. 2019, section 5.1 (267k).
    """
    channels, height, width = input_shape
    return LeNet300(channels * height * width, classes)


def lenet_5_caffe(classes: int, input_shape: tuple[int, int, int]) -> LeNet5:
    """LeNet-5-Caffe: convolutions 5x5x20 and 5x5x50 with 2x2 max-pooling, linear 500, `classes`.

    At 1x28x28 and 10 classes: 431,080 parameters, 2,293,000 multiply-accumulates. Takes
    `(b, c, h, w)` of `input_shape` alone, with h, w >= 16.

    Source: Caffe's MNIST example; Lee et al. 2019, section 5.1 (431k).
    """
    channels, height, width = input_shape
    rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
    return LeNet5(channels, rows * columns, classes)
