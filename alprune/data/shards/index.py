"""The index of a set of shards: position and label of each image, in mapped files.

It takes 16 bytes an image on the disk and next to nothing in memory. Shards are entered in their
order, each written through to the disk before the block that names it, so that a kill costs the
shards since. Test shards come first: new training shards behind all others cost only their own
listing.
"""

import errno
import hashlib
import json
import mmap
import os
import secrets
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from alprune.data.dataset import UNKNOWN
from alprune.data.image_cache.append_log import Block, BlockWriter, read_blocks
from alprune.data.image_cache.decode import MAX_BYTES
from alprune.data.image_cache.pool import cores
from alprune.data.image_cache.store import INDEX, clear, is_ours, locked
from alprune.data.image_cache.worker import write_at
from alprune.data.leftovers import SUFFIXES
from alprune.data.progress_bar import progress_bar
from alprune.data.safe_io import open_ordinary
from alprune.data.shards.listing import Shard, Shards
from alprune.data.shards.tar import BLOCK, Samples, list_samples, name_at
from alprune.data.spawning import GUARD, refuse_in_import
from alprune.errors import DataError

FORMAT = "alprune shards 2"
TEXT = UNKNOWN - 1  # code of the first class that is named by a text; others are below
_PLACE, _LABEL = np.dtype("<u4"), np.dtype("<i8")
_MANY_BYTES = 2**30  # of shards, from which on processes list them
_LARGEST_CLASS = 2**31


