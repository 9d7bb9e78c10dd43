"""Some rows of a file of images, in any order, as a tensor that reads them when it is indexed."""

import hashlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from alprune.data.memmap import parts

# What can be answered without a look at the images.
_PLAIN = frozenset(
    "__get__ __len__ __hash__ size dim ndimension numel nelement element_size is_floating_point "
    "is_complex get_device".split()
)


class OnDemand(Protocol):
    """Images `(m, h, w, 3)` that do not lie anywhere as they are, but are made when indexed.

    Attributes:
        shape, dtype, device: As of a tensor.
        bad: Why an image could not be made, by its row; of those looked at.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    bad: dict[int, str]

    @property
    def digest(self) -> str:
        """Hash of what they are made from."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, `(*rows.shape, h, w, 3)`."""


class ChosenRows(Tensor):
    """Images `(n, h, w, c)` that lie in a file in another order, among others.

    An index, a slice or `index_select` of the images reads just these, as a plain tensor; a slice
    waits until something is done with it. Every other operation reads all of its images first.
    Images made on demand stay on the CPU, whatever device they are sent to.

    Args:
        stored: Images `(m, h, w, 3)`, uint8, mapped from a file or made on demand.
        rows: Which of them, in which order, `(n,)` int64; a range takes no memory.
        channels: 3, or 1 to take only the first.
    """

    _stored: Tensor | OnDemand
    _rows: Tensor | range

    def __new__(
        cls, stored: Tensor | OnDemand, rows: Tensor | range, channels: int = 3
    ) -> "ChosenRows":
        """Choose; nothing is read yet."""
        shape = (len(rows), *stored.shape[1:3], channels)
        new: ChosenRows = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=stored.dtype, device=stored.device
        )
        new._stored, new._rows = stored, rows
        return new

    @property
    def on_demand(self) -> bool:
        """Whether images are made when they are read, which takes long for all of them."""
        return not isinstance(self._stored, Tensor)

    def read(self) -> Tensor:
        """Return the images as a plain tensor in memory."""
        return self._taken(self._numbers(slice(None)))

    def chosen(self, rows: Tensor) -> "ChosenRows":
        """Return some of the images, `(k,)` int64, without reading any."""
        return ChosenRows(self._stored, self._numbers(rows), self.shape[3])

    def of_channels(self, channels: int) -> "ChosenRows":
        """Return the same images with 3 channels, or with only the first of them."""
        return ChosenRows(self._stored, self._rows, channels)

    def unreadable(self, rows: Tensor) -> Tensor:
        """Read some images, `(k,)` int64; return which of them cannot be, `(k,)` bool."""
        if isinstance(self._stored, Tensor):
            return torch.zeros(len(rows), dtype=torch.bool)
        numbers = self._numbers(rows)
        self._taken(numbers)
        return torch.tensor([row in self._stored.bad for row in numbers.tolist()], dtype=torch.bool)

    def row_keys(self) -> np.ndarray:
        """Return what tells images made on demand apart without making them, `(n, 16)` uint8."""
        assert not isinstance(self._stored, Tensor)
        begin = f"{self._stored.digest} {tuple(self.shape[1:])}".encode()
        numbers = self._rows if isinstance(self._rows, range) else self._rows.tolist()
        keys = b"".join(
            hashlib.blake2b(begin + row.to_bytes(8, "little"), digest_size=16).digest()
            for row in numbers
        )
        return np.frombuffer(keys, np.uint8).reshape(-1, 16)

    def source_digest(self) -> str:
        """Return a hash of what images made on demand come from, without reading them."""
        assert not isinstance(self._stored, Tensor)
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self._stored.digest} {tuple(self.shape)}".encode())
        if isinstance(self._rows, range):
            digest.update(repr(self._rows).encode())
        else:
            digest.update(self._rows.contiguous().numpy().data)
        return digest.hexdigest()

    def _numbers(self, key: Any) -> Tensor:
        """Return the rows of `stored` that an index or indices of the images mean."""
        if not isinstance(self._rows, range):
            return self._rows[key]
        if isinstance(key, slice):
            chosen = self._rows[key]
            return torch.arange(chosen.start, chosen.stop, chosen.step)
        key = torch.as_tensor(key)
        if key.dtype == torch.bool:
            key = key.nonzero().squeeze(1)
        if key.numel() and not -len(self) <= int(key.min()) <= int(key.max()) < len(self):
            raise IndexError(f"indices {int(key.min())}..{int(key.max())} of {len(self)} images")
        place = torch.where(key < 0, key + len(self), key)
        return self._rows.start + place * self._rows.step

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
            return x._taken(x._numbers(key))
    if name == "index_select" and len(args) == 2 and key == 0:
        return x._taken(x._numbers(args[1]))
    if name == "split" and isinstance(key, int) and len(args) == 1 and not kwargs:
        return tuple(x[start : start + key] for start in range(0, len(x), key))
    if name == "to" and isinstance(key, torch.device | str) and len(args) == 1 and not kwargs:
        return _moved(x, torch.device(key))
    if name in ("cpu", "detach"):
        return x
    return None


def _moved(x: ChosenRows, device: torch.device) -> Tensor:
    if device == x.device or x.on_demand:  # all of them would have to be made first
        return x
    moved = torch.empty(x.shape, dtype=x.dtype, device=device)
    for part in parts(x):
        moved[part] = x[part].read().to(device)  # type: ignore[attr-defined]
    return moved


def _read(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_read(part) for part in value)
    return value.read() if isinstance(value, ChosenRows) else value
