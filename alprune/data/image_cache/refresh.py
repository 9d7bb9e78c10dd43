"""Bring a cache of decoded images up to date with a folder.

A file is taken to be the same as long as its path, size and time of change are, as git does; a file
of another place or time is known again by the hash of its content. What is decoded is written
through to the disk every few seconds, the pixels before the index that names them, so a kill or a
power cut costs what was decoded since.
"""

import errno
import os
import secrets
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from alprune.data.image_cache.decode import hash_of
from alprune.data.image_cache.index import IndexWriter, Known, read_index
from alprune.data.image_cache.pool import Helper, cores, share_out
from alprune.data.image_cache.store import INDEX, LOCK_LARGE, UNREADABLE, clear, is_rows, locked
from alprune.data.image_cache.worker import (
    HASH_BYTES,
    UNREAD,
    Batch,
    Outcome,
    Reader,
    Worker,
    open_rows,
    settled,
)
from alprune.data.listing import Listing
from alprune.data.memmap import CHUNK, gigabytes

FORMAT = "alprune images 2"
MANY = 3000  # files from which on it pays to start processes
_MANY_BYTES = 2**28  # likewise, of photographs
_BATCH = 256  # files a batch, fewer if images are large
_LOOKED_AT = 2**29  # bytes of kept images whose hash is compared before they are used
_SETTLE_S = 2.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """What decoding a folder of images came to, in the order of its listing.

    Attributes:
        file: That the pixels lie in, row after row of `h * w * 3` bytes.
        rows: Where those of each image are, `(n,)` int64; -1 of files that cannot be read.
        grey: Whether an image has no colour, `(n,)` bool.
        bits: Of images of more than 8 bits as of `pixel_range.eight_bits`, else 0, `(n,)` uint8.
        contents: Hash of each file's bytes, `(n, 16)` uint8.
        pixels: Hash of each image's row, `(n, 16)` uint8.
        reasons: Why a file cannot be read, by its position.
        fresh: How many files were decoded just now.
    """

    file: Path
    rows: np.ndarray
    grey: np.ndarray
    bits: np.ndarray
    contents: np.ndarray
    pixels: np.ndarray
    reasons: dict[int, str]
    fresh: int = 0

    @classmethod
    def room(cls, file: Path, n: int) -> "Decoded":
        """Return what is known of `n` files before any is read."""
        contents, pixels = (np.zeros((n, HASH_BYTES), np.uint8) for _ in range(2))
        grey, bits = np.zeros(n, bool), np.zeros(n, np.uint8)
        return cls(file, np.full(n, UNREAD), grey, bits, contents, pixels, {})

    @property
    def missing(self) -> np.ndarray:
        """Positions of the files that are not known yet."""
        missing = self.rows == UNREAD
        missing[list(self.reasons)] = False
        return np.flatnonzero(missing)

    def enter(self, where: np.ndarray, records: np.ndarray) -> None:
        """Take over what an index says of images, for the positions `where`."""
        self.rows[where], self.grey[where] = records["row"], records["grey"]
        self.bits[where] = records["bits"]
        self.contents[where], self.pixels[where] = records["content"], records["pixels"]


def refresh(place: Path, listing: Listing, size: tuple[int, int], progress: bool) -> Decoded:
    """Decode the files of a folder that its cache does not hold yet.

    Args:
        place: The cache.
        listing: The files.
        size: `(h, w)` to which images are resized.
        progress: Whether to show a bar.

    Raises:
        OSError: The cache cannot be written, or the disk is too full.
    """
    row = size[0] * size[1] * 3
    header = {"format": FORMAT, "root": str(listing.root.resolve()), "size": [*size]}
    with locked(place):
        known = _sound(place, header)
        out = Decoded.room(place / (known.header["rows"] if known else _begin(place)), len(listing))
        if known is not None:
            _take_known(known, listing, out, row)
        if len(todo := out.missing):
            needed, free = len(todo) * row, shutil.disk_usage(place).free
            if needed > free:
                raise OSError(
                    errno.ENOSPC,
                    f"{len(todo):,} images of {size[0]}x{size[1]} pixels take {gigabytes(needed)}, "
                    f"more than there is: {gigabytes(free)}",
                )
            with (
                warnings.catch_warnings(),
                _Reading(place, listing, size, out, known, header, progress) as reading,
            ):
                warnings.simplefilter("ignore")  # Pillow's, about odd metadata and near bombs
                if known is not None:
                    reading.recognise(known)
                reading.decode()
            out = replace(out, fresh=reading.decoded)
        _list_unreadable(place, listing, out)
    return out


