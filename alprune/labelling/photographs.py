"""Whether a data set holds colour photographs, which a network pretrained on photographs knows."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from alprune import data
from alprune.data import LoadOptions, source
from alprune.data.image_cache.decode import Decoder
from alprune.data.listing import list_folder
from alprune.data.safe_io import user_path
from alprune.loop.config import RunConfig
from alprune.loop.setup import data_options

_LOOKED_AT = 24  # images that are decoded, at most, spread over the data set
LEAST_SIDE = 32  # pixels
_COLOURED = 6.0  # mean distance of a pixel's largest channel from its smallest, of 255


def are_photographs(config: RunConfig) -> bool:
    """Return whether most images of a data set have colours and at least 32 pixels a side.

    A few are looked at. Images that cannot be read do not count.

    Args:
        config: Names the data set.

    Raises:
        DataError: There is no such data set, or no image in it that can be read.
    """
    decode, votes = Decoder((256, 256), threads=1, proportions=True), []
    for sample in _samples(config):
        try:
            image, grey = _opened(sample, decode)
        except Exception:  # decoders raise nearly everything on a damaged file
            continue
        pixels = image.astype(np.int16)
        coloured = not grey and float(np.ptp(pixels, axis=2).mean()) >= _COLOURED
        votes.append(coloured and min(pixels.shape[:2]) >= LEAST_SIDE)
    if not votes:
        data.load(**data_options(config), incomplete=True)  # says what is wrong
    return 2 * sum(votes) > len(votes)


def _samples(config: RunConfig) -> Iterator[Path | bytes | np.ndarray]:
    kind, _, path = config.dataset.partition(":")
    if kind == "folder":
        links = config.follow_links
        listing = list_folder(user_path(path), follow_links=links, incomplete=True)
        step = -(-len(listing) // _LOOKED_AT)  # the images of one folder may be unlike the others
        yield from (listing.root / path for path in listing.paths[::step])
        return
    look = source(config.dataset).samples
    if look is not None:
        options = LoadOptions(follow_links=config.follow_links, incomplete=True)
        yield from islice(look(path, options, _LOOKED_AT), _LOOKED_AT)


def _opened(sample: Path | bytes | np.ndarray, decode: Decoder) -> tuple[np.ndarray, bool]:
    if isinstance(sample, Path):
        image, grey = decode(sample)
        return np.asarray(image), grey
    if isinstance(sample, bytes):
        return np.asarray(decode.decode(sample)), False
    return sample, sample.dtype != np.uint8 or sample.shape[2] != 3
