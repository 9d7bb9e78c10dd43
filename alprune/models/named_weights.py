"""Pretrained weights by name: what `imagenet` means for each network, and the images it expects."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor

from alprune.errors import ConfigError, ModelError, failure
from alprune.models import efficientnet_lite

IMAGENET = "imagenet"
OWN = "efficientnet-lite0-levels"  # the model of a frozen learner; its weights need no download
_PLAIN = "efficientnet-lite0"
# Built with weights, torchvision's scale their normalised input again; built without, as here, not.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Preprocessing:
    """The images that a network was pretrained on.

    Attributes:
        mean: Of each of the three channels, in units of `x / 255`.
        std: Likewise.
        size: Pixels a side.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def of_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std for images of 3 channels, or of 1, their mean over the colours."""
        if channels == len(self.mean):
            return self.mean, self.std
        mean, std = (sum(part) / len(part) for part in (self.mean, self.std))
        return (mean,) * channels, (std,) * channels


USUAL = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)  # of most networks


@dataclass(frozen=True)
class NamedWeights:
    """Weights that were found by name.

    Attributes:
        tensors: By the network's own names.
        preprocessing: Of the images that they expect.
        source: Where they come from, in words.
    """

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    source: str

    @cached_property
    def digest(self) -> str:
        """Hash of the tensors, 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().numpy().data)
        return digest.hexdigest()


@lru_cache(maxsize=1)  # read or downloaded once, however often a run asks
def find_weights(model: str) -> NamedWeights:
    """Return the ImageNet weights of a network; they may be downloaded first.

    Args:
        model: `efficientnet-lite0`, `efficientnet-lite0-levels`, `torchvision:NAME` or `timm:NAME`.

    Raises:
        ConfigError: There are none for this network.
        ModelError: They cannot be had.
    """
    kind, _, name = model.partition(":")
    if model in (_PLAIN, OWN):
        tensors = efficientnet_lite.imagenet_weights()
        if model == OWN:  # its classifier reads more than the package's
            tensors = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
        return NamedWeights(
            tensors,
            Preprocessing(
                (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.STD,) * 3, efficientnet_lite.SIZE
            ),
            f"ImageNet, from the package {efficientnet_lite.PACKAGE} ({efficientnet_lite.LICENCE})",
        )
    if kind == "torchvision" and name:
        return _of_torchvision(name)
    if kind == "timm" and name:
        return _of_timm(name)
    raise ConfigError(
        f"there are no ImageNet weights by name for model {model!r}. Choose --model {_PLAIN}, "
        "torchvision:NAME or timm:NAME, or give a file: --pretrained PATH (a file that is called "
        f"{IMAGENET!r}: ./{IMAGENET})."
    )


def _of_torchvision(name: str) -> NamedWeights:
    from torchvision import models

    try:
        weights = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    except ValueError as error:
        raise ConfigError(f"model 'torchvision:{name}' is unknown: {error}.") from error
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu")
    except Exception as error:  # of the network, the disk, the hash
        raise _unavailable(f"torchvision:{name}", error, weights.url) from error
    shown = weights.transforms()
    size = shown.crop_size[0] if isinstance(shown.crop_size, list) else shown.crop_size
    mean, std = tuple(shown.mean), tuple(shown.std)
    if name in _TRANSFORM_INPUT:
        mean = std = (0.5,) * 3
    expected = Preprocessing(mean, std, size)
    return NamedWeights(tensors, expected, f"ImageNet, torchvision's {weights}")


def _of_timm(name: str) -> NamedWeights:
    import timm

    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # unknown names, the network, the disk
        if not timm.is_model(name.partition(".")[0]):
            raise ConfigError(f"model 'timm:{name}' is unknown to timm.") from error
        raise _unavailable(f"timm:{name}", error, "where timm keeps them") from error
    shown: Any = model.pretrained_cfg
    expected = Preprocessing(tuple(shown["mean"]), tuple(shown["std"]), shown["input_size"][-1])
    licence = shown.get("license") or "licence not stated"
    return NamedWeights(model.state_dict(), expected, f"ImageNet, timm's {name} ({licence})")


def _unavailable(model: str, error: Exception, where: str) -> ModelError:
    return ModelError(
        f"{failure(f'the ImageNet weights of {model!r}', error)} They are downloaded from {where}, "
        "once. Try again with a connection, give a file that you have (--pretrained PATH), or "
        f"choose --model {_PLAIN}, whose weights come with alprune."
    )
