"""The registry of data sets, `DATASETS`, and loading by name."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from alprune.data import digits, downloads, folder, hugging_face, manifest, npz, shards
from alprune.data.dataset import (
    UNKNOWN,
    DataSource,
    LoadOptions,
    Splits,
    check_several,
)
from alprune.data.leftovers import in_words
from alprune.errors import AlpruneError, DataError, failure, printable
from alprune.registry import lookup

DATASETS: dict[str, DataSource] = {
    "cifar10": DataSource("50,000 + 10,000 colour images 32x32, 10 classes", downloads.cifar10),
    "cifar100": DataSource("50,000 + 10,000 colour images 32x32, 100 classes", downloads.cifar100),
    "mnist": DataSource("60,000 + 10,000 grey handwritten digits 28x28", downloads.mnist),
    "fashion-mnist": DataSource(
        "60,000 + 10,000 grey images 28x28 of 10 kinds of clothing", downloads.fashion_mnist
    ),
    "digits": DataSource(
        "1,297 + 500 grey handwritten digits 8x8 of scikit-learn; no download",
        digits.load,
    ),
    "npz:PATH": DataSource(
        "arrays x_train, y_train, x_test, y_test of an .npz file", npz.load, npz.samples
    ),
    "folder:PATH": DataSource(
        "images in train/<class>/ and test/<class>/, resized (to 32x32 by default)", folder.load
    ),
    "csv:PATH": DataSource(
        "images that a CSV file lists: path, label (or empty), split",
        manifest.load_csv,
        partial(manifest.samples, "csv"),
    ),
    "parquet:PATH": DataSource(
        "images that a Parquet file lists: path, label (or empty), split",
        manifest.load_parquet,
        partial(manifest.samples, "parquet"),
    ),
    "hf:PATH": DataSource(
        "a data set of Hugging Face: its name there, or a folder or Parquet file",
        hugging_face.load,
        hugging_face.samples,
    ),
    "shards:PATH": DataSource(
        "images in tar files as of WebDataset, train/*.tar and test/*.tar, of any size",
        shards.load,
        shards.samples,
    ),
}


_UNTESTED = "test images without a label"
_ASK = "A person can label them: alprune ask, or alprune label."


def source(name: str) -> DataSource:
    """Return the source that a data set's name means.

    Args:
        name: A key of `DATASETS` with a real path for PATH, or `package.module:function` of a
            function without arguments that returns `Splits`.

    Raises:
        ConfigError: The name is not known, or cannot be imported.
        DataError: A path is missing after the colon.
    """
    return _resolve(name)[0]


def load(
    name: str,
    *,
    root: Path | None = None,
    size: tuple[int, int] | None = None,
    skip_unreadable: bool = False,
    progress: bool = False,
    follow_links: bool = False,
    incomplete: bool = False,
    cache: Path | None = None,
) -> Splits:
    """Load a data set by name.

    Args:
        name: As for `source`.
        root: Cache folder for downloads; None: `$ALPRUNE_DATA` or `~/.cache/alprune`.
        size: `(h, w)` to which images are resized, bilinear with antialiasing; None: as they are
            (`folder:PATH` and `shards:PATH`: 32x32). A function of your own gets no size: its
            images stay.
        skip_unreadable: Leave out image files that do not decode, with a warning.
        progress: Show a progress bar where loading takes long, and say in one line what was counted
            as what; both on the standard error.
        follow_links: Read files to which links lead out of a folder; refused otherwise.
        incomplete: Take data as they are before people have labelled them: labels may be missing
            (-1), so may test images (none, as `(0, h, w, c)`) and images of some or all classes;
            test images without a label are left out.
            In a folder, `train/` may be left out: `folder:PATH` is `PATH/<class>/...` with images
            that have no label yet in `PATH/unlabelled/...` then. Refused otherwise.
        cache: Folder in which decoded images of `folder:PATH` and `shards:PATH` are kept; None:
            see `alprune.data.image_cache.store.caches_folder`.

    Returns:
        Training and test images on the CPU. Of `folder:PATH`, `Dataset.files` says which file
        each came from.

    Raises:
        ConfigError: The name is not known.
        DataError: The data is missing, damaged or not as described; the message says what to do.
    """
    found, path = _resolve(name)
    options = LoadOptions(
        root, size, skip_unreadable, progress, follow_links, incomplete=incomplete, cache=cache
    )
    splits = found.load(path, options)
    if incomplete:
        splits = _tested(splits)
    if progress:
        print(printable(f"{name}: {splits.described()}"), file=sys.stderr)
    if not incomplete:
        _check_complete(name, splits)
    return splits


def _tested(splits: Splits) -> Splits:
    """Leave out test images without a label, which can test nothing."""
    known = torch.nonzero(splits.test.y != UNKNOWN).squeeze(1)
    if len(known) == len(splits.test):
        return splits
    note = f"left out: {in_words({_UNTESTED: len(splits.test) - len(known)})}"
    return replace(splits, test=splits.test.select(known), notes=(*splits.notes, note))


def _check_complete(name: str, splits: Splits) -> None:
    """Refuse what a run cannot be simulated on."""
    train = splits.train
    unknown = int((train.y == UNKNOWN).sum())
    if unknown:
        raise DataError(
            f"{unknown:,} of {len(train):,} training images of {name!r} have no label, and this "
            f"needs labelled ones. {_ASK}"
        )
    if not len(splits.test) or bool((splits.test.y == UNKNOWN).any()):
        raise DataError(
            f"{name!r} has no test images, or some without a label, and accuracy is measured on "
            "labelled images that are never trained on: put a fifth of them aside, say."
        )
    check_several(train.classes)


def _resolve(name: str) -> tuple[DataSource, str]:
    prefix, colon, path = name.partition(":")
    if colon and f"{prefix}:PATH" in DATASETS:  # before module:function, which has a colon too
        if not path or path == "PATH":
            raise DataError(f"data set {name!r} needs a path, as in {prefix}:my/data.")
        return DATASETS[f"{prefix}:PATH"], path
    found = lookup("data set", name, DATASETS)
    if isinstance(found, DataSource):
        return found, ""

    def call(path: str, options: LoadOptions) -> Splits:
        try:
            splits = found()
        except AlpruneError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(failure(f"data set {name!r}", error)) from error
        if not isinstance(splits, Splits):
            raise DataError(
                f"data set {name!r} returned {type(splits).__name__}; expected alprune.data.Splits "
                "(make_splits builds them)."
            )
        return splits

    return DataSource(f"the function {name}", call), ""
