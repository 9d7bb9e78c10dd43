"""The folder of images as it is today, with what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alprune import data
from alprune.data import UNKNOWN, Dataset, Files, Splits
from alprune.data.dataset import spelt_as
from alprune.errors import DataError
from alprune.labelling.journal import Answer, Journal
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.frozen import FROZEN
from alprune.loop.pool import LabelPool
from alprune.loop.setup import data_options
from alprune.loop.start_weights import scaled

_HELD_SHARE = 4  # of the labels that folders give, at most one in N is held out


@dataclass(frozen=True)
class Changes:
    """What has happened to the folder since the last round.

    Attributes:
        arrived: New images.
        gone: Images that are no longer there.
        lost: Labels of images that are no longer there, or were changed since. They
            are kept, and hold again when the image is back.
    """

    arrived: int = 0
    gone: int = 0
    lost: int = 0


@dataclass(frozen=True)
class ImagePool:
    """Today's images, with the journal's classes and all known labels.

    Attributes:
        splits: Training images, labels in use among them, -1 elsewhere; test images, maybe none.
        files: Which file each training image is.
        labelled: Indices of the labelled images to learn from, `(m,)`.
        held: Indices of the labelled images that are held out from training, `(h,)`.
        open: Indices of the images that may be asked for, `(k,)`; of equal files the first, and
            none of which a copy has a label.
        drawable: Those of them that nothing was ever learnt from, `(d,)`: held-out images are drawn
            from these. A learner whose weights stay remembers also what a folder said once.
        resting: Indices of those that were skipped lately, `(r,)`.
        in_folders: Number of images whose class is that of their folder, and that nobody labelled;
            copies count once.
        changes: Since the last round.
        renames: How many changes of classes' names the journal had seen.
    """

    splits: Splits
    files: Files
    labelled: Tensor
    held: Tensor
    open: Tensor
    drawable: Tensor
    resting: Tensor
    in_folders: int
    changes: Changes
    renames: int

    @property
    def train(self) -> Dataset:
        """The training images."""
        return self.splits.train

    def label_pool(self, candidates: Tensor) -> LabelPool:
        """Return the labels as the loop takes them.

        Args:
            candidates: Indices of the images that may be chosen, `(n,)`; all others without a
                label are set aside.
        """
        pool = LabelPool(len(self.train), len(self.train.classes), listed=True)
        known = torch.cat([self.labelled, self.held])
        pool.label(known, self.train.y[known], step=0)
        pool.hold_out(self.held)
        others = pool.unlabelled
        pool.set_aside(others[~torch.isin(others, candidates)])
        return pool

    def seen(self) -> Tensor:
        """Return the hashes of all files, for the next `look`, `(n, 16)` uint8."""
        return torch.from_numpy(np.array(self.files.contents))

    def learnt(self, before: Tensor | None) -> Tensor:
        """Return the hashes of all that was learnt from so far, for the next `look`, `(n, 16)`."""
        now = self.seen()[self.labelled]
        return now if before is None else torch.cat([before, now]).unique(dim=0)


def load(config: ResolvedLabelling, progress: bool = False) -> Splits:
    """Read the folder of images; with a progress bar, if asked for, where that takes long.

    Raises:
        DataError: The folder is not usable.
    """
    return scaled(config, data.load(**data_options(config), incomplete=True, progress=progress))


def look(
    config: ResolvedLabelling,
    journal: Journal,
    splits: Splits,
    seen: Tensor | None,
    learnt: Tensor | None = None,
) -> ImagePool:
    """Put together what the folders of a folder of images and the journal know.

    An image in a class folder has that class; the answer about any other image belongs to its
    content, wherever the file is now. In a trial (`initial` is given) the folders' labels are
    hidden, but for that many images, which are drawn once.

    Args:
        config: Complete options.
        journal: Learns of classes that folders name, of a trial's first labels and of what is held
            out.
        splits: The images as they are today.
        seen: `ImagePool.seen` of the last round; None before.
        learnt: `ImagePool.learnt` of the last round; None before.

    Raises:
        DataError: These are not images of a folder, or too few for a trial.
    """
    files = splits.train.files
    if files is None:
        raise DataError(f"{config.dataset!r} does not say which images it holds.")
    splits = spelt_as(splits, journal.classes)
    journal.declare(splits.train.classes)
    contents = [row.tobytes().hex() for row in files.contents]
    by_folder = _in_order_of(journal.classes, splits)
    if config.initial is not None:
        _begin_trial(config, journal, files, by_folder)
    elif config.hold_out and not journal.held_of_folder:
        _hold_out(config, journal, contents, by_folder, seen)
    labels = torch.full_like(by_folder, UNKNOWN) if config.initial is not None else by_folder
    labels, held = _known(journal, contents, labels)
    told = {content for content, answer in journal.answers.items() if answer.label is not None}
    in_folders = len(set(_where(contents, by_folder != UNKNOWN)) - told)
    splits = data.relabelled(splits, labels, tuple(journal.classes))
    known = labels != UNKNOWN
    first = {content: index for index, content in reversed(list(enumerate(contents)))}
    by_content = set(_where(contents, known))  # of which there may be copies without a label
    once = torch.tensor([first[c] == i and c not in by_content for i, c in enumerate(contents)])
    resting = journal.resting()
    rests = torch.tensor([content in resting for content in contents])
    learnt_from = set(journal.taught)
    if learnt is not None and config.learner != FROZEN:
        learnt_from |= _hashes(learnt)
    taught = torch.tensor([content in learnt_from for content in contents])
    return ImagePool(
        splits=splits,
        files=files,
        labelled=torch.nonzero(known & ~held).squeeze(1),
        held=_once(contents, known & held),
        open=torch.nonzero(~known & ~rests & once).squeeze(1),
        drawable=torch.nonzero(~known & ~rests & once & ~taught).squeeze(1),
        resting=torch.nonzero(~known & rests & once).squeeze(1),
        in_folders=0 if config.initial is not None else in_folders,
        changes=_changes(journal, set(contents), seen),
        renames=len(journal.renames),
    )


def _where(contents: list[str], wanted: Tensor) -> list[str]:
    return [contents[index] for index in torch.nonzero(wanted).squeeze(1).tolist()]


def _once(contents: list[str], wanted: Tensor) -> Tensor:
    """Return the indices of some images, of equal files the first."""
    first: dict[str, int] = {}
    for index in torch.nonzero(wanted).squeeze(1).tolist():
        first.setdefault(contents[index], index)
    return torch.tensor([*first.values()], dtype=torch.long)


def _in_order_of(classes: list[str], splits: Splits) -> Tensor:
    """Return the labels that folders give, numbered as in `classes`, `(n,)`."""
    place = torch.tensor([*(classes.index(name) for name in splits.train.classes), UNKNOWN])
    return place[splits.train.y]  # -1 takes the last


def _known(journal: Journal, contents: list[str], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add the answers to the folders' labels; return them and what is held out, `(n,)` each."""
    labels, held = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
    number: Mapping[str | None, int] = {name: place for place, name in enumerate(journal.classes)}
    for index, content in enumerate(contents):
        answer = journal.answers.get(content)
        if answer is not None and labels[index] == UNKNOWN:
            labels[index] = number.get(answer.label, UNKNOWN)
        # Also once the image has been moved, from a class folder or into one.
        drawn = content in journal.held_of_folder
        held[index] = drawn or (answer is not None and answer.held)
    return labels, held


