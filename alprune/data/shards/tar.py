"""What one shard holds: the samples of a tar file in the layout of WebDataset."""

import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alprune.data.leftovers import SUFFIXES
from alprune.data.safe_io import open_ordinary
from alprune.errors import DataError, printable

BLOCK = tarfile.BLOCKSIZE  # bytes; whatever is in a tar file begins at a multiple of it
_LABEL = "cls"
_LONGEST_LABEL = 1024  # bytes
_LONGEST_HEADER = 2**16  # bytes of a name or of other text about a file; names take 4,096 at most
_MOST_RECORDS = 100  # that hold for all files of a shard
_LONGEST_SUFFIX, _MOST_SUFFIXES = 16, 20
_MOST_BLOCKS = 2**32  # that 32 bits can count: 2 TB
_LONGEST_END = 2**26  # bytes of zeros; tar writes some thousands, a file with holes has any number
# What tarfile raises for damaged headers; OverflowError for numbers of more than 64 bits.
_BROKEN = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, RecursionError)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a shard, in their order.

    Attributes:
        places: Position of the image of each, `(n, 2)` uint32: its first block, and its bytes.
        labels: What its `.cls` says; None where it has none.
        others: Number of further files by their suffix; "cls": of samples without an image.
    """

    places: np.ndarray
    labels: list[str | None]
    others: dict[str, int]


@dataclass
class _Found:
    """What is put together while a shard is read."""

    places: list[tuple[int, int]] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    key: str | None = None
    image: tuple[int, int] | None = None
    label: str | None = None

    def other(self, suffix: str) -> None:
        """Count a file of another kind; there may be thousands of kinds."""
        known = suffix in self.others or len(self.others) < _MOST_SUFFIXES
        self.others[suffix if known and len(suffix) <= _LONGEST_SUFFIX else "..."] += 1

    def begin(self, key: str | None) -> None:
        """Enter the sample that ends here; another one begins."""
        if self.image is not None:
            self.places.append(self.image)
            self.labels.append(self.label)
        elif self.label is not None:
            self.others[_LABEL] += 1
        self.key, self.image, self.label = key, None, None


def list_samples(path: Path) -> Samples:
    """Read which samples a shard holds; of the images only where they lie.

    Files that follow one another and whose names agree up to the first dot make a sample, as in
    WebDataset: `7.jpg` and `7.cls`, the class in text. Of other files (`.json`, `.txt`) nothing is
    read, nor of hidden ones.

    Raises:
        DataError: It is not a plain tar file, is cut short, or a sample is ambiguous.
    """
    found = _Found()
    try:
        with open_ordinary(path) as file, _opened(file) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would grow with the shard
                if member.size < 0 or tar.offset < member.offset_data:  # else read for ever
                    raise tarfile.ReadError(f"{printable(member.name)!r} has a negative size")
                if len(tar.pax_headers) > _MOST_RECORDS:  # each is looked at for every file
                    raise tarfile.ReadError(
                        f"more than {_MOST_RECORDS} records hold for all of its files"
                    )
                if member.isfile():
                    _enter(found, tar, member, path)
            _check_end(file, tar.offset)
    except _BROKEN as error:
        raise DataError(
            f"{str(path)!r} cannot be read as a tar file: {_why(path, error)}."
        ) from error
    found.begin(None)
    places = np.array(found.places, np.uint32).reshape(-1, 2)
    return Samples(places, found.labels, dict(found.others))


def name_at(path: Path, block: int) -> str:
    """Return the name that an image has in its shard, as far as its header holds it."""
    try:
        with open_ordinary(path) as file:
            file.seek((block - 1) * BLOCK)
            header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        return printable(header.name)
    except _BROKEN:
        return f"at byte {block * BLOCK}"


def _enter(found: _Found, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    folder, name = os.path.split(member.name)
    stem, _, ending = name.partition(".")
    if not stem:
        return
    key, suffix = os.path.join(folder, stem), ending.lower().rpartition(".")[2]
    if key != found.key:
        found.begin(key)
    if f".{suffix}" in SUFFIXES:
        if found.image is not None:
            raise DataError(
                f"sample {printable(key)!r} of {str(path)!r} has more than one image. Each image "
                "needs a key of its own: the part of its name before the first dot."
            )
        block = member.offset_data // BLOCK
        if member.issparse():
            raise DataError(f"{printable(member.name)!r} of {str(path)!r} is stored with holes.")
        if block >= _MOST_BLOCKS or member.size >= 2**32:
            raise DataError(f"{str(path)!r} is larger than 2 TB. Make smaller shards.")
        found.image = block, member.size
    elif suffix == _LABEL:
        if member.size > _LONGEST_LABEL:
            raise DataError(
                f"the label of sample {printable(key)!r} in {str(path)!r} takes {member.size:,} "
                f"bytes; at most {_LONGEST_LABEL} are read. A .cls file holds one class."
            )
        content = tar.extractfile(member)
        assert content is not None  # it is a file
        found.label = content.read().decode("utf-8-sig").strip() or None
    else:
        found.other(suffix)


class _HeadersOnly:
    """A shard's file, of which tarfile reads headers and labels, never more at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, which a header may have stated."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(
                f"a header states {size:,} bytes of text; at most {_LONGEST_HEADER:,} are read"
            )
        return self._file.read(size)


def _opened(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=_HeadersOnly(file), mode="r:")  # type: ignore[call-overload,no-any-return]


def _check_end(file: BinaryIO, offset: int) -> None:
    """Look for the zeros that end a tar file, which one that is cut short may lack unnoticed."""
    file.seek(offset)
    rest = file.read(BLOCK)
    if len(rest) < BLOCK:
        raise tarfile.ReadError("its end is missing: it was cut short, or is being written")
    while rest:
        if file.tell() - offset > _LONGEST_END:
            raise tarfile.ReadError(f"more than {_LONGEST_END:,} bytes of zeros follow at its end")
        if rest.count(0) < len(rest):
            raise tarfile.ReadError(f"what follows at byte {offset:,} is not a file of it")
        rest = file.read(2**20)


def _why(path: Path, error: Exception) -> str:
    with open_ordinary(path) as file:
        begin = file.read(6)
    packed = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    if begin.startswith(packed):
        return "it is compressed, and images in the middle could not be found. Unpack it"
    if isinstance(error, UnicodeDecodeError):
        return "a .cls file is not text"
    if isinstance(error, RecursionError):
        return "hundreds of headers follow one another without a file"
    if isinstance(error, OverflowError):
        return "a header states a number of more than 64 bits"
    if isinstance(error, ValueError):
        return "a header states a number that is none"
    return str(error) or type(error).__name__
