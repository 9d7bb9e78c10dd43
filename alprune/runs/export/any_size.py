"""The resize that is part of an exported file: images of any size go in."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.training.input_spec import Inputs

RULE = (
    "images of another size are resized to {h} x {w} (an ONNX or pt2 file does it), as a whole and "
    "without regard to their proportions: bilinear, antialiased, rounded to whole numbers"
)


class AnySize(nn.Module):
    """Resizes stored images to a learner's size, as Pillow does when a folder is read, before it.

    Args:
        classifier: Takes images `(n, h, w, c)`.
        size: Its `(h, w)`.
    """

    def __init__(self, classifier: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.classifier, self.size = classifier, size

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `(n, any height, any width, c)`, uint8."""
        x = images.permute(0, 3, 1, 2).to(torch.float32)
        x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        probabilities: Tensor = self.classifier(x.round().clamp(0, 255).permute(0, 2, 3, 1))
        return probabilities


def takes_any_size(inputs: Inputs) -> bool:
    """Return whether an exported file resizes: images of bytes; others may be no pixels."""
    return inputs.dtype == "uint8"


__all__ = ["RULE", "AnySize", "takes_any_size"]
