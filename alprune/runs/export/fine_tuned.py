"""A frozen learner fine-tuned on its labels, if cross-validation on them finds that it helps."""

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from alprune import models
from alprune.data import UNKNOWN, Dataset, Splits
from alprune.errors import ConfigError, DataError, counted, quoted
from alprune.loop.config import RunConfig
from alprune.loop.frozen import frozen_learner
from alprune.runs.export.evaluate import classes_of, known_test, share, temperature_of
from alprune.runs.export.resumable import BUDGET_S, Progress, key_of
from alprune.runs.export.run_images import KnownLabels, config_of, images_of, labels_of
from alprune.runs.load import Learned
from alprune.training.augment import Augment
from alprune.training.classifier import Classifier
from alprune.training.device import pick_device
from alprune.training.fine_tune import FineTuneSettings, FineTuning
from alprune.training.frozen import FrozenLearner, put_head
from alprune.training.resize import seeing

FOLDS = 3
STATE = ".fine-tune.state"  # in the run folder
FINE_TUNED, FROZEN_HEAD = "fine-tuned", "frozen head"
_LEAST_LABELS = 30


@dataclass(frozen=True)
class FineTuneOptions:
    """How a learner is fine-tuned.

    Attributes:
        budget_s: Seconds, at most, for all folds and the final network together.
        folds: Parts of the labels, each predicted by a network that learnt from the others.
        seed: Decides the folds, the order of the images and their crops.
        settings: Of the fine-tuning.
    """

    budget_s: float = BUDGET_S
    folds: int = FOLDS
    seed: int = 0
    settings: FineTuneSettings = field(default_factory=FineTuneSettings)

    def __post_init__(self) -> None:
        if self.folds < 2 or not self.budget_s > 0:
            raise ConfigError(
                f"fine-tuning needs folds >= 2 and budget_s > 0, got {self.folds} and "
                f"{self.budget_s:g}."
            )


@dataclass(frozen=True)
class FineTuned:
    """What cross-validation decided, and what came of it.

    Attributes:
        chosen: "fine-tuned" or "frozen head".
        reason: Why, in a sentence.
        labels: That it learnt from.
        folds: Of the cross-validation.
        frozen_accuracy: Share of the labels that frozen heads predict which did not learn them.
        tuned_accuracy: Share that fine-tuned networks predict which did not learn them.
        standard_error: Of the difference of the two, over the labels.
        frozen_recall: As frozen_accuracy, where every class counts the same: the mean over classes.
        tuned_recall: As tuned_accuracy, in the same way.
        recall_error: Standard error of the difference of these two.
        trained: Smallest share of a fold's batches that the budget allowed, 0 to 1.
        passes: Of the final network over the labels; 0 for the frozen head.
        tested: Labelled test images or, where there are none, labelled images that the run keeps
            from training.
        tested_on: "test images", "held-out images" or, where there are neither, "".
        accuracy_before: Of the learner on these; None without them.
        accuracy_after: Of what was chosen.
    """

    chosen: str
    reason: str
    labels: int
    folds: int
    frozen_accuracy: float
    tuned_accuracy: float
    standard_error: float
    frozen_recall: float
    tuned_recall: float
    recall_error: float
    trained: float = 1.0
    passes: float = 0.0
    tested: int = 0
    tested_on: str = ""
    accuracy_before: float | None = None
    accuracy_after: float | None = None


