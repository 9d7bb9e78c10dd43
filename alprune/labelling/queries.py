"""Which images to ask about next, with a learner and without."""

import math

import torch
from torch import Tensor

from alprune.acquisition.initial import first_points
from alprune.labelling.images import ImagePool
from alprune.labelling.journal import Query
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.frozen import cold_pool
from alprune.training.interface import Trainable

_RANDOM_SHARE = 5  # of a round, at most one image in N is drawn at random to be held out
_DIGITS = 6


def drawn_at_random(
    config: ResolvedLabelling,
    images: ImagePool,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw the images of a round that will be held out from training, if that is wanted.

    They are a fair sample of the images without a label, as those that an acquisition function
    chooses are not: accuracy on them is an estimate of accuracy on the rest.
    """
    missing = config.hold_out - len(images.held)
    number = max(0, min(missing, math.ceil(count / _RANDOM_SHARE), len(images.drawable)))
    return images.drawable[torch.randperm(len(images.drawable), generator=generator)[:number]]


def typical(
    config: ResolvedLabelling,
    images: ImagePool,
    open_: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Choose `count` images before there is a learner, by `config.start`, `(count,)`."""
    cold = cold_pool(config, images.train)
    # The function knows nothing of labels: what it chooses of the labelled is thrown away.
    wanted = min(len(cold), count + len(cold) - len(open_))
    chosen = first_points(config.start, cold, wanted, generator)
    chosen = chosen[torch.isin(chosen, open_)]
    return chosen[torch.randperm(len(chosen), generator=generator)[:count]]


def described(
    images: ImagePool, chosen: dict[str, Tensor], learner: Trainable | None
) -> list[Query]:
    """Describe chosen images, with the learner's guesses if there is one.

    Args:
        images: Today's.
        chosen: `{why: (k,) indices}`.
        learner: Fitted.
    """
    indices = torch.cat(list(chosen.values()))
    why = [name for name, some in chosen.items() for _ in range(len(some))]
    files, classes = images.files, images.train.classes
    if learner is None:
        return [
            Query(files.paths[i], files.content(i), reason)
            for i, reason in zip(indices.tolist(), why, strict=True)
        ]
    probabilities = learner.logits(learner.x, indices).double().softmax(1)
    best = probabilities.max(1)
    entropy = torch.special.entr(probabilities).sum(1)
    columns = (indices.tolist(), why, best.indices.tolist(), best.values.tolist(), entropy.tolist())
    return [
        Query(
            files.paths[i],
            files.content(i),
            reason,
            classes[guess],
            round(sure, _DIGITS),
            round(nats, _DIGITS),
        )
        for i, reason, guess, sure, nats in zip(*columns, strict=True)
    ]
