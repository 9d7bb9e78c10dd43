"""Decode image files into the rows of a file; also as a process of its own, which needs no torch.

Such a process reads one JSON object a line from its input, a `Batch`, and answers each by one line,
the list of its `Outcome`s, or an object with the "error" that ended it.
"""

import errno
import json
import os
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from alprune.data.image_cache.decode import Decoder, hash_of, identify
from alprune.data.image_cache.formats import NoDecoder
from alprune.data.locks import file_lock
from alprune.errors import printable

HASH_BYTES = 16
UNREAD = -1  # the row of an image that cannot be read
_UNSETTLED_NS = 2_000_000_000  # clocks of file systems are that coarse, the worst of them
_CLOCKS_APART_NS = 3600 * 10**9  # of this machine and of one that serves files
_NOTHING = "0" * (2 * HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some files to decode.

    Attributes:
        number: Tells it from others.
        root: The folder that their paths begin in.
        paths: Below it, parts joined by "/".
        first: Row that the first of them gets; -1 only hashes their content.
    """

    number: int
    root: str
    paths: list[str]
    first: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading one file came to.

    Attributes:
        row: Of its pixels; -1 if it could not be read.
        grey: Whether it has no colour.
        bits: As of `pixel_range.eight_bits`, if it has more than 8; else 0.
        size: Its length in bytes.
        modified: When it was changed last, in nanoseconds; -1 if that is so recent, or happened
            meanwhile, that a later change might not be seen by it.
        content: Hash of its bytes, hexadecimal.
        pixels: Hash of its row.
        reason: Why it could not be read; empty if it could.
        lasting: Whether reading the same bytes again would come to the same.
    """

    row: int
    grey: bool
    bits: int
    size: int
    modified: int
    content: str
    pixels: str
    reason: str
    lasting: bool


def settled(modified: int) -> int:
    """Return a file's time of change, or -1 if it is too recent to tell a later change by.

    One in the far future was set by a wrong clock, and a later change is told by any other time.
    """
    return -1 if -_CLOCKS_APART_NS < time.time_ns() - modified < _UNSETTLED_NS else modified


def failed(reason: str, lasting: bool) -> Outcome:
    """Return the outcome of a file that could not be read."""
    return Outcome(UNREAD, False, 0, -1, -1, _NOTHING, _NOTHING, reason, lasting)


class Worker(Protocol):
    """What does batches, one after the other."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Do one; one outcome a file, in order."""

    def stop(self) -> None:
        """What it is doing is not wanted any more; may be called from any thread."""

    def close(self) -> None:
        """Free what it holds; called last, when it does nothing any more."""


class Reader:
    """Does batches in this process.

    Args:
        rows: The file that the pixels go to, open for writing; closed with the reader.
        size: `(h, w)` of the images; a row is `h * w * 3` bytes.
        threads: How many readers there are in this process.
        alone: Held while a large image is decoded; by default a lock of this reader's own.
        wanted: Called before rows are written, to end what nobody waits for any more.
    """

    def __init__(
        self,
        rows: BinaryIO,
        size: tuple[int, int],
        threads: int,
        alone: AbstractContextManager[object] | None = None,
        wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self._rows, self._shape, self._wanted = rows, (*size, 3), wanted
        self._decode = Decoder(size, threads, alone=alone)

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Do one batch.

        Raises:
            OSError: Its rows cannot be written, because the disk is full for example.
        """
        files = [Path(batch.root, path) for path in batch.paths]
        if batch.first == UNREAD:
            return [self._guarded(path, UNREAD, None) for path in files]
        images = np.zeros((len(files), *self._shape), np.uint8)
        pairs = enumerate(zip(files, images, strict=True), batch.first)
        out = [self._guarded(path, row, image) for row, (path, image) in pairs]
        self._wanted()
        write_at(self._rows, batch.first * images[0].size, images.data.cast("B"))
        return out

    def stop(self) -> None:
        """A batch is short enough to be waited for."""

    def close(self) -> None:
        """Close the file of rows."""
        self._rows.close()

    def _guarded(self, path: Path, row: int, image: np.ndarray | None) -> Outcome:
        try:
            return self._one(path, row, image)
        except Exception as error:  # decoders raise nearly everything on a damaged file
            reason = printable(" ".join(str(error).split()) or type(error).__name__)
            passing = isinstance(error, MemoryError | NoDecoder)
            passing = passing or getattr(error, "errno", None) is not None
            return failed(reason, lasting=not passing)

    def _one(self, path: Path, row: int, image: np.ndarray | None) -> Outcome:
        grey, bits, pixels = False, 0, _NOTHING
        if image is None:
            found = identify(path)
        else:
            image[:], grey, bits, found = self._decode.read(path)
            pixels = hash_of(image).hex()
        modified, content = settled(found.modified), found.content.hex()
        return Outcome(row, grey, bits, found.size, modified, content, pixels, "", True)


def serve() -> None:
    """Do the batches that come on the standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent process
    warnings.simplefilter("ignore")  # Pillow's, about odd metadata and near bombs
    answers = sys.stdout
    sys.stdout = sys.stderr  # no decoder may write between the answers
    order = json.loads(sys.stdin.readline())
    parent = os.getppid()

    def end_alone() -> None:
        if os.getppid() != parent:  # it was killed, and another process may have these rows by now
            os._exit(1)

    with open_rows(order["rows"]) as rows:
        alone = file_lock(Path(order["alone"]))
        read = Reader(rows, (order["height"], order["width"]), order["readers"], alone, end_alone)
        print("[]", file=answers, flush=True)  # ready
        for line in sys.stdin:
            try:
                text = json.dumps([astuple(out) for out in read(Batch(**json.loads(line)))])
            except OSError as error:
                text = json.dumps({"error": [error.errno, error.strerror]})
            with suppress(BrokenPipeError):
                print(text, file=answers, flush=True)


def order_line(rows: Path, alone: Path, size: tuple[int, int], readers: int) -> str:
    """Return the first line for a process that runs `serve`."""
    order = {"rows": str(rows), "alone": str(alone), "readers": readers}
    return json.dumps(order | {"height": size[0], "width": size[1]}) + "\n"


def batch_line(batch: Batch) -> str:
    """Return the line that asks a process for a batch."""
    return json.dumps(asdict(batch)) + "\n"


def read_answer(line: str) -> list[Outcome]:
    """Read what a process has answered.

    Raises:
        OSError: It could not write the rows.
    """
    answer = json.loads(line)
    if isinstance(answer, dict):
        raise OSError(*answer["error"])
    return [Outcome(*fields) for fields in answer]


def open_rows(path: str | Path, buffering: int = 0) -> BinaryIO:
    """Open an existing file of rows for reading and writing.

    Raises:
        OSError: It is not there, not writable, a link or no ordinary file.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "r+b", buffering=buffering)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))
    return file


def write_at(file: BinaryIO, offset: int, content: memoryview) -> None:
    """Write all of `content` from a byte on, into a file without a buffer.

    Raises:
        OSError: It cannot be written.
    """
    file.seek(offset)
    while content:
        content = content[file.write(content) :]
