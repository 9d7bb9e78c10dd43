"""Which file each image of a data set was read from, and how to find it again."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


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
    """

    root: Path
    paths: tuple[str, ...]
    contents: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: np.ndarray) -> "Files":
        """Return the files of some of the images, `(k,)` indices, in that order."""
        paths = tuple(self.paths[index] for index in indices)
        return Files(self.root, paths, self.contents[indices], self.pixels[indices])

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
