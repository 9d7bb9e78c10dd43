"""What a fitted learner says of all images at once: for the grid, the review and the map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from torch import Tensor

from alprune.data import UNKNOWN
from alprune.labelling.images import ImagePool
from alprune.labelling.journal import Query, present_guess, present_name
from alprune.labelling.suspects import Suspects, find_suspects
from alprune.training.frozen import FrozenLearner
from alprune.training.head import HeadSettings, Projection, fit_linear
from alprune.training.interface import Trainable

_PREDICTED = 5_000  # open images that a learner without embeddings passes over
_MAPPED = 20_000  # images that a map shows
_LIKENESS = 0.96  # cosine of embeddings from which two images look the same
_COMPONENTS = 128  # of embeddings whose likeness is looked at
_AT_ONCE = 1024  # embeddings that are held in float32
_ALIKE = 8  # images that are answered together with another one, at most
_FOLDS = 5
_DIGITS = 4


@dataclass(frozen=True)
class Checked:
    """A labelled image, and what learners that were not trained on it take it for."""

    content: str
    predicted: str
    probability: float
    quality: float
    wrong: bool


@dataclass(frozen=True)
class Insight:
    """What was found after one round.

    Attributes:
        guessed: Open images with their guesses, the surest first.
        checked: `{content: finding}` of the labelled images.
        complete: Whether every class had enough labels for labels to be suspected.
        places: `{content: (x, y)}`, each from 0 to 1; similar images are near each other.
        paths: `{content: path}` of those.
        alike: `{content: images that look the same}` of the images that are asked about.
        renames: How many changes of classes' names had been made before.
    """

    guessed: Sequence[Query] = ()
    checked: Mapping[str, Checked] = field(default_factory=dict)
    complete: bool = False
    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    alike: Mapping[str, Sequence[Query]] = field(default_factory=dict)
    renames: int = 0

    def renamed(self, renames: Sequence[tuple[str, str]]) -> "Insight":
        """Return the same after all changes of names, `(earlier name, later name)`."""
        if len(renames) <= self.renames:
            return self
        new = renames[self.renames :]
        checked = {
            content: replace(found, predicted=present_name(found.predicted, new))
            for content, found in self.checked.items()
        }
        guessed = [present_guess(query, new) for query in self.guessed]
        return replace(self, guessed=guessed, checked=checked, renames=len(renames))


def look_over(
    images: ImagePool, learner: Trainable | None, asked: Sequence[Query], seed: int = 0
) -> Insight:
    """Find out what a learner says of all images.

    A learner on embeddings is asked about every image. Of others only the guesses for some open
    images are taken: the rest would cost passes over the images.

    Args:
        images: Today's.
        learner: Fitted to their labels; None before there is one.
        asked: Images that people are asked about.
        seed: Of the images that are drawn from a large pool, and of the folds.
    """
    if learner is None:
        return Insight()
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(learner, FrozenLearner):
        guessed = _guessed(images, learner, _some(images.open, _PREDICTED, generator))
        return Insight(guessed=guessed, renames=images.renames)
    places, paths = _places(images, learner, _some_of(len(images.train), generator))
    checked, complete = _checked(images, learner, generator)
    return Insight(
        _guessed(images, learner, images.open),
        checked,
        complete,
        places,
        paths,
        _alike(images, learner, asked),
        images.renames,
    )


def _some(indices: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(indices) <= most:
        return indices
    return indices[torch.randperm(len(indices), generator=generator)[:most]]


def _some_of(count: int, generator: torch.Generator) -> Tensor:
    return _some(torch.arange(count), _MAPPED, generator)


def _guessed(images: ImagePool, learner: Trainable, indices: Tensor) -> list[Query]:
    if not len(indices):
        return []
    best = learner.logits(learner.x, indices).double().softmax(1).max(1)
    order = best.values.argsort(descending=True, stable=True)
    files, classes = images.files, images.train.classes
    return [
        Query(files.paths[i], files.content(i), "guess", classes[guess], round(sure, _DIGITS))
        for i, guess, sure in zip(
            indices[order].tolist(),
            best.indices[order].tolist(),
            best.values[order].tolist(),
            strict=True,
        )
    ]


def _checked(
    images: ImagePool, learner: FrozenLearner, generator: torch.Generator
) -> tuple[dict[str, Checked], bool]:
    rows = torch.cat([images.labelled, images.held])
    labels = images.train.y[rows]
    if labels.unique().numel() < 2 or len(rows) < 2 * _FOLDS:
        return {}, False
    points = learner.head.scaled(learner.embeddings(rows).to(learner.device).float())
    shares = out_of_fold(points, labels, len(images.train.classes), learner.settings, generator)
    found: Suspects = find_suspects(labels.numpy(), shares)
    files, classes = images.files, images.train.classes
    best = shares.argmax(1)
    return {
        files.content(index): Checked(
            files.content(index),
            classes[int(best[place])],
            round(float(shares[place].max()), _DIGITS),
            float(found.quality[place]),
            bool(found.wrong[place]),
        )
        for place, index in enumerate(rows.tolist())
    }, found.checked


def out_of_fold(
    points: Tensor,
    labels: Tensor,
    classes: int,
    settings: HeadSettings,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Predict each point by a head that was fitted to the other folds.

    Args:
        points: Scaled embeddings, `(n, d)`.
        labels: `(n,)`.
        classes: Number of classes.
        settings: Of the head.
        generator: Draws the folds, on the CPU.

    Returns:
        Probabilities, `(n, classes)`.
    """
    fold = torch.randperm(len(labels), generator=generator) % _FOLDS
    shares = torch.zeros(len(labels), classes)
    for number in range(_FOLDS):
        inside, outside = fold == number, fold != number
        layer = torch.nn.Linear(points.shape[1], classes, device=points.device)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        weights = torch.ones(int(outside.sum()), device=points.device)
        fit_linear(points[outside], labels[outside].to(points.device), weights, settings, layer)
        with torch.inference_mode():
            shares[inside] = layer(points[inside]).softmax(1).cpu()
    return shares.double().numpy()


