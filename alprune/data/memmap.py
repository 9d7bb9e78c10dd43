"""Images that stay in a file: tensors over a memory map that keep few of its pages in memory."""

import errno
import math
import mmap
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from alprune.errors import DataError

IN_MEMORY = 2**28  # bytes up to which an array is held in memory
_AROUND = 2**21  # bytes; the system may map a large page where one row is read
CHUNK = 2**22  # bytes worked on at once, so that temporaries stay small


class MappedImages(Tensor):
    """Images in a file, to be used as any tensor on the CPU.

    The system reads the pages that an operation touches and keeps them in its own cache; as a
    part of the process they would soon be the whole file. So they are given up after the
    operation: a row that is needed again is mapped again from the system's cache. Results are
    plain tensors. A slice is a view of the file: it is read-only memory, and writing to it would
    end the process. Nobody may change or cut the file while it is in use.
    """

    _file: mmap.mmap
    _offset: int  # byte of the file at which the first image begins
    _viewed: slice  # rows of the last slice, which may have been read since

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation on the plain tensor, then let go of the pages it has read."""
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            raise DataError(f"images in a file are read-only, but {name} changes them: clone them.")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            reads = isinstance(result, Tensor | np.ndarray) or type(result) is tuple  # of tensors
            if reads and isinstance(args[0], MappedImages):
                rows = _rows_read(len(args[0]), name, args[1:])
                args[0]._release(args[0]._viewed)
                args[0]._release(rows)
                args[0]._viewed = rows
        return result

    def _release(self, rows: slice) -> None:
        """Give up the pages of some rows, and those that the system maps around them."""
        if rows.start == rows.stop or not hasattr(mmap, "MADV_DONTNEED"):
            return
        row = self.stride(0) * self.element_size()
        begin = max(0, self._offset + rows.start * row - _AROUND) // _AROUND * _AROUND
        end = min(len(self._file), self._offset + rows.stop * row + _AROUND)
        # Only there: going through the tables of all pages would take longer, the larger the file.
        self._file.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _rows_read(count: int, name: str, keys: Any) -> slice:
    """Return the range of rows that an operation on `count` of them may read."""
    key = None
    if name == "__getitem__":
        key = keys[0]
    elif name == "index_select" and len(keys) == 2 and keys[0] == 0:
        key = keys[1]
    if isinstance(key, slice) and key.step in (None, 1):
        begin, end, _ = key.indices(count)
        return slice(begin, max(begin, end))
    if isinstance(key, Tensor) and key.dtype == torch.int64 and key.numel() and int(key.min()) >= 0:
        return slice(int(key.min()), int(key.max()) + 1)
    return slice(0, count)


def map_images(file: BinaryIO, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Map an array that a file holds row after row, as memory would.

    Args:
        file: Open for reading; may be closed afterwards.
        offset: First byte of the array. It need not be a multiple of the element's size: the
            processors that torch runs on load such values, and images are copied before use.
        dtype: Type of the elements, in the processor's own byte order.
        shape: `(n, ...)`, nothing of it zero.

    Raises:
        DataError: The array does not lie within the file, or the file cannot be mapped.
    """
    file.seek(0, 2)
    count = math.prod(shape)
    end = offset + count * dtype.itemsize
    if offset < 0 or end > file.tell() or count <= 0:
        raise DataError(
            f"an array {shape} of {dtype} at byte {offset} would end at byte {end} of a file of "
            f"{file.tell()}. The file is damaged or cut short: write it again."
        )
    try:
        # Not a private copy: that would be refused for a file larger than the memory.
        mapped = mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"a file of {file.tell()} bytes cannot be mapped: {error}.") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        plain = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)
    images = plain.view(shape).as_subclass(MappedImages)
    images._file, images._offset, images._viewed = mapped, offset, slice(0, 0)
    return images


def spool(chunks: Iterator[Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Write an array too large for memory to a temporary file, and map it.

    The file is in the folder for temporary files (`$TMPDIR` chooses), has no name where the system
    allows that, and is gone when the tensor is, or the process.

    Args:
        chunks: Its rows, one part `(m, ...)` after the other.
        dtype: Their type.
        shape: Of the whole.

    Raises:
        DataError: The file cannot be written, or the chunks do not make up `shape`.
    """
    needed = math.prod(shape) * dtype.itemsize
    try:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"only {gigabytes(free)} are free")
        with tempfile.TemporaryFile(prefix="alprune-") as file:
            for chunk in chunks:
                file.write(chunk.contiguous().view(-1).view(torch.uint8).numpy().data)
            file.flush()
            return map_images(file, 0, dtype, shape)
    except OSError as error:
        raise DataError(
            f"a temporary file of {gigabytes(needed)} cannot be written in "
            f"{tempfile.gettempdir()!r}: {error.strerror or error}. Make room there, or set TMPDIR "
            "to a folder on a larger disk."
        ) from error


def rows_at_once(x: Tensor) -> int:
    """Return how many rows of `x` `(n, ...)` are few enough to make temporary copies of."""
    return max(1, CHUNK // max(1, math.prod(x.shape[1:]) * x.element_size()))


def parts(x: Tensor) -> Iterator[slice]:
    """Cut `x` `(n, ...)`, n >= 0, into runs of `rows_at_once`."""
    rows = rows_at_once(x)
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))


def gigabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 999.5e6 else f"{size / 1e6:.3g} MB"
