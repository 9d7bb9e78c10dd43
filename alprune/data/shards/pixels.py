"""Images of shards and the like, decoded when they are needed and kept from then on."""

import os
import shutil
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alprune.data.encoded import Encoded
from alprune.data.image_cache.decode import MAX_BYTES, Decoder
from alprune.data.image_cache.pool import cores
from alprune.data.image_cache.worker import open_rows, write_at
from alprune.data.memmap import gigabytes, map_images
from alprune.data.shards.index import file_of, mapped
from alprune.errors import DataError

_LEAST_FREE = 2**30  # bytes of the disk that are left to others
_LOOK_EVERY = 2**26  # bytes kept between looks at what is free
_DEEP_LOOKED_AT = 10  # images of 16 bits, before their brightness is judged
_CHECK = np.dtype("<u4")
_HOLES = os.name != "nt"  # elsewhere a file takes no room where nothing was written


class Pixels:
    """The images of an index, `(n, h, w, 3)` uint8, to be indexed by rows like a tensor.

    What is decoded is written to a file in which every image has its place, with a checksum beside
    it: the file has holes where nothing was decoded yet, and a machine holds what its processes
    have looked at and no more. An image whose checksum does not fit, after a power cut, say, is
    decoded again. Several processes may use the files at once.

    Args:
        index: The images as they are stored.
        place: Their cache, to keep images in; None to decode them each time.
        size: `(h, w)` to which images are resized.
        skip_unreadable: Take an image that does not decode for a black one, with a warning.

    Attributes:
        shape, dtype, device: As of a tensor.
        bad: Why an image cannot be read, by its row; of those looked at.

    Raises:
        OSError: The files cannot be written.
    """

    dtype, device = torch.uint8, torch.device("cpu")

    def __init__(
        self, index: Encoded, place: Path | None, size: tuple[int, int], skip_unreadable: bool
    ) -> None:
        self.index, self.shape = index, torch.Size([len(index), *size, 3])
        self.bad: dict[int, str] = {}
        self._skip = skip_unreadable
        threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self._decoder = Decoder(size, threads)
        self._threads, self._warned = threads, False
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._kept = None
        if place is not None and _has_room(index, place, self.shape):
            self._kept = _Kept(index, place, self.shape)

    @property
    def digest(self) -> str:
        """Hash of where the images lie, and of some of them."""
        return self.index.digest

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, `(*rows.shape, h, w, 3)`.

        Args:
            rows: Their numbers, int64, of any shape.

        Raises:
            DataError: A shard or an image cannot be read, unless unreadable ones are skipped.
        """
        wanted = rows.reshape(-1).numpy()
        images = np.zeros((len(wanted), *self.shape[1:]), np.uint8)
        if self._kept is None:
            todo = np.arange(len(wanted))
        else:
            todo = np.flatnonzero(~self._kept.read(wanted, images))
        if len(todo):
            self._decode(wanted[todo], images, todo)
        return torch.from_numpy(images).view(*rows.shape, *self.shape[1:])

    def _decode(self, rows: np.ndarray, images: np.ndarray, into: np.ndarray) -> None:
        """Decode some images, each of them once, into their places in `images`."""
        unique, which = np.unique(rows, return_inverse=True)
        decoded: dict[int, np.ndarray] = {}
        failed: dict[int, str] = {}
        with warnings.catch_warnings():  # here: threads share what it changes
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata
            most = -(-len(unique) // self._threads)
            for some, why in self._pool.map(self._read, self.index.pieces(unique, most)):
                decoded |= some
                failed |= why
        for row, reason in failed.items():
            self._failed(row, reason)
        if not self._warned and self._decoder.deep.total() >= _DEEP_LOOKED_AT:
            self._warned = True
            if said := self._decoder.said_of_range():
                warnings.warn(said, stacklevel=2)
        for number, place in zip(which, into, strict=True):
            image = decoded.get(int(unique[number]))
            if image is not None:
                images[place] = image
        if self._kept is not None:
            self._kept.write(decoded)

    def _read(self, rows: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """Decode the images of a piece; return them, and why others do not decode, by row."""
        images: dict[int, np.ndarray] = {}
        failed: dict[int, str] = {}
        for row, content in self.index.read(rows):
            try:
                images[row] = self._decoder.decode(content)
            except Exception as error:  # nearly any, on a damaged file
                failed[row] = str(error).split("\n")[0][:200] or type(error).__name__
                if not content:
                    failed[row] = f"it is empty, or has more than {MAX_BYTES:,} bytes"
        return images, failed

    def _failed(self, row: int, why: str) -> None:
        """Say that an image does not decode: an error, or a warning for some of them."""
        said = f"{self.index.called(row)!r} in {str(self.index.root)!r} cannot be read as an image "
        said += f"({why})."
        if not self._skip:
            raise DataError(f"{said} Mend or remove it, or pass --skip-unreadable.")
        if row not in self.bad:
            self.bad[row] = why
            if (count := len(self.bad)) in (1, 10, 100, 1000, 10_000, 100_000):
                more = f" {count:,} such by now." if count > 1 else ""
                warnings.warn(f"{said} It is left out.{more}", stacklevel=4)


def _has_room(index: Encoded, place: Path, shape: torch.Size) -> bool:
    """Tell whether images can be kept, with a warning if not: without holes they take all at once.

    Raises:
        OSError: As from `shutil.disk_usage`.
    """
    if _HOLES or file_of(place, "rows", index.token).exists():
        return True
    free = shutil.disk_usage(place).free
    if shape.numel() <= free - _LEAST_FREE:
        return True
    warnings.warn(
        f"no decoded images are kept in {place}, since they would take {gigabytes(shape.numel())} "
        f"of the {gigabytes(free)} that are free: they are decoded each time they are needed, "
        "which takes longer. --cache names another disk.",
        stacklevel=3,
    )
    return False


class _Kept:
    """The files that decoded images are kept in."""

    def __init__(self, index: Encoded, place: Path, shape: torch.Size) -> None:
        self._place, self._full, self._since = place, False, _LOOK_EVERY
        self._row = shape[1] * shape[2] * shape[3]
        rows, checks = (file_of(place, kind, index.token) for kind in ("rows", "checks"))
        for file, size in ((rows, self._row), (checks, _CHECK.itemsize)):
            with open(file, "ab") as there:
                if there.tell() < len(index) * size:
                    there.truncate(len(index) * size)
        self._files = open_rows(rows), open_rows(checks)
        self._images = map_images(self._files[0], 0, torch.uint8, tuple(shape))
        # Not written by the map: where the disk is full that would end the process.
        self._checks = mapped(checks, _CHECK, len(index))

    def read(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Fill in the images that are there; return which these are, `(k,)` bool."""
        known = self._checks[rows]
        there = known != 0
        at = np.flatnonzero(there)
        if len(at):
            found = self._images[torch.from_numpy(rows[at])].numpy()
            for place, image in zip(at, found, strict=True):
                there[place] = _check(image) == known[place]
            images[at] = found
        return there

    def write(self, decoded: dict[int, np.ndarray]) -> None:
        """Keep some images, while there is room."""
        if self._full:
            return
        self._since += len(decoded) * self._row
        try:
            if self._since >= _LOOK_EVERY:
                self._since = 0
                if shutil.disk_usage(self._place).free < _LEAST_FREE:
                    self._stop(f"less than {_LEAST_FREE / 1e9:.1f} GB are free")
                    return
            for row, image in decoded.items():
                write_at(self._files[0], row * self._row, memoryview(image.tobytes()))
                check = memoryview(np.array(_check(image), _CHECK).tobytes())
                write_at(self._files[1], row * _CHECK.itemsize, check)
        except OSError as error:
            self._stop(str(error.strerror or error))

    def _stop(self, why: str) -> None:
        self._full = True
        warnings.warn(
            f"no more decoded images are kept in {self._place} ({why}): further ones are decoded "
            "each time they are needed, which takes longer. --cache names another disk.",
            stacklevel=2,
        )


def _check(image: np.ndarray) -> int:
    """Return a checksum that is never 0."""
    return zlib.crc32(image.tobytes()) or 1
