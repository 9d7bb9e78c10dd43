"""Images to classify, in a stream: files and folders of any size, arrays in files and in memory."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from alprune.data.arrays import StoredArray, describe, find_arrays
from alprune.data.dataset import resize
from alprune.data.images import Decoder
from alprune.data.mapped import IN_MEMORY
from alprune.data.npz import checked_images, open_images
from alprune.errors import DataError, printable
from alprune.files import user_path
from alprune.inputs import Inputs

BATCH = 64  # images decoded by one task
_PARTS = ("train", "test")
_ARRAYS = ("x", "x_train", "x_test")


@dataclass(frozen=True)
class Entry:
    """A file to classify.

    Attributes:
        path: To open it.
        shown: What it is called in the table.
        label: Its class by the folder that it lies in, if the learner knows that class.
        error: Why it cannot be read, if that is known already.
    """

    path: str
    shown: str
    label: str | None = None
    error: str | None = None


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
    """

    name: str
    total: int
    batches: Callable[[int], Iterator[Batch]]


def open_source(names: Sequence[str | Path], inputs: Inputs, follow_links: bool = False) -> Source:
    """Open what is to be classified; several names follow one another.

    Args:
        names: `folder:PATH` or a folder, with images at any depth below it; an image file;
            `npz:PATH` with an array `x`, or with `x_train` and `x_test`. Labels are known where a
            folder has the name of a class, at the top or below `train` or `test`, and in an
            `npz:` with `y` beside `x`.
        inputs: What the learner takes: images are brought to its size and channels.
        follow_links: Read files to which links lead out of a folder.

    Raises:
        DataError: Something is not there, or is not what the learner takes.
    """
    parts = [_open(str(name), inputs, follow_links, alone=len(names) == 1) for name in names]
    return _joined(parts)


def array_source(name: str, images: Tensor, inputs: Inputs) -> Source:
    """Make a source of images `(n, h, w, c)` in memory.

    Raises:
        DataError: They are not what the learner takes.
    """
    return _tensor_source(name, images, [None] * len(images), inputs)


def sample_files(root: Path, inputs: Inputs, count: int, follow_links: bool) -> Tensor:
    """Read `count` images spread evenly over a folder, fewer if it has fewer `(m, h, w, c)`.

    Raises:
        DataError: There is no such folder, or no image in it that can be read.
    """
    _check_decoded(inputs)
    root = user_path(root)
    if not os.path.isdir(root):
        raise DataError(f"there is no folder {str(root)!r}.")
    total = _count(root)
    wanted = {place * total // count for place in range(count)} if total else set()
    chosen = (e for i, e in enumerate(_walk(root, inputs, follow_links)) if i in wanted)
    images = [batch.images for batch in _decoded(chosen, inputs)]
    if not any(map(len, images)):
        raise DataError(f"no image in {str(root)!r} could be read.")
    return torch.cat(images)


def _joined(parts: list[Source]) -> Source:
    if len(parts) == 1:
        return parts[0]

    def batches(begin: int) -> Iterator[Batch]:
        for part in parts:
            yield from part.batches(begin) if begin < part.total else ()
            begin = max(0, begin - part.total)

    total = sum(part.total for part in parts)
    return Source(" ".join(part.name for part in parts), total, batches)


def _open(name: str, inputs: Inputs, follow_links: bool, alone: bool) -> Source:
    if name.startswith("npz:"):
        return _npz_source(name, user_path(name.removeprefix("npz:")), inputs)
    path = user_path(name.removeprefix("folder:"))
    _check_decoded(inputs)
    if os.path.isdir(path):
        total, prefix = _count(path), "" if alone else f"{path}/"
        if not total:
            raise DataError(f"there is no image in {str(path)!r}.")

        def entries() -> Iterator[Entry]:
            for entry in _walk(path, inputs, follow_links):
                yield replace(entry, shown=prefix + entry.shown)

    elif name.startswith("folder:") or not os.path.isfile(path):
        what = "folder" if name.startswith("folder:") else "image or folder"
        raise DataError(f"there is no {what} {str(path)!r}.")
    else:
        total = 1

        def entries() -> Iterator[Entry]:
            yield Entry(str(path), _text(str(path)))

    return Source(name, total, lambda begin: _decoded(islice(entries(), begin, None), inputs))


def _check_decoded(inputs: Inputs) -> None:
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


def _count(root: Path) -> int:
    return sum(1 for _ in _files(str(root), ""))


def _walk(root: Path, inputs: Inputs, follow_links: bool) -> Iterator[Entry]:
    """List a folder's files by their paths, holding one folder's names at a time."""
    inside = os.path.realpath(root)
    classes = frozenset(inputs.classes)
    for path, shown, why in _files(str(root), ""):
        if why is None and os.path.islink(path) and not follow_links:
            end = os.path.realpath(path)
            if not Path(end).is_relative_to(inside):
                why = f"a link that leads out of the folder, to {end!r}; --follow-links reads it"
        yield Entry(path, _text(shown), _label(shown, classes), why)


def _files(folder: str, prefix: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield path, path below the root and perhaps an error, sorted; hidden files left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if e.name[0] != "."), key=lambda e: e.name)
    except OSError as error:
        yield folder, prefix.rstrip("/"), f"a folder that cannot be listed: {error.strerror}"
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        elif not os.path.isdir(entry.path):  # links to folders are not followed
            yield entry.path, prefix + entry.name, None


