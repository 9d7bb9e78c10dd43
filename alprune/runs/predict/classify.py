"""Classify a stream of images, a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alprune.runs.predict.embedded import Kept
from alprune.runs.predict.files import Entry, Source
from alprune.training.classifier import Classifier
from alprune.training.predict import Predictor, good_chunk


@dataclass(frozen=True)
class Classified:
    """A batch of images and what they were taken for.

    Attributes:
        entries: All of them, those that could not be read among them.
        softmax: Of those that were read, `(m, classes)`: the network's probabilities as they are.
        probabilities: The same after the temperature; equal where there is none.
    """

    entries: list[Entry]
    softmax: Tensor
    probabilities: Tensor

    @property
    def best(self) -> Tensor:
        """The most likely class of each image that was read, `(m,)`."""
        return self.softmax.argmax(1)

    @property
    def entropy(self) -> Tensor:
        """Entropy of `probabilities`, `(m,)`, in nats."""
        return torch.special.entr(self.probabilities).sum(1)


def classify(
    classifier: Classifier,
    source: Source,
    device: torch.device,
    begin: int = 0,
    kept: Kept | None = None,
) -> Iterator[Classified]:
    """Classify images from the one of number `begin` on; memory does not grow with their number.

    Args:
        classifier: As it was trained.
        source: The images.
        device: Where to compute, in float32.
        begin: First image.
        kept: Embeddings of images, which the network need not see again.

    Yields:
        Batches, on the CPU.
    """
    inputs = classifier.inputs
    network = classifier.plain().network.to(device).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device=device) for v in (inputs.mean, inputs.std))
    chunk = good_chunk(device, inputs.image_shape)
    predictor = Predictor(mean, std, device, torch.float32, chunk)

    def computed(images: Tensor) -> Tensor:
        parts = [logits.cpu() for _, logits in predictor.stream(network, images)]
        return torch.cat(parts) if parts else torch.empty(0, len(inputs.classes))

    for batch in source.batches(begin):
        logits = computed(batch.images) if kept is None else kept.logits(batch.images, computed)
        softmax = logits.softmax(1)
        tempered = softmax
        if classifier.temperature is not None:
            tempered = (logits / classifier.temperature).softmax(1)
        yield Classified(batch.entries, softmax, tempered)
