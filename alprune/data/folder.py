"""A user's own images: `train/<class>/...` and `test/<class>/...`."""

import hashlib
import math
import sys
import warnings
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alprune.data.dataset import (
    Dataset,
    LoadOptions,
    Splits,
    check_classes_present,
    digest_of,
    first_few,
)
from alprune.data.image_cache.decode import dark
from alprune.data.image_cache.formats import HEIC_ADVICE, NoDecoder, unknown_format
from alprune.data.image_cache.refresh import Decoded, refresh
from alprune.data.image_cache.store import UNREADABLE, place_for, said, temporary, unwritable
from alprune.data.image_cache.worker import open_rows
from alprune.data.lazy_rows import ChosenRows
from alprune.data.leftovers import HEIC_SUFFIXES, in_words
from alprune.data.listing import Listing, list_folder
from alprune.data.memmap import map_images
from alprune.data.provenance import Files
from alprune.data.safe_io import user_path
from alprune.data.statistics import channel_statistics
from alprune.errors import DataError

DEFAULT_SIZE = (32, 32)
_SMALL = 1000  # so few files are decoded each time, if they take less than _SMALL_BYTES
_SMALL_BYTES = 2**25
_HEADS = 20  # files called HEIC of which the first bytes are looked at

_latest: tuple[Any, tuple[tuple[float, ...], tuple[float, ...]]] | None = None  # of which images


def load(path: str, options: LoadOptions) -> Splits:
    """Load a folder of images, `train/<class>/...` and `test/<class>/...`, in sorted order.

    `listing.list_folder` says which files are taken, what they say of their labels and what
    `options.incomplete` allows to be missing; `images.Decoder` how an image is read. If all images
    of both parts are grey, they get one channel instead of three. A horizontal flip is taken to
    keep labels true for colour images and not for grey ones, which are often writing.

    More than a few files are decoded once and kept, see `alprune.data.image_cache.store`; images
    of more than `options.in_memory` bytes stay in that file.

    Raises:
        DataError: A folder is missing or empty, train and test have different classes, the images
            cannot be kept, or files do not decode (unless `options.skip_unreadable`); the message
            names them.
    """
    listing = list_folder(
        user_path(path), follow_links=options.follow_links, incomplete=options.incomplete
    )
    return load_listing(listing, options)


def load_listing(listing: Listing, options: LoadOptions) -> Splits:
    """Load the images of a listing, decoded before or now.

    Raises:
        DataError: As from `load`.
    """
    if not options.skip_unreadable:
        _refuse_heic(listing)
    size = options.size or DEFAULT_SIZE
    with ExitStack() as stack:
        if _is_small(listing) and options.cache is None:
            place, stays = stack.enter_context(temporary()), False
        else:
            place, stays = stack.enter_context(place_for(listing.root, size, options.cache))
        try:
            decoded = refresh(place, listing, size, options.progress)
        except OSError as error:
            raise unwritable(place, error) from error
        except KeyboardInterrupt:
            if stays and options.progress:
                tqdm.write("What was decoded is kept: the next start continues.", file=sys.stderr)
            raise
        if stays and decoded.fresh and options.progress:
            tqdm.write(said(place), file=sys.stderr)
        _report(listing, decoded, options.skip_unreadable, place if stays else None)
        if said_of_range := dark(Counter(decoded.bits[decoded.bits > 0].tolist())):
            warnings.warn(said_of_range, stacklevel=2)
        return _splits(listing, decoded, size, options)


def _refuse_heic(listing: Listing) -> None:
    """Refuse HEIC photos that nothing here reads before the others are decoded for hours."""
    named = [path for path in listing.paths if path.lower().endswith(tuple(HEIC_SUFFIXES))]
    for path in named[:_HEADS]:
        with suppress(OSError), open(listing.root / path, "rb") as file:
            if isinstance(unknown_format(file.read(32)), NoDecoder):
                raise DataError(
                    f"{len(named):,} of {len(listing):,} files in {str(listing.root)!r} are HEIC "
                    f"photos: {first_few(named)}. {HEIC_ADVICE}, or pass --skip-unreadable to "
                    "leave them out."
                )


