"""The index of a cache of images: what is known of each file, in blocks that are only appended."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alprune.data.image_cache.append_log import Block, BlockWriter, read_blocks
from alprune.data.image_cache.worker import HASH_BYTES, Outcome

_RECORD = np.dtype(
    [
        ("size", "<i8"),
        ("modified", "<i8"),
        ("row", "<i8"),
        ("grey", "?"),
        ("bits", "u1"),
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
        last: The last block that is sound.
    """

    header: dict[str, Any]
    paths: list[str]
    records: np.ndarray
    reasons: dict[int, str]
    last: Block
    place: dict[str, int] = field(repr=False)


def read_index(path: Path) -> Known | None:
    """Read an index up to its first block that is not sound.

    Returns:
        None if there is no index, or not even its header is sound.
    """
    header: dict[str, Any] | None = None
    paths: list[str] = []
    parts: list[np.ndarray] = []
    reasons: dict[int, str] = {}
    last: Block | None = None
    for block in read_blocks(path):
        try:
            if header is None:
                header = dict(json.loads(block.payload))
            else:
                some, records, why = _unpack(block.count, block.payload)
                reasons |= {len(paths) + i: reason for i, reason in why.items()}
                paths += some
                parts.append(records)
        except (ValueError, TypeError, RecursionError):
            break
        last = block
    if header is None or last is None:
        return None
    records = np.concatenate([np.empty(0, _RECORD), *parts])
    place = {path: index for index, path in enumerate(paths)}
    return Known(header, paths, records, reasons, last, place)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return what an index is of; None if that is not sound."""
    with suppress(ValueError, TypeError, RecursionError):
        for block in read_blocks(path):
            return dict(json.loads(block.payload))
    return None


class IndexWriter:
    """Appends to an index.

    Args:
        path: The index.
        known: Its content; None starts a new one.
        header: What the cache is of, for a new one.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, known: Known | None, header: dict[str, Any]) -> None:
        last = None if known is None else known.last
        self._blocks = BlockWriter(path, last, json.dumps(header).encode())

    def append(self, paths: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Add what reading some files came to, at most a few thousand.

        Raises:
            OSError: It cannot be written; what stood there still does.
        """
        records = np.zeros(len(paths), _RECORD)
        for record, out in zip(records, outcomes, strict=True):
            record["size"], record["modified"], record["row"] = out.size, out.modified, out.row
            record["grey"], record["bits"] = out.grey, out.bits
            record["content"] = np.frombuffer(bytes.fromhex(out.content), np.uint8)
            record["pixels"] = np.frombuffer(bytes.fromhex(out.pixels), np.uint8)
        text = "\0".join([*paths, *(out.reason for out in outcomes)])
        self._blocks.append(len(paths), records.tobytes() + text.encode())

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()


def _unpack(count: int, payload: bytes) -> tuple[list[str], np.ndarray, dict[int, str]]:
    records = np.frombuffer(payload, _RECORD, count)
    texts = payload[count * _RECORD.itemsize :].decode().split("\0")
    if len(texts) != 2 * count:
        raise ValueError("it names another number of files")
    reasons = {index: reason for index, reason in enumerate(texts[count:]) if reason}
    return texts[:count], records, reasons
