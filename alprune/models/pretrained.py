"""Weights to start from: a file of tensors, safetensors or PyTorch's, put into a network."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from alprune.data.safe_io import open_ordinary
from alprune.errors import ModelError, quoted

# What training programs put around the tensors, and before their names.
_AROUND = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "ema")
_BEFORE = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 4  # names in a message, of each kind


@dataclass(frozen=True)
class Loaded:
    """What of a file went into a network.

    Attributes:
        used: Names of the tensors taken over.
        head: The classifier that keeps its random weights, because the file has none for this
            number of classes; None if the file's was taken.
        head_classes: How many the file's classifier was for; None if it has none.
        summed: The first layer, if its weights for three colours were added up for grey images.
        unused: Names in the file that the network does not have.
    """

    used: tuple[str, ...]
    head: str | None
    head_classes: int | None
    summed: str | None
    unused: tuple[str, ...]

    def sentence(self, path: str | Path) -> str:
        """Say it to people."""
        parts = [f"{len(self.used)} tensors of {str(path)!r} are the weights to start from"]
        if self.head is not None:
            was = "has none" if self.head_classes is None else f"is for {self.head_classes} classes"
            parts.append(f"the classifier {self.head!r} starts anew (the file's {was})")
        if self.summed is not None:
            parts.append(f"{self.summed!r} reads grey images by its weights for colours, added up")
        if self.unused:
            parts.append(f"{_few(self.unused)} of the file are not used")
        return "; ".join(parts) + "."


def digest_of(path: str | Path) -> str:
    """Hash a file's content, 32 hexadecimal digits.

    Raises:
        ModelError: It cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_ordinary(path) as file:
            while part := file.read(2**20):
                digest.update(part)
    except OSError as error:
        raise ModelError(f"the weights {str(path)!r} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def load_pretrained(
    model: nn.Module, path: str | Path, classes: int, digest: str | None = None
) -> Loaded:
    """Put the weights of a file into a network, all but a classifier of other classes.

    Args:
        model: Changed in place, if all fits.
        path: `.safetensors`, or what `torch.save` made of a state dict; no pickled code is run.
            A state dict inside a checkpoint is found under its usual names, and the prefixes of
            wrappers (`module.`, `_orig_mod.`, ...) are taken off.
        classes: Outputs of the network. A classifier of another number of them, or none, leaves
            the network's own as it is.
        digest: What `digest_of` has to say of the file; None: whatever it says.

    Raises:
        ModelError: The file cannot be read, is another, or does not fit; all that does not is
            named.
    """
    if digest is not None and (found := digest_of(path)) != digest:
        raise ModelError(
            f"the weights {str(path)!r} are not those that were used at first (their digest is "
            f"{found}, was {digest}). Put the old file back, or leave pretrained_digest out."
        )
    own = model.state_dict().keys()
    return put_weights(model, _unwrapped(read_tensors(path), own, path), classes, path)


