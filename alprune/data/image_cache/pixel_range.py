"""Pixels of more than 8 bits, brought to 8 by the range that their file states."""

import math
from typing import Any

import numpy as np
from PIL import Image

from alprune.errors import DataError

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # tags of TIFF
_RANGES = ((340, 341), (280, 281))  # smallest and largest value of a sample, of any type or SHORT
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_WHITE_IS_ZERO = 0
_FULL = 2**16 - 1
_HOW = (
    "Store 8 or 16 bits from black to white, or write the range into the file "
    "(TIFF tags SMinSampleValue and SMaxSampleValue)"
)


def is_deep(image: Image.Image) -> bool:
    """Tell whether pixels have more than 8 bits in one channel, or are signed."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or _kind(image) == _SIGNED


def check_range(image: Image.Image) -> None:
    """Refuse 16-bit colour that uses a part of its range: only the upper 8 bits are read.

    Raises:
        DataError: The file states a range that ends below half of 16 bits.
    """
    stated = _stated(image)
    if stated and _tag(image, _BITS) == 16 and not is_deep(image) and stated[1] <= _FULL // 2:
        raise DataError(f"16-bit colour of the range {stated[0]:g} to {stated[1]:g}. {_HOW}")


def eight_bits(image: Image.Image) -> tuple[np.ndarray, int]:
    """Return pixels `(h, w)` uint8, and how many bits the largest value takes.

    The range is what the file states; else that of unsigned integers of up to 16 bits. The number
    of bits is 0 where the range is stated, and where it need not be: the whole of it is meant.

    Raises:
        DataError: The range of the values is not known.
    """
    values, stated = np.asarray(image), _stated(image)
    kind, bits = _kind(image), _tag(image, _BITS) or 16
    if kind == _SIGNED and bits == 8:
        values = values.view(np.int8)
    elif kind == _UNSIGNED and bits == 32:
        values = values.view(np.uint32)
    if stated is None:
        _refuse_unknown(image.mode, kind, bits)
    low, high = stated or (0, 2 ** min(bits, 16) - 1)
    if stated is None and high == _FULL:
        out = values.clip(0, _FULL).astype(np.uint16)
        found = (out >> 8).astype(np.uint8), int(out.max()).bit_length()
    else:
        share = (values.astype(np.float64) - low) / (high - low)
        found = np.rint(np.nan_to_num(share.clip(0, 1)) * 255).astype(np.uint8), 0
    white_is_zero = _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO and image.format == "TIFF"
    return (255 - found[0], found[1]) if white_is_zero else found


def _refuse_unknown(mode: str, kind: int, bits: int) -> None:
    if mode == "F" or kind == _FLOAT:
        raise DataError(f"floating-point pixels have no known range. {_HOW}")
    if kind == _SIGNED:
        raise DataError(f"signed pixels of {bits} bits have no known range. {_HOW}")
    if bits > 16:
        raise DataError(f"pixels of {bits} bits have no known range. {_HOW}")


def _kind(image: Image.Image) -> int:
    kind = _tag(image, _FORMAT)
    return int(kind) if kind is not None else _UNSIGNED


def _stated(image: Image.Image) -> tuple[float, float] | None:
    """Return the range of the values that the file states."""
    for lowest, highest in _RANGES:
        high, low = _tag(image, highest), _tag(image, lowest) or 0
        if high is not None and math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    return None


def _tag(image: Image.Image, number: int) -> Any:
    """Return the first number of a TIFF's tag; None without one."""
    value = getattr(image, "tag_v2", {}).get(number)
    if isinstance(value, tuple):
        value = value[0] if value else None
    try:
        return value if value is None or isinstance(value, int) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