def _places(
    images: ImagePool, learner: FrozenLearner, rows: Tensor
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    if len(rows) < 3:
        return {}, {}
    flat = _plane(learner.embeddings(rows).split(_AT_ONCE))
    low, high = flat.quantile(0.005, dim=0), flat.quantile(0.995, dim=0)
    flat = ((flat - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    files = images.files
    contents = [files.content(index) for index in rows.tolist()]
    places = [(round(x, _DIGITS), round(y, _DIGITS)) for x, y in flat.tolist()]
    known = images.train.y[rows] != UNKNOWN  # of copies, the one that came with a class
    order = torch.argsort(known.long(), stable=True).tolist()
    paths = {contents[i]: files.paths[int(rows[i])] for i in order}
    return dict(zip(contents, places, strict=True)), paths


def _plane(blocks: Sequence[Tensor]) -> Tensor:
    """Return points in the plane of their two largest principal components, `(n, 2)` float64.

    Args:
        blocks: The points, `(k, d)` each, of any float type.
    """
    count = sum(map(len, blocks))
    mean = torch.stack([block.float().sum(0) for block in blocks]).sum(0) / count
    products = torch.zeros(len(mean), len(mean))
    for block in blocks:
        centred = block.float() - mean
        products += centred.T @ centred
    begin = np.ones(len(mean))  # so that the same points get the same places again
    if len(mean) > 2:
        _, axes = eigsh((products / count).double().numpy(), k=2, v0=begin)
    else:
        _, axes = np.linalg.eigh((products / count).double().numpy())
    plane = torch.from_numpy(np.ascontiguousarray(axes[:, ::-1]))
    return torch.cat([(block.float() - mean).double() @ plane for block in blocks])


def _alike(
    images: ImagePool, learner: FrozenLearner, asked: Sequence[Query]
) -> dict[str, list[Query]]:
    """Find open images that look like one that is asked about; each belongs to one of them.

    An image that is held out to measure accuracy stays alone: training on its like would flatter.
    """
    files, open_ = images.files, images.open
    rows = [(query, files.find(query.path, query.content)) for query in asked]
    wanted = [(query, row) for query, row in rows if row is not None and query.why != "random"]
    if not wanted or len(open_) < 2:
        return {}
    some = open_[:: -(-len(open_) // _MAPPED)]
    projection = Projection.over(learner.embeddings(some), _COMPONENTS)
    points = projection(learner.embeddings(torch.tensor([row for _, row in wanted])))
    parts = (projection(learner.embeddings(part)) for part in open_.split(_AT_ONCE))
    likeness = torch.cat([points @ part.T for part in parts], 1)
    taken = {query.content for query in asked}
    found: dict[str, list[Query]] = {}
    for place, (query, _) in enumerate(wanted):
        order = likeness[place].topk(min(_ALIKE + len(asked), len(open_))).indices
        near = [int(open_[i]) for i in order.tolist() if likeness[place, i] >= _LIKENESS]
        others = [Query(files.paths[i], files.content(i), "alike") for i in near]
        others = [other for other in others if other.content not in taken][:_ALIKE]
        taken.update(other.content for other in others)
        if others:
            found[query.content] = others
    return found
