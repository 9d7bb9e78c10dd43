"""Image files: found in folders of any size, decoded in threads, some batches ahead."""

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alprune.data.image_cache.decode import Decoder
from alprune.data.image_cache.pool import cores
from alprune.data.layout import label_of
from alprune.data.leftovers import (
    FOLDER_LINKS,
    in_words,
    is_link,
    kind_of_file,
    kind_of_folder,
    visible,
)
from alprune.data.names import KnownNames
from alprune.data.safe_io import no_folder, user_path
from alprune.errors import DataError, counted, printable
from alprune.training.input_spec import Inputs

BATCH = 64  # images decoded by one task


@dataclass(frozen=True)
class Entry:
    """A file to classify.

    Attributes:
        path: To open it.
        shown: What it is called in the table.
        label: Its class by its folder, if the learner knows that class.
        error: Why it cannot be read, if that is known already.
        read: Returns its content if it is in no file of its own.
    """

    path: str
    shown: str
    label: str | None = None
    error: str | None = None
    read: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Batch:
    """Images that were read, and those that could not be.

    Attributes:
        entries: All of them, each with its error if it has one.
        images: `(m, h, w, c)`, of those without an error, in their order.
    """

    entries: list[Entry]
    images: Tensor


@dataclass(frozen=True)
class Source:
    """A number of images in a fixed order.

    Attributes:
        name: As given.
        total: How many there are.
        batches: Reads them from the one of this number on.
        left_out: Files beside the images that are not read, in words.
        is_described: Whether opening it has already said what was counted as what.
    """

    name: str
    total: int
    batches: Callable[[int], Iterator[Batch]]
    left_out: str = ""
    is_described: bool = False

    def described(self) -> str:
        """Say in one line what was counted as what."""
        left_out = f"; left out: {self.left_out}" if self.left_out else ""
        return f"{self.name}: {counted(self.total, 'image', 'images')} to classify{left_out}."


def joined(parts: list[Source]) -> Source:
    """Make one source of several, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def batches(begin: int) -> Iterator[Batch]:
        for part in parts:
            yield from part.batches(begin) if begin < part.total else ()
            begin = max(0, begin - part.total)

    total = sum(part.total for part in parts)
    left_out = ", ".join(part.left_out for part in parts if part.left_out)
    return Source(" ".join(part.name for part in parts), total, batches, left_out)


def sample_files(root: Path, inputs: Inputs, count: int, follow_links: bool) -> Tensor:
    """Read `count` images spread evenly over a folder, fewer if it has fewer `(m, h, w, c)`.

    Raises:
        DataError: There is no such folder, or no image in it that can be read.
    """
    check_decoded(inputs)
    root = user_path(root)
    if not os.path.isdir(root):
        raise DataError(no_folder(root))
    total = count_files(root)[0]
    wanted = {place * total // count for place in range(count)} if total else set()
    chosen = (e for i, e in enumerate(walk(root, inputs, follow_links)) if i in wanted)
    images = [batch.images for batch in decoded(chosen, inputs)]
    if not any(map(len, images)):
        raise DataError(f"no image in {str(root)!r} could be read.")
    return torch.cat(images)


def check_decoded(inputs: Inputs) -> None:
    """Refuse a learner that takes something else than decoded files."""
    if inputs.dtype != "uint8":
        raise DataError(
            "the learner was trained on images of floating-point values in a unit of their own, "
            "which image files do not have. Give it such images: npz:PATH."
        )
    if inputs.image_shape[0] not in (1, 3):
        raise DataError(
            f"the learner was trained on images of {inputs.image_shape[0]} channels, and image "
            "files are read with 1 or 3. Give it such images: npz:PATH."
        )


def count_files(root: Path) -> tuple[int, str]:
    """Count what `walk` lists; return also, in words, what it leaves out."""
    left_out: Counter[str] = Counter()
    total = sum(1 for _ in _files(str(root), "", left_out))
    return total, in_words(left_out)


def walk(root: Path, inputs: Inputs, follow_links: bool) -> Iterator[Entry]:
    """List a folder's files by their paths, holding one folder's names at a time."""
    inside = os.path.realpath(root)
    classes = KnownNames(inputs.classes)
    for path, shown, why in _files(str(root), "", Counter()):
        if why is None and os.path.islink(path) and not follow_links:
            end = os.path.realpath(path)
            if not Path(end).is_relative_to(inside):
                why = f"a link that leads out of the folder, to {end!r}; --follow-links reads it"
        yield Entry(path, as_text(shown), label_of(shown, classes), why)


def _files(
    folder: str, prefix: str, left_out: Counter[str]
) -> Iterator[tuple[str, str, str | None]]:
    """Yield path, path below the root and perhaps an error, sorted.

    Hidden files, links to folders and what `leftovers` names are left out, and counted.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(visible(found, left_out), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, prefix.rstrip("/"), f"a folder that cannot be listed: {error.strerror}"
        return
    for entry in entries:
        is_folder = entry.is_dir(follow_symlinks=False) and not is_link(entry)
        kind = kind_of_folder(entry.path, entry.name) if is_folder else kind_of_file(entry.name)
        if kind is not None:
            left_out[kind] += 1
        elif is_folder:
            yield from _files(entry.path, f"{prefix}{entry.name}/", left_out)
        elif os.path.isdir(entry.path):
            left_out[FOLDER_LINKS] += 1
        else:
            yield entry.path, prefix + entry.name, None


def as_text(name: str) -> str:
    """Return a name as text that UTF-8 can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def decoded(entries: Iterable[Entry], inputs: Inputs) -> Iterator[Batch]:
    """Read files in threads, some batches ahead of the caller."""
    _, h, w = inputs.image_shape
    threads = min(16, cores())
    decode = Decoder((h, w), threads)
    waiting: deque[Future[Batch]] = deque()
    files = iter(entries)
    with warnings.catch_warnings():
        # Of odd metadata and near bombs, from every thread, file by file.
        warnings.filterwarnings("ignore", module=r"PIL\b")
        pool = ThreadPoolExecutor(max_workers=threads)
        try:
            while batch := list(islice(files, BATCH)):
                waiting.append(pool.submit(_decode, decode, batch, inputs))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Ctrl-C must not wait for all that is queued
            pool.shutdown(cancel_futures=True)
    if said := decode.said_of_range():
        warnings.warn(said, stacklevel=2)


def _decode(decode: Decoder, batch: list[Entry], inputs: Inputs) -> Batch:
    c, h, w = inputs.image_shape
    images = np.empty((len(batch), h, w, c), np.uint8)
    read, entries = 0, []
    for entry in batch:
        error = entry.error
        if error is None:
            try:
                stored = entry.read and decode.decode(entry.read())
                rgb = decode(Path(entry.path))[0] if stored is None else stored
                images[read] = channels_of(rgb, c)
                read += 1
            except Exception as reason:  # decoders raise nearly everything on a damaged file
                error = " ".join(printable(str(reason)).split()) or type(reason).__name__
        entries.append(entry if error is None else replace(entry, error=error))
    return Batch(entries, torch.from_numpy(images[:read]))


def channels_of(rgb: np.ndarray, channels: int) -> np.ndarray:
    """Return an image `(h, w, 3)` as a learner of so many channels takes it."""
    if channels == 3:
        return rgb
    # As Pillow computes luminance; of a grey image it is any of the three.
    weighed = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]
