"""Some rows of a file of images, in any order, as a tensor that reads them when it is indexed."""

from typing import Any

import torch
from torch import Tensor

from alprune.data.mapped import parts

# What can be answered without a look at the images.
_PLAIN = frozenset(
    "__get__ __len__ __hash__ size dim ndimension numel nelement element_size is_floating_point "
    "is_complex get_device".split()
)


class ChosenRows(Tensor):
    """Images `(n, h, w, c)` that lie in a file in another order, among others.

    An index, a slice or `index_select` of the images reads just these, as a plain tensor; a slice
    waits until something is done with it. Every other operation reads all of its images first.

    Args:
        stored: Images `(m, h, w, 3)`, uint8, mapped from a file.
        rows: Which of them, in which order, `(n,)` int64.
        channels: 3, or 1 to take only the first.
    """

    _stored: Tensor
    _rows: Tensor

    def __new__(cls, stored: Tensor, rows: Tensor, channels: int = 3) -> "ChosenRows":
        """Choose; nothing is read yet."""
        shape = (len(rows), *stored.shape[1:3], channels)
        new: ChosenRows = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=stored.dtype, device=stored.device
        )
        new._stored, new._rows = stored, rows
        return new

    def read(self) -> Tensor:
        """Return the images as a plain tensor in memory."""
        return self._taken(self._rows)

    def _taken(self, rows: Tensor) -> Tensor:
        images = self._stored[rows]
        return images if self.shape[3] == images.shape[-1] else images[..., :1].contiguous()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the images that it needs."""
        kwargs = kwargs or {}
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        if isinstance(first, ChosenRows):
            if name in _PLAIN:
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
            if name == "__repr__":
                return f"ChosenRows{tuple(first.shape)}"
            if (found := _chosen(first, name, args[1:], kwargs)) is not None:
                return found
        args = [_read(argument) for argument in args]
        return func(*args, **{name: _read(value) for name, value in kwargs.items()})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run what reaches the images by another way."""
        with torch._C.DisableTorchFunctionSubclass():
            read = [_read(argument) for argument in args]
            return func(*read, **(kwargs or {}))


def _chosen(x: ChosenRows, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what takes only some images, or moves them; None for any other operation."""
    key = args[0] if args else None
    if name == "__getitem__":
        if isinstance(key, tuple) and key and isinstance(key[0], int | slice):
            rest = key[1:] if isinstance(key[0], int) else (slice(None), *key[1:])
            return _read(x[key[0]])[rest]
        if isinstance(key, slice):
            return ChosenRows(x._stored, x._rows[key], x.shape[3])
        if isinstance(key, int | Tensor | list):
            return x._taken(x._rows[key])
    if name == "index_select" and len(args) == 2 and key == 0:
        return x._taken(x._rows[args[1]])
    if name == "split" and isinstance(key, int) and len(args) == 1 and not kwargs:
        return tuple(x[start : start + key] for start in range(0, len(x), key))
    if name == "to" and isinstance(key, torch.device | str) and len(args) == 1 and not kwargs:
        return _moved(x, torch.device(key))
    if name in ("cpu", "detach"):
        return x
    return None


def _moved(x: ChosenRows, device: torch.device) -> Tensor:
    if device == x.device:
        return x
    moved = torch.empty(x.shape, dtype=x.dtype, device=device)
    for part in parts(x):
        moved[part] = x[part].read().to(device)  # type: ignore[attr-defined]
    return moved


def _read(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_read(part) for part in value)
    return value.read() if isinstance(value, ChosenRows) else value