def _is_small(listing: Listing) -> bool:
    return len(listing) <= _SMALL and np.maximum(listing.sizes, 0).sum() <= _SMALL_BYTES


def _splits(
    listing: Listing, decoded: Decoded, size: tuple[int, int], options: LoadOptions
) -> Splits:
    ok = np.flatnonzero(decoded.rows >= 0)
    begin = int(np.searchsorted(ok, len(listing) - listing.tests))  # of the test images
    train, test = ok[:begin], ok[begin:]
    for part, chosen, listed in (
        ("training", train, len(listing) - listing.tests),
        ("test", test, listing.tests),
    ):
        if listed and not len(chosen):
            raise DataError(f"no {part} file in {str(listing.root)!r} could be read as an image.")
    channels = 1 if decoded.grey[ok].all() else 3
    x_train, x_test = _images(decoded, (train, test), (*size, channels), options.in_memory)
    mean, std = _statistics(x_train, decoded.pixels[train].tobytes())

    def dataset(x: Tensor, chosen: np.ndarray) -> Dataset:
        y = torch.from_numpy(listing.labels[chosen])
        paths = tuple(listing.paths[index] for index in chosen)
        files = Files(listing.root, paths, decoded.contents[chosen], decoded.pixels[chosen])
        digest = digest_of(x, y, files)
        return Dataset(x, y, listing.classes, mean, std, channels == 3, digest, files)

    unreadable = len(decoded.reasons) + len(listing.unusable)
    left = {**listing.left_out, "files that cannot be read": unreadable}
    notes = [*listing.notes, *([f"left out: {in_words(left)}"] if any(left.values()) else [])]
    splits = Splits(dataset(x_train, train), dataset(x_test, test), tuple(notes))
    if not options.incomplete:
        check_classes_present(splits.train.y, listing.classes)
    return splits


def _statistics(x: Tensor, pixels: bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of images; while they stay the same, from the last call.

    Args:
        x: The images.
        pixels: Their hashes.
    """
    global _latest
    key = hashlib.blake2b(pixels, digest_size=16).digest(), tuple(x.shape)
    if _latest is None or _latest[0] != key:
        _latest = key, channel_statistics(x)
    return _latest[1]


def _images(
    decoded: Decoded, parts: tuple[np.ndarray, ...], shape: tuple[int, int, int], in_memory: int
) -> list[Tensor]:
    """Return the images of each part, in memory if they take little, else where they lie."""
    try:
        with open_rows(decoded.file) as file:
            count = file.seek(0, 2) // (shape[0] * shape[1] * 3)
            stored = map_images(file, 0, torch.uint8, (count, *shape[:2], 3))
    except OSError as error:
        raise DataError(f"{decoded.file} was removed meanwhile ({error}). Start again.") from error
    images = []
    for chosen in parts:
        x = ChosenRows(stored, torch.from_numpy(decoded.rows[chosen]), shape[2])
        images.append(x.read() if len(chosen) * math.prod(shape) <= in_memory else x)
    return images


def _report(listing: Listing, decoded: Decoded, skip: bool, place: Path | None) -> None:
    """Say which files cannot be read."""
    failures = [
        f"{str(listing.root / listing.paths[index])!r} ({why})"
        for index, why in sorted(decoded.reasons.items())
    ] + listing.unusable
    if not failures:
        return
    message = (
        f"{len(failures):,} of {len(listing) + len(listing.unusable):,} files in "
        f"{str(listing.root)!r} cannot be read as images: {first_few(failures)}."
    )
    if place is not None and len(failures) > 5:
        message += f" All are listed in {place / UNREADABLE}."
    if not skip:
        raise DataError(f"{message} Mend or remove them, or pass --skip-unreadable.")
    warnings.warn(f"{message} They are left out.", stacklevel=3)