def check_trial(config: ResolvedLabelling, known: int) -> None:
    """Refuse a trial on images of which too few are labelled.

    Args:
        config: Complete options.
        known: Number of images that have a label by their folder.

    Raises:
        DataError: They are not more than `initial`.
    """
    if config.initial is not None and config.initial >= known:
        raise DataError(
            f"--initial {config.initial} is for trying things out on a folder in which more images "
            f"than that are labelled, and {known:,} are: their other labels are hidden and asked "
            "for. To label images of your own, put them into unlabelled/ and begin without it, in "
            "a new folder."
        )


def _begin_trial(config: ResolvedLabelling, journal: Journal, files: Files, labels: Tensor) -> None:
    """Tell the labels of `initial` images out of those that have one, once."""
    assert config.initial is not None
    if journal.trial:
        return
    known = torch.nonzero(labels != UNKNOWN).squeeze(1)
    check_trial(config, len(known))
    generator = torch.Generator().manual_seed(config.seed)
    drawn = known[torch.randperm(len(known), generator=generator)[: config.initial]].tolist()
    least = min(config.hold_out, config.initial // _HELD_SHARE)
    journal.tell(
        [
            Answer(files.paths[i], files.content(i), journal.classes[int(labels[i])], 0, n < least)
            for n, i in enumerate(drawn)
        ],
        by="trial",
    )


def _hold_out(
    config: ResolvedLabelling,
    journal: Journal,
    contents: list[str],
    labels: Tensor,
    seen: Tensor | None,
) -> None:
    """Hold some images of the class folders out from training, once.

    None that people answered, who may have been asked because the learner was unsure; and none that
    a network, whose weights stay, was trained on in earlier rounds.
    """
    known = dict.fromkeys(_where(contents, labels != UNKNOWN))
    if not known:
        return
    trained = set() if seen is None or config.learner == FROZEN else _hashes(seen)
    trained |= journal.answers.keys() | journal.taught
    free = [content for content in known if content not in trained]
    missing = config.hold_out - sum(answer.held for answer in journal.answers.values())
    count = min(missing, len(free) // _HELD_SHARE)
    if count > 0:
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randperm(len(free), generator=generator)[:count].tolist()
        journal.hold_out([free[index] for index in drawn])


def _changes(journal: Journal, contents: set[str], seen: Tensor | None) -> Changes:
    labels = (a for a in journal.answers.values() if a.label is not None)
    lost = sum(answer.content not in contents for answer in labels)
    if seen is None:
        return Changes(lost=lost)
    before = _hashes(seen)
    return Changes(len(contents - before), len(before - contents), lost)


def _hashes(seen: Tensor) -> set[str]:
    return {row.tobytes().hex() for row in seen.numpy()}


def counts(images: ImagePool) -> dict[str, Any]:
    """Say in numbers what there is, for the record; copies of a labelled image count once."""
    labelled = {images.files.content(index) for index in images.labelled.tolist()}
    return {
        "pool": len(images.train),
        "labelled": len(labelled) + len(images.held),
        "in_folders": images.in_folders,
        "held_out": len(images.held),
        "arrived": images.changes.arrived,
        "gone": images.changes.gone,
        "lost": images.changes.lost,
    }