def put_weights(
    model: nn.Module, given: Mapping[str, Tensor], classes: int, source: str | Path
) -> Loaded:
    """Copy tensors into a network, except a classifier of other classes.

    Args:
        model: Changed in place, if all fits.
        given: The tensors by name.
        classes: Outputs of the network, see `load_pretrained`.
        source: Where they come from, for messages.

    Raises:
        ModelError: They do not fit; the message lists what does not.
    """
    own = model.state_dict()
    names = [name for name in own if name in given and given[name].shape == own[name].shape]
    summed = _summed(model, given)
    names += [summed] if summed is not None else []
    odd = [name for name in own if name not in names and not name.endswith("num_batches_tracked")]
    head = _head(model, odd, given, classes)
    wrong = [name for name in odd if name.rpartition(".")[0] != head]
    if wrong or not names:
        raise ModelError(_misfit(source, type(model).__name__, wrong or odd, given, own))
    for name in names:
        if given[name].is_floating_point() and not given[name].isfinite().all():
            raise ModelError(
                f"{quoted(name)} in {str(source)!r} holds numbers that are not finite."
            )
    with torch.no_grad():
        for name in names:
            value = given[name].sum(1, keepdim=True) if name == summed else given[name]
            own[name].copy_(value)
    old = given.get(f"{head}.weight") if head is not None else None
    return Loaded(
        used=tuple(names),
        head=head,
        head_classes=None if old is None else len(old),
        summed=None if summed is None else summed.removesuffix(".weight"),
        unused=tuple(sorted(given.keys() - own.keys())),
    )


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Read a file of tensors by name, on the CPU.

    Raises:
        ModelError: It cannot be read, or holds more than tensors and plain values.
    """
    try:
        with open_ordinary(path) as file:
            start = file.read(10)
        if Path(path).suffix == ".safetensors" or start[8:9] == b"{":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"the weights {str(path)!r} cannot be read: {error.strerror or error}."
        ) from error
    except Exception as error:  # whatever the parsers raise on a damaged file
        if type(error).__name__ == "UnpicklingError":
            raise ModelError(
                f"{str(path)!r} holds more than tensors, or is not a file of weights; what would "
                "run code is not loaded. Save the tensors alone: torch.save(model.state_dict(), "
                "path), or safetensors."
            ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{str(path)!r} is not a whole file of weights: {reason}.") from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{str(path)!r} holds a {type(found).__name__}; expected a state dict.")
    return dict(found)


def _unwrapped(
    found: Mapping[str, Any], own: Collection[str], path: str | Path
) -> dict[str, Tensor]:
    """Return the tensors by the names that they have in the network, which are `own`."""
    for name in _AROUND:
        if isinstance(found.get(name), Mapping):
            return _unwrapped(found[name], own, path)
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor) and v.ndim < 8}
    if not tensors:
        raise ModelError(f"{str(path)!r} holds no tensors by name; it has {_few([*found])}.")
    for prefix in _BEFORE * 2:  # one may stand before another
        if tensors.keys().isdisjoint(own) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _summed(model: nn.Module, given: Mapping[str, Tensor]) -> str | None:
    """Return the first convolution's weight, if it reads grey and the file's reads colours."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            old, new = given.get(f"{name}.weight"), module.weight
            if old is None or old.ndim != 4 or (old.shape[1], new.shape[1]) != (3, 1):
                return None
            same = (old.shape[0], *old.shape[2:]) == (new.shape[0], *new.shape[2:])
            return f"{name}.weight" if same and module.groups == 1 else None
    return None


def _head(
    model: nn.Module, odd: list[str], given: Mapping[str, Tensor], classes: int
) -> str | None:
    """Return the layer that does not fit only because it is for another number of classes."""
    layers = [
        (name, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    unfit = {name.rpartition(".")[0] for name in odd}
    for name, weight in reversed(layers):
        old = given.get(f"{name}.weight")
        of_classes = len(weight) == classes and (old is None or old.shape[1:] == weight.shape[1:])
        # The last layer, or else the only one that does not fit.
        if of_classes and name in unfit and (name == layers[-1][0] or unfit == {name}):
            return name
    return None


def _misfit(
    path: str | Path,
    network: str,
    wrong: list[str],
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> str:
    shapes = [
        f"{name} is {tuple(given[name].shape)} and must be {tuple(own[name].shape)}"
        for name in wrong
        if name in given
    ]
    missing = [name for name in wrong if name not in given]
    unknown = sorted(given.keys() - own.keys())
    parts = []
    if shapes:
        parts.append("of another shape: " + _few(shapes, "; "))
    if missing:
        parts.append("missing: " + _few(missing))
    if unknown:
        parts.append("unknown to the network: " + _few(unknown))
    return (
        f"the weights {str(path)!r} are not of this {network}; {'. '.join(parts)}. Choose the "
        "--model that they were made for, unpruned, with images of as many channels."
    )


def _few(names: list[Any] | tuple[Any, ...], between: str = ", ") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(str(name)[:80] for name in names[:_SHOWN]) + more
