"""Images to classify, in a stream: files and folders of any size, arrays in files and in memory."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor

from alprune.data.arrays import StoredArray, describe, find_arrays
from alprune.data.memmap import IN_MEMORY
from alprune.data.names import KnownNames
from alprune.data.npz import checked_images, open_images
from alprune.data.resizing import resize
from alprune.data.safe_io import user_path
from alprune.data.statistics import warn_of_units
from alprune.errors import DataError
from alprune.runs.predict.cached_folder import kept_source
from alprune.runs.predict.files import (
    BATCH,
    Batch,
    Entry,
    Source,
    as_text,
    check_decoded,
    count_files,
    decoded,
    joined,
    walk,
)
from alprune.runs.predict.stored import KINDS, stored_source
from alprune.training.input_spec import Inputs

_ARRAYS = ("x", "x_train", "x_test")


def open_source(
    names: Sequence[str | Path],
    inputs: Inputs,
    follow_links: bool = False,
    cache: str | Path | None = None,
) -> Source:
    """Open what is to be classified; several names follow one another.

    Args:
        names: `folder:PATH` or a folder, with images at any depth below it; an image file;
            `npz:PATH` with an array `x`, or with `x_train` and `x_test`; `csv:`, `parquet:`, `hf:`
            and `shards:` as for `alprune.data.load`. Labels are known where a folder has the name
            of a class, at the top or below `train` or `test`, in an `npz:` with `y` beside `x`,
            and where the others give them.
        inputs: What the learner takes: images are brought to its size and channels.
        follow_links: Read files to which links lead out of a folder.
        cache: Where decoded images are kept, see
            `alprune.data.image_cache.store.caches_folder`. A folder decoded before at this size is
            not decoded again.

    Raises:
        DataError: Something is not there, or is not what the learner takes.
    """
    place = None if cache is None else Path(cache)
    parts = [_open(str(name), inputs, follow_links, place, len(names) == 1) for name in names]
    return joined(parts)


def array_source(name: str, images: Tensor, inputs: Inputs) -> Source:
    """Make a source of images `(n, h, w, c)` in memory.

    Raises:
        DataError: They are not what the learner takes.
    """
    return _tensor_source(name, images, [None] * len(images), inputs)


def _open(name: str, inputs: Inputs, follow_links: bool, cache: Path | None, alone: bool) -> Source:
    if name.startswith("npz:"):
        return _npz_source(name, user_path(name.removeprefix("npz:")), inputs)
    check_decoded(inputs)
    if name.partition(":")[0] in KINDS and not os.path.exists(name):
        return stored_source(name, inputs, follow_links, cache)
    path = user_path(name.removeprefix("folder:"))
    if os.path.isdir(path):
        prefix = "" if alone else f"{path}/"
        kept = kept_source(name, path, prefix, inputs, follow_links, cache)
        if kept is not None:
            return kept
        total, left_out = count_files(path)
        if not total:
            raise DataError(f"there is no image in {str(path)!r}.")

        def entries() -> Iterator[Entry]:
            for entry in walk(path, inputs, follow_links):
                yield replace(entry, shown=prefix + entry.shown)

    elif name.startswith("folder:") or not os.path.isfile(path):
        what = "folder" if name.startswith("folder:") else "image or folder"
        raise DataError(f"there is no {what} {str(path)!r}.")
    else:
        total, left_out = 1, ""

        def entries() -> Iterator[Entry]:
            yield Entry(str(path), as_text(str(path)))

    def batches(begin: int) -> Iterator[Batch]:
        return decoded(islice(entries(), begin, None), inputs)

    return Source(name, total, batches, left_out)


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
    return replace(joined(parts), name=name)


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
    warn_of_units(f"images of {name}", images, inputs.mean, inputs.std)
    known = KnownNames(inputs.classes)

    def batches(begin: int) -> Iterator[Batch]:
        for start in range(begin, len(images), BATCH):
            part = slice(start, min(start + BATCH, len(images)))
            some = resize(images[part].cpu(), (h, w)).expand(-1, -1, -1, c)
            rows = range(part.start, part.stop)
            entries = [Entry("", f"{name}[{i}]", known.find(labels[i] or "")) for i in rows]
            yield Batch(entries, some)

    return Source(name, len(images), batches)