def _sound(place: Path, header: dict[str, Any]) -> Known | None:
    """Read an index; None if it is not this folder's, or its pixels are gone."""
    known = read_index(place / INDEX)
    if known is None or not is_rows(known.header.get("rows")):
        return None
    if {**known.header, "rows": None} != {**header, "rows": None}:
        return None
    with suppress(OSError):
        open_rows(place / known.header["rows"]).close()
        return known
    return None


def _begin(place: Path) -> str:
    """Clear a cache that is not to be trusted; make an empty file of pixels, return its name."""
    clear(place)
    name = f"rows-{secrets.token_hex(8)}.bin"
    (place / name).touch()
    return name


def _take_known(known: Known, listing: Listing, out: Decoded, row: int) -> None:
    """Enter what is known of the files that have not changed."""
    if not known.paths:
        return
    at = np.array([known.place.get(path, -1) for path in listing.paths])
    records = known.records[at]
    same = (at >= 0) & (records["size"] == listing.sizes)
    same &= records["modified"] == listing.modified
    for index in np.flatnonzero(same & (records["row"] == UNREAD)):
        out.reasons[int(index)] = known.reasons.get(int(at[index]), "it cannot be read")
    where = np.flatnonzero(same & (records["row"] != UNREAD))
    fine = are_sound(out.file, records[where], row)
    out.enter(where[fine], records[where[fine]])


