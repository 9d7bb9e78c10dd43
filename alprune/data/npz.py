"""A user's own arrays in one .npz file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alprune.data.dataset import LoadOptions, Splits, make_splits
from alprune.errors import DataError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_LAYOUT = "(n, h, w) or (n, h, w, 1) for grey, (n, h, w, 3) or (n, h, w, 4) for colour"


def load(path: str, options: LoadOptions) -> Splits:
    """Load `x_train`, `y_train`, `x_test` and `y_test` from an .npz file.

    Images are uint8 (0..255) or floats in any unit, channels last; labels are integers 0..k-1.
    Optional: `classes`, the k names, and `flip`, whether a horizontal flip keeps labels true
    (without it: yes for colour, no for grey, which is often writing). No pickle is ever loaded.

    Raises:
        DataError: The file or one of its arrays cannot be used; the message names which.
    """
    arrays = _read(Path(path).expanduser())
    train = _images("x_train", arrays["x_train"]), _labels("y_train", arrays["y_train"])
    test = _images("x_test", arrays["x_test"]), _labels("y_test", arrays["y_test"])
    for part, (x, y) in (("train", train), ("test", test)):
        if len(x) != len(y):
            raise DataError(f"x_{part} has {len(x)} images but y_{part} has {len(y)} labels.")
    if options.size is None and train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"images of x_train are {tuple(train[0].shape[1:])} and of x_test "
            f"{tuple(test[0].shape[1:])}; they must have one shape (h, w, c)."
        )
    flip = _flip(arrays.get("flip"), colour=train[0].shape[3] > 1)
    classes = _classes(arrays.get("classes"), train[1])
    return make_splits(train, test, classes, flip=flip, size=options.size)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(
            f"there is no file {str(path)!r}. Expected an .npz with {', '.join(ARRAYS)}."
        )
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever numpy and zipfile raise on a file that is no archive
        raise DataError(f"{str(path)!r} is no whole .npz file: {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{str(path)!r} holds one bare array; expected an .npz, as np.savez writes")
    with archive:
        missing = [name for name in ARRAYS if name not in archive]
        if missing:
            raise DataError(
                f"{str(path)!r} lacks {', '.join(missing)}; it holds "
                f"{', '.join(archive.files) or 'nothing'}. Needed: {', '.join(ARRAYS)}."
            )
        wanted = [*ARRAYS, *(name for name in ("classes", "flip") if name in archive)]
        return {name: _member(archive, name, path) for name in wanted}


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except Exception as error:  # a damaged or crafted member: zlib, struct, syntax, memory ...
        raise DataError(
            f"array {name!r} of {str(path)!r} cannot be read: {error or type(error).__name__}. "
            "Write it again as a plain array (numbers or text, no objects) with np.savez."
        ) from error


def _images(name: str, x: np.ndarray) -> Tensor:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(
            f"{name} must be uint8 (0..255) or float, got {x.dtype}. Convert it, for example with "
            f"{name}.astype(np.uint8)."
        )
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 3, 4):
        hint = " It looks like channels first: transpose it with .transpose(0, 2, 3, 1)."
        first = x.ndim == 4 and x.shape[1] in (1, 3, 4)
        raise DataError(f"{name} must be {_LAYOUT}; got {x.shape}.{hint if first else ''}")
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which is refused later
        x = np.ascontiguousarray(x, dtype=np.uint8 if x.dtype == np.uint8 else np.float32)
    return torch.from_numpy(x)


def _labels(name: str, y: np.ndarray) -> Tensor:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(
            f"{name} must hold one integer label an image, (n,); got {y.dtype}, {y.shape}."
        )
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{name} has negative labels (down to {y.min()}); allowed: 0..k-1.")
    if len(y) and int(y.max()) >= 2**31:
        raise DataError(f"{name} has labels up to {y.max()}; allowed: 0..k-1 for k classes.")
    return torch.from_numpy(y.astype(np.int64))


def _flip(flip: np.ndarray | None, colour: bool) -> bool:
    if flip is None:
        return colour
    if flip.dtype.kind != "b" or flip.size != 1:
        raise DataError(f"flip must be one bool; got {flip.dtype}, {flip.shape}.")
    return bool(flip.item())


def _classes(names: np.ndarray | None, y_train: Tensor) -> tuple[str, ...]:
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"classes must be a list of names, (k,) of text; got {names.dtype}, {names.shape}."
            )
        return tuple(str(name) for name in names)
    present = y_train.unique()
    highest = int(present[-1]) if len(present) else -1
    if len(present) != highest + 1:
        raise DataError(
            f"y_train has {len(present)} different labels but the highest is {highest}; labels "
            "must be 0..k-1, all of them present. Renumber them, or leave out what is no class."
        )
    return tuple(str(label) for label in range(len(present)))
