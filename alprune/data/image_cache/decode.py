"""Decode image files that a stranger may have made."""

import contextlib
import hashlib
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from alprune.data.safe_io import open_ordinary
from alprune.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit of suspicion: a quarter of a GiB of RGB
# Photographs and scans only. Formats that Pillow hands to another program (EPS) stay out.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"})
MAX_BYTES = 4 * MAX_PIXELS  # of a file; so much could be read as one piece of metadata
_LARGE_BYTES = 2**25  # of a file; metadata can fill memory as well as pixels
_MAX_SCANS = 64  # of a JPEG, which has 1 to 15; each takes as long as decoding the image once
_AT_ONCE = 2**20  # bytes of a file that are read in one piece


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is, whatever its name.

    Attributes:
        size: Its length in bytes.
        modified: When it was changed last, in nanoseconds.
        content: Hash of its bytes, 16 of them.
    """

    size: int
    modified: int
    content: bytes


class Decoder:
    """Decodes one file a call; safe from several threads.

    An image is turned upright (EXIF), flattened onto white where transparent, brought to 8 bits
    (of 16, the upper ones), converted to RGB and resized without regard to its proportions. Of an
    animation the first frame counts.

    One thread at a time works on a large image: a small file can claim the 89 million pixels that
    are allowed, which take up to 0.8 GB while they are turned into RGB.

    Args:
        size: `(h, w)` to which images are resized.
        threads: How many call it.
        proportions: Keep them, for people who look at the image: `size` is what it has to fit
            into, and one that does is left as it is.
        alone: Held while a large image is decoded, again by who holds it already; None: a lock of
            this decoder's own.
    """

    def __init__(
        self,
        size: tuple[int, int],
        threads: int,
        proportions: bool = False,
        alone: contextlib.AbstractContextManager[Any] | None = None,
    ) -> None:
        self._size, self._proportions = size, proportions
        self._large_pixels = MAX_PIXELS // threads
        self._alone = alone or threading.RLock()
        Image.init()
        self._formats = [name for name in FORMATS if name in Image.OPEN]

    def __call__(self, path: Path) -> tuple[np.ndarray, bool]:
        """Return the image as `(h, w, 3)` uint8, and whether the file is grey.

        Raises:
            DataError: It is too large, or of floating-point pixels.
            Exception: Nearly any, on a damaged file.
        """
        with open_ordinary(path) as file:
            return self._opened(file, _size(file))

    def read(self, path: Path) -> tuple[np.ndarray, bool, Identity]:
        """Return what a call does, and what the file is.

        Raises:
            DataError, Exception: As from a call.
        """
        with open_ordinary(path) as file:
            identity, whole = _identified(file)
            return *self._opened(whole or file, identity.size), identity

    def decode(self, content: bytes) -> np.ndarray:
        """Return the image whose file holds `content`, `(h, w, 3)` uint8.

        Raises:
            DataError, Exception: As from a call.
        """
        return self._opened(io.BytesIO(content), len(content))[0]

    def _opened(self, file: BinaryIO, size: int) -> tuple[np.ndarray, bool]:
        with (
            self._alone_if(size > _LARGE_BYTES),
            Image.open(file, formats=self._formats) as image,
        ):
            return self._decode(image, file)

    def _decode(self, image: Image.Image, file: BinaryIO) -> tuple[np.ndarray, bool]:
        h, w = self._size
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise DataError(
                f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded"
            )
        grey = image.mode in _GREY_MODES
        if image.format in ("JPEG", "MPO"):
            _check_scans(file)
        # JPEG can decode at 1/2, 1/4 or 1/8: many times faster, and still twice what is needed.
        image.draft(None, (2 * max(h, w), 2 * max(h, w)))
        if not image.info.get("progressive"):  # of that, all is held at whatever scale
            pixels = image.width * image.height
        with self._alone_if(pixels > self._large_pixels):
            ImageOps.exif_transpose(image, in_place=True)
            rgb = _rgb(image)
            if self._proportions:
                rgb.thumbnail((w, h), Image.Resampling.BILINEAR)
            elif rgb.size != (w, h):
                rgb = rgb.resize((w, h), Image.Resampling.BILINEAR)  # Pillow's is antialiased
        return np.asarray(rgb), grey

    def _alone_if(self, large: bool) -> contextlib.AbstractContextManager[object]:
        return self._alone if large else contextlib.nullcontext()


def identify(path: Path) -> Identity:
    """Read a file without decoding it.

    Raises:
        DataError: It is larger than any that is decoded.
        OSError: It cannot be read.
    """
    with open_ordinary(path) as file:
        return _identified(file)[0]


def hash_of(content: Any) -> bytes:
    """Hash bytes, or a contiguous array of them, to 16."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _identified(file: BinaryIO) -> tuple[Identity, BinaryIO | None]:
    """Hash a file and go back to its start; return its content too if that is little."""
    size, modified, whole = _size(file), os.fstat(file.fileno()).st_mtime_ns, None
    digest = hashlib.blake2b(digest_size=16)
    while content := file.read(_AT_ONCE):
        digest.update(content)
        whole = io.BytesIO(content) if len(content) == size else None
    file.seek(0)
    return Identity(size, modified, digest.digest()), whole


def _size(file: BinaryIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BYTES:
        raise DataError(f"a file of {size:,} bytes; at most {MAX_BYTES:,} are read")
    return size


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; store 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits; older Pillows call it "I"
        upper = np.asarray(image) >> 8  # uint16, or int32 of any range
        return Image.fromarray(upper.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")  # converting copies


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of so many scans that decoding it would take minutes."""
    here = file.tell()
    file.seek(0)
    scans, last = 0, b""
    while chunk := file.read(2**20):
        scans += (last + chunk).count(b"\xff\xda")  # never within compressed data
        last = chunk[-1:]
    file.seek(here)
    if scans > _MAX_SCANS:
        raise DataError(f"a JPEG of {scans} scans; at most {_MAX_SCANS} are decoded")
