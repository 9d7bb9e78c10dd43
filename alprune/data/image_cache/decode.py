"""Decode image files from untrusted sources."""

import contextlib
import hashlib
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from alprune.data.image_cache.bare import without_metadata
from alprune.data.image_cache.formats import installed_formats, unknown_format
from alprune.data.image_cache.pixel_range import check_range, eight_bits, is_deep
from alprune.data.safe_io import open_ordinary
from alprune.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit of suspicion: a quarter of a GiB of RGB
_LOST_BITS = 8  # of 16, the lower ones
_BRIGHT_BITS = 14  # of 16; a picture that takes no more has a quarter of the brightness
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
MAX_BYTES = 4 * MAX_PIXELS  # of a file; so much could be read as one piece of metadata
_LARGE_BYTES = 2**25  # of a file; metadata can fill memory as well as pixels
_MAX_SCANS = 64  # of a JPEG, which has 1 to 15; each takes as long as decoding the image once
_AT_ONCE = 2**20  # bytes of a file that are read in one piece
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of a JPEG, with a length behind it
_END, _SCAN = 0xD9, 0xDA
_ORIENTATION = 0x0112  # in EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """Decodes one file per call; safe from several threads.

    An image is turned upright (EXIF), flattened onto white where transparent, brought to 8 bits
    (see `pixel_range`), converted to RGB and resized without regard to its proportions. Of an
    animation the first frame counts. Metadata that is damaged is ignored, as is what follows the
    picture in its file, such as the video of a phone's motion photo.

    One thread at a time works on a large image: a small file can claim the 89 million pixels that
    are allowed, which take up to 0.8 GB while they are turned into RGB.

    Args:
        size: `(h, w)` to which images are resized.
        threads: Number of threads that call it.
        proportions: Keep them, for people who look at the image: `size` is what it has to fit
            into, and an image that does is left as it is.
        alone: Held while a large image is decoded; reentrant. None: a lock of this decoder's own.

    Attributes:
        deep: Number of images decoded so far that had 16 bits per channel and no stated range, by
            the number of bits that the largest value takes.
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
        self._formats = installed_formats()
        self._counting = threading.Lock()
        self.deep: Counter[int] = Counter()

    def __call__(self, path: Path) -> tuple[np.ndarray, bool]:
        """Return the image as `(h, w, 3)` uint8, and whether the file is grey.

        Raises:
            DataError: It is too large, in no known format, or of pixels whose range is not known.
            Exception: Nearly any, on a damaged file.
        """
        with open_ordinary(path) as file:
            return self._opened(file, _size(file))[:2]

    def read(self, path: Path) -> tuple[np.ndarray, bool, int, Identity]:
        """Return what a call does, the bits of `pixel_range.eight_bits`, and what the file is.

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

    def said_of_range(self) -> str | None:
        """Return a warning about the 16-bit images decoded so far, as of `dark`."""
        return dark(self.deep)

    def _opened(self, file: BinaryIO, size: int) -> tuple[np.ndarray, bool, int]:
        with self._alone_if(size > _LARGE_BYTES):
            try:
                return self._decoded(file)
            except Exception as error:
                if isinstance(error, Image.DecompressionBombError):  # Pillow's own, at twice ours
                    raise DataError(
                        f"more than {2 * MAX_PIXELS:,} pixels; at most {MAX_PIXELS:,} are decoded"
                    ) from error
                if isinstance(error, DataError | MemoryError) or getattr(error, "errno", None):
                    raise
                file.seek(0)
                bare = without_metadata(file.read(size))
                if bare is not None:
                    with contextlib.suppress(Exception):
                        return self._decoded(io.BytesIO(bare))
                if not isinstance(error, UnidentifiedImageError):
                    raise
                file.seek(0)
                raise unknown_format(file.read(32)) from error

    def _decoded(self, file: BinaryIO) -> tuple[np.ndarray, bool, int]:
        with Image.open(file, formats=self._formats) as image:
            return self._decode(image, file)

    def _decode(self, image: Image.Image, file: BinaryIO) -> tuple[np.ndarray, bool, int]:
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
            orientation = _orientation(image)
            image.getexif = Image.Exif  # type: ignore[method-assign]  # TIFF would read it again
            rgb, bits = flattened(image)
            if orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            if self._proportions:
                rgb.thumbnail((w, h), Image.Resampling.BILINEAR)
            elif rgb.size != (w, h):
                rgb = rgb.resize((w, h), Image.Resampling.BILINEAR)  # Pillow's is antialiased
        if bits:
            with self._counting:
                self.deep[bits] += 1
        return np.asarray(rgb), grey, bits

    def _alone_if(self, large: bool) -> contextlib.AbstractContextManager[object]:
        return self._alone if large else contextlib.nullcontext()


def dark(deep: Mapping[int, int]) -> str | None:
    """Return a warning about 16-bit images that use only the lower bits; None if few do.

    Args:
        deep: Number of 16-bit images whose file states no range, by the number of bits that the
            largest value takes.
    """
    images = sum(deep.values())
    dim = {bits: count for bits, count in deep.items() if bits <= _BRIGHT_BITS}
    black = sum(count for bits, count in dim.items() if bits <= _LOST_BITS)
    if 2 * sum(dim.values()) > images:  # a single bright pixel makes an image bright
        bits = max(dim)
        which = "all" if len(dim) == len(deep) else f"{sum(dim.values()):,} of"
        return (
            f"the values of {which} {images:,} 16-bit images take at most {bits} bits (up to "
            f"{2**bits - 1:,} of 65,535), so they are decoded nearly black. If their range ends "
            f"there, multiply the values by {2 ** (16 - bits)}, or write the range into the files "
            "(TIFF tag MaxSampleValue)."
        )
    if black:
        return (
            f"{black:,} of {images:,} 16-bit images have no value above 255 and are decoded to "
            "black: the upper 8 bits are read. Store them as 8 bits, or multiply their values."
        )
    return None


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


def _orientation(image: Image.Image) -> int:
    """Return the orientation by EXIF; 1, upright, where that is missing or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # nearly any, on damaged metadata
        return 1


def flattened(image: Image.Image) -> tuple[Image.Image, int]:
    """Return the image as RGB, on white, and the bits of `eight_bits` if it has more than 8."""
    check_range(image)
    if is_deep(image):
        grey, bits = eight_bits(image)
        return Image.fromarray(grey).convert("RGB"), bits
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if image.format == "BMP" and image.getchannel("A").getextrema() == (
            0,
            0,
        ):  # alpha that is not meant
            return image.convert("RGB"), 0
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white, 0
    return (image if image.mode == "RGB" else image.convert("RGB")), 0  # converting copies


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of so many scans that decoding it would take minutes.

    Only markers up to the end of the picture count, as for the decoder: neither metadata nor what
    follows the picture.
    """
    here = file.tell()
    file.seek(0)
    scans, buffer, at = 0, b"", 0
    while True:
        found = _MARKER.search(buffer, at)
        if found is None or found.end() + 2 > len(buffer):
            if not (more := file.read(_AT_ONCE)):
                break
            rest = buffer[found.start() :] if found else buffer[max(at, len(buffer) - 1) :]
            buffer, at = rest + more, 0
            continue
        marker, at = found[1][0], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        at += int.from_bytes(buffer[at : at + 2], "big")
        if at > len(buffer):
            file.seek(at - len(buffer), os.SEEK_CUR)
            buffer, at = b"", 0
    file.seek(here)
    if scans > _MAX_SCANS:
        raise DataError(f"a JPEG of {scans} scans; at most {_MAX_SCANS} are decoded")