def are_sound(file: Path, records: np.ndarray, row: int) -> np.ndarray:
    """Tell which images are in the file of pixels as the index says, `(k,)` bool.

    Of more than half a gigabyte only a part is looked at, spread evenly; if one of it is not
    sound, all are.

    Args:
        file: Of pixels.
        records: Of the index, `(k,)`.
        row: Bytes an image.
    """
    fine = np.ones(len(records), bool)
    some = max(1, _LOOKED_AT // row)
    if len(records) > some:
        chosen = np.arange(some) * len(records) // some
        if _agree(file, records[chosen], row).all():
            # Those at the end too, which a cut file lacks.
            return fine & (records["row"] < file.stat().st_size // row)
    return _agree(file, records, row)


def _agree(file: Path, records: np.ndarray, row: int) -> np.ndarray:
    fine = np.zeros(len(records), bool)
    with open_rows(file, buffering=2**16) as pixels:
        for index in records["row"].argsort(kind="stable"):
            record = records[index]
            pixels.seek(int(record["row"]) * row)
            fine[index] = hash_of(pixels.read(row)) == record["pixels"].tobytes()
    return fine


class _Reading:
    """Reads files into a cache, and enters what comes of it in its index and in `out`."""

    def __init__(
        self,
        place: Path,
        listing: Listing,
        size: tuple[int, int],
        out: Decoded,
        known: Known | None,
        header: dict[str, Any],
        progress: bool,
    ) -> None:
        self._place, self._listing, self._size, self._out = place, listing, size, out
        self._row = size[0] * size[1] * 3
        self._batch = max(1, min(_BATCH, CHUNK // self._row))
        self._went_before = known is not None
        self._pixels = open_rows(out.file)
        self._index = IndexWriter(place / INDEX, known, {**header, "rows": out.file.name})
        self._waiting: list[tuple[str, Outcome]] = []  # for their pixels to be on the disk
        self._settled = time.monotonic()
        self._bar = tqdm(
            total=len(listing),
            initial=len(listing) - len(out.missing),
            desc="decoding images",
            unit="img",
            disable=None if progress else True,
        )
        self.decoded = 0

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Keep what was read, also when Ctrl-C or an error has ended the reading."""
        try:
            self._settle()
        except OSError:
            if error is None:
                raise
        finally:
            self._bar.close()
            self._index.close()
            self._pixels.close()

    def recognise(self, known: Known) -> None:
        """Find the files that were only moved or touched by their content."""
        now = set(self._listing.paths) - {self._listing.paths[i] for i in self._out.missing}
        gone = [
            index
            for path, index in known.place.items()
            if known.records["row"][index] != UNREAD and path not in now
        ]
        sizes = known.records["size"][gone]
        todo = self._out.missing
        todo = todo[np.isin(self._listing.sizes[todo], sizes)]
        if not len(todo):
            return
        sound = are_sound(self._out.file, known.records[gone], self._row)
        by_content = {
            known.records["content"][index].tobytes().hex(): index
            for index, fine in zip(gone, sound, strict=True)
            if fine
        }
        with closing(self._done(todo, UNREAD)) as done:
            for where, outcomes in done:
                for position, out in zip(where, outcomes, strict=True):
                    if not out.reason and (index := by_content.get(out.content)) is not None:
                        self._note(position, _as_known(out, known.records[index]))
                self._settle_in_time()

    def decode(self) -> None:
        """Decode all the others."""
        # What a killed process was decoding may still be written, beyond the end.
        spare = cores() * self._batch if self._went_before else 0
        first = -(-self._pixels.seek(0, 2) // self._row) + spare
        with closing(self._done(self._out.missing, first)) as done:  # Ctrl-C ends them at once
            for where, outcomes in done:
                for position, out in zip(where, outcomes, strict=True):
                    self._note(position, out)
                self.decoded += len(where)
                self._settle_in_time()

    def _done(
        self, todo: np.ndarray, first: int
    ) -> Generator[tuple[np.ndarray, list[Outcome]], None, None]:
        """Let workers read the files at the positions `todo`, into rows from `first` on."""
        places: dict[int, np.ndarray] = {}

        def batches() -> Iterator[Batch]:
            for number, begin in enumerate(range(0, len(todo), self._batch)):
                where = places[number] = todo[begin : begin + self._batch]
                paths = [self._listing.paths[index] for index in where]
                row = first if first == UNREAD else first + begin
                yield Batch(number, str(self._listing.root), paths, row)

        make, workers = self._workers(todo)
        with closing(share_out(batches(), make, workers)) as done:
            for batch, outcomes in done:
                yield places.pop(batch.number), outcomes

    def _workers(self, todo: np.ndarray) -> tuple[Callable[[], Worker], int]:
        workers = min(16, cores())
        many = len(todo) >= MANY or self._listing.sizes[todo].sum() >= _MANY_BYTES
        if many and sys.executable and not getattr(sys, "frozen", False):
            workers, alone = cores(), self._place / LOCK_LARGE
            return lambda: Helper(self._out.file, alone, self._size, workers), workers
        held = threading.RLock()
        return lambda: Reader(open_rows(self._out.file), self._size, workers, held), workers

    def _note(self, position: int, out: Outcome) -> None:
        if out.reason:
            self._out.reasons[int(position)] = out.reason
            size, modified = self._listing.sizes[position], self._listing.modified[position]
            out = replace(out, size=int(size), modified=settled(int(modified)))
        else:
            self._out.rows[position], self._out.grey[position] = out.row, out.grey
            self._out.bits[position] = out.bits
            self._out.contents[position] = np.frombuffer(bytes.fromhex(out.content), np.uint8)
            self._out.pixels[position] = np.frombuffer(bytes.fromhex(out.pixels), np.uint8)
        if out.lasting:
            self._waiting.append((self._listing.paths[position], out))
        self._bar.update()

    def _settle_in_time(self) -> None:
        if time.monotonic() - self._settled > _SETTLE_S:
            self._settle()

    def _settle(self) -> None:
        """Write through to the disk what was read, then the index that names it."""
        if not self._waiting:
            return
        os.fsync(self._pixels.fileno())
        for begin in range(0, len(self._waiting), _BATCH * 8):
            paths, outcomes = zip(*self._waiting[begin : begin + _BATCH * 8], strict=True)
            self._index.append(paths, outcomes)
        self._waiting.clear()
        self._settled = time.monotonic()


def _as_known(out: Outcome, record: np.void) -> Outcome:
    """Return the outcome of a file that has the content of a known one."""
    pixels = record["pixels"].tobytes().hex()
    row, grey, bits = int(record["row"]), bool(record["grey"]), int(record["bits"])
    return replace(out, row=row, grey=grey, bits=bits, pixels=pixels)


def _list_unreadable(place: Path, listing: Listing, out: Decoded) -> None:
    """Write the files that cannot be read, and why, one a line; no file if there are none."""
    lines = [f"{listing.paths[index]}\t{why}\n" for index, why in sorted(out.reasons.items())]
    lines += [f"{text}\n" for text in listing.unusable]
    path = place / UNREADABLE
    path.unlink(missing_ok=True)
    if lines:
        path.write_text("".join(lines), encoding="utf-8")