@dataclass(frozen=True, eq=False)
class Index:
    """A set of shards as it is known; samples are numbered through all of them.

    Attributes:
        root: Folder of the shards.
        shards: Path of each below `root`; those of test images first.
        first: Number of the first sample of each, and of all samples, `(s + 1,)` int64.
        tests: How many samples are test images: the first ones.
        places: First block and bytes of each image in its shard, `(n, 2)` uint32.
        codes: `(n,)` int64: the class where a `.cls` holds a number, -1 where there is none, and
            `TEXT - k` where it holds the text `texts[k]`.
        texts: Classes that are not numbers, in the order in which they were met.
        digest: Hash of all positions, and of the first image of each shard.
        token: Names files that belong to this index.
        others: Number of files that are not read, by their suffix, as of `Samples`.
    """

    root: Path
    shards: tuple[str, ...]
    first: np.ndarray
    tests: int
    places: np.ndarray
    codes: np.ndarray
    texts: tuple[str, ...]
    digest: str
    token: str
    others: dict[str, int]

    def __len__(self) -> int:
        return int(self.first[-1])

    def pieces(self, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """Divide ascending rows into pieces of up to `most`, each of one shard."""
        shards = np.searchsorted(self.first, rows, "right") - 1
        for shard in np.unique(shards):
            of_shard = rows[shards == shard]
            for begin in range(0, len(of_shard), most):
                yield of_shard[begin : begin + most]

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Yield rows of one shard with their images, empty where one is too large to be read.

        Raises:
            DataError: The shard cannot be read.
        """
        path = self.root / self.shards[self._shard(int(rows[0]))]
        try:
            with open_ordinary(path) as file:
                for row in rows.tolist():
                    block, size = self.places[row].tolist()
                    file.seek(block * BLOCK)
                    content = b"" if size > MAX_BYTES else file.read(size)
                    if len(content) < size <= MAX_BYTES:
                        raise DataError(
                            f"shard {str(path)!r} was cut short since it was listed. Copy it again."
                        )
                    yield row, content
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"shard {str(path)!r} cannot be read: {why}.") from error

    def called(self, row: int) -> str:
        """Return the path of an image: that of its shard, then its name in there."""
        shard = self.shards[self._shard(row)]
        return f"{shard}/{name_at(self.root / shard, int(self.places[row, 0]))}"

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self.first, row, "right")) - 1


@dataclass
class _Log:
    """What an index says of shards, block by block."""

    token: str
    counts: list[int]
    texts: list[str]
    digests: list[str]
    others: Counter[str]
    last: Block | None

    @property
    def samples(self) -> int:
        return sum(self.counts)


def file_of(place: Path, kind: str, token: str) -> Path:
    """Return a file of an index: "places", "labels", "rows" or "checks"."""
    return place / f"{kind}-{token}.bin"


def mapped(path: Path, dtype: np.dtype[Any], count: int, writable: bool = False) -> np.ndarray:
    """Map the first `count` numbers of a file.

    Args:
        path: The file.
        dtype: Type of the numbers.
        count: How many.
        writable: Let them be written to, which does not reach the file.

    Raises:
        OSError: The file cannot be read, or is too short.
    """
    with open_ordinary(path) as file:
        if os.fstat(file.fileno()).st_size < count * dtype.itemsize:
            raise OSError(errno.EIO, "it was cut short", str(path))
        access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
        whole = mmap.mmap(file.fileno(), count * dtype.itemsize, access=access)
    return np.frombuffer(whole, dtype, count)


def open_index(place: Path, shards: Shards, size: tuple[int, int], progress: bool) -> Index:
    """List the shards that are not in the index yet, and map it.

    Args:
        place: The cache.
        shards: What there is.
        size: `(h, w)` to which images are resized; it is a part of the cache.
        progress: Whether to show a bar.

    Raises:
        OSError: The cache cannot be written.
        DataError: A shard cannot be read.
    """
    every = (*shards.test, *shards.train)
    header = {"format": FORMAT, "root": str(shards.root.resolve()), "size": [*size]}
    with locked(place):
        log = _known(place, header, every)
        if log is None:
            log = _begin(place)
        if len(log.counts) < len(every):
            _list(place, log, header, shards.root, every, progress)
        n = log.samples
        tests = sum(log.counts[: len(shards.test)])
        if tests == n or (shards.test and not tests):
            raise DataError(
                f"the shards of {str(shards.root)!r} hold no images to train on, or none to test "
                f"on. A sample is an image ({', '.join(sorted(SUFFIXES)[:5])}, ...) and a .cls."
            )
        places = mapped(file_of(place, "places", log.token), _PLACE, 2 * n).reshape(n, 2)
        codes = mapped(file_of(place, "labels", log.token), _LABEL, n, writable=True)
    digest = hashlib.blake2b(json.dumps(log.digests).encode(), digest_size=16)
    return Index(
        shards.root,
        tuple(shard.path for shard in every),
        np.concatenate([[0], np.cumsum(log.counts)]).astype(np.int64),
        tests,
        places,
        codes,
        tuple(log.texts),
        digest.hexdigest(),
        log.token,
        dict(log.others),
    )


def _known(place: Path, header: dict[str, Any], every: Sequence[Shard]) -> _Log | None:
    """Read what is known of the first of these shards; None if it is not of these or not sound."""
    log: _Log | None = None
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        for block in read_blocks(place / INDEX):
            said = json.loads(block.payload)
            if log is None:
                if {**said, "token": None} != {**header, "token": None}:
                    return None
                log = _Log(str(said["token"]), [], [], [], Counter(), block)
                continue
            if len(log.counts) == len(every):
                return None  # a shard is gone
            shard = every[len(log.counts)]
            if said["shard"] != [shard.path, shard.size, shard.modified]:
                return None
            log.counts.append(block.count)
            log.texts += said["texts"]
            log.digests.append(said["digest"])
            log.others.update({str(name): int(n) for name, n in said["others"].items()})
            log.last = block
    if log is None:
        return None
    for kind, dtype, columns in (("places", _PLACE, 2), ("labels", _LABEL, 1)):
        file = file_of(place, kind, log.token)
        if not is_ours(file.name) or not file.is_file():
            return None
        if file.stat().st_size < log.samples * columns * dtype.itemsize:
            return None
    return log


def _begin(place: Path) -> _Log:
    """Clear a cache that is not of these shards; begin a new one."""
    clear(place)
    log = _Log(secrets.token_hex(8), [], [], [], Counter(), None)
    for kind in ("places", "labels"):
        file_of(place, kind, log.token).touch()
    return log


def _list(
    place: Path,
    log: _Log,
    header: dict[str, Any],
    root: Path,
    every: Sequence[Shard],
    progress: bool,
) -> None:
    """Enter the shards that are not known yet, in their order."""
    todo = every[len(log.counts) :]
    writer = BlockWriter(
        place / INDEX, log.last, json.dumps({**header, "token": log.token}).encode()
    )
    codes = {text: TEXT - number for number, text in enumerate(log.texts)}
    try:
        with (
            open(file_of(place, "places", log.token), "r+b", buffering=0) as places,
            open(file_of(place, "labels", log.token), "r+b", buffering=0) as labels,
        ):
            bar = progress_bar(
                todo, "listing shards", unit="shard", disable=not progress, leave=False
            )
            for shard, samples in zip(bar, _listed(root, todo), strict=True):
                known = len(codes)
                coded = _coded(samples.labels, codes)
                begin, n = log.samples, len(coded)
                where = samples.places.astype(_PLACE)
                write_at(places, begin * 2 * _PLACE.itemsize, memoryview(where.tobytes()))
                write_at(labels, begin * _LABEL.itemsize, memoryview(coded.tobytes()))
                os.fsync(places.fileno())
                os.fsync(labels.fileno())
                texts = list(codes)[known:]
                digest = _digest(root / shard.path, where, samples.labels)
                said = {
                    "shard": [shard.path, shard.size, shard.modified],
                    "texts": texts,
                    "digest": digest,
                    "others": samples.others,
                }
                writer.append(n, json.dumps(said).encode())
                log.counts.append(n)
                log.texts += texts
                log.digests.append(digest)
                log.others.update(samples.others)
    finally:
        writer.close()
    if without := log.others["cls"]:
        warnings.warn(
            f"{without:,} samples of {str(root)!r} have no image and are left out.", stacklevel=4
        )


def _listed(root: Path, todo: Sequence[Shard]) -> Iterator[Samples]:
    """List shards, by several processes where there is much to read."""
    paths = [root / shard.path for shard in todo]
    if sum(shard.size for shard in todo) < _MANY_BYTES or cores() == 1 or len(todo) == 1:
        yield from map(list_samples, paths)
        return
    refuse_in_import()
    context = get_context("spawn")
    with ProcessPoolExecutor(min(cores(), len(todo)), context) as workers:
        try:
            yield from workers.map(list_samples, paths)
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that lists shards ended. Memory may be short, or {GUARD}."
            ) from error
        finally:  # Ctrl-C must not wait for all that is queued
            workers.shutdown(cancel_futures=True)


def _coded(labels: list[str | None], codes: dict[str, int]) -> np.ndarray:
    """Turn what samples say of their class into codes; new texts get new ones."""

    def code(label: str | None) -> int:
        if label is None:
            return UNKNOWN
        if label.isascii() and label.isdigit() and int(label) < _LARGEST_CLASS:
            return int(label)
        return codes.setdefault(label, TEXT - len(codes))

    return np.array([code(label) for label in labels], _LABEL)


def _digest(path: Path, places: np.ndarray, labels: list[str | None]) -> str:
    digest = hashlib.blake2b(places.tobytes(), digest_size=16)
    digest.update(json.dumps(labels).encode())
    if len(places):
        with open(path, "rb") as file:
            file.seek(int(places[0, 0]) * BLOCK)
            digest.update(file.read(int(places[0, 1])))
    return digest.hexdigest()
