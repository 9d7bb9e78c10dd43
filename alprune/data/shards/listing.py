"""Which tar files a folder of shards holds, and which of them are for testing."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alprune.data.dataset import first_few
from alprune.data.safe_io import no_folder
from alprune.errors import DataError, counted, printable

_WORDS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LAYOUT = "Expected train/*.tar and test/*.tar, or names with these words: set-train-000.tar."


@dataclass(frozen=True)
class Shard:
    """A tar file of images.

    Attributes:
        path: Below its root, parts joined by "/".
        size: Its bytes.
        modified: When it was changed last, in nanoseconds.
    """

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Attributes:
        root: The folder.
        test: Those of test images, sorted by path.
        train: Those of the pool, sorted by path.
    """

    root: Path
    test: tuple[Shard, ...]
    train: tuple[Shard, ...]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(shard.size for shard in (*self.test, *self.train))


def list_shards(root: Path, follow_links: bool = False, incomplete: bool = False) -> Shards:
    """Find the .tar files below a folder; a word in their path says which part they belong to.

    Args:
        root: The folder.
        follow_links: Take files to which links lead out of it; refused otherwise.
        incomplete: Whether there may be no shards of test images; those whose path has no such
            word are for training then.

    Raises:
        DataError: There are none, or one belongs to no part or to two; the message names it.
    """
    if not os.path.isdir(root):
        raise DataError(f"{no_folder(root)} {_LAYOUT}")
    found: dict[str, list[Shard]] = {"train": [], "test": [], "val": []}
    try:
        for path in _tars(root, follow_links):
            words = re.split(r"[^a-z]+", path.lower())
            parts = {_WORDS[word] for word in words if word in _WORDS}
            if incomplete and not parts:
                parts = {"train"}
            if len(parts) != 1:
                raise DataError(
                    f"it is not clear whether {printable(path)!r} in {str(root)!r} is to be "
                    f"trained on or tested on. {_LAYOUT}"
                )
            stat = os.stat(root / path)
            found[parts.pop()].append(Shard(path, stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{str(root)!r} cannot be read: {error.strerror or error}.") from error
    if found["test"] and found["val"]:
        raise DataError(
            f"{str(root)!r} has shards of test and of val, and one kind is tested on. Leave the "
            "other out."
        )
    tests = found["test"] or found["val"]
    if not found["train"] or not (tests or incomplete):
        missing = "to train on" if not found["train"] else "to test on"
        raise DataError(f"{str(root)!r} has no .tar file {missing}. {_LAYOUT}")
    return Shards(root, tuple(tests), tuple(found["train"]))


def _tars(root: Path, follow_links: bool) -> Iterator[str]:
    """Yield the paths of .tar files below a folder, sorted, hidden ones left out."""
    inside, paths, packed, out = Path(os.path.realpath(root)), [], [], []
    for folder, below, names in os.walk(root, followlinks=follow_links, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if name.endswith(".tar"):
                if path.is_symlink() and not follow_links:
                    if not Path(os.path.realpath(path)).is_relative_to(inside):
                        out.append(printable(name))
                        continue
                paths.append(path.relative_to(root).as_posix())
            elif name.endswith(_PACKED):
                packed.append(printable(name))
    if out:
        raise DataError(
            counted(len(out), "link leads", "links lead")
            + f" out of {str(root)!r}: {first_few(out)}. Pass --follow-links if that is meant."
        )
    if packed and not paths:
        raise DataError(
            f"{str(root)!r} holds compressed shards ({first_few(packed)}), in which an image in "
            "the middle cannot be found. Unpack them to .tar; images are compressed anyway."
        )
    yield from sorted(paths)


def _raise(error: OSError) -> None:
    raise error