def fine_tune(
    path: Path, learned: Learned, options: FineTuneOptions, full: Learned | None = None
) -> tuple[Learned, FineTuned]:
    """Fine-tune a frozen learner on its labels, unless cross-validation prefers it as it is.

    Fine-tuned networks must be more accurate on all labels, or in the mean over classes, by more
    than a standard error, and not less accurate by one in the other. The head of each network is
    fitted first, as the frozen learner fits it. What is done is kept in the run folder (`STATE`)
    for the next call with the same options.

    Args:
        path: The run folder.
        learned: The learner in it, or a small one made of it.
        options: How.
        full: With a small one: the learner in the folder, whose embeddings the heads are fitted on.

    Returns:
        The learner that was chosen, and what it came to.

    Raises:
        ConfigError: The learner is not frozen.
        DataError: Its images cannot be had, or there are too few labels.
        KeyboardInterrupt: Interrupted; the message says what is kept.
    """
    full = full or learned
    config = config_of(full, "--fine-tune")
    splits = images_of(config, full, "--fine-tune")
    known = labels_of(path, config, full, splits)
    _check(known, path)
    if known.unlearnt[0]:
        count, names = known.unlearnt
        warnings.warn(
            counted(count, "label is", "labels are") + " left out: the learner does not know "
            f"{', '.join(map(quoted, names))} yet. alprune ask {path} lets it learn them.",
            stacklevel=3,
        )
    train = replace(
        splits.train,
        y=torch.full_like(splits.train.y, UNKNOWN),
        classes=learned.classifier.classes,
    )
    tuner = _Tuner(config, learned, train, known, options)
    what = known.rows.tolist(), known.labels.tolist(), train.digest, options
    key = key_of(learned.classifier.network, *what)
    progress = Progress(path / STATE, key)
    folds = list(_folds(known.labels, options))
    for number, (learnt, asked) in enumerate(folds):
        name = f"fold {number + 1} of {options.folds}"
        if name not in progress.found:
            truth = known.labels[asked]
            head = tuner.fitted(learnt)
            frozen = tuner.right(head, known.rows[asked], truth)
            tuned, work = tuner.tuned(name, progress, head, learnt)
            right = tuner.right(tuned, known.rows[asked], truth)
            progress.note(name, [frozen.tolist(), right.tolist(), work.done / work.planned])
    truth = torch.cat([known.labels[asked] for _, asked in folds])
    found = _decided(list(progress.found.values()), truth, options)
    network = None
    if found.chosen == FINE_TUNED:
        everything = torch.arange(len(known.rows))
        head = tuner.fitted(everything)
        network, work = tuner.tuned("fine-tuning", progress, head, everything)
        found = replace(found, passes=round(work.done * work.size / len(known.rows), 2))
    return _made(learned, network, found, splits, known)


def _check(known: KnownLabels, path: Path) -> None:
    count, classes = len(known.rows), len(known.labels.unique())
    if count < _LEAST_LABELS or classes < 2:
        raise DataError(
            f"{path} has {counted(count, 'label', 'labels')} of "
            f"{counted(classes, 'class', 'classes')} to learn from, and --fine-tune "
            f"needs at least {_LEAST_LABELS} of 2 classes; a few hundred are better. Label more, "
            "or export without --fine-tune."
        )


class _Tuner:
    """Makes networks that have learnt from some of the labels."""

    def __init__(
        self,
        config: RunConfig,
        learned: Learned,
        train: Dataset,
        known: KnownLabels,
        options: FineTuneOptions,
    ) -> None:
        self._learned, self._train, self._known, self._options = learned, train, known, options
        self._device = pick_device(config.device)
        whole = models.build(config.model, len(train.classes), train.image_shape, config.seed)
        self._frozen: FrozenLearner = frozen_learner(config, whole, train)
        self._unfitted = self._frozen.state()

    def fitted(self, learnt: Tensor) -> nn.Sequential:
        """Return the network with a head fitted to some labels.

        Args:
            learnt: Places of the labels among the known ones, `(k,)`.
        """
        rows, labels = self._known.rows[learnt], self._known.labels[learnt]
        self._frozen.restore(self._unfitted)  # so that no fit begins with another one's weights
        generator = torch.Generator().manual_seed(self._options.seed)
        self._frozen.fit(rows, labels, 1.0, generator)
        network = copy.deepcopy(_seen_by(self._learned)).to(self._device)
        put_head(network, *self._frozen.head.plain())
        return network

    def tuned(
        self,
        name: str,
        progress: Progress,
        network: nn.Sequential,
        learnt: Tensor,
    ) -> tuple[nn.Sequential, FineTuning]:
        """Fine-tune a network with a fitted head; return it and how far that came."""
        network, train, settings = copy.deepcopy(network), self._train, self._options.settings
        mean, std = (torch.tensor(v, device=self._device) for v in (train.mean, train.std))
        pad = round(settings.pad * min(train.image_shape[1:]))
        augment = Augment(mean, std, train.flip, pad)
        rows, labels = self._known.rows[learnt], self._known.labels[learnt]
        seed = self._options.seed
        work = FineTuning(network, train.x, rows, labels, augment, seed, settings)
        progress.run(name, work, self._options.budget_s / (self._options.folds + 1))
        network.requires_grad_(True)
        return network, work

    def right(self, network: nn.Module, rows: Tensor, labels: Tensor) -> Tensor:
        """Return for which images `(k,)` a network is right, `(k,)` bool."""
        return classes_of(network, self._train, rows) == labels


