"""A trained network with all that goes before and after it: images in, probabilities out."""

import torch
from torch import Tensor, nn

from alprune.errors import DataError
from alprune.models.copies import copy_network
from alprune.pruning.unstructured.masks import bake_masks
from alprune.training.fold_batchnorm import fold
from alprune.training.input_spec import Inputs


class Classifier(nn.Module):
    """Maps stored images to the probability of each class.

    It works in eval mode and float32, without gradients of its own making, and holds nothing but
    tensors and plain layers: it can be moved to a GPU, traced and exported.

    Args:
        network: Maps normalised images `(n, c, h, w)` to logits `(n, classes)`; put into eval
            mode, and not copied.
        inputs: What it was trained on.
        temperature: Divides the logits, so that probabilities are what they say; None where
            nobody fitted one.

    Attributes:
        network: As given.
        inputs: As given.
        temperature: As given.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, inputs: Inputs, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.temperature = network, inputs, temperature
        mean, std = (torch.tensor([float(v) for v in part]) for part in (inputs.mean, inputs.std))
        unit = 255.0 if inputs.dtype == "uint8" else 1.0
        self.register_buffer("scale", 1 / (std * unit), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each output."""
        return self.inputs.classes

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits `(n, classes)` of images `(n, h, w, c)`, before the temperature."""
        normal = images.to(torch.float32) * self.scale + self.shift
        return self.network(normal.permute(0, 3, 1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: `(n, h, w, c)`, uint8 or float32 as `inputs` says, of its size.

        Returns:
            Probabilities `(n, classes)`, float32: the softmax of the logits, divided by the
            temperature where there is one.
        """
        logits = self.logits(images)
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits.softmax(1)

    def predict(self, images: Tensor) -> Tensor:
        """Classify images as `forward` does, checked and without gradients.

        Raises:
            DataError: They are of another size or type.
        """
        check_images(self.inputs, images)
        with torch.inference_mode():
            probabilities: Tensor = self(images.to(self.scale.device))
            return probabilities

    def plain(self) -> "Classifier":
        """Return a copy for computing only: weight masks applied, BatchNorms folded away."""
        baked = bake_masks(copy_network(self.network)).eval()
        c, h, w = self.inputs.image_shape
        device = self.scale.device
        example = torch.rand(2, c, h, w, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.inference_mode(False):
            network = fold(baked, example).model
        return Classifier(network, self.inputs, self.temperature).to(device)


def check_images(inputs: Inputs, images: Tensor) -> None:
    """Refuse images that are not as a learner takes them.

    Raises:
        DataError: They are of another size or type.
    """
    c, h, w = inputs.image_shape
    if images.ndim != 4 or tuple(images.shape[1:]) != (h, w, c):
        raise DataError(
            f"the learner takes images (n, {h}, {w}, {c}), channels last; got "
            f"{tuple(images.shape)}."
        )
    if images.dtype != inputs.torch_dtype:
        raise DataError(f"the learner takes {inputs.dtype} images, got {images.dtype}.")
