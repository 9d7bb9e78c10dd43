"""A file of blocks that are only appended, each with a hash of its content and the block before.

Nothing is believed that was damaged, cut, or put together from other such files: reading ends
before the first block that is not sound, and writing continues there.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from alprune.data import atomic_io
from alprune.data.image_cache.worker import HASH_BYTES, write_at
from alprune.data.safe_io import open_ordinary

_BLOCK = struct.Struct("<4sII16s")  # mark, bytes and records that follow, hash
_MARK = b"alpr"
LONGEST = 2**26  # bytes of a block


@dataclass(frozen=True)
class Block:
    """A sound block.

    Attributes:
        count: Records in it, as its writer said.
        payload: Its content.
        end: Byte of the file after it.
        link: Hash that the next block continues.
    """

    count: int
    payload: bytes
    end: int
    link: bytes


def read_blocks(path: Path, after: Block | None = None) -> Iterator[Block]:
    """Yield the blocks of a file up to the first that is not sound; none if there is no file.

    Args:
        path: The file.
        after: Begin behind this block, which was read before.
    """
    link = b"" if after is None else after.link
    with suppress(OSError), open_ordinary(path) as file:
        file.seek(0 if after is None else after.end)
        while (block := _read(file, link)) is not None:
            yield block
            link = block.link


def counts_of_blocks(path: Path) -> Iterator[int]:
    """Yield the records in each block of a file, by its heads alone; the contents are not read."""
    with suppress(OSError), open_ordinary(path) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        while len(head := file.read(_BLOCK.size)) == _BLOCK.size:
            mark, length, count, _ = _BLOCK.unpack(head)
            if mark != _MARK or length > LONGEST or file.seek(length, os.SEEK_CUR) > end:
                return
            yield count


class BlockWriter:
    """Appends blocks to a file.

    Args:
        path: The file.
        last: The last block that stands; what follows is cut off. None starts a new file.
        first: Content of the first block of a new file.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, last: Block | None, first: bytes = b"") -> None:
        if last is None:
            block, self._link = _packed(0, first, b"")
            atomic_io.replace(path, block)
            self._end = len(block)
        else:
            self._end, self._link = last.end, last.link
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file: BinaryIO = os.fdopen(os.open(path, flags), "r+b", buffering=0)
        self._file.truncate(self._end)

    def append(self, count: int, payload: bytes) -> None:
        """Add a block, written through to the disk.

        Raises:
            OSError: It cannot be written; what stood there still does.
        """
        block, link = _packed(count, payload, self._link)
        write_at(self._file, self._end, memoryview(block))
        os.fsync(self._file.fileno())
        self._end, self._link = self._end + len(block), link

    @property
    def last(self) -> Block:
        """The last block, without its content: what `read_blocks` may begin behind."""
        return Block(0, b"", self._end, self._link)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _hash(count: int, payload: bytes, link: bytes) -> bytes:
    begin = link + count.to_bytes(4, "little")
    return hashlib.blake2b(begin + payload, digest_size=HASH_BYTES).digest()


def _packed(count: int, payload: bytes, link: bytes) -> tuple[bytes, bytes]:
    digest = _hash(count, payload, link)
    return _BLOCK.pack(_MARK, len(payload), count, digest) + payload, digest


def _read(file: BinaryIO, link: bytes) -> Block | None:
    head = file.read(_BLOCK.size)
    if len(head) < _BLOCK.size:
        return None
    mark, length, count, digest = _BLOCK.unpack(head)
    if mark != _MARK or length > LONGEST:
        return None
    payload = file.read(length)
    sound = len(payload) == length and _hash(count, payload, link) == digest
    return Block(count, payload, file.tell(), digest) if sound else None
