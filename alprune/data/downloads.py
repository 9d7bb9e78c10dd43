"""The public data sets that torchvision downloads into a cache folder."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alprune.data.dataset import LoadOptions, Splits, make_splits
from alprune.data.locks import held_if_possible
from alprune.data.safe_io import user_path
from alprune.errors import DataError

SILENCE_S = 30.0  # a server that sends nothing for so long is given up


@dataclass(frozen=True)
class _Download:
    """One torchvision class.

    Attributes:
        kind: The class.
        archives: `(file name, MD5)` of what it downloads.
        folder: Where these lie, below the cache folder.
        flip: Whether a horizontal flip leaves labels true.
    """

    kind: type
    archives: tuple[tuple[str, str], ...]
    folder: str
    flip: bool


def cifar10(path: str, options: LoadOptions) -> Splits:
    """Load CIFAR-10: 50,000 + 10,000 colour images of 32x32 in 10 classes."""
    return _load(_cifar(_torchvision().CIFAR10), options)


def cifar100(path: str, options: LoadOptions) -> Splits:
    """Load CIFAR-100: 50,000 + 10,000 colour images of 32x32 in 100 classes."""
    return _load(_cifar(_torchvision().CIFAR100), options)


def mnist(path: str, options: LoadOptions) -> Splits:
    """Load MNIST: 60,000 + 10,000 grey images of 28x28, handwritten digits."""
    return _load(_mnist(_torchvision().MNIST, flip=False), options)


def fashion_mnist(path: str, options: LoadOptions) -> Splits:
    """Load Fashion-MNIST: 60,000 + 10,000 grey images of 28x28, 10 kinds of clothing."""
    return _load(_mnist(_torchvision().FashionMNIST, flip=True), options)


def cache_folder(root: Path | None) -> Path:
    """Return where downloads are kept: `root`, `$ALPRUNE_DATA` or `~/.cache/alprune`."""
    return user_path(root or os.environ.get("ALPRUNE_DATA") or "~/.cache/alprune")


def _torchvision() -> Any:
    from torchvision import datasets  # here, as it takes a second that few commands need

    return datasets


def _cifar(kind: Any) -> _Download:
    return _Download(kind, ((kind.filename, kind.tgz_md5),), ".", flip=True)


def _mnist(kind: Any, flip: bool) -> _Download:
    return _Download(kind, tuple(kind.resources), f"{kind.__name__}/raw", flip)


def _load(download: _Download, options: LoadOptions) -> Splits:
    root = cache_folder(options.root)
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    waiting = f"another process is downloading into {root}: waiting for it."
    try:
        with (
            held_if_possible(root / ".download.lock", waiting),  # torchvision writes in place
            _socket_timeout(SILENCE_S),
            contextlib.redirect_stdout(sys.stderr),
        ):
            train, test = (download.kind(root, train=part, download=True) for part in (True, False))
        parts = [_tensors(part) for part in (train, test)]
    except Exception as error:  # urllib, sockets, tarfile, gzip, pickle, assert: all mean no data
        raise DataError(_explain(download, root, error)) from error
    return make_splits(
        parts[0], parts[1], tuple(train.classes), flip=download.flip, size=options.size
    )


def _tensors(part: Any) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(np.ascontiguousarray(part.data))
    return (x if x.ndim == 4 else x[..., None]), torch.as_tensor(part.targets, dtype=torch.int64)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision opens its connections without a limit and takes none: the default is the only way.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _explain(download: _Download, root: Path, error: Exception) -> str:
    from torchvision.datasets.utils import calculate_md5

    name, folder = download.kind.__name__, root / download.folder
    reason = " ".join(str(error).split()).strip(". ") or "no reason given"
    damaged = [
        f"{folder / file} is there but damaged or not whole ({(folder / file).stat().st_size} "
        "bytes, its MD5 is not that of the publisher)."
        for file, md5 in download.archives
        if (folder / file).is_file() and calculate_md5(folder / file) != md5
    ]
    files = ", ".join(file for file, _ in download.archives)
    return " ".join(
        [
            f"{name} could not be loaded from {root}, nor downloaded into it: "
            f"{type(error).__name__}: {reason}.",
            *damaged,
            f"Without a network, put the publisher's {files} into {folder} (remove what is damaged "
            "there; --data-root or $ALPRUNE_DATA names another folder) and run again. "
            "--dataset digits needs no download; npz:PATH and folder:PATH read data of your own.",
        ]
    )
