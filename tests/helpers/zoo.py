"""Small networks, one for each way in which channels are coupled."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alprune.pruning.graph import ChannelGraph, trace


def conv(into: int, out: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


def vgg19(classes: int = 10) -> nn.Sequential:
    """The VGG-19 of van Amersfoort et al. 2020."""
    layers: list[nn.Module] = []
    into = 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        for _ in range(count):
            layers += [nn.Conv2d(into, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
            into = width
        if block < 4:
            layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, classes)
    )
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), head)


def vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5)),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(3 * 16 * 16, 20), nn.BatchNorm1d(20), nn.Tanh()),
        *(nn.Linear(20, 12), nn.PReLU(12), nn.Dropout(), nn.Linear(12, 5)),
    )


class Residual(nn.Module):
    """A basic block; `shortcut` "pad" is option A of He et al., "project" a 1x1 convolution."""

    def __init__(self, into: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(into, out, stride), conv(out, out)
        self.planes = out
        self.shortcut: nn.Module | str = "same"
        if stride > 1 or into != out:
            self.shortcut = shortcut if shortcut == "pad" else conv(into, out, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.shortcut == "pad":
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        elif isinstance(self.shortcut, nn.Module):
            x = self.shortcut(x)
        out += x
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self, shortcut: str, blocks: int = 2, width: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, width)
        stages: list[nn.Module] = []
        into = width
        for stage in range(3):
            for block in range(blocks):
                out = width << stage
                stages.append(Residual(into, out, 2 if stage and not block else 1, shortcut))
                into = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(into, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(F.relu(self.stem(x))).mean((2, 3)))


class PreActivation(nn.Module):
    """A wide-resnet unit: the shortcut branches off after the first ReLU."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(into), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.project = nn.Conv2d(into, out, 1, bias=False) if into != out else None
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        out = self.conv2(self.drop(F.relu(self.bn2(self.conv1(a)))))
        return out + (self.project(a) if self.project is not None else x)


def wide_resnet() -> nn.Module:
    units = [PreActivation(6, 12), PreActivation(12, 12), PreActivation(12, 20)]
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), *units, nn.BatchNorm2d(20), nn.ReLU(), head(20)
    )


def head(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Dense(nn.Module):
    def __init__(self, growth: int = 6, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + i * growth) for i in range(layers))
        self.convs = nn.ModuleList(
            nn.Conv2d(8 + i * growth, growth, 3, padding=1) for i in range(layers)
        )
        self.head = head(8 + layers * growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.convs, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        return self.head(torch.cat(features, 1))


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excite, project, add."""

    def __init__(self, width: int = 8, expanded: int = 24) -> None:
        super().__init__()
        self.expand = conv(width, expanded, kernel=1)
        self.depthwise = conv(expanded, expanded, groups=expanded)
        self.squeeze, self.excite = nn.Conv2d(expanded, 6, 1), nn.Conv2d(6, expanded, 1)
        self.project = conv(expanded, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(F.relu6(self.expand(x))))
        gate = F.adaptive_avg_pool2d(y, 1)
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(gate))))
        return x + self.project(y)


def mobilenet() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), InvertedResidual(), InvertedResidual(), head(8))


class Shuffle(nn.Module):
    """A ShuffleNetV2 unit."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv(half, half, kernel=1), nn.ReLU(), conv(half, half, groups=half), conv(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        out = torch.cat((left, self.branch(right)), 1)
        b, c, h, w = out.shape
        return out.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


def shufflenet() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), Shuffle(), conv(16, 12), nn.ReLU(), head(12))


class GroupShuffle(nn.Module):
    """A ShuffleNetV1 unit: grouped 1x1 convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(24, 24, kernel=1, groups=2), conv(24, 24, 1, 1, groups=2)
        self.depthwise = conv(24, 24, groups=24)

    def forward(self, x: Tensor) -> Tensor:
        y = F.channel_shuffle(F.relu(self.first(x)), 2)
        return F.relu(x + self.second(self.depthwise(y)))


def group_shuffle() -> nn.Module:
    return nn.Sequential(conv(3, 24), nn.ReLU(), GroupShuffle(), conv(24, 10), head(10))


def resnext() -> nn.Module:
    grouped = conv(24, 24, groups=8)
    return nn.Sequential(
        conv(3, 24), nn.ReLU(), grouped, nn.ReLU(), conv(24, 10, kernel=1), head(10)
    )


class Rows(nn.Module):
    """A recurrent classifier that reads an image row by row."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.rnn = kind(48, 10, layers, batch_first=True, bidirectional=both)
        self.hidden = nn.Linear(20 if both else 10, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x.permute(0, 2, 1, 3).flatten(2))
        return self.head(F.relu(self.hidden(out[:, -1])))


