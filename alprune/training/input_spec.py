"""What a learner takes and what its outputs mean: all of its data that using it needs."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from alprune.data import Dataset
from alprune.errors import DataError, quoted

INPUTS = "inputs.json"  # of a run folder
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
# What a stranger's file may ask for.
_TEXT_MOST = 2**24
_CLASSES_MOST = 2**20
_NUMBER_MOST = 1e30  # float32 ends at 3e38
_PIXELS_MOST = 2**26


@dataclass(frozen=True)
class Inputs:
    """The images a learner takes and the classes it tells apart.

    Attributes:
        classes: Name of each output; none where nobody has named any yet.
        image_shape: `(c, h, w)` of one image.
        dtype: "uint8" (0..255) or "float32" (in the unit of the training images).
        mean: Of each channel, in the units of `x / 255` for uint8 and of `x` for float.
        std: Standard deviation of each channel, same units, > 0.

    Raises:
        DataError: On construction, if the parts do not fit together.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        named = all(isinstance(name, str) for name in self.classes)
        if not named or len(self.classes) > _CLASSES_MOST:
            raise DataError(f"classes must be a list of names, got {quoted(self.classes)}.")
        whole = all(type(side) is int and side > 0 for side in self.image_shape)
        if len(self.image_shape) != 3 or not whole or math.prod(self.image_shape) > _PIXELS_MOST:
            raise DataError(
                f"image_shape must be (channels, height, width), each at least 1 and not more than "
                f"{_PIXELS_MOST:,} together; got {quoted(self.image_shape)}."
            )
        if self.dtype not in DTYPES:
            raise DataError(f"dtype must be {' or '.join(DTYPES)}, got {quoted(self.dtype)}.")
        _check_numbers("mean", self.mean, self.image_shape[0], -math.inf)
        _check_numbers("std", self.std, self.image_shape[0], 0.0)

    @classmethod
    def of(cls, train: Dataset) -> "Inputs":
        """Describe what a learner of these training images takes."""
        dtype = str(train.x.dtype).removeprefix("torch.")
        return cls(train.classes, train.image_shape, dtype, train.mean, train.std)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the images' values."""
        return DTYPES[self.dtype]

    def record(self) -> dict[str, Any]:
        """Return it as JSON values; `from_record` reads them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Any) -> "Inputs":
        """Read what `record` returned.

        Raises:
            DataError: It is no such record.
        """
        try:
            parts: dict[str, Any] = {name: record[name] for name in cls.__dataclass_fields__}
            for name, value in parts.items():
                parts[name] = tuple(value) if isinstance(value, list) else value
            return cls(**parts)
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"this describes no learner's inputs: {error!r}.") from error

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(self.record(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Inputs":
        """Read `to_json`'s text.

        Raises:
            DataError: It is no such text.
        """
        if len(text) > _TEXT_MOST:
            raise DataError(f"{len(text):,} characters describe no learner's inputs.")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"this describes no learner's inputs: {error}.") from error
        return cls.from_record(record)


def _check_numbers(name: str, values: tuple[float, ...], channels: int, above: float) -> None:
    right = all(type(v) in (int, float) and above < v and abs(v) <= _NUMBER_MOST for v in values)
    if len(values) != channels or not right:
        raise DataError(
            f"{name} must be {channels} numbers, one a channel, of at most {_NUMBER_MOST:g}"
            f"{' and above 0' if above == 0 else ''}; got {quoted(values)}."
        )
