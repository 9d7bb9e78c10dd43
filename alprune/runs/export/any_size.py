"""The resize that is part of an exported file: images of any size go in."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.training.input_spec import Inputs

_RULE = (
    "images of another size are resized to {h} x {w} (an ONNX or pt2 file does it), as a whole and "
    "without regard to their proportions, as Pillow's resize(({w}, {h}), BILINEAR): antialiased, "
    "the width first, rounded to whole numbers, then the height, rounded. The learner saw files "
    "upright, as their EXIF orientation says (ImageOps.exif_transpose), and large JPEG files "
    "decoded at 1/2, 1/4 or 1/8 of their size, as Image.draft(None, ({d}, {d})) does"
)


def rule(size: tuple[int, int]) -> str:
    """Say how images become `(h, w)`, in words for those who use an exported file."""
    h, w = size
    return _RULE.format(h=h, w=w, d=2 * max(h, w))


class AnySize(nn.Module):
    """Resizes stored images to a learner's size, as Pillow does when a folder is read, before it.

    Args:
        classifier: Takes images `(n, h, w, c)`.
        size: Its `(h, w)`.
        in_bytes: Whether bytes are resized as they are: ONNX Runtime's values are then Pillow's,
            or 1 apart where a value lies halfway between two whole numbers (none to 4% of them, by
            the sizes). Floating point, which all devices can, has a few that are 2 apart.
    """

    def __init__(self, classifier: nn.Module, size: tuple[int, int], in_bytes: bool) -> None:
        super().__init__()
        self.classifier, self.size, self.in_bytes = classifier, size, in_bytes

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `(n, any height, any width, c)`, uint8."""
        x, (h, w) = images.permute(0, 3, 1, 2), self.size
        if self.in_bytes:
            x = _interpolated(x, (h, w))
        else:
            for size in ((x.shape[2], w), (h, w)):
                x = (_interpolated(x.to(torch.float32), size) + 0.5).floor().clamp(0, 255)
        probabilities: Tensor = self.classifier(x.permute(0, 2, 3, 1))
        return probabilities


def _interpolated(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def takes_any_size(inputs: Inputs) -> bool:
    """Return whether an exported file resizes: images of bytes; others may be no pixels."""
    return inputs.dtype == "uint8"
