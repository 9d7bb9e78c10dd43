"""The images and labels of a frozen learner's run, for exports that learn from them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from alprune.data import UNKNOWN, Dataset, Splits
from alprune.data.dataset import spelt_as
from alprune.errors import ConfigError, DataError
from alprune.labelling import images as today
from alprune.labelling.journal import Journal
from alprune.loop.config import RunConfig
from alprune.loop.csv_tables import read_labels
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.event_log import RUN, kind_of
from alprune.loop.frozen import FROZEN
from alprune.loop.pool import LabelPool, drawn_to_hold_out
from alprune.loop.run_folder import NullRunFolder
from alprune.runs.load import Learned
from alprune.runs.local_data import local_splits

_LEAST_IMAGES = 20


def config_of(learned: Learned, flag: str) -> RunConfig:
    """Return the options of a frozen learner's run.

    Raises:
        ConfigError: The learner is not frozen, or comes from a file.
    """
    if learned.config is not None and learned.config.learner == FROZEN:
        return learned.config
    what = "comes from a file of its own" if learned.config is None else "was trained whole"
    raise ConfigError(
        f"{flag} is for run folders of learners on a frozen backbone (--learner frozen); this "
        f"learner {what}. Leave {flag} out."
    )


def images_of(config: RunConfig, learned: Learned, flag: str) -> Splits:
    """Return the run's images at its scale; classes are spelt as the learner's.

    Raises:
        DataError: They cannot be had, have changed, or are too few.
    """
    splits = local_splits(config, f"an export with {flag}", incomplete=True)
    inputs = learned.classifier.inputs
    if splits.train.image_shape != inputs.image_shape:
        raise DataError(
            f"the images of {config.dataset!r} are {splits.train.image_shape} by now, and the "
            f"learner takes {inputs.image_shape}: the folder has changed. Export without {flag}."
        )
    if len(splits.train) < _LEAST_IMAGES:
        raise DataError(
            f"{flag} learns from the run's images, labelled or not: at least {_LEAST_IMAGES}, and "
            f"{config.dataset!r} has {len(splits.train)}. Add more, or export without {flag}."
        )
    splits = spelt_as(splits, inputs.classes)

    def scaled(images: Dataset) -> Dataset:
        return replace(images, mean=inputs.mean, std=inputs.std)

    return replace(splits, train=scaled(splits.train), test=scaled(splits.test))


@dataclass(frozen=True)
class KnownLabels:
    """What is known of a run's images.

    Attributes:
        rows: Of the images to learn from, `(m,)` int64.
        labels: Their classes, numbered as the learner's outputs, `(m,)` int64.
        held: Rows of the labelled images that are kept from training, `(h,)`.
        held_labels: Their classes, `(h,)`.
        unlearnt: Labelled images whose class the learner has no output for, and these classes.
    """

    rows: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor
    unlearnt: tuple[int, tuple[str, ...]] = (0, ())


def labels_of(path: Path, config: RunConfig, learned: Learned, splits: Splits) -> KnownLabels:
    """Return the labels of a run, or of a folder in which people label, as they are today.

    Args:
        path: The run folder; only read.
        config: Its options.
        learned: The learner in it.
        splits: Its images, see `images_of`.
    """
    if kind_of(path) is RUN:
        return _of_run(path, config, splits.train)
    journal = Journal(NullRunFolder(path))
    known = today.look(cast(ResolvedLabelling, config), journal, splits, None)
    before = learned.classifier.classes  # by the names of now, see `find_learner`
    names = known.train.classes
    number = torch.tensor([*(before.index(n) if n in before else -1 for n in names), UNKNOWN])
    rows, held = known.labelled, known.held
    labels, held_labels = number[known.train.y[rows]], number[known.train.y[held]]
    new = known.train.y[rows[labels < 0]]
    return KnownLabels(
        rows[labels >= 0],
        labels[labels >= 0],
        held[held_labels >= 0],
        held_labels[held_labels >= 0],
        (len(new), tuple(names[n] for n in new.unique().tolist())),
    )


def _of_run(path: Path, config: RunConfig, train: Dataset) -> KnownLabels:
    found, pool = read_labels(path), LabelPool(len(train), len(train.classes))
    if found and not 0 <= min(found) <= max(found) < len(train):
        raise DataError(
            f"{path} has labels of images that {config.dataset!r} does not have: the data have "
            "changed since the run."
        )
    entries = sorted(found.items())
    labels = torch.tensor([label for _, (label, _) in entries], dtype=torch.int64)
    steps = torch.tensor([step for _, (_, step) in entries], dtype=torch.int64)
    pool.label(torch.tensor([row for row, _ in entries], dtype=torch.int64), labels, steps)
    pool.hold_out(drawn_to_hold_out(pool, config.hold_out, config.seed))
    rows, held = pool.trained_on, pool.held
    return KnownLabels(rows, pool.label_of(rows), held, pool.label_of(held))
