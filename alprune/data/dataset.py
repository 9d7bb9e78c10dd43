"""The types all data ends up in, and what is computed from the images of any source."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alprune.data.from_torch import read_parts
from alprune.data.lazy_rows import ChosenRows
from alprune.data.memmap import IN_MEMORY, parts
from alprune.data.names import KnownNames
from alprune.data.provenance import Files, files_of_array
from alprune.data.resizing import resize
from alprune.data.statistics import channel_statistics, warn_of_units
from alprune.errors import DataError, counted

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images as two tensors on one device, with what is needed to normalise them.

    Attributes:
        x: Images `(n, h, w, c)`, uint8 (0..255) or float32 (any finite values); many of them may
            lie in a file, see `alprune.data.memmap`.
        y: Class of each image `(n,)`, int64, in `0..len(classes)-1`, or -1 where it is unknown.
        classes: Name of each class.
        mean: Mean of each channel, in the units of `x / 255` for uint8 and of `x` for float.
        std: Standard deviation of each channel, same units, > 0.
        flip: Whether a horizontal flip leaves the label true, so that training may use it.
        digest: Hash of the content of `x` and `y`.
        files: Where the images were read from; None if they did not come from files of their own.

    Raises:
        DataError: On construction, if the parts do not fit together.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    digest: str
    files: Files | None = None

    def __post_init__(self) -> None:
        _check_images("x", self.x, least=0)
        _check_labels("y", self.y, len(self.x), self.classes, least=UNKNOWN)
        if self.files is not None and len(self.files) != len(self.x):
            raise DataError(f"{len(self.files)} files cannot make {len(self.x)} images.")
        channels = self.x.shape[3]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(math.isfinite(v) for v in values):
                raise DataError(f"{name} must be {channels} finite numbers, got {values}.")
        if min(self.std) <= 0:
            raise DataError(f"std must be positive in every channel, got {self.std}.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image as a model sees it: `(c, h, w)`."""
        _, h, w, c = self.x.shape
        return c, h, w

    @property
    def paths(self) -> tuple[str, ...] | None:
        """Path of each image's file below its folder; None if images have no such files."""
        return None if self.files is None else self.files.paths

    def unreadable(self, indices: Tensor) -> Tensor:
        """Return which of these images, `(k,)` int64, cannot be read, `(k,)` bool.

        Only images that are decoded when they are needed can turn out so; others are all there.
        """
        if isinstance(self.x, ChosenRows) and self.x.on_demand:
            return self.x.unreadable(indices)
        return torch.zeros(len(indices), dtype=torch.bool)

    def select(self, indices: Tensor) -> "Dataset":
        """Return some of the images, `(k,)` int64, with the same classes and scale."""
        x, y = choose(self.x, indices), self.y[indices.to(self.y.device)]
        files = self.files and self.files.select(indices.cpu().numpy())
        return replace(self, x=x, y=y, files=files, digest=digest_of(x, y, files))

    def with_files(self, root: Path, name: str, pictures: Tensor) -> "Dataset":
        """Return the same data whose images are called `name[0]`, `name[1]` and so on.

        Args:
            root: Folder that they are in.
            name: Of the array.
            pictures: The images `(n, h, w, c)` as people should see them.
        """
        files = files_of_array(root, name, pictures, (self.x.shape[1], self.x.shape[2]))
        return replace(self, files=files, digest=digest_of(self.x, self.y, files))

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data on `device`; images that are decoded when needed stay."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))


