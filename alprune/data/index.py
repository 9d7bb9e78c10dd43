"""The index of a cache of images: what is known of each file, in blocks that are only appended."""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alprune.data.decoding import HASH_BYTES, Outcome, write_at
from alprune.files import open_ordinary

_BLOCK = struct.Struct("<4sII16s")  # mark, bytes and records that follow, hash
_MARK = b"alpr"
_LONGEST = 2**26  # bytes of a block
_RECORD = np.dtype(
    [
        ("size", "<i8"),
        ("modified", "<i8"),
        ("row", "<i8"),
        ("grey", "?"),
        ("content", "u1", HASH_BYTES),
        ("pixels", "u1", HASH_BYTES),
    ]
)


@dataclass(frozen=True)
class Known:
    """What an index says of files; of a file that it names twice, the later record counts.

    Attributes:
        header: What the cache is of.
        paths: Of the files, `(n,)`.
        records: One a file, `(n,)`, with the fields of `Outcome`.
        reasons: Why a file could not be read, by position; of those that could not.
        end: Bytes of the index that are sound.
        link: Hash that the next block continues.
    """

    header: dict[str, Any]
    paths: list[str]
    records: np.ndarray
    reasons: dict[int, str]
    end: int
    link: bytes
    place: dict[str, int] = field(repr=False)


def read_index(path: Path) -> Known | None:
    """Read an index up to its first block that is not sound.

    Each block carries a hash of its content and of the block before, so that nothing is believed
    that was damaged, cut, or put together from other indexes.

    Returns:
        None if there is no index, or not even its header is sound.
    """
    header: dict[str, Any] | None = None
    paths: list[str] = []
    parts: list[np.ndarray] = []
    reasons: dict[int, str] = {}
    end, link = 0, b""
    with suppress(OSError), open_ordinary(path) as file:
        while (block := _read_block(file, link)) is not None:
            count, payload, link = block
            try:
                if header is None:
                    header = dict(json.loads(payload))
                else:
                    some, records, why = _unpack(count, payload)
                    reasons |= {len(paths) + i: reason for i, reason in why.items()}
                    paths += some
                    parts.append(records)
            except (ValueError, TypeError, RecursionError):
                break
            end = file.tell()
    if header is None:
        return None
    records = np.concatenate([np.empty(0, _RECORD), *parts])
    place = {path: index for index, path in enumerate(paths)}
    return Known(header, paths, records, reasons, end, link, place)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return what an index is of; None if that is not sound."""
    with suppress(OSError, ValueError, TypeError, RecursionError), open_ordinary(path) as file:
        if (block := _read_block(file, b"")) is not None:
            return dict(json.loads(block[1]))
    return None


class IndexWriter:
    """Appends to an index.

    Args:
        path: The index.
        known: What stands in it; None starts a new one.
        header: What the cache is of, for a new one.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, known: Known | None, header: dict[str, Any]) -> None:
        if known is None:
            fresh = path.with_name(f".{path.name}.tmp")
            fresh.unlink(missing_ok=True)
            with open(fresh, "xb", buffering=0) as file:
                block, self._link = _pack_block(0, json.dumps(header).encode(), b"")
                write_at(file, 0, memoryview(block))
                os.fsync(file.fileno())
            os.replace(fresh, path)
            self._end = len(block)
        else:
            self._end, self._link = known.end, known.link
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file: BinaryIO = os.fdopen(os.open(path, flags), "r+b", buffering=0)
        self._file.truncate(self._end)

    def append(self, paths: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Add what reading some files came to, at most a few thousand.

        Raises:
            OSError: It cannot be written; what stood there still does.
        """
        records = np.zeros(len(paths), _RECORD)
        for record, out in zip(records, outcomes, strict=True):
            record["size"], record["modified"], record["row"] = out.size, out.modified, out.row
            record["grey"] = out.grey
            record["content"] = np.frombuffer(bytes.fromhex(out.content), np.uint8)
            record["pixels"] = np.frombuffer(bytes.fromhex(out.pixels), np.uint8)
        text = "\0".join([*paths, *(out.reason for out in outcomes)])
        block, link = _pack_block(len(paths), records.tobytes() + text.encode(), self._link)
        write_at(self._file, self._end, memoryview(block))
        os.fsync(self._file.fileno())
        self._end, self._link = self._end + len(block), link

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _hash(count: int, payload: bytes, link: bytes) -> bytes:
    begin = link + count.to_bytes(4, "little")
    return hashlib.blake2b(begin + payload, digest_size=HASH_BYTES).digest()


def _pack_block(count: int, payload: bytes, link: bytes) -> tuple[bytes, bytes]:
    digest = _hash(count, payload, link)
    return _BLOCK.pack(_MARK, len(payload), count, digest) + payload, digest


def _read_block(file: BinaryIO, link: bytes) -> tuple[int, bytes, bytes] | None:
    head = file.read(_BLOCK.size)
    if len(head) < _BLOCK.size:
        return None
    mark, length, count, digest = _BLOCK.unpack(head)
    if mark != _MARK or length > _LONGEST:
        return None
    payload = file.read(length)
    sound = len(payload) == length and _hash(count, payload, link) == digest
    return (count, payload, digest) if sound else None


def _unpack(count: int, payload: bytes) -> tuple[list[str], np.ndarray, dict[int, str]]:
    records = np.frombuffer(payload, _RECORD, count)
    texts = payload[count * _RECORD.itemsize :].decode().split("\0")
    if len(texts) != 2 * count:
        raise ValueError("it names another number of files")
    reasons = {index: reason for index, reason in enumerate(texts[count:]) if reason}
    return texts[:count], records, reasons
