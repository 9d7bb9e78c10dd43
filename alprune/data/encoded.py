"""Images that are stored encoded, many in a file: what shards and Hugging Face data sets share."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from alprune.data import atomic_io
from alprune.data.image_cache.store import locked
from alprune.data.progress_bar import progress_bar
from alprune.data.provenance import Files
from alprune.data.safe_io import read_whole
from alprune.errors import DataError

_AT_ONCE = 1000
_NAME_BYTES = 2**33  # of all names


class Encoded(Protocol):
    """Images to be decoded when they are needed, numbered through; test images come first.

    Attributes:
        root: Folder that they are in, for messages.
        tests: How many are test images: the first ones.
        token: Names files in a cache that belong to these images, 16 hexadecimal digits.
        digest: Hash of where the images are, and of some of them.
    """

    @property
    def root(self) -> Path: ...  # noqa: D102

    @property
    def tests(self) -> int: ...  # noqa: D102

    @property
    def token(self) -> str: ...  # noqa: D102

    @property
    def digest(self) -> str: ...  # noqa: D102

    def __len__(self) -> int:
        """Return how many there are."""

    def pieces(self, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """Divide ascending rows into pieces of up to `most` that are best read together."""

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Yield rows of one piece with their images, empty where one is too large to be read.

        Raises:
            DataError: They cannot be read.
        """

    def called(self, row: int) -> str:
        """Return an image's name below `root`; other images may have the same."""


def content_of(images: Encoded, row: int) -> bytes:
    """Return one image as it is stored.

    Raises:
        DataError: It cannot be read.
    """
    return next(content for _, content in images.read(np.array([row])))


def files_of(images: Encoded, rows: np.ndarray, size: tuple[int, int], known: "Known") -> Files:
    """Return which image each of some rows is, by name and content.

    Args:
        images: All of them.
        rows: `(k,)`.
        size: `(h, w)` to which they are resized.
        known: Of all of them.
    """
    contents = known.contents[rows]
    what = f"{size}".encode()
    pixels = b"".join(
        hashlib.blake2b(row.tobytes() + what, digest_size=16).digest() for row in contents
    )
    return Files(
        images.root,
        tuple(known.names[row] for row in rows.tolist()),
        contents,
        np.frombuffer(pixels, np.uint8).reshape(-1, 16),
        lambda index: content_of(images, int(rows[index])),
    )


class Known:
    """Names and content hashes of images, kept in a cache: making them reads every image once.

    Args:
        images: All of them.
        place: The cache; None to keep nothing.
        progress: Whether to show a bar.

    Attributes:
        names: Of each image, no two alike.
        contents: Hash of each as it is stored, `(n, 16)` uint8.

    Raises:
        DataError: The images cannot be read.
        OSError: The cache cannot be written.
    """

    def __init__(self, images: Encoded, place: Path | None, progress: bool) -> None:
        with nullcontext() if place is None else locked(place):  # others wait, and find it done
            names, contents = _kept(images, place)
            if len(names) < len(images):
                more = _looked_at(images, np.arange(len(names), len(images)), progress)
                names, contents = names + more[0], contents + more[1]
                if place is not None:
                    atomic_io.replace(_file(place, "names", images), "\n".join(names).encode())
                    atomic_io.replace(_file(place, "contents", images), contents)
        self.names = _different(names)
        self.contents = np.frombuffer(contents, np.uint8).reshape(-1, 16)


def _file(place: Path, kind: str, images: Encoded) -> Path:
    return place / f"{kind}-{images.token}.bin"


def _kept(images: Encoded, place: Path | None) -> tuple[list[str], bytes]:
    """Return what the cache knows of the first images; nothing if it is not sound."""
    if place is not None:
        with suppress(OSError, DataError, UnicodeDecodeError):
            names = read_whole(_file(place, "names", images), _NAME_BYTES).decode().split("\n")
            contents = read_whole(_file(place, "contents", images), 16 * len(images))
            if len(names) * 16 == len(contents):
                return names, contents
    return [], b""


def _looked_at(images: Encoded, rows: np.ndarray, progress: bool) -> tuple[list[str], bytes]:
    names, contents = [], []
    with progress_bar(
        total=len(rows), desc="reading images", disable=not progress, leave=False
    ) as bar:
        for piece in images.pieces(rows, _AT_ONCE):
            for row, content in images.read(piece):
                names.append(images.called(row).replace("\n", " "))
                contents.append(hashlib.blake2b(content, digest_size=16).digest())
            bar.update(len(piece))
    return names, b"".join(contents)


def _different(names: list[str]) -> list[str]:
    """Add a number to each name that an earlier image has."""
    seen: set[str] = set()
    different = []
    for row, name in enumerate(names):
        while name in seen:
            name = f"{name}#{row}"
        seen.add(name)
        different.append(name)
    return different
