"""Which file each image of a data set was read from, and how to find it again."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from alprune.data.memmap import parts


@dataclass(frozen=True, eq=False)
class Files:
    """The files that the images of a data set were read from, image by image.

    An index says which image is meant only as long as the folder stays as it is: images are
    numbered in the order of their sorted paths, so a file that is added, removed or moved shifts
    the numbers of those behind it. What names an image for good is its path with the hash of its
    file's content; `find` leads from these to its index today.

    Attributes:
        root: The folder.
        paths: Each file's path below `root`, its parts joined by "/"; text that UTF-8 can hold.
        contents: Hash of each file's bytes, `(n, 16)` uint8.
        pixels: Hash of each image in the data set's `x`, `(n, 16)` uint8.
        picture: Returns an image by its index where images have no files of their own: encoded, or
            decoded `(h, w, c)`. None where `paths` are those of files.
    """

    root: Path
    paths: tuple[str, ...]
    contents: np.ndarray
    pixels: np.ndarray
    picture: Callable[[int], bytes | np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: np.ndarray) -> "Files":
        """Return the files of some of the images, `(k,)` indices, in that order."""
        paths = tuple(self.paths[index] for index in indices)
        picture = self.picture
        return Files(
            self.root,
            paths,
            self.contents[indices],
            self.pixels[indices],
            picture and (lambda index: picture(int(indices[index]))),
        )

    def content(self, index: int) -> str:
        """Return the hash of a file's bytes, 32 hexadecimal digits."""
        return bytes(self.contents[index]).hex()

    def find(self, path: str, content: str) -> int | None:
        """Return the index of an image that was at `path` and had this `content`.

        It may have been moved since, or be there several times: the one at `path` is preferred,
        then the first of the same content. None if no file has this content any more, because it
        was deleted or changed; `index` tells which.
        """
        index = self.index(path)
        if index is not None and self.content(index) == content:
            return index
        return self._by_content.get(bytes.fromhex(content))

    def index(self, path: str) -> int | None:
        """Return the index of the image that is at `path` now, whatever its content."""
        return self._by_path.get(path)

    @cached_property
    def _by_path(self) -> dict[str, int]:
        return {path: index for index, path in enumerate(self.paths)}

    @cached_property
    def _by_content(self) -> dict[bytes, int]:
        rows = [row.tobytes() for row in self.contents]
        return {rows[index]: index for index in range(len(rows) - 1, -1, -1)}


def files_of_array(root: Path, name: str, pictures: Tensor, size: tuple[int, int]) -> Files:
    """Name the images of an array, `name[0]`, `name[1]` and so on.

    Args:
        root: Folder that the array is in.
        name: Of the array.
        pictures: The images `(n, h, w, c)`; each is read once for its hash.
        size: `(h, w)` of the images in the data set.
    """
    contents, pixels = bytearray(), bytearray()
    for part in parts(pictures):
        for image in pictures[part].cpu().numpy():
            content = _hash(np.ascontiguousarray(image).data)
            contents += content
            pixels += _hash(content + f"{size}".encode())
    return Files(
        root,
        tuple(f"{name}[{index}]" for index in range(len(pictures))),
        np.frombuffer(contents, np.uint8).reshape(-1, 16),
        np.frombuffer(pixels, np.uint8).reshape(-1, 16),
        lambda index: pictures[index].cpu().numpy(),
    )


def _hash(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
