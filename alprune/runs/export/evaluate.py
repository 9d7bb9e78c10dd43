"""How good a network is that was made of a run's learner: on test images, and calibrated."""

import torch
from torch import Tensor, nn

from alprune.data import Dataset
from alprune.runs.export.run_images import KnownLabels
from alprune.training.metrics import LEAST_CALIBRATING, fit_temperature
from alprune.training.predict import Predictor, good_chunk


def logits_of(network: nn.Module, images: Dataset, rows: Tensor) -> Tensor:
    """Return what a network makes of some images, `(k, ...)` float32, on the CPU.

    Args:
        network: Put into eval mode.
        images: Where they are, and how they are normalised.
        rows: Which of them, `(k,)`.
    """
    device = next(network.parameters()).device
    mean, std = (torch.tensor(v, device=device) for v in (images.mean, images.std))
    chunk = good_chunk(device, images.image_shape)
    predictor = Predictor(mean, std, device, torch.float32, chunk)
    parts = predictor.stream(network.eval(), images.x, rows)
    return torch.cat([part.cpu() for _, part in parts])


def classes_of(network: nn.Module, images: Dataset, rows: Tensor) -> Tensor:
    """Return the classes that a network gives to some images, `(k,)`."""
    return logits_of(network, images, rows).argmax(1)


def known_test(test: Dataset, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the test images whose class a learner knows: their rows, and its number of the class.

    Args:
        test: Test images, maybe none.
        classes: The learner's.
    """
    number = torch.tensor([classes.index(n) if n in classes else -1 for n in test.classes] + [-1])
    truth = number[test.y]
    rows = torch.nonzero(truth >= 0).squeeze(1)
    return rows, truth[rows]


def temperature_of(
    network: nn.Module, train: Dataset, known: KnownLabels, before: float | None
) -> float | None:
    """Fit the temperature of a network to the labels that are kept from training.

    Args:
        network: The network.
        train: The run's images.
        known: Their labels.
        before: Of the learner; None, if the run calibrates nothing.
    """
    if before is None or len(known.held) < LEAST_CALIBRATING:
        return None
    logits = logits_of(network, train, known.held)
    return round(fit_temperature(logits, known.held_labels), 4)


def share(right: Tensor) -> float:
    """Return the share of right answers."""
    return round(float(right.double().mean()), 6)
