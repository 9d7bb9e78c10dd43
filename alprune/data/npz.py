"""A user's own arrays in one .npz file, or in a folder of .npy files."""

import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alprune.data.arrays import StoredArray, describe, find_arrays
from alprune.data.dataset import UNKNOWN, LoadOptions, Splits, first_few, make_splits
from alprune.data.memmap import CHUNK, gigabytes, map_images, spool
from alprune.data.safe_io import open_ordinary, user_path
from alprune.errors import DataError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
EXTRAS = ("classes", "flip")
_PARTS = ("train", "test")
_NATIVE = {torch.uint8: np.dtype(np.uint8), torch.float32: np.dtype(np.float32)}
_LAYOUT = "(n, h, w) or (n, h, w, 1) for grey, (n, h, w, 3) or (n, h, w, 4) for colour"
_MOST_EXTRA = 2**24  # bytes that the class names may take


def load(path: str, options: LoadOptions) -> Splits:
    """Load `x_train`, `y_train`, `x_test` and `y_test` from an .npz file, or a folder of .npy's.

    Images are uint8 (0..255) or floats in any unit, channels last; labels are integers 0..k-1.
    Optional: `classes`, the k names, and `flip`, whether a horizontal flip keeps labels true
    (without it: yes for colour, no for grey, which is often writing). No pickle is ever loaded.

    Images that take more than `options.in_memory` bytes stay in the file, see `mapped`, if they
    lie there as uint8 or float32 and not compressed; otherwise in a temporary copy of it.

    Where labels may be missing (`options.incomplete`), `x_train`, or `x`, is enough; -1 in
    `y_train` is a label that is not known.

    Raises:
        DataError: The file or one of its arrays cannot be used; the message names which.
    """
    place = user_path(path)
    stored = _find(place, options.incomplete)
    images = {part: checked_images(stored[f"x_{part}"]) for part in _PARTS if f"x_{part}" in stored}
    labels = {part: _labels(stored, part, x.shape[0], options) for part, x in images.items()}
    shapes = [_image_shape(x) for x in images.values()]
    if options.size is None and shapes[0] != shapes[-1]:
        raise DataError(
            f"images of x_train are {shapes[0]} and of x_test {shapes[-1]}; they must have one "
            "shape (h, w, c)."
        )
    flip = _flip(stored.get("flip"), colour=shapes[0][2] > 1)
    classes = _classes(stored.get("classes"), labels["train"], options.incomplete)
    opened = {part: (open_images(x, options.in_memory), labels[part]) for part, x in images.items()}
    x = opened["train"][0]
    splits = make_splits(
        opened["train"],
        opened.get("test") or (x[:0].clone(), torch.empty(0, dtype=torch.int64)),
        classes,
        flip=flip,
        size=options.size,
        in_memory=options.in_memory,
        incomplete=options.incomplete,
    )
    if not options.incomplete:
        return splits
    return replace(splits, train=splits.train.with_files(place.parent, "x_train", x))


