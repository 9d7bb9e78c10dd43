"""Stream a network's outputs over images: chunk by chunk, under a deadline, in bounded memory."""

import math
import warnings
from collections import deque
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from alprune.errors import TrainError
from alprune.models.memory import out_of_memory
from alprune.training.augment import normalise
from alprune.training.budget import Budget
from alprune.training.cuda_graphs import Recorder, Recordings, hooked
from alprune.training.device import autocast


class BudgetSpent(Exception):
    """The budget ended inside work that counts; the loop ends the run, no user sees this."""


class Predictor:
    """Streams logits over stored images, in chunks that it makes smaller where memory runs out.

    Args:
        mean: `(c,)` on the device, see `normalise`.
        std: `(c,)`, likewise.
        device: Where to compute; the networks given to `stream` lie there.
        precision: Type of the matrix products.
        chunk: Images at a time, see `good_chunk`.
        record: Records what is done to a full chunk, see `alprune.training.cuda_graphs`; None: no
            recording.

    Attributes:
        chunk: As given, or what was left of it when memory ran out.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        precision: torch.dtype,
        chunk: int,
        record: Recorder | None = None,
    ) -> None:
        self.device, self.precision, self.chunk = device, precision, chunk
        self._mean, self._std = mean, std
        self._recordings = Recordings(record, device) if record else None

    def stream(
        self,
        network: nn.Module,
        x: Tensor,
        indices: Tensor | None = None,
        budget: Budget | None = None,
        often: bool = False,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield the network's logits over images.

        Args:
            network: In the mode in which it should run.
            x: Images `(n, h, w, c)`, uint8 or float, on any device; may be memory-mapped.
            indices: Rows of `x` to take, `(k,)`; all if None.
            budget: Checked before every chunk.
            often: Whether the same network will be asked again, its tensors in the same places.

        Yields:
            The slice of `indices` and its logits `(chunk, classes)`, float32, on the device.

        Raises:
            BudgetSpent: The budget ended before the stream did.
            TrainError: There is not the memory for a single image.
        """
        count = x.shape[0] if indices is None else indices.numel()
        where = None if indices is None else indices.to(x.device)
        pace = Pace(self.device)
        recordings = self._recordings if often and not hooked(network) else None
        begin = 0
        while begin < count:
            if budget is not None and budget.expired:
                raise BudgetSpent
            part = slice(begin, min(begin + self.chunk, count))
            logits = self._logits(network, x, part if where is None else where[part], recordings)
            if logits is None:
                self._halve(part.stop - part.start)
                continue
            pace.wait()
            begin = part.stop
            yield part, logits

    def _logits(
        self, network: nn.Module, x: Tensor, rows: slice | Tensor, recordings: Recordings | None
    ) -> Tensor | None:
        """Return the logits of some rows; None if memory ran out."""
        try:
            images = x[rows] if isinstance(rows, slice) else x.index_select(0, rows)
            images = images.to(self.device)
            with torch.inference_mode():
                if recordings is not None and len(images) == self.chunk:
                    modes = tuple(module.training for module in network.modules())
                    key = (network, modes, images.shape, images.dtype)
                    work = partial(self._outputs, network)
                    return recordings.of(key, work)(images).clone()
                return self._outputs(network, images)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        return None  # outside of the handler, whose traceback holds on to the chunk's memory

    def _outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return network(normalise(images, self._mean, self._std)).float()

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise TrainError(
                "out of memory while predicting a single image. Use a smaller --model or "
                "--image-size, or prune more."
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.chunk = tried // 2
        warnings.warn(
            f"out of memory while predicting {tried} images at once; continuing with {self.chunk}. "
            "It goes faster if other programs leave more memory.",
            stacklevel=2,
        )


class Pace:
    """Keeps a GPU's queue short, so that the host's clock tells the truth about the deadline.

    Args:
        device: Where the work is queued; anything but a GPU needs no pacing.
        ahead: Pieces of work that may wait in the queue.
    """

    def __init__(self, device: torch.device, ahead: int = 8) -> None:
        self._device, self._ahead = device, ahead if device.type == "cuda" else 0
        self._events: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Call after queueing a piece of work: wait until at most `ahead` are unfinished."""
        if not self._ahead:
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > self._ahead:
            self._events.popleft().synchronize()


def good_chunk(device: torch.device, image_shape: tuple[int, ...]) -> int:
    """Return how many images `(c, h, w)` at a time go fastest.

    On a CPU the activations of a chunk should stay in its cache: VGG-19 pruned by 3sp-ca scored
    770 images of 32x32 a second in chunks of 64, and 595 in chunks of 512. A GPU wants to be fed.
    """
    if device.type != "cpu":
        return 512
    return min(512, max(8, 2**16 // math.prod(image_shape[1:])))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Move all training images to where they are trained on.

    Raises:
        TrainError: There is not the memory for them.
    """
    try:
        return x.to(device)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        gib = x.numel() * x.element_size() / 2**30
        raise TrainError(
            f"out of memory while moving {len(x):,} training images, {gib:.1f} GiB, to {device}. "
            "Choose a smaller --image-size, another --device, or end other programs there."
        ) from error
