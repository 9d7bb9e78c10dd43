"""Batched augmentation on the device: pad, crop, flip and normalise without a loop over images.

Zeros are padded around the raw image (black, or 0 in a float image's own units) and normalised
with it, as the papers' torchvision pipelines do: RandomCrop(padding=4), RandomHorizontalFlip,
ToTensor, Normalize.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from alprune.errors import ConfigError


def normalise(x: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn stored images into a model's input.

    Args:
        x: Images `(b, h, w, c)`, uint8 or float.
        mean: `(c,)` on the device of `x`, in the units of `x / 255` for uint8, of `x` for float.
        std: `(c,)`, likewise, > 0.
        dtype: Type of the result; the arithmetic is float32.

    Returns:
        `(b, c, h, w)`, contiguous in `torch.channels_last`.
    """
    b, h, w, c = x.shape
    scale = std.float().reciprocal()
    shift = -mean.float() * scale
    if x.dtype == torch.uint8:
        scale = scale / 255
    # Work on rows of w * c values: broadcasting over a last axis of 3 would not vectorise.
    rows = x.reshape(b * h, w * c).to(torch.float32)
    rows = torch.addcmul(shift.repeat(w), rows, scale.repeat(w)).to(dtype)
    return rows.view(b, h, w, c).permute(0, 3, 1, 2)


def crop(x: Tensor, top: Tensor, left: Tensor, flip: Tensor | None, pad: int) -> Tensor:
    """Cut a window of the images' own size out of each zero-padded, perhaps flipped image.

    Args:
        x: Images `(b, h, w, c)`, any type.
        top: First row of each window in the padded image `(b,)`, int64 in `0..2 * pad`.
        left: First column, likewise.
        flip: Which images are mirrored left to right first `(b,)`, bool; None: none.
        pad: Pixels of zeros added on each side.

    Returns:
        `(b, h, w, c)`, contiguous, type of `x`.
    """
    b, h, w, c = x.shape
    image = torch.arange(b, device=x.device)
    if flip is not None:  # picking whole images costs a third of torch.where over their pixels
        x = torch.cat([x, x.flip(2)]).index_select(0, image + b * flip)
    if pad == 0:
        return x.contiguous()
    height, width = h + 2 * pad, w + 2 * pad
    padded = x.new_zeros((b, height, width, c))
    padded[:, pad : pad + h, pad : pad + w] = x
    # Row s of `windows` is the h x w window that starts at element s of the flat batch, so one
    # index_select copies whole rows of pixels and no index is needed for a single pixel.
    span = ((h - 1) * width + w) * c
    windows = padded.as_strided((padded.numel() - span + 1, h, w * c), (1, width * c, 1))
    start = ((image * height + top) * width + left) * c
    return windows.index_select(0, start).view(b, h, w, c)


@dataclass(frozen=True, eq=False)
class Augment:
    """Random crop, optional flip and normalisation of a batch, drawn from a generator.

    Nothing in it waits for the device, so that it can be captured in a CUDA graph (the generator
    must be registered with the graph).

    Attributes:
        mean: `(c,)` on the device of the batches, see `normalise`.
        std: `(c,)`, likewise.
        flip: Mirror each image left to right with probability 1/2.
        pad: Zeros added on each side before a window of the old size is cut out at random.
        dtype: Type of the result.
    """

    mean: Tensor
    std: Tensor
    flip: bool = True
    pad: int = 4
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ConfigError(f"pad must be 0 or more pixels, got {self.pad}.")

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw what happens to each of `count` images, `(count,)` int64, from a generator."""
        choices = 2 * (2 * self.pad + 1) ** 2
        return torch.randint(choices, (count,), device=generator.device, generator=generator)

    def apply(self, x: Tensor, draw: Tensor) -> Tensor:
        """Augment and normalise images as was drawn for each.

        Args:
            x: Images `(b, h, w, c)`, uint8 or float.
            draw: From `draw`, `(b,)`.

        Returns:
            `(b, c, h, w)`, contiguous in `torch.channels_last`.
        """
        side = 2 * self.pad + 1
        flip = (draw % 2).bool() if self.flip else None
        place = draw // 2
        cropped = crop(x, place // side, place % side, flip, self.pad)
        return normalise(cropped, self.mean, self.std, self.dtype)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Augment and normalise a batch.

        Args:
            x: Images `(b, h, w, c)`, uint8 or float.
            generator: On the device of `x`; one draw of `(b,)` numbers is taken from it.

        Returns:
            `(b, c, h, w)`, contiguous in `torch.channels_last`.
        """
        return self.apply(x, self.draw(len(x), generator))
