"""Vectors of images, such as a network's embeddings, kept by the hash of each image's pixels.

A store is a folder of files that are only appended, one for each process that wrote to it, so that
several processes fill one store at once and none waits. What a killed process wrote is kept.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from alprune.data.image_cache.append_log import (
    Block,
    BlockWriter,
    counts_of_blocks,
    read_blocks,
)
from alprune.data.image_cache.store import CacheInfo, caches_folder, disk_bytes
from alprune.data.locks import file_lock
from alprune.data.safe_io import open_ordinary
from alprune.errors import DataError

KEY_BYTES = 16
_TYPE = np.dtype("<f2")
SUFFIX, _LOCK = ".vectors", ".lock"
_SPARSE = 8  # vectors that are read in vain for each that is wanted, at most
_OPEN_MOST = 64  # files of a store that are open for reading


@dataclass
class _Part:
    """How far a file of a store has been read."""

    last: Block | None = None


@dataclass(frozen=True)
class _Piece:
    """Vectors that were written at once: where they are in a file, or themselves."""

    path: Path | None
    begin: int = 0
    kept: np.ndarray | None = None


class VectorStore:
    """The vectors of one kind, on disk.

    What is on disk is not kept in memory: a round reads the vectors that it looks at. Files are
    closed by `close`, or when the store is no longer referenced.

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
        self._writing = ExitStack()  # ends what `_begun` begins
        self._pieces: list[_Piece] = []
        self._open_files: dict[Path, BinaryIO] = {}
        self._reading = threading.Lock()
        weakref.finalize(self, _close_all, self._writing, self._open_files)

    def news(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield what was written since the last call, by any process.

        Yields:
            Keys `(m, 16)` uint8, and the number of the piece that holds their vectors in turn.
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
                self._pieces.append(_Piece(path, block.end - len(block.payload)))
                yield records["key"].copy(), len(self._pieces) - 1

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> int:
        """Write vectors through to the disk; those of a store that cannot be written stay here.

        Args:
            keys: `(m, 16)` uint8, m at most a few thousand.
            vectors: `(m, dimensions)`.

        Returns:
            The number of their piece.
        """
        self._pieces.append(self._written(keys, vectors))
        return len(self._pieces) - 1

    def read(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Return vectors of a piece, `(k, dimensions)` float16.

        Args:
            number: Of the piece.
            rows: Which of its vectors, `(k,)`.

        Raises:
            DataError: The file was removed or changed after it was opened.
        """
        piece = self._pieces[number]
        if piece.kept is not None:
            found: np.ndarray = piece.kept[rows]
            return found
        assert piece.path is not None
        first, end = int(rows.min()), int(rows.max()) + 1
        size = self._record.itemsize
        if end - first <= _SPARSE * len(rows):  # one read costs less than many
            content = self._bytes(piece.path, piece.begin + first * size, (end - first) * size)
            vectors: np.ndarray = np.frombuffer(content, self._record)["vector"][rows - first]
            return vectors
        parts = [self._bytes(piece.path, piece.begin + int(row) * size, size) for row in rows]
        alone: np.ndarray = np.frombuffer(b"".join(parts), self._record)["vector"]
        return alone

    def close(self) -> None:
        """Close the file that this process writes, and those that it reads."""
        self._own = None
        with self._reading:
            _close_all(self._writing, self._open_files)

    def _written(self, keys: np.ndarray, vectors: np.ndarray) -> _Piece:
        if self.folder is None:
            return _Piece(None, kept=vectors.astype(_TYPE))
        records = np.empty(len(keys), self._record)
        records["key"], records["vector"] = keys, vectors
        try:
            name, writer = self._own or self._begun(self.folder)
            writer.append(len(keys), records.tobytes())
        except OSError as error:
            warnings.warn(
                f"embeddings cannot be kept in {self.folder} ({error.strerror or error}), so they "
                "are computed again each time. Name another folder by --cache, or ALPRUNE_CACHE.",
                stacklevel=2,
            )
            self.folder = None
            return _Piece(None, kept=records["vector"].copy())
        self._own = name, writer
        # What this process wrote it knows already.
        self._parts[name] = _Part(writer.last)
        return _Piece(self.folder / name, writer.last.end - records.nbytes)

    def _bytes(self, path: Path, begin: int, count: int) -> bytes:
        try:
            with self._reading:
                file = self._open_files.pop(path, None) or open_ordinary(path)
                self._open_files[path] = file  # the one that was used last
                if len(self._open_files) > _OPEN_MOST:
                    self._open_files.pop(next(iter(self._open_files))).close()
                file.seek(begin)
                content: bytes = file.read(count)
        except OSError:
            content = b""
        if len(content) < count:
            raise DataError(
                f"the embeddings in {path.parent} were removed or changed while they were in use. "
                "Start the command again: what is missing is embedded again."
            )
        return content

    def _files(self) -> list[Path]:
        if self.folder is None:
            return []
        with suppress(OSError):
            names = sorted(os.listdir(self.folder))
            return [self.folder / name for name in names if name.endswith(SUFFIX)]
        return []

    def _begun(self, folder: Path) -> tuple[str, BlockWriter]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written", str(folder))
        token = secrets.token_hex(8)
        lock = file_lock(folder / f"{token}{_LOCK}")  # held while this process may write
        with suppress(NotImplementedError, OSError, Timeout):  # a file system without locks
            lock.acquire(timeout=0)
        self._writing.callback(_let_go, lock)
        writer = BlockWriter(folder / f"{token}{SUFFIX}", None, self._header)
        self._writing.callback(writer.close)
        return f"{token}{SUFFIX}", writer


class VectorTable:
    """The vectors of a list of images: which are known, and where.

    Equal images share a vector, so that each is computed once.

    Args:
        keys: Hash of each image's pixels, `(n, 16)` uint8.
        store: Where vectors are kept.

    Attributes:
        place: Number of each image among the different ones, `(n,)` int64.
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
        self._piece = np.full(len(self._first), -1, np.int32)
        self._row = np.zeros(len(self._first), np.int32)
        self.refresh()

    @classmethod
    def whole(cls, store: VectorStore) -> "VectorTable":
        """Make the table of all images whose vectors a store holds, in any order."""
        parts = list(store.news())
        keys = [np.empty((0, KEY_BYTES), np.uint8), *(keys for keys, _ in parts)]
        table = cls(np.concatenate(keys), store)
        for part in parts:
            table._enter(*part)
        return table

    def __len__(self) -> int:
        """Count the different images."""
        return len(self._first)

    def is_of(self, keys: np.ndarray) -> bool:
        """Tell whether this is the table of images with these hashes."""
        return len(keys) == len(self.place) and bool((self._keys[self.place] == keys).all())

    def refresh(self) -> None:
        """Take over what other processes have written."""
        for keys, piece in self._store.news():
            self._enter(keys, piece)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the index of an image with each of some hashes `(m, 16)`, `(m,)`; -1: none."""
        places, found = self._places(keys)
        return np.where(found, self._first[places], -1) if len(self) else places - 1

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return the vectors of some images, `(k, dimensions)` float16.

        Args:
            images: Indices in `keys`, `(k,)`; none of them in `missing`.
        """
        places = self.place[images]
        pieces, rows = self._piece[places], self._row[places]
        assert (pieces >= 0).all(), "images that are not embedded"
        found = np.empty((len(places), self._store.dimensions), _TYPE)
        order = np.argsort(pieces, kind="stable")
        numbers, begins, counts = np.unique(pieces[order], return_index=True, return_counts=True)
        for number, begin, count in zip(numbers, begins, counts, strict=True):
            some = order[begin : begin + count]
            found[some] = self._store.read(int(number), rows[some])
        return found

    def missing(self, images: np.ndarray | None = None) -> np.ndarray:
        """Return images whose vector is not known yet.

        Args:
            images: Indices in `keys`, `(k,)`, of which to take those; None: one of each kind of
                equal images.
        """
        if images is None:
            return self._first[self._piece < 0]
        return images[self._piece[self.place[images]] < 0]

    def digest(self, images: np.ndarray) -> bytes:
        """Return a hash of some images, `(k,)` indices in `keys`, in their order."""
        return hashlib.blake2b(self._keys[self.place[images]].tobytes(), digest_size=16).digest()

    def fill(self, images: np.ndarray, vectors: np.ndarray) -> None:
        """Enter and keep the vectors of some images, `(k,)` indices in `keys`."""
        places = self.place[images]
        self._piece[places] = self._store.add(self._keys[places], vectors)
        self._row[places] = np.arange(len(places))

    def close(self) -> None:
        """Close the store's files."""
        self._store.close()

    def _enter(self, keys: np.ndarray, piece: int) -> None:
        places, found = self._places(keys)
        self._piece[places[found]] = piece
        self._row[places[found]] = np.nonzero(found)[0]

    def _places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where hashes are among the different ones, and whether they are there at all."""
        places = np.searchsorted(self._numbers, _numbers(keys))
        places[places == len(self._numbers)] = 0
        found = (self._keys[places] == keys).all(1) if len(self._keys) else places < 0
        return places, found


def list_stores(where: Path | str | None = None) -> list[CacheInfo]:
    """Return the stores of embeddings that are there, sorted by name; `where` as above."""
    found = []
    with suppress(OSError):
        for entry in sorted(os.scandir(store_folder("", where)), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                names: list[str] = []
                with suppress(OSError):  # of another user
                    names = os.listdir(path)
                count = sum(_records(path / name) for name in names if _is_part(name))
                found.append(CacheInfo(path, None, None, disk_bytes(path), embeddings=count))
    return found


def remove_store(path: Path) -> int:
    """Remove a store of embeddings, and nothing else that may be in its folder.

    Processes that read it can continue; what they write from then on is lost.

    Returns:
        The bytes set free.

    Raises:
        DataError: It is being written, is not a store, or cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        raise DataError(f"{path} is not a folder of embeddings.")
    try:
        parts = [path / name for name in os.listdir(path) if _is_part(name)]
        with ExitStack() as locks:
            for part in parts:
                if part.with_suffix(_LOCK).exists():  # its writer may have been killed
                    locks.enter_context(file_lock(part.with_suffix(_LOCK), timeout=0))
            freed = disk_bytes(path)
            for part in parts:
                part.unlink()
        for name in os.listdir(path):
            if re.fullmatch(r"[0-9a-f]{16}\.lock|\.[0-9a-f]{16}\.vectors\.tmp", name):
                (path / name).unlink()
        path.rmdir()
    except Timeout:
        raise DataError(
            f"another process is embedding images into {path}. Wait for it, or stop it."
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter: it has no locks
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be removed: {why}.") from error
    return freed


def _close_all(writing: ExitStack, reading: dict[Path, BinaryIO]) -> None:
    writing.close()
    while reading:
        reading.popitem()[1].close()


def _let_go(lock: FileLock) -> None:
    lock.release()
    with suppress(OSError):
        os.unlink(lock.lock_file)


def _is_part(name: str) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}", name) is not None


def _records(path: Path) -> int:
    """Count the vectors in a file, by the heads of its blocks."""
    return sum(counts_of_blocks(path))


def store_folder(name: str, where: Path | str | None = None) -> Path:
    """Return the folder of a store; `where` as for `alprune.data.image_cache.store`."""
    return caches_folder(where).with_name("embeddings") / name


def _numbers(keys: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each key as a number, `(n,)`."""
    numbers: np.ndarray = np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1)
    return numbers
