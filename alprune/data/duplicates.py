"""Images that are there twice: within the training set, and in both training and test set."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alprune.data.dataset import UNKNOWN, Splits
from alprune.data.lazy_rows import ChosenRows
from alprune.errors import counted

LARGEST = 16 * 2**30  # bytes of images that `messages` has hashed, at about half a GB a second
_CHUNK_BYTES = 2**24
_SHOWN = 3  # examples in a warning


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which images equal others, byte for byte.

    Attributes:
        train: `(k, 2)` int64: a training image and the first one with the same content, ascending.
        test: `(m, 2)` int64: a test image and the first training image with the same content.
        train_conflicts: How many of the pairs in `train` have different labels.
        test_conflicts: How many of the pairs in `test` have different labels.
    """

    train: Tensor
    test: Tensor
    train_conflicts: int
    test_conflicts: int

    def counts(self) -> dict[str, int]:
        """Return the four counts by name, for a log."""
        return {
            "train": len(self.train),
            "train_conflicts": self.train_conflicts,
            "test": len(self.test),
            "test_conflicts": self.test_conflicts,
        }


def find(splits: Splits) -> Duplicates:
    """Find images that equal others, by a hash of 128 bits of each image's bytes.

    Every image is read once, a few megabytes at a time; that takes some 80 bytes an image. The
    hashes of images that come from files are known already.
    """
    parts = [
        _hashes(part.x) if part.files is None else part.files.pixels.view(np.uint64)
        for part in (splits.train, splits.test)
    ]
    return _found(parts, splits.train.y.cpu().numpy(), splits.test.y.cpu().numpy())


def _found(parts: list[np.ndarray], y_train: np.ndarray, y_test: np.ndarray) -> Duplicates:
    n = len(parts[0])
    # A stable sort puts equal hashes side by side and the first of them, a training image where
    # there is one, in front.
    order, starts = _runs(np.concatenate(parts))
    first = np.empty_like(order)
    first[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    index = np.arange(len(order))
    train = index[:n][first[:n] != index[:n]]
    test = index[n:][first[n:] < n]
    return Duplicates(
        torch.from_numpy(np.stack([train, first[train]], 1)),
        torch.from_numpy(np.stack([test - n, first[test]], 1)),
        int((y_train[train] != y_train[first[train]]).sum()),
        int((y_test[test - n] != y_train[first[test]]).sum()),
    )


def messages(splits: Splits, largest: int = LARGEST) -> list[str]:
    """Say which images are there twice, how many, and what to do about it; nothing if none is.

    Args:
        splits: The data.
        largest: Bytes of images; where there are more, none is looked for, and that is said. Nor
            is it where images are decoded when they are needed.
    """
    parts = [part for part in (splits.train, splits.test) if part.files is None]
    if any(isinstance(part.x, ChosenRows) and part.x.on_demand for part in parts):
        return []  # they would all have to be decoded for it
    size = sum(part.x.numel() * part.x.element_size() for part in parts)
    if size > largest:
        return [
            f"the images take {size / 2**30:.1f} GiB, more than the {largest / 2**30:.1f} that are "
            "searched for duplicates. alprune.data.duplicates.find(splits) searches all of them."
        ]
    found, said = find(splits), []
    if len(found.train):
        said.append(
            f"{len(found.train):,} of {len(splits.train):,} training images repeat an earlier one "
            f"({_examples(found.train, '')}){_conflicts(found.train_conflicts)}. Each costs a "
            "label and teaches nothing new: leave them out."
        )
    if len(found.test):
        said.append(
            f"{len(found.test):,} of {len(splits.test):,} test images are training images too "
            f"({_examples(found.test, 'training image ')}){_conflicts(found.test_conflicts)}. The "
            "test accuracy is flattered by what was trained on: leave them out of the training set."
        )
    return said


def contradictions(splits: Splits) -> list[str]:
    """Say which labelled images repeat one of another label, and which are tested on too.

    Args:
        splits: Images of files; those without a label (-1) are passed over.
    """
    files, test_files = splits.train.files, splits.test.files
    if files is None:
        return []
    y, said = splits.train.y.cpu().numpy(), []
    known = np.flatnonzero(y != UNKNOWN)
    tested = files.pixels[:0] if test_files is None else test_files.pixels
    y_test = splits.test.y.cpu().numpy()[: len(tested)]
    found = _found(
        [part.view(np.uint64) for part in (files.pixels[known], tested)], y[known], y_test
    )
    pairs = known[found.train.numpy()]
    if found.train_conflicts:
        pairs = pairs[y[pairs[:, 0]] != y[pairs[:, 1]]]
        named = [f"{files.paths[a]!r} is {files.paths[b]!r}" for a, b in pairs[:_SHOWN]]
        said.append(
            counted(len(pairs), "labelled image repeats", "labelled images repeat")
            + f" one that has another label ({', '.join(named)}{', ...' * (len(pairs) > _SHOWN)}): "
            "both are learnt. Leave out the wrong ones."
        )
    if len(found.test):
        said.append(
            f"{len(found.test):,} of {len(tested):,} test images are labelled training images too: "
            "the test accuracy is flattered by what was trained on."
        )
    return said


def _hashes(x: Tensor) -> np.ndarray:
    """Return 16 bytes for each image `(n, h, w, c)`, as `(n, 2)` uint64."""
    hashes = bytearray()
    for row in _rows(x):
        hashes += hashlib.blake2b(row, digest_size=16).digest()
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)


def _rows(x: Tensor) -> Iterator[memoryview]:
    size = x[:1].numel() * x.element_size()
    step = max(1, _CHUNK_BYTES // size)
    for start in range(0, len(x), step):
        chunk = np.ascontiguousarray(x[start : start + step].cpu().numpy())
        content = chunk.reshape(-1).view(np.uint8).data
        for begin in range(0, len(content), size):
            yield content[begin : begin + size]


def _runs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a stable order of `(n, 2)` hashes and the places in it where a new one starts."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ranked = hashes[order]
    new = np.ones(len(ranked), bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(1)
    return order, np.flatnonzero(new)


def _examples(pairs: Tensor, whose: str) -> str:
    shown = [f"{a} is {whose}{b}" for a, b in pairs[:_SHOWN].tolist()]
    return ", ".join(shown) + (", ..." if len(pairs) > _SHOWN else "")


def _conflicts(count: int) -> str:
    return f", {count:,} of them with another label" if count else ""
