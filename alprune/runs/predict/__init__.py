"""Classify images with a run's learner: in memory from Python, in a stream into a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alprune.loop.trust import trusting
from alprune.runs.load import find_learner
from alprune.runs.predict.classify import classify
from alprune.runs.predict.embedded import kept_embeddings
from alprune.runs.predict.files import Source
from alprune.runs.predict.sources import array_source, open_source
from alprune.runs.predict.table import Tally, write_file, write_stream
from alprune.training.classifier import Classifier
from alprune.training.device import pick_device

__all__ = [
    "Predictions",
    "Tally",
    "kept_embeddings",
    "open_source",
    "predict",
    "write_file",
    "write_stream",
]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What images were taken for.

    Attributes:
        classes: Names, the columns of `probabilities`.
        paths: Of each image, or its number.
        predicted: Name of the most likely class; None for a file that could not be read.
        probabilities: `(n, classes)` float32; rows of NaN for files that could not be read. After
            the temperature, if the run fitted one.
        calibrated: Whether it did: only then a probability of 0.9 means right nine times in ten.
        errors: `{row: why}` of files that could not be read.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    predicted: tuple[str | None, ...]
    probabilities: np.ndarray
    calibrated: bool
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, `(n,)`."""
        return self.probabilities.max(1)

    @property
    def entropy(self) -> np.ndarray:
        """Of each image's probabilities, `(n,)`, in nats."""
        return torch.special.entr(torch.from_numpy(self.probabilities)).sum(1).numpy()


def predict(
    learner: str | Path | Classifier,
    images: "Tensor | np.ndarray | str | Path | Sequence[str | Path]",
    *,
    device: str = "auto",
    follow_links: bool = False,
    trust_code: bool = False,
) -> Predictions:
    """Classify images with a run's learner; the run's data are not needed.

    Args:
        learner: A run folder, a file that `alprune export --format safetensors` made, or what
            `load_learner` returned.
        images: Stored images `(n, h, w, c)`, of the type that the learner was trained on; or
            files and folders, as `alprune predict` takes them. They are resized to its size.
        device: Where to compute: auto, cpu or cuda.
        follow_links: Read files to which links lead out of a folder.
        trust_code: Whether the builder of a network of your own, which the run folder names, may
            be imported.

    Returns:
        The predictions, in the order of the images, a folder's sorted by path; where it has a
        cache, training images come first, then test images, then what is new or unreadable.

    Raises:
        StoreError: No learner is there.
        ConfigError: The folder names a network of your own, without `trust_code`.
        DataError: The images are not there, or not what the learner takes.
    """
    cache = kept = None
    if isinstance(learner, Classifier):
        classifier = learner
    else:
        with trusting(trust_code):
            found = find_learner(learner)
        found.warn()
        classifier = found.classifier
        cache = found.config.cache if found.config else None
        kept = kept_embeddings(found)
    source = _source(images, classifier, follow_links, cache)
    paths: list[str] = []
    rows: list[Tensor] = []
    errors: dict[int, str] = {}
    for batch in classify(classifier, source, pick_device(device), kept=kept):
        full = torch.full((len(batch.entries), len(classifier.classes)), torch.nan)
        read = torch.tensor([entry.error is None for entry in batch.entries])
        full[read] = batch.probabilities
        for place, entry in enumerate(batch.entries, start=len(paths)):
            if entry.error is not None:
                errors[place] = entry.error
        paths += [entry.shown for entry in batch.entries]
        rows.append(full)
    probabilities = torch.cat(rows) if rows else torch.empty(0, len(classifier.classes))
    best = probabilities.argmax(1).tolist()
    names = [None if i in errors else classifier.classes[k] for i, k in enumerate(best)]
    return Predictions(
        classes=classifier.classes,
        paths=tuple(paths),
        predicted=tuple(names),
        probabilities=probabilities.numpy(),
        calibrated=classifier.temperature is not None,
        errors=errors,
    )


def _source(
    images: "Tensor | np.ndarray | str | Path | Sequence[str | Path]",
    classifier: Classifier,
    follow_links: bool,
    cache: str | None,
) -> Source:
    if isinstance(images, str | Path):
        return open_source([images], classifier.inputs, follow_links, cache)
    if isinstance(images, Tensor | np.ndarray):
        return array_source("image", torch.as_tensor(images), classifier.inputs)
    return open_source(list(images), classifier.inputs, follow_links, cache)