def _label(shown: str, classes: frozenset[str]) -> str | None:
    """Return the class that a file's folders name, if they do."""
    folders = shown.split("/")[:-1]
    if folders and folders[0] in _PARTS and folders[0] not in classes:
        folders = folders[1:]
    return folders[0] if folders and folders[0] in classes else None


def _text(name: str) -> str:
    """Return a name as text that UTF-8 can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _decoded(entries: Iterable[Entry], inputs: Inputs) -> Iterator[Batch]:
    """Read files in threads, some batches ahead of whoever takes them."""
    _, h, w = inputs.image_shape
    threads = _cores()
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


def _cores() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(16, count or 1)


def _decode(decode: Decoder, batch: list[Entry], inputs: Inputs) -> Batch:
    c, h, w = inputs.image_shape
    images = np.empty((len(batch), h, w, c), np.uint8)
    read, entries = 0, []
    for entry in batch:
        error = entry.error
        if error is None:
            try:
                images[read] = _channels(decode(Path(entry.path))[0], c)
                read += 1
            except UnidentifiedImageError:
                error = "an image in no known format"
            except Exception as reason:  # decoders raise nearly everything on a damaged file
                error = " ".join(printable(str(reason)).split()) or type(reason).__name__
        entries.append(entry if error is None else replace(entry, error=error))
    return Batch(entries, torch.from_numpy(images[:read]))


def _channels(rgb: np.ndarray, channels: int) -> np.ndarray:
    """Return an image `(h, w, 3)` as a learner of so many channels takes it."""
    if channels == 3:
        return rgb
    # As Pillow computes luminance; of a grey image it is any of the three.
    weighed = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def _npz_source(name: str, path: Path, inputs: Inputs) -> Source:
    if not os.path.exists(path):
        raise DataError(f"there is no file {str(path)!r}.")
    places = find_arrays(path)
    chosen = [key for key in _ARRAYS if key in places]
    chosen = ["x"] if "x" in chosen else chosen
    if not chosen:
        raise DataError(
            f"{str(path)!r} holds none of {', '.join(_ARRAYS)}, the arrays of images that are "
            f"looked for; it has {', '.join(places) or 'nothing'}."
        )
    stored = {key: describe(key, place) for key, place in places.items()}
    names = _class_names(stored.get("classes"), inputs)
    parts = []
    for key in chosen:
        array = checked_images(stored[key])
        if not array.shape[0]:
            continue
        images = open_images(array, IN_MEMORY)
        labels = _labels(stored.get(key.replace("x", "y", 1)), len(images), names)
        parts.append(_tensor_source(key, images, labels, inputs))
    if not parts:
        raise DataError(f"there is no image in {str(path)!r}.")
    return replace(_joined(parts), name=name)


def _class_names(array: StoredArray | None, inputs: Inputs) -> tuple[str, ...]:
    """Return what the numbers in `y` mean; nothing where the file has classes of its own."""
    if array is None:
        return inputs.classes
    right = array.dtype.kind == "U" and len(array.shape) == 1 and array.nbytes < 2**24
    return tuple(map(str, array.read())) if right else ()


def _labels(array: StoredArray | None, count: int, names: tuple[str, ...]) -> list[str | None]:
    if array is None or array.dtype.kind not in "iu" or array.shape != (count,):
        return [None] * count
    return [names[y] if 0 <= y < len(names) else None for y in array.read().tolist()]


def _tensor_source(
    name: str, images: Tensor, labels: Sequence[str | None], inputs: Inputs
) -> Source:
    if images.ndim == 3:
        images = images[..., None]
    c, h, w = inputs.image_shape
    if images.ndim != 4 or images.shape[3] not in (1, c) or not min(images.shape[1:]):
        raise DataError(
            f"the learner takes images (n, {h}, {w}, {c}), channels last; got "
            f"{tuple(images.shape)}."
        )
    if images.dtype != inputs.torch_dtype:
        unit = "0 to 255" if inputs.dtype == "uint8" else "in the unit of the training images"
        raise DataError(
            f"the learner takes {inputs.dtype} images, {unit}; got {images.dtype}. Convert them."
        )
    known = frozenset(inputs.classes)

    def batches(begin: int) -> Iterator[Batch]:
        for start in range(begin, len(images), BATCH):
            part = slice(start, min(start + BATCH, len(images)))
            some = resize(images[part].cpu(), (h, w)).expand(-1, -1, -1, c)
            rows = range(part.start, part.stop)
            told = (labels[i] if labels[i] in known else None for i in rows)
            entries = [
                Entry("", f"{name}[{i}]", label) for i, label in zip(rows, told, strict=True)
            ]
            yield Batch(entries, some)

    return Source(name, len(images), batches)


__all__ = ["BATCH", "Batch", "Entry", "Source", "array_source", "open_source", "sample_files"]