def _folds(labels: Tensor, options: FineTuneOptions) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the places of the labels to learn and to predict, classes spread evenly over folds."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(options.seed))
    order = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % options.folds
    for number in range(options.folds):
        yield torch.nonzero(fold != number).squeeze(1), torch.nonzero(fold == number).squeeze(1)


def _decided(
    results: list[tuple[list[bool], list[bool], float]], truth: Tensor, options: FineTuneOptions
) -> FineTuned:
    """Compare what frozen and fine-tuned networks were right on, labels `(k,)` by fold."""
    trained = min(share for _, _, share in results)
    frozen = torch.tensor([right for one, _, _ in results for right in one]).double()
    tuned = torch.tensor([right for _, one, _ in results for right in one]).double()
    everyone = torch.ones(len(truth), dtype=torch.float64) / len(truth)
    _, number, counts = truth.unique(return_inverse=True, return_counts=True)
    by_class = 1 / (counts[number] * len(counts)).double()
    gain, error = _gain(tuned - frozen, everyone)
    class_gain, class_error = _gain(tuned - frozen, by_class)
    better = gain > error or class_gain > class_error
    better &= gain >= -error and class_gain >= -class_error
    said = (
        f"in {options.folds}-fold cross-validation on {len(truth):,} labels fine-tuned "
        f"networks were right on {tuned.mean():.1%} and frozen heads on {frozen.mean():.1%}, a "
        f"difference of {100 * gain:+.1f} points (standard error {100 * error:.1f}), and "
        f"{100 * class_gain:+.1f} ({100 * class_error:.1f}) where every class counts the same: "
    )
    said += "" if better else "not "
    said += "better by a standard error in one of the two and not worse by one in the other"
    if trained < 1:
        said += f"; the budget ended the training of a fold after {trained:.0%} of its batches"
    return FineTuned(
        chosen=FINE_TUNED if better else FROZEN_HEAD,
        reason=said,
        labels=len(truth),
        folds=options.folds,
        frozen_accuracy=share(frozen),
        tuned_accuracy=share(tuned),
        standard_error=round(error, 6),
        frozen_recall=round(float(frozen @ by_class), 6),
        tuned_recall=round(float(tuned @ by_class), 6),
        recall_error=round(class_error, 6),
        trained=round(trained, 4),
    )


def _gain(difference: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return the weighted mean of differences, `(k,)`, and its standard error.

    The differences are taken to vary alike in all classes, since a rare one shows too few.
    """
    mean = float(difference @ weight)
    return mean, float(difference.std()) * math.sqrt(float(weight.square().sum()))


def _made(
    learned: Learned,
    network: nn.Sequential | None,
    found: FineTuned,
    splits: Splits,
    known: KnownLabels,
) -> tuple[Learned, FineTuned]:
    """Return the learner with the network that was chosen, calibrated and tested like before."""
    old = learned.classifier
    (rows, truth), images, what = known_test(splits.test, old.classes), splits.test, "test images"
    if not len(rows):
        rows, truth, images, what = known.held, known.held_labels, splits.train, "held-out images"
    if len(rows):
        before = share(classes_of(_seen_by(learned), images, rows) == truth)
        after = before if network is None else share(classes_of(network, images, rows) == truth)
        found = replace(found, tested=len(rows), tested_on=what)
        found = replace(found, accuracy_before=before, accuracy_after=after)
    details = {**learned.details, "fine_tuning": asdict(found)}
    if network is None:
        return replace(learned, details=details), found
    temperature = temperature_of(network, splits.train, known, old.temperature)
    classifier = Classifier(network[1].cpu(), old.inputs, temperature)
    state = f"{learned.state}, fine-tuned"
    return replace(learned, classifier=classifier, state=state, details=details), found


def _seen_by(learned: Learned) -> nn.Sequential:
    """Return a learner's network for images of the run, which may be larger than its own."""
    return seeing(learned.classifier.network, learned.classifier.inputs.image_shape[1:])
