"""A user's own images: `train/<class>/...` and `test/<class>/...`."""

import hashlib
import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
import torch
from PIL import UnidentifiedImageError
from tqdm import tqdm

from alprune.data.dataset import (
    Dataset,
    LoadOptions,
    Splits,
    channel_statistics,
    check_classes_present,
    digest_of,
    first_few,
)
from alprune.data.files import Files
from alprune.data.images import Decoder
from alprune.data.listing import Listing, list_folder
from alprune.errors import DataError, printable
from alprune.files import open_ordinary, user_path

DEFAULT_SIZE = (32, 32)
_BATCH = 64  # files a task decodes, so that a million files are not a million tasks


@dataclass(frozen=True)
class _Decoded:
    """Images in the order of their files; `ok` says which could be read."""

    x: np.ndarray  # (n, h, w, 3) uint8
    grey: np.ndarray  # (n,) bool
    ok: np.ndarray  # (n,) bool
    contents: np.ndarray  # (n, 16) uint8, hash of each file's bytes

    @classmethod
    def room(cls, n: int, size: tuple[int, int]) -> "_Decoded":
        try:
            x = np.zeros((n, *size, 3), np.uint8)
        except (MemoryError, ValueError) as error:  # ValueError: more than can be addressed
            raise DataError(
                f"{n:,} images of {size[0]}x{size[1]} pixels take "
                f"{n * size[0] * size[1] * 3 / 2**30:,.1f} GiB, more than there is. Choose a "
                "smaller --image-size."
            ) from error
        return cls(x, np.zeros(n, bool), np.zeros(n, bool), np.zeros((n, 16), np.uint8))


def load(path: str, options: LoadOptions) -> Splits:
    """Load a folder of images, `train/<class>/...` and `test/<class>/...`, in sorted order.

    `listing.list_folder` says which files are taken, what they say of their labels and what
    `options.incomplete` allows to be missing; `images.Decoder` how an image is read. If all images
    of both parts are grey, they get one channel instead of three. A horizontal flip is taken to
    keep labels true for colour images and not for grey ones, which are often writing.

    Raises:
        DataError: A folder is missing or empty, train and test have different classes, or files
            do not decode (unless `options.skip_unreadable`); the message names them.
    """
    listing = list_folder(
        user_path(path), follow_links=options.follow_links, incomplete=options.incomplete
    )
    size = options.size or DEFAULT_SIZE
    decoded, failures = _decode_all(listing, size, options.progress)
    _report(listing, failures, options.skip_unreadable)
    ok = np.flatnonzero(decoded.ok)
    tests = int(decoded.ok[len(listing) - listing.tests :].sum())
    begin = len(ok) - tests  # of the test images
    for part, count, listed in (
        ("train", begin, len(listing) - listing.tests),
        ("test", tests, listing.tests),
    ):
        if listed and not count:
            raise DataError(f"no {part} file in {str(listing.root)!r} could be read as an image.")
    grey = bool(decoded.grey[ok].all())
    x = decoded.x if len(ok) == len(listing) else decoded.x[ok]
    x = np.ascontiguousarray(x[..., :1]) if grey else x
    mean, std = channel_statistics(torch.from_numpy(x[:begin]))

    def dataset(part: slice) -> Dataset:
        chosen = ok[part]
        y = torch.from_numpy(listing.labels[chosen])
        paths = tuple(listing.paths[index] for index in chosen)
        files = Files(listing.root, paths, decoded.contents[chosen], _hashes(x[part]))
        images = torch.from_numpy(x[part])
        digest = digest_of(images, y, files)
        return Dataset(images, y, listing.classes, mean, std, not grey, digest, files)

    train, test = dataset(slice(0, begin)), dataset(slice(begin, len(ok)))
    if not options.incomplete:
        check_classes_present(train.y, train.classes)
    return Splits(train, test)


def _hashes(x: np.ndarray) -> np.ndarray:
    """Hash each image `(n, h, w, c)`, `(n, 16)` uint8."""
    hashes = b"".join(hashlib.blake2b(image, digest_size=16).digest() for image in x)
    return np.frombuffer(hashes, np.uint8).reshape(-1, 16)


def _decode_all(
    listing: Listing, size: tuple[int, int], progress: bool
) -> tuple[_Decoded, list[str]]:
    """Decode all files in threads; return the images and what went wrong, in the files' order."""
    threads = min(16, os.cpu_count() or 1)
    with (
        # Pillow warns about odd metadata and near bombs, from every thread, file by file.
        warnings.catch_warnings(),
        tqdm(
            total=len(listing),
            desc="reading images",
            unit="img",
            disable=None if progress else True,
        ) as bar,
        ThreadPoolExecutor(max_workers=threads) as pool,
    ):
        warnings.simplefilter("ignore")
        decode = Decoder(size, threads)
        out = _Decoded.room(len(listing), size)
        starts = range(0, len(listing), _BATCH)
        tasks = [pool.submit(_decode_batch, decode, listing, start, out) for start in starts]
        try:
            for task in as_completed(tasks):
                bar.update(task.result()[0])
        except BaseException:  # Ctrl-C too must not wait for all that is queued
            pool.shutdown(cancel_futures=True)
            raise
        return out, listing.unusable + _failures(tasks)


def _failures(tasks: "list[Future[tuple[int, list[str]]]]") -> list[str]:
    return [failure for task in tasks for failure in task.result()[1]]


def _decode_batch(
    decode: Decoder, listing: Listing, start: int, out: _Decoded
) -> tuple[int, list[str]]:
    """Decode a batch of the files into `out`; return their number and the failures."""
    batch, failures = listing.paths[start : start + _BATCH], []
    for index, path in enumerate(batch, start):
        where = listing.root / path
        try:
            out.x[index], out.grey[index] = decode(where)
            with open_ordinary(where) as file:
                content = hashlib.blake2b(file.read(), digest_size=16).digest()
            out.contents[index] = np.frombuffer(content, np.uint8)
            out.ok[index] = True
        except UnidentifiedImageError:
            failures.append(f"{str(where)!r} (an image in no known format)")
        except Exception as error:  # decoders raise nearly everything on a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{str(where)!r} ({printable(reason)})")
    return len(batch), failures


def _report(listing: Listing, failures: list[str], skip: bool) -> None:
    if not failures:
        return
    message = (
        f"{len(failures)} of {len(listing) + len(listing.unusable)} files in {str(listing.root)!r} "
        f"cannot be read as images: {first_few(failures)}."
    )
    if not skip:
        raise DataError(f"{message} Mend or remove them, or pass --skip-unreadable.")
    warnings.warn(f"{message} They are left out.", stacklevel=2)
