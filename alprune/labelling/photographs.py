"""Whether a folder holds colour photographs, which a network pretrained on photographs knows."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from alprune.data.image_cache.decode import Decoder

_LOOKED_AT, _LISTED = 24, 2000  # images that are decoded; files that they are taken from
_LEAST_SIDE = 32  # pixels
_COLOURED = 6.0  # mean distance of a pixel's largest channel from its smallest, of 255
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"}


def are_photographs(root: Path) -> bool:
    """Return whether most images of a folder have colours and at least 32 pixels a side.

    A few of the first 2,000 files are looked at. Files that cannot be read do not count.

    Args:
        root: The folder of images.
    """
    files = list(islice(_files(root), _LISTED))
    decode, votes = Decoder((256, 256), threads=1, proportions=True), []
    for path in files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            image, grey = decode(path)[:2]
        except Exception:  # decoders raise nearly everything on a damaged file
            continue
        pixels = np.asarray(image).astype(np.int16)
        coloured = not grey and float(np.ptp(pixels, axis=2).mean()) >= _COLOURED
        votes.append(coloured and min(pixels.shape[:2]) >= _LEAST_SIDE)
    return 2 * sum(votes) > len(votes)


def _files(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


__all__ = ["are_photographs"]
