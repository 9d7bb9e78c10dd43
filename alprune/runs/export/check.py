"""Whether an exported file gives the learner's predictions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alprune.errors import AlpruneError, DataError
from alprune.runs.export.formats import Run
from alprune.runs.load import Learned
from alprune.runs.local_data import local_splits
from alprune.runs.predict.files import sample_files
from alprune.runs.predict.stored import KINDS, sample_stored
from alprune.training.augment import normalise
from alprune.training.input_spec import Inputs

TOLERANCE = 1e-3  # of a probability; float32 in another order leaves some 1e-6
_BATCH = 64


@dataclass(frozen=True)
class Difference:
    """How far a file is from the learner.

    Attributes:
        images: How many were tried.
        source: What they were, in words.
        largest: Largest difference of a probability.
        argmax: Images that get another class.
    """

    images: int
    source: str
    largest: float
    argmax: int


def compare(learned: Learned, run: Run, images: Tensor, source: str) -> Difference:
    """Run images through a file, one alone and the others in batches, and through the learner.

    Args:
        learned: The learner as it was trained: BatchNorms and masks in place.
        run: The file.
        images: `(n, h, w, c)`, n >= 1.
        source: What they are.
    """
    wanted = torch.cat([reference(learned, part) for part in images.split(_BATCH)])
    parts = [images[:1], *images[1:].split(_BATCH)]
    got = torch.cat([run(part.contiguous()) for part in parts if len(part)])
    if got.shape != wanted.shape or not bool(got.isfinite().all()):
        return Difference(len(images), source, float("inf"), len(images))
    return Difference(
        images=len(images),
        source=source,
        largest=float((got - wanted).abs().max()),
        argmax=int((got.argmax(1) != wanted.argmax(1)).sum()),
    )


def reference(learned: Learned, images: Tensor) -> Tensor:
    """Return the learner's probabilities as the loop computes them, in float32."""
    classifier = learned.classifier
    mean, std = torch.tensor(classifier.inputs.mean), torch.tensor(classifier.inputs.std)
    with torch.inference_mode():
        logits = classifier.network(normalise(images, mean, std))
        return (logits / (classifier.temperature or 1.0)).softmax(1)


def images_for(learned: Learned, count: int) -> tuple[Tensor, str]:
    """Return images to try `(n, h, w, c)`, and what they are: of the run's data, or random."""
    inputs = learned.classifier.inputs
    try:
        return _of_data(learned, count)
    except AlpruneError as error:
        images = _random(inputs, count)
        return images, f"{count} random images (the run's own cannot be had: {error})"


def _of_data(learned: Learned, count: int) -> tuple[Tensor, str]:
    config, inputs = learned.config, learned.classifier.inputs
    if config is None:
        raise DataError("a file of a learner does not say what it was trained on.")
    kind, _, where = config.dataset.partition(":")
    if kind == "folder":  # a few files: not all have to be read
        images = sample_files(Path(where), inputs, count, config.follow_links)
    elif kind in KINDS:
        images = sample_stored(config.dataset, inputs, count, config.follow_links)
    else:
        test = local_splits(config, "an export").test
        if Inputs.of(test).image_shape != inputs.image_shape or test.x.dtype != inputs.torch_dtype:
            raise DataError("they have another size or type by now.")
        rows = torch.linspace(0, len(test) - 1, min(count, len(test))).long()
        images = test.x[rows]
    return images, f"{len(images)} images of {config.dataset}"


def _random(inputs: Inputs, count: int) -> Tensor:
    c, h, w = inputs.image_shape
    generator = torch.Generator().manual_seed(0)
    if inputs.dtype == "uint8":
        return torch.randint(256, (count, h, w, c), generator=generator, dtype=torch.uint8)
    noise = torch.randn(count, h, w, c, generator=generator)
    return noise * torch.tensor(inputs.std) + torch.tensor(inputs.mean)
