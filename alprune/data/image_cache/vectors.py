"""Vectors of images, such as a network's embeddings, kept by the hash of each image's pixels.

A store is a folder of files that are only appended, one for each process that wrote to it, so that
several processes fill one store at once and none waits. What a killed process wrote is kept.
"""

import errno
import json
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alprune.data.image_cache.append_log import Block, BlockWriter, read_blocks
from alprune.data.image_cache.store import caches_folder
from alprune.errors import DataError

KEY_BYTES = 16
_TYPE = np.dtype("<f2")
_SUFFIX = ".vectors"


@dataclass
class _Part:
    """How far a file of a store has been read."""

    last: Block | None = None


class VectorStore:
    """The vectors of one kind, on disk.

    Args:
        folder: Of the store; made when something is written. None keeps nothing on disk.
        dimensions: Numbers in a vector.
    """

    def __init__(self, folder: Path | None, dimensions: int) -> None:
        self.folder, self.dimensions = folder, dimensions
        self._header = json.dumps({"format": 1, "dimensions": dimensions}).encode()
        self._record = np.dtype([("key", "u1", KEY_BYTES), ("vector", _TYPE, dimensions)])
        self._parts: dict[str, _Part] = {}
        self._own: tuple[str, BlockWriter] | None = None

    def news(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield what was written since the last call, by any process.

        Yields:
            Keys `(m, 16)` uint8 and vectors `(m, dimensions)` float16.
        """
        for path in self._files():
            part = self._parts.setdefault(path.name, _Part())
            for block in read_blocks(path, part.last):
                new = part.last is None
                part.last = Block(block.count, b"", block.end, block.link)
                if new:
                    if block.payload != self._header:
                        break
                    continue
                if len(block.payload) != block.count * self._record.itemsize:
                    break
                records = np.frombuffer(block.payload, self._record)
                yield records["key"], records["vector"]

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Write vectors through to the disk; a store that cannot be written only warns.

        Args:
            keys: `(m, 16)` uint8, m at most a few thousand.
            vectors: `(m, dimensions)`.
        """
        if self.folder is None:
            return
        records = np.empty(len(keys), self._record)
        records["key"], records["vector"] = keys, vectors
        try:
            name, writer = self._own or self._open(self.folder)
            writer.append(len(keys), records.tobytes())
        except OSError as error:
            warnings.warn(
                f"embeddings cannot be kept in {self.folder} ({error.strerror or error}), so they "
                "are computed again each time. Name another folder by --cache, or ALPRUNE_CACHE.",
                stacklevel=2,
            )
            self.folder = None
            return
        self._own = name, writer
        # What this process wrote it knows already.
        self._parts[name] = _Part(writer.last)

    def close(self) -> None:
        """Close the file that this process writes."""
        if self._own is not None:
            self._own[1].close()
            self._own = None

    def _files(self) -> list[Path]:
        if self.folder is None:
            return []
        with suppress(OSError):
            names = sorted(os.listdir(self.folder))
            return [self.folder / name for name in names if name.endswith(_SUFFIX)]
        return []

    def _open(self, folder: Path) -> tuple[str, BlockWriter]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written", str(folder))
        name = f"{secrets.token_hex(8)}{_SUFFIX}"
        return name, BlockWriter(folder / name, None, self._header)


class VectorTable:
    """The vectors of a list of images, in memory: filled from a store, and by who computes more.

    Equal images share a row, so that each is computed once.

    Args:
        keys: Hash of each image's pixels, `(n, 16)` uint8.
        store: Where vectors are kept.

    Attributes:
        vectors: Of the different images, `(u, dimensions)` float16, in no order that matters.
        place: Row of each image in `vectors`, `(n,)` int64.
        known: Which rows are filled, `(u,)` bool.
    """

    def __init__(self, keys: np.ndarray, store: VectorStore) -> None:
        self._store = store
        self._numbers, self._first, place = np.unique(
            _numbers(keys), return_index=True, return_inverse=True
        )
        self._keys = np.ascontiguousarray(keys[self._first])
        if (self._keys[place] != keys).any():  # 1 chance in 10^7 with a million images
            raise DataError("two images of the pool have hashes that begin alike; remove one.")
        self.place = place.astype(np.int64)
        self.vectors = np.zeros((len(self._first), store.dimensions), _TYPE)
        self.known = np.zeros(len(self._first), bool)
        self.refresh()

    def refresh(self) -> None:
        """Take over what other processes have written."""
        for keys, vectors in self._store.news():
            numbers = _numbers(keys)
            rows = np.searchsorted(self._numbers, numbers)
            rows[rows == len(self._numbers)] = 0
            found = (self._keys[rows] == keys).all(1) if len(self._keys) else rows < 0
            self.vectors[rows[found]] = vectors[found]
            self.known[rows[found]] = True

    def missing(self) -> np.ndarray:
        """Return one image, by its index in `keys`, for each row that is not filled yet."""
        return self._first[~self.known]

    def fill(self, images: np.ndarray, vectors: np.ndarray) -> None:
        """Enter and keep the vectors of some images, `(k,)` indices in `keys`."""
        rows = self.place[images]
        self.vectors[rows] = vectors
        self.known[rows] = True
        self._store.add(self._keys[rows], self.vectors[rows])

    def close(self) -> None:
        """Close the store's file."""
        self._store.close()


def store_folder(name: str, where: Path | str | None = None) -> Path:
    """Return the folder of a store; `where` as for `alprune.data.image_cache.store`."""
    return caches_folder(where).with_name("embeddings") / name


def _numbers(keys: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each key as a number, `(n,)`."""
    numbers: np.ndarray = np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1)
    return numbers


__all__ = ["KEY_BYTES", "VectorStore", "VectorTable", "store_folder"]