@dataclass(frozen=True)
class Splits:
    """Training images, the pool to label from, and the test images; same classes and scale.

    Where labels come from people, training images may have none yet, and there may be no test
    image at all: see `incomplete` of `alprune.data.load`.

    Attributes:
        train: Training images and pool.
        test: Test images.
        notes: How the source was read and what was left out, for people.
    """

    train: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("classes", "image_shape", "mean", "std"):
            ours, theirs = getattr(self.train, part), getattr(self.test, part)
            if ours != theirs:
                raise DataError(f"{part} of train and test differ: {ours} and {theirs}.")
        if self.train.x.dtype != self.test.x.dtype:
            raise DataError(
                f"train and test images have different types: {self.train.x.dtype} and "
                f"{self.test.x.dtype}. Give both as uint8 (0..255), or both as floats in one unit."
            )

    @classmethod
    def from_torch(
        cls,
        train: Any,
        test: Any = 0.2,
        *,
        classes: Sequence[str] | None = None,
        flip: bool | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> "Splits":
        """Read data sets that return pairs of an image and a label, such as torchvision's.

        Images are PIL images, tensors `(c, h, w)` or `(h, w)`, or arrays `(h, w, c)` or `(h, w)`,
        of bytes or floats. Each is read once, so random transforms must be left out.

        Args:
            train: Map-style data set: `len(train)` and `train[i]` are enough.
            test: The same for testing; or a share of `train`, drawn at random; no class loses all.
            classes: Names of the classes; None: those of the data set (`classes`), or numbers.
            flip: Whether a horizontal flip keeps labels true; None: for colour images.
            size: `(h, w)` to resize images to; needed where PIL images differ in size.
            seed: Of the share drawn for testing.

        Raises:
            DataError: The data set fails, or its images or labels do not fit together.
        """
        learnt, tested, names = read_parts(train, test, classes, size, seed)
        colour = learnt[0].shape[3] > 1
        flip = colour if flip is None else flip
        return make_splits(learnt, tested, names, flip=flip, size=size)

    def described(self) -> str:
        """Say in one line what was counted as what."""
        classes, known = self.train.classes, int((self.train.y != UNKNOWN).sum())
        sizes, title = [], ""
        if classes:
            named = first_few(list(classes), 10)
            title = counted(len(classes), "class", "classes") + f" ({named}): "
            sizes.append(counted(known, "labelled image", "labelled images"))
        if unknown := len(self.train) - known:
            images = f"{unknown:,}" if classes else counted(unknown, "image", "images")
            sizes.append(f"{images} without a label")
        if len(self.test):
            sizes.append(f"{len(self.test):,} to test on")
        return "; ".join([title + ", ".join(sizes), *self.notes]) + "."

    @property
    def digest(self) -> str:
        """Hash of all that a run reads of them: content of both parts, class names, flip."""
        parts = (self.train.digest, self.test.digest, self.train.classes, self.train.flip)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class LoadOptions:
    """How to load, the same for every source.

    Attributes:
        root: Cache folder for downloads; None: `$ALPRUNE_DATA` or `~/.cache/alprune`.
        size: `(h, w)` to which images are resized; None leaves them as they are.
        skip_unreadable: Leave out files that do not decode, with a warning, instead of failing.
        progress: Show a progress bar where loading takes long.
        follow_links: Read files to which links lead out of a folder of images.
        in_memory: Bytes up to which the images of an array are held in memory; larger arrays stay
            in a file, where the source can do so.
        incomplete: Take data that lack labels, test images or all images of a class.
        cache: Folder in which decoded images are kept; None: the user's, see
            `alprune.data.image_cache.store`, and only where decoding takes long.
    """

    root: Path | None = None
    size: tuple[int, int] | None = None
    skip_unreadable: bool = False
    progress: bool = False
    follow_links: bool = False
    in_memory: int = IN_MEMORY
    incomplete: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DataError(f"size must be (height, width), both at least 1; got {self.size}.")


@dataclass(frozen=True)
class DataSource:
    """An entry of the registry.

    Attributes:
        summary: One line for people.
        load: `(path, options) -> Splits`; `path` is what follows the colon of the name, or "".
        samples: `(path, options, count) -> images`: yields about `count` of them, evenly spread,
            as files, encoded, or decoded `(h, w, c)`, without loading all.
    """

    summary: str
    load: Callable[[str, LoadOptions], Splits]
    samples: Callable[[str, LoadOptions, int], Iterator[Path | bytes | np.ndarray]] | None = None


def make_splits(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    *,
    flip: bool,
    size: tuple[int, int] | None = None,
    in_memory: int = IN_MEMORY,
    incomplete: bool = False,
) -> Splits:
    """Build the two data sets from raw images and labels.

    Mean and standard deviation come from the training images (from 10,000 evenly spaced ones if
    there are more) and serve both parts.

    Args:
        train: Images `(n, h, w, c)`, uint8 or float32, and labels `(n,)`, int64.
        test: The same for the test images.
        classes: Name of each class; every one needs a training image.
        flip: Whether a horizontal flip leaves labels true.
        size: `(h, w)` to resize all images to; None leaves them as they are.
        in_memory: Bytes up to which resized images are held in memory, see `resize`.
        incomplete: Whether training labels, test images or classes may be missing.

    Raises:
        DataError: The parts do not fit together, or a class has no training image.
    """
    for name, (x, y) in (("train", train), ("test", test)):
        may_lack = incomplete and name == "train"
        _check_images(f"x_{name}", x, least=0 if incomplete and name == "test" else 1)
        if not incomplete:
            check_several(classes)
        _check_labels(f"y_{name}", y, len(x), classes, least=UNKNOWN if may_lack else 0)
    if not incomplete:
        check_classes_present(train[1], classes)
    x_train, x_test = (resize(x, size, in_memory) for x, _ in (train, test))
    mean, std = channel_statistics(x_train)
    if x_train.dtype == x_test.dtype:
        warn_of_units("test images", x_test, mean, std)

    def dataset(x: Tensor, y: Tensor) -> Dataset:
        return Dataset(x, y, classes, mean, std, flip, content_digest(x, y))

    return Splits(dataset(x_train, train[1]), dataset(x_test, test[1]))


def check_classes_present(y: Tensor, classes: tuple[str, ...]) -> None:
    """Refuse classes that none of the labels `y` `(n,)` names, of which some may be unknown.

    Raises:
        DataError: There is one.
    """
    counts = torch.bincount(y[y != UNKNOWN], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(classes)} classes have no training image: {first_few(empty)}. "
            "Add images, or leave these classes out and number the others 0..k-1."
        )


