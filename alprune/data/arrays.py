"""Arrays in .npz and .npy files: what their headers say, checked before anything is read."""

import math
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from alprune.data.safe_io import open_ordinary
from alprune.errors import DataError, quoted

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of name and extra
# What is compressed better than this is made to inflate: deflate comes to 1032 at most, on zeros,
# and drawings in black and white to 100.
_SUSPECT_BYTES = 2**30
_SUSPECT_RATIO = 500

Place = tuple[Path, zipfile.ZipInfo | None]  # a file and, if that is an archive, what is in it


@dataclass(frozen=True)
class StoredArray:
    """An array in a file; only its header has been read.

    Attributes:
        name: What it is called, as "x_train".
        path: The file.
        dtype: Type of its elements; no objects.
        shape: As the header says; the file has as many bytes as it takes.
        fortran: Whether the first index changes fastest.
        offset: Byte of the file at which the elements begin; None if they are compressed.
        member: Its entry in an archive; None if the file holds nothing else.
    """

    name: str
    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int | None
    member: zipfile.ZipInfo | None

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Read it whole.

        Raises:
            DataError: The file is damaged.
        """
        try:
            with _open(self.path, self.member) as file:
                return np.asarray(npy.read_array(file, allow_pickle=False))
        except Exception as error:  # a damaged member: zlib, struct, checksum, memory ...
            raise _unreadable(self.name, self.path, error) from error

    def rows(self, size: int) -> Iterator[np.ndarray]:
        """Read it in parts `(m, ...)` of about `size` bytes; it must lie row after row.

        Raises:
            DataError: The file is damaged.
        """
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        most = max(1, size // row)
        try:
            with _open(self.path, self.member) as file:
                _header(file)
                for start in range(0, self.shape[0], most):
                    count = min(most, self.shape[0] - start)
                    content = bytearray(file.read(count * row))
                    yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
        except Exception as error:  # as in `read`
            raise _unreadable(self.name, self.path, error) from error

    def verify(self) -> None:
        """Look at every byte of an array in an archive: it must fit the archive's checksum.

        Raises:
            DataError: It does not.
        """
        buffer = bytearray(2**20)
        try:
            with _open(self.path, self.member) as file:
                while file.readinto(buffer):  # type: ignore[attr-defined]
                    pass
        except Exception as error:  # as in `read`
            raise _unreadable(self.name, self.path, error) from error


def find_arrays(path: Path) -> dict[str, Place]:
    """List the arrays of an .npz file, or the .npy files in a folder, by name.

    What macOS puts beside them, `._x.npy` on some disks and `__MACOSX` in archives, is left out.

    Raises:
        DataError: There is no such file, or it is not an archive.
    """
    if os.path.isdir(path):
        return {
            file.stem: (file, None) for file in sorted(path.glob("*.npy")) if file.name[:2] != "._"
        }
    try:
        file = open_ordinary(path)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    with file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise DataError(
                f"{str(path)!r} holds one bare array; expected an .npz, as np.savez writes, or a "
                "folder of .npy files."
            )
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                members = [m for m in entries if not m.filename.startswith("__MACOSX/")]
        except Exception as error:  # whatever zipfile raises on a file that is not an archive
            raise DataError(f"{str(path)!r} is not a complete .npz file: {error}") from error
    names = [member.filename.removesuffix(".npy") for member in members]
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{str(path)!r} holds two arrays of one name: {quoted(doubled[0])}.")
    return {name: (path, member) for name, member in zip(names, members, strict=True)}


def describe(name: str, place: Place) -> StoredArray:
    """Read an array's header and check it against the bytes that are there.

    Raises:
        DataError: It is damaged or holds objects.
    """
    path, member = place
    try:
        with _open(path, member) as file:
            shape, fortran, dtype = _header(file)
            begin = file.tell()
        on_disk = path.stat().st_size
        size = on_disk if member is None else member.file_size
        offset: int | None = begin
        if member is not None:
            stored = member.compress_type == zipfile.ZIP_STORED
            offset = _content(path, member) + begin if stored else None
        array = StoredArray(name, path, dtype, shape, fortran, offset, member)
        _check(array, size - begin, on_disk)
    except Exception as error:  # a damaged or crafted header: syntax, struct, encryption ...
        raise _unreadable(name, path, error) from error
    return array


def _check(array: StoredArray, size: int, on_disk: int) -> None:
    if array.dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(array.shape, default=0) < 0 or array.nbytes != size:
        raise ValueError(f"{array.shape} of {array.dtype} does not fill {size} bytes")
    if array.offset is not None and array.offset + size > on_disk:
        raise ValueError("it would end beyond the end of the file")
    packed = size if array.member is None else array.member.compress_size
    if size > _SUSPECT_BYTES and size > _SUSPECT_RATIO * packed:
        raise ValueError(
            f"it inflates from {packed:,} to {size:,} bytes, as no images do, and would fill the "
            "memory or the disk"
        )


@contextmanager
def _open(path: Path, member: zipfile.ZipInfo | None) -> Iterator[IO[bytes]]:
    if member is None:
        with open_ordinary(path) as file:
            yield file
    else:
        with (
            open_ordinary(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(member) as content,
        ):
            yield content


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"format {version} is not one of {', '.join(map(str, _HEADERS))}")
    return _HEADERS[version](file)


def _content(path: Path, member: zipfile.ZipInfo) -> int:
    """Byte of the archive at which a member's content begins."""
    with open_ordinary(path) as file:
        file.seek(member.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError("the archive's directory points to the wrong place")
    return member.header_offset + _LOCAL_HEADER.size + name + extra


def _unreadable(name: str, path: Path, error: Exception) -> DataError:
    # Numpy quotes headers whole, and gives advice in further lines.
    reason = str(error).split("\n")[0][:200] or type(error).__name__
    return DataError(
        f"array {name!r} of {str(path)!r} cannot be read: {reason}. "
        "Write it again as a plain array (numbers or text, no objects) with np.savez."
    )
