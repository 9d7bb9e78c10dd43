"""The images as people see them: from files, or out of shards, data sets and arrays."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alprune.data import Files
from alprune.data.image_cache.decode import Decoder, identify
from alprune.errors import DataError, quoted

_ANY_SIZE = (32, 32)  # to find out whether a file is an image


class Pictures:
    """Finds and decodes images by their paths; several threads may use it.

    An image that was moved since its path was recorded is found by its content, once the folder has
    been read again.

    Args:
        root: The folder of images.
        follow_links: Whether links may lead out of it.
        files: Returns which images there are where they have no files of their own; None where
            paths are those of files below `root`.
        read_last: Returns which images there were when they were read last; None if never.
    """

    def __init__(
        self,
        root: Path,
        follow_links: bool = False,
        files: Callable[[], Files | None] | None = None,
        read_last: Callable[[], Files | None] = lambda: None,
    ) -> None:
        self.root, self._follow_links, self._files = root, follow_links, files
        self._read_last = read_last

    @property
    def are_files(self) -> bool:
        """Whether each image is a file below `root`."""
        return self._files is None

    def has(self, path: str, content: str) -> bool:
        """Tell whether an image is there, and no other one; a damaged file is no other one.

        Args:
            path: Of the image when it was recorded.
            content: Its hash.
        """
        if self._is_at(path, content):
            return True
        moved = self._moved_to(path, content)
        return moved != path and self._is_at(moved, content)

    def _is_at(self, path: str, content: str) -> bool:
        try:
            if self._files is not None:
                files = self._files()
                index = None if files is None else files.index(path)
                return files is not None and index is not None and files.content(index) == content
            place = place_of(self.root, path, self._follow_links)
            if identify(place).content.hex() == content:
                return True
        except (DataError, FileNotFoundError):
            return False
        except OSError:  # it is there: people see that it cannot be read, and skip it
            return True
        try:
            Decoder(_ANY_SIZE, threads=1)(place)
        except Exception:  # nearly any, on a damaged file: people see that, and skip it
            return True
        return False

    def show(self, path: str, decode: Decoder, content: str = "") -> Image.Image:
        """Return an image.

        Args:
            path: Of the image when it was recorded.
            decode: Made with `proportions`.
            content: Its hash; empty: whatever is there.

        Raises:
            DataError: There is none of this path, it cannot be read, or it is another one.
        """
        try:
            return self._show(path, decode, content)
        except DataError:
            if (moved := self._moved_to(path, content)) == path:
                raise
        return self._show(moved, decode, content)

    def _show(self, path: str, decode: Decoder, content: str) -> Image.Image:
        found, known = self._find(path)
        try:
            if isinstance(found, Path):
                pixels, _, _, identity = decode.read(found)
                known = identity.content.hex()
            if content and content != known:
                raise DataError("it was changed since it was asked about")
            if isinstance(found, Path):
                return Image.fromarray(np.asarray(pixels))
            stored = found()
            if isinstance(stored, bytes):
                return Image.fromarray(np.asarray(decode.decode(stored)))
            return _of_array(stored)
        except Exception as error:  # decoders raise nearly everything on a damaged file
            raise DataError(f"{path!r} cannot be read: {error}.") from error

    def _moved_to(self, path: str, content: str) -> str:
        """Return the path of an image when the folder was read last; `path` if unknown."""
        files = self._read_last() if content else None
        index = None if files is None else files.find(path, content)
        return path if files is None or index is None else files.paths[index]

    def _find(self, path: str) -> tuple[Path | Callable[[], bytes | np.ndarray], str]:
        """Return the file of an image, or what returns its content and the hash of that."""
        if self._files is None:
            return place_of(self.root, path, self._follow_links), ""
        files = self._files()
        index = None if files is None else files.index(path)
        if files is None or files.picture is None or index is None:
            raise DataError(f"there is no image {quoted(path)}.")
        return partial(files.picture, index), files.content(index)


def place_of(root: Path, path: str, follow_links: bool = False) -> Path:
    """Return the place of a file that a record names; the record may be untrusted.

    Args:
        root: The folder of images.
        path: Below it.
        follow_links: Whether links may lead out of it.

    Raises:
        DataError: It is not in the folder.
    """
    place = root / path
    outside = Path(path).is_absolute() or ".." in Path(path).parts
    try:
        outside = outside or not (
            follow_links or Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
        )
    except ValueError:  # a null character
        outside = True
    if outside:
        raise DataError(f"{quoted(path)} is not in {str(root)!r}.")
    return place


def _of_array(pixels: np.ndarray) -> Image.Image:
    """Return an array `(h, w, c)` as an image; floats from their lowest to their highest value."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    if pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels).convert("RGB")