def check_several(classes: tuple[str, ...]) -> None:
    """Refuse a single class, or none, which leaves nothing to tell apart.

    Raises:
        DataError: There are fewer than two.
    """
    if len(classes) < 2:
        raise DataError(f"at least two classes with different names are needed, got {classes}.")


def spelt_as(splits: Splits, names: Iterable[str]) -> Splits:
    """Return a data set whose classes are spelt as in `names`, where they are the same classes.

    Names are the same if they differ only in case, in spaces at the ends or in how accents are
    encoded, and no other class of `splits` or of `names` does.
    """
    ours = splits.train.classes
    others = KnownNames(name for name in names if name not in ours)
    theirs = {name: others.find(name) or name for name in ours if name not in {*names}}
    counts = Counter(theirs.values())
    classes = tuple(theirs[n] if counts.get(theirs.get(n, ""), 0) == 1 else n for n in ours)
    if classes == ours:
        return splits
    parts = (replace(part, classes=classes) for part in (splits.train, splits.test))
    return replace(splits, train=next(parts), test=next(parts))


def relabelled(splits: Splits, y: Tensor, classes: tuple[str, ...]) -> Splits:
    """Return a data set with other labels of its training images, and perhaps more classes.

    Args:
        splits: The data; left as they are.
        y: New label of each training image, `(n,)` int64, in `0..len(classes)-1`, or -1.
        classes: Names that the labels stand for: those of `splits` in any order, and new ones.
            Test images keep their class by name.

    Raises:
        DataError: A class of the test images is missing, or the parts do not fit.
    """
    old = splits.test.classes
    missing = [old[c] for c in {*splits.test.y.tolist()} - {UNKNOWN} if old[c] not in classes]
    if missing:
        raise DataError(f"there are test images of classes that are left out: {missing}.")
    place = [*(classes.index(n) if n in classes else UNKNOWN for n in old), UNKNOWN]  # of -1: last
    y_test = torch.tensor(place)[splits.test.y.cpu()].to(splits.test.y.device)

    def dataset(part: Dataset, y: Tensor) -> Dataset:
        return replace(part, y=y, classes=classes, digest=digest_of(part.x, y, part.files))

    return Splits(dataset(splits.train, y), dataset(splits.test, y_test))


def content_digest(x: Tensor, y: Tensor) -> str:
    """Hash types, shapes and bytes of images and labels; the same on every device and run."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (x, y):
        kind = tensor[:0].detach().cpu().numpy().dtype.str
        digest.update(f"{kind}{tuple(tensor.shape)}".encode())
        for part in parts(tensor):
            array = tensor[part].detach().cpu().contiguous().numpy()
            digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def digest_of(x: Tensor, y: Tensor, files: Files | None = None) -> str:
    """Hash images and labels as `content_digest` does; of files without reading the images."""
    if files is not None:
        digest = hashlib.blake2b(f"files {tuple(x.shape)}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(files.pixels).data)
    elif isinstance(x, ChosenRows) and x.on_demand:
        digest = hashlib.blake2b(f"made from {x.source_digest()}".encode(), digest_size=16)
    else:
        return content_digest(x, y)
    digest.update(y.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def choose(x: Tensor, rows: Tensor) -> Tensor:
    """Return some of the images `x`, `(k,)` int64; those that lie in files are not read yet."""
    return x.chosen(rows) if isinstance(x, ChosenRows) else x[rows.to(x.device)]


def _check_images(name: str, x: Tensor, least: int = 1) -> None:
    if x.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"{name} must be uint8 or float32, got {x.dtype}.")
    if x.ndim != 4 or len(x) < least or 0 in x.shape[1:]:
        raise DataError(
            f"{name} must hold images (n, h, w, c), none of these zero; got {tuple(x.shape)}."
        )
    if x.dtype == torch.float32:
        for part in parts(x):
            bad = ~x[part].isfinite().flatten(1).all(1)
            if bad.any():
                first = part.start + int(bad.int().argmax())
                raise DataError(
                    f"{name} holds NaN or infinite values, first in image {first}. Mend or "
                    "leave out such images."
                )


def _check_labels(name: str, y: Tensor, n: int, classes: tuple[str, ...], least: int = 0) -> None:
    if doubled := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"classes must have different names; of several: {first_few(doubled)}.")
    if y.dtype != torch.int64 or tuple(y.shape) != (n,):
        raise DataError(
            f"{name} must be one int64 label an image, ({n},); got {y.dtype}, {tuple(y.shape)}."
        )
    low, high = (int(y.min()), int(y.max())) if n else (0, -1)
    if low < least or high >= len(classes):
        raise DataError(
            f"{name} has labels {low}..{high}; allowed for {len(classes)} classes: "
            f"0..{len(classes) - 1}."
        )


def first_few(names: list[str], shown: int = 5) -> str:
    """List names for a message: the first few and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