def samples(path: str, options: LoadOptions, count: int) -> Iterator[np.ndarray]:
    """Yield some images, evenly spread; not those of a compressed array, which is read whole."""
    array = checked_images(_find(user_path(path), incomplete=True)["x_train"])
    if array.offset is None and array.nbytes > options.in_memory:
        return
    images = open_images(array, options.in_memory)
    for row in range(0, len(images), max(1, len(images) // count)):
        yield images[row].numpy()


def _find(path: Path, incomplete: bool) -> dict[str, StoredArray]:
    needed = "x_train, or x" if incomplete else ", ".join(ARRAYS)
    if not os.path.exists(path):  # not Path.exists, which raises on a name that is too long
        raise DataError(f"there is no file {str(path)!r}. Expected an .npz with {needed}.")
    places = find_arrays(path)
    if os.path.isdir(path) and not places:
        raise DataError(
            f"there is no file {str(path)!r} but a folder, without .npy files. Expected an .npz "
            f"with {needed}, or a folder of files {ARRAYS[0]}.npy and so on."
        )
    if incomplete and "x_train" not in places:
        places |= {f"{n}_train": places[n] for n in ("x", "y") if n in places}
    missing = [name for name in (ARRAYS[:1] if incomplete else ARRAYS) if name not in places]
    if missing:
        raise DataError(
            f"{str(path)!r} lacks {', '.join(missing)}; it holds "
            f"{first_few(list(places), 10) or 'nothing'}. Needed: {needed}."
        )
    return {name: describe(name, places[name]) for name in (*ARRAYS, *EXTRAS) if name in places}


def checked_images(array: StoredArray) -> StoredArray:
    """Return an array that can hold images.

    Raises:
        DataError: It cannot: the type or the shape is another.
    """
    name, dtype, shape = array.name, array.dtype, array.shape
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(
            f"{name} must be uint8 (0..255) or float, got {dtype}. {_conversion(name, dtype)}"
        )
    if len(shape) not in (3, 4) or _image_shape(array)[2] not in (1, 3, 4):
        hint = " It looks like channels first: transpose it with .transpose(0, 2, 3, 1)."
        first = len(shape) == 4 and shape[1] in (1, 3, 4)
        raise DataError(f"{name} must be {_LAYOUT}; got {shape}.{hint if first else ''}")
    return array


def _conversion(name: str, dtype: np.dtype[Any]) -> str:
    """Say how images of another type become usable without losing their values."""
    if dtype.kind == "b":
        return f"Convert it with {name}.astype(np.uint8) * 255."
    if dtype.kind not in "iu":
        return f"Convert it with {name}.astype(np.float32)."
    exact = f"{name}.astype(np.float32) keeps all values"
    shift = f"; ({name} >> 8).astype(np.uint8) takes less memory, if they reach 65535"
    return (
        f"{exact}{shift if dtype == np.uint16 else ''}. Only where no value is above 255 (or below "
        f"0) is {name}.astype(np.uint8) right: it keeps the lowest 8 bits."
    )


def _image_shape(array: StoredArray) -> tuple[int, ...]:
    """Shape of one image, `(h, w, c)`."""
    return array.shape[1:] if len(array.shape) == 4 else (*array.shape[1:], 1)


def open_images(array: StoredArray, in_memory: int) -> Tensor:
    """Read images, or map those that take more than `in_memory` bytes."""
    kind = torch.uint8 if array.dtype == np.uint8 else torch.float32
    shape = (array.shape[0], *_image_shape(array))
    if max(array.nbytes, math.prod(shape) * kind.itemsize) <= in_memory:
        return _as_tensor(array.read()).view(shape)
    if array.fortran:
        raise DataError(
            f"{array.name} of {str(array.path)!r} is stored with its first index fastest, and is "
            f"too large ({gigabytes(array.nbytes)}) to be turned round in memory. Write "
            f"np.ascontiguousarray({array.name})."
        )
    if array.offset is not None and array.dtype == _NATIVE[kind]:
        array.verify()
        with open_ordinary(array.path) as file:
            return map_images(file, array.offset, kind, shape)
    why = "it is compressed" if array.offset is None else f"its type is {array.dtype}"
    warnings.warn(
        f"{array.name} of {str(array.path)!r} is copied to a temporary file in "
        f"{tempfile.gettempdir()!r} ({gigabytes(math.prod(shape) * kind.itemsize)}), since {why}. "
        "Arrays of uint8 or float32 that np.savez has written are used where they lie.",
        stacklevel=2,
    )
    return spool((_as_tensor(rows) for rows in array.rows(CHUNK)), kind, shape)


def _as_tensor(x: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which is refused later
        x = np.ascontiguousarray(x, dtype=np.uint8 if x.dtype == np.uint8 else np.float32)
    return torch.from_numpy(x)


def _labels(
    stored: Mapping[str, StoredArray], part: str, count: int, options: LoadOptions
) -> Tensor:
    """Return the labels of a part, -1 where they are unknown and may be."""
    name = f"y_{part}"
    if name not in stored and part == "train":  # only where labels may be missing
        return torch.full((count,), UNKNOWN)
    if name not in stored:
        raise DataError(f"there is x_{part} without {name}, and images to test on need labels.")
    array = stored[name]
    if array.dtype.kind not in "iu" or len(array.shape) != 1:
        raise DataError(
            f"{name} must hold one integer label an image, (n,); got {array.dtype}, {array.shape}."
        )
    y = array.read()
    if len(y) != count:
        raise DataError(f"x_{part} has {count} images but {name} has {len(y)} labels.")
    least = UNKNOWN if options.incomplete and part == "train" else 0
    if len(y) and int(y.min()) < least:
        raise DataError(f"{name} has negative labels (down to {y.min()}); allowed: 0..k-1.")
    if len(y) and int(y.max()) >= 2**31:
        raise DataError(f"{name} has labels up to {y.max()}; allowed: 0..k-1 for k classes.")
    return torch.from_numpy(y.astype(np.int64))


def _flip(array: StoredArray | None, colour: bool) -> bool:
    if array is None:
        return colour
    if array.dtype.kind != "b" or math.prod(array.shape) != 1:
        raise DataError(f"flip must be one bool; got {array.dtype}, {array.shape}.")
    return bool(array.read().item())


def _classes(array: StoredArray | None, y_train: Tensor, incomplete: bool) -> tuple[str, ...]:
    if array is not None:
        if array.dtype.kind != "U" or len(array.shape) != 1 or array.nbytes > _MOST_EXTRA:
            raise DataError(
                f"classes must be a list of names, (k,) of text, at most {gigabytes(_MOST_EXTRA)}; "
                f"got {array.dtype}, {array.shape}."
            )
        return _names(array)
    present = y_train[y_train != UNKNOWN].unique()
    highest = int(present[-1]) if len(present) else -1
    if len(present) != highest + 1 and not incomplete:
        raise DataError(
            f"y_train has {len(present)} different labels but the highest is {highest}; labels "
            "must be 0..k-1, all of them present. Renumber them, or leave out what is not a class."
        )
    return tuple(str(label) for label in range(highest + 1))


def _names(array: StoredArray) -> tuple[str, ...]:
    try:
        names = tuple(str(name) for name in array.read())
        "".join(names).encode()
    except (ValueError, SystemError) as error:  # half a character, or NumPy on what is none
        raise DataError(f"{array.name} holds names that are not text: {error}.") from error
    return names
