"""Data sets of torch and torchvision, read once into images and labels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alprune.data.image_cache.decode import flattened
from alprune.data.image_cache.pixel_range import is_deep
from alprune.data.memmap import IN_MEMORY, spool
from alprune.errors import DataError, failure, quoted

_AT_ONCE = 1000
_CHANNELS = (1, 3, 4)


Part = tuple[Tensor, Tensor]


def read_parts(
    train: Any,
    test: Any,
    classes: Sequence[str] | None,
    size: tuple[int, int] | None,
    seed: int,
) -> tuple[Part, Part, tuple[str, ...]]:
    """Read data sets that return pairs of an image and a label; see `Splits.from_torch`.

    Returns:
        Images `(n, h, w, c)` and labels `(n,)` to train on, the same to test on, and the classes.

    Raises:
        DataError: The data set fails, or its images or labels do not fit together.
    """
    x, y = _read("train", train, size)
    named = tuple(classes or _classes(train) or map(str, range(int(y.max()) + 1)))
    if isinstance(test, float | int):
        count = round(test * len(y))
        if not 0 < count < len(y):
            raise DataError(f"test must be a data set or a share of {len(y)} images, got {test}.")
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        drawn, rest = order[:count], order[count:]
        alone = {*y[drawn].tolist()} - {*y[rest].tolist()}  # a rare class keeps one to train on
        back = torch.tensor([int(drawn[y[drawn] == c][0]) for c in alone], dtype=torch.int64)
        rows = drawn[~torch.isin(drawn, back)].sort().values
        rest = torch.cat([rest, back]).sort().values
        return (x[rest], y[rest]), (x[rows], y[rows]), named
    return (x, y), _read("test", test, size), named


def _read(name: str, dataset: Any, size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Return images `(n, h, w, c)`, in a file if they are many, and labels `(n,)`."""
    try:
        count = len(dataset)
    except TypeError as error:
        raise DataError(
            f"{name} has no length: a map-style data set is needed, one image per index."
        ) from error
    if not count:
        raise DataError(f"{name} holds no image.")
    first, labels = _pair(name, dataset, 0, size)[0], []

    def chunks() -> Iterator[Tensor]:
        for begin in range(0, count, _AT_ONCE):
            images = []
            for index in range(begin, min(begin + _AT_ONCE, count)):
                image, label = _pair(name, dataset, index, size)
                if image.shape != first.shape or image.dtype != first.dtype:
                    advice = (
                        "Give all of them the same channels, as by image.convert('RGB')."
                        if image.shape[2] != first.shape[2]
                        else "Give size=(h, w), or a transform that resizes."
                    )
                    raise DataError(
                        f"{name}[{index}] is {image.dtype} {image.shape} and {name}[0] "
                        f"{first.dtype} {first.shape}, as (h, w, c). {advice}"
                    )
                images.append(image)
                labels.append(label)
            yield torch.from_numpy(np.stack(images))

    shape = (count, *first.shape)
    kind = torch.from_numpy(first).dtype
    if math.prod(shape) * first.itemsize > IN_MEMORY:
        x = spool(chunks(), kind, shape)
    else:
        x = torch.cat([*chunks()])
    return x, torch.tensor(labels, dtype=torch.int64)


def _pair(
    name: str, dataset: Any, index: int, size: tuple[int, int] | None
) -> tuple[np.ndarray, int]:
    try:
        image, label = dataset[index]
    except Exception as error:  # anyone's data set may fail in any way
        raise DataError(failure(f"{name}[{index}], an image and a label,", error)) from error
    where = f"{name}[{index}]"
    if isinstance(label, Tensor | np.ndarray | np.generic) and math.prod(label.shape) == 1:
        label = label.item()
    if not isinstance(label, int):
        raise DataError(f"the label of {where} must be a whole number, got {quoted(label)}.")
    return _image(where, image, size), label


def _image(where: str, image: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Return an image as `(h, w, c)`, uint8 or float32."""
    if isinstance(image, Image.Image):
        if is_deep(image):  # converting clips them
            raise DataError(
                f"{where} has more than 8 bits (mode {image.mode}): give an array of uint8 "
                "(0..255), or of floats."
            )
        image = image if image.mode in ("L", "RGB") else flattened(image)[0]
        if size is not None:
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        array = np.array(image)
    elif isinstance(image, Tensor):
        array = image.numpy(force=True)
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or array.dtype.kind not in "uf":
        raise DataError(
            f"{where} must be a PIL image, a tensor (c, h, w) or an array (h, w, c) of bytes or "
            f"floats; got {type(image).__name__} {array.dtype} {array.shape}."
        )
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        raise DataError(f"{where} is {array.dtype}: give uint8 (0..255), or floats.")
    return np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.float32)


def _classes(dataset: Any) -> list[str] | None:
    """Return the names of classes that a data set, or the one it is a part of, states."""
    while dataset is not None:
        if isinstance(found := getattr(dataset, "classes", None), list | tuple):
            return [str(name) for name in found]
        dataset = getattr(dataset, "dataset", None)
    return None
