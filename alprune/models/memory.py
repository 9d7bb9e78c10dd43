"""What a network would take in memory, found without taking it; whether memory ran out."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alprune.errors import AlpruneError, ModelError
from alprune.models.cost import forward_only

_TENSOR_MOST = 2**30  # bytes of one weight or activation
_WEIGHTS_MOST = 2**32  # bytes of all weights
# What is smaller is not looked at: 295 x 295 pixels in colour, and as many classes.
_NUMBERS, _CHANNELS, _CLASSES = 2**18, 16, 2**12

# What errors say that have no type of their own: of the host, of CUDA outside torch's allocator.
_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def check_memory(
    make: Callable[[], nn.Module], shape: Sequence[int], classes: int = 0, what: str = "the network"
) -> None:
    """Refuse a network that needs gigabytes, before it is built and run.

    For what an untrusted file describes: a few hundred bytes can ask for any amount. A usual size
    is let pass at once; otherwise the network is made and run on two inputs whose tensors have
    shapes but no memory.

    Args:
        make: Returns the network; it may be called. A network that is there already is not
            changed.
        shape: Of one input.
        classes: Number of outputs; 0 if the network is there already.
        what: Is built, for the message.

    Raises:
        ModelError: One tensor would take more than 1 GiB or all weights more than 4 GiB, or the
            network cannot be run in this way.
    """
    if prod(shape) <= _NUMBERS and (not shape or shape[0] <= _CHANNELS) and classes <= _CLASSES:
        return
    size = " x ".join(map(str, shape))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _Bounded():
            model = make()
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            if weights > _WEIGHTS_MOST:
                raise _TooLarge(f"its weights would take {weights / 2**30:.1f} GiB")
            example = next((p for p in model.parameters()), torch.empty(()))
            with forward_only(model):
                model(torch.zeros(2, *shape, device=example.device))
    except (_TooLarge, AlpruneError) as error:
        raise ModelError(
            f"{what} is too large to build for inputs of {size}: {error}. Was the file changed?"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{what} cannot be tried out for inputs of {size}, which are unusually large: {error}."
        ) from error


class _TooLarge(Exception):
    """More than the limit."""


class _Bounded(TorchDispatchMode):
    """Stop at the first tensor that is too large."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, Tensor):
                taken = part.numel() * part.element_size()
                if taken > _TENSOR_MOST:
                    raise _TooLarge(f"one tensor alone would take {taken / 2**30:.1f} GiB")
        return out


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the host's allocator."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
