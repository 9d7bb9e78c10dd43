"""Images that stay in a file: tensors over a memory map that keep few of its pages in memory."""

import errno
import math
import mmap
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from alprune.errors import DataError

IN_MEMORY = 2**28  # bytes up to which an array is held in memory
CHUNK = 2**22  # bytes worked on at once, so that temporaries stay small


class MappedImages(Tensor):
    """Images in a file, to be used as any tensor on the CPU.

    The system reads the pages that an operation touches and keeps them in its own cache; as a
    part of the process they would soon be the whole file. So they are given up after each
    operation: a row that is needed again is mapped again from the system's cache. Results are
    plain tensors. A slice is a view of the file: it is read-only memory, and writing to it would
    end the process. Nobody may change or cut the file while it is in use.
    """

    _file: mmap.mmap

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation on the plain tensor, then let go of the pages it has read."""
        name = func.__name__
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            raise DataError(
                f"images in a file are read-only; {name} would change them. Clone them."
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        for value in args:
            if isinstance(value, MappedImages) and hasattr(mmap, "MADV_DONTNEED"):
                value._file.madvise(mmap.MADV_DONTNEED)
        return result


def map_images(file: BinaryIO, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Map an array that lies in a file as it would in memory, row after row.

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
    images._file = mapped
    return images


def spool(chunks: Iterator[Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Write an array too large for memory to a temporary file, and map it.

    The file lies where `tempfile` puts such (`$TMPDIR` chooses), has no name where the system
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
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.3g} MB"