class Cells(nn.Module):
    """A recurrent classifier that steps its cell itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(48, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for row in x.permute(2, 0, 1, 3).flatten(2):
            state = self.cell(row, state)
        return self.head(state[0])


def groupnorm() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.ReLU()),
        *(nn.Conv2d(12, 8, 3), nn.GroupNorm(8, 8, affine=False), nn.SiLU()),
        *(nn.Conv2d(8, 9, 3), nn.InstanceNorm2d(9), nn.ReLU()),
        *(nn.Conv2d(9, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), head(8)),
    )


class Block(nn.Module):
    """ConvNeXt's block: layer normalisation over channels, LayerScale."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


def convnext() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Block(), Block(), head(8))


class Scaled(nn.Module):
    """Parameters used elementwise: LayerScale and a positional embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 12)
        self.positions = nn.Parameter(torch.randn(1, 16, 12))
        self.scale = nn.Parameter(torch.rand(12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x.permute(0, 2, 1, 3).flatten(2)) + self.positions
        return self.head(F.relu(y * self.scale).mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv(3, 8), conv(8, 12, stride=2)
        self.up1 = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.merge, self.up2 = conv(16, 10), nn.Conv2d(22, 9, 3, padding=1)
        self.head = head(9)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(a))
        c = F.relu(self.merge(torch.cat([a, self.up1(b)], 1)))
        up = F.interpolate(b, scale_factor=2, mode="bilinear")
        return self.head(F.relu(self.up2(torch.cat([c, up], 1))))


class Shared(nn.Module):
    """One convolution used twice, and one linear weight with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.loop = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.loop(F.relu(self.loop(F.relu(self.stem(x))))))
        return self.head(F.relu(self.second(F.relu(self.first(x.mean((2, 3)))))))


class Sliced(nn.Module):
    """Slices of fixed size: the channels they count must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 12), conv(5, 6), conv(7, 6)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(torch.cat([self.left(x[:, :5]), self.right(x[:, 5:])], 1))


class HardView(nn.Module):
    """A width written into the forward: only trying shows that the stem cannot be narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid = conv(3, 6), conv(6, 8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).reshape(-1, 6, 16, 16)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.mid(x)), 4).flatten(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 12)
        self.layer = nn.TransformerEncoderLayer(12, 2, 20, dropout=0.0, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.permute(0, 2, 1, 3).flatten(2))).mean(1))


class Gated(nn.Module):
    """A spatial attention map, a GLU, a pixel shuffle, a 1-d convolution and a plain matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map = conv(3, 8), nn.Conv2d(8, 1, 1)
        self.wide, self.up = nn.Conv2d(8, 12, 3), nn.Conv2d(6, 16, 3)
        self.line = nn.Conv1d(4, 7, 3)
        self.matrix = nn.Parameter(torch.randn(7, 9))
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.glu(self.wide(x * torch.sigmoid(self.map(x))), 1)
        x = F.pixel_shuffle(self.up(x), 2).amax(3)
        return self.head(F.silu(self.line(x).mean(2) @ self.matrix))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "vgg": vgg,
    "mlp": mlp,
    "option-a resnet": lambda: ResNet("pad"),
    "projection resnet": lambda: ResNet("project"),
    "wide resnet": wide_resnet,
    "densenet": Dense,
    "mobilenet": mobilenet,
    "shufflenet": shufflenet,
    "group shuffle": group_shuffle,
    "resnext": resnext,
    "lstm": lambda: Rows(nn.LSTM),
    "two-layer bidirectional lstm": lambda: Rows(nn.LSTM, 2, both=True),
    "gru": lambda: Rows(nn.GRU, 2),
    "bidirectional rnn": lambda: Rows(nn.RNN, both=True),
    "lstm cells": Cells,
    "groupnorm": groupnorm,
    "convnext": convnext,
    "scaled": Scaled,
    "unet": UNet,
    "shared weights": Shared,
    "sliced": Sliced,
    "hard-coded view": HardView,
    "attention": Attention,
    "gated": Gated,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """Build a network with weights and statistics that hide nothing, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZOO[name]()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def images(count: int = 3, seed: int = 1) -> Tensor:
    """Return random inputs `(count, 3, 16, 16)` for every network here."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@functools.cache
def traced(name: str, normalised: str = "auto") -> ChannelGraph:
    """Trace a network once for all tests, which leave the graph as it is."""
    return trace(make(name), images(), normalised=normalised)


def random_keep(graph: ChannelGraph, seed: int = 0, share: float = 0.6) -> Tensor:
    """Draw a mask that leaves the first channel of each group."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(graph.channels, generator=generator) < share
    for group in graph.groups:
        keep[group.channels[0]] = True
    return keep
