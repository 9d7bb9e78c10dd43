"""Where decoded images are kept, so that a folder of them is decoded once.

A cache holds one folder of images at one size, in three files: `index`, what is known of each file
(see `alprune.data.image_cache.index`); `rows-*.bin`, the pixels; and `lock`, held while these are
written. Rows in the index are never rewritten, so other processes can keep reading them.
`alprune.data.image_cache.refresh` brings a cache up to date. The cache of a folder of shards has
more files, see `alprune.data.shards`.
"""

import errno
import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from alprune.data.image_cache.index import read_header
from alprune.data.locks import file_lock
from alprune.data.memmap import gigabytes
from alprune.data.safe_io import user_path
from alprune.errors import DataError, printable

INDEX, LOCK, LOCK_LARGE, UNREADABLE = "index", "lock", "lock-large", "unreadable.txt"
WAITING = "another process is decoding the same images"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# A cache of alprune. It may be removed; images are decoded again then.\n"
)


@dataclass(frozen=True)
class CacheInfo:
    """A cache that is there.

    Attributes:
        path: Its folder.
        root: The folder of images that it was made from; None if that cannot be read, and of
            embeddings, which are of images wherever they are.
        size: `(h, w)` of the images; None likewise.
        disk_bytes: What it takes of the disk.
        embeddings: Number of embeddings in it; None where it holds decoded images.
    """

    path: Path
    root: Path | None
    size: tuple[int, int] | None
    disk_bytes: int
    embeddings: int | None = None


def caches_folder(where: Path | str | None = None) -> Path:
    """Return the folder that caches lie in.

    Args:
        where: Chosen by the user; None: `$ALPRUNE_CACHE`, `$XDG_CACHE_HOME/alprune` or
            `~/.cache/alprune`.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = where or os.environ.get("ALPRUNE_CACHE") or Path(base) / "alprune"
    return user_path(chosen) / "images"


def cache_of(root: Path, size: tuple[int, int], where: Path | str | None = None) -> Path:
    """Return the cache of the folder of images `root` at `size` `(h, w)`; it may not be there."""
    real = os.path.realpath(root)
    key = hashlib.blake2b(os.fsencode(f"{real}\0{size}"), digest_size=5).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(real)).strip(".-")[:40] or "images"
    return caches_folder(where) / f"{name}-{size[0]}x{size[1]}-{key}"


@contextmanager
def place_for(root: Path, size: tuple[int, int], where: Path | None) -> Iterator[tuple[Path, bool]]:
    """Make the cache of a folder of images, empty if there was none.

    Args:
        root: The folder of images.
        size: `(h, w)` of the images.
        where: As for `caches_folder`.

    Yields:
        Its folder, and whether it stays: if the user's own cache folder cannot be written it is a
        temporary one, with a warning.

    Raises:
        DataError: `where` cannot be written, or is among the images.
    """
    folder = cache_of(root, size, where)
    _refuse_among_images(root, folder)
    try:
        _make(folder)
    except OSError as error:
        if where is not None:
            raise unwritable(folder, error) from error
        warnings.warn(
            f"images cannot be kept in {folder} ({error.strerror or error}), so they are decoded "
            "each time. Name another folder by --cache, or ALPRUNE_CACHE.",
            stacklevel=4,
        )
        with temporary() as place:
            yield place, False
    else:
        yield folder, True


@contextmanager
def temporary() -> Iterator[Path]:
    """Make a cache that is removed at the end; a file of it that is mapped stays until then."""
    with tempfile.TemporaryDirectory(prefix="alprune-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def locked(place: Path, wait: bool = True) -> Iterator[None]:
    """Hold a cache's lock, which another process may have.

    Raises:
        OSError: There can be no lock.
        DataError: It is held and `wait` is False.
    """
    lock = file_lock(place / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise DataError(f"another process is writing to {place}.") from error
        warnings.warn(
            f"{WAITING} into {place}: waiting for it. If its machine is gone, name another folder "
            "by --cache.",
            stacklevel=4,
        )
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, "its file system has no locks", str(place)) from error
    try:
        yield
    finally:
        lock.release()


def unwritable(place: Path, error: OSError) -> DataError:
    """Return the error of a cache that cannot be written."""
    room = "Make room there, name" if error.errno in _FULL else "Name"
    return DataError(
        f"images cannot be kept in {place}: {error.strerror or error}. {room} a folder on another "
        "disk by --cache (or ALPRUNE_CACHE), or choose a smaller --image-size. "
        "What was decoded so far is kept."
    )


def list_caches(where: Path | str | None = None) -> list[CacheInfo]:
    """Return the caches that are there, sorted by name; `where` as for `caches_folder`."""
    found = []
    with suppress(OSError):
        for entry in sorted(os.scandir(caches_folder(where)), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                header = read_header(path / INDEX) or {}
                root, size = header.get("root"), header.get("size")
                found.append(
                    CacheInfo(
                        path,
                        Path(printable(root)) if isinstance(root, str) else None,
                        (size[0], size[1]) if isinstance(size, list) and len(size) == 2 else None,
                        disk_bytes(path),
                    )
                )
    return found


def remove_cache(path: Path) -> int:
    """Remove a cache, and nothing else that may lie in its folder; return the bytes set free.

    Raises:
        DataError: It is being written, is not a cache, or cannot be removed.
    """
    try:
        if path.is_symlink() or not any(map(is_ours, os.listdir(path))):  # Windows: no lock is left
            raise DataError(f"{path} is not a cache of images.")
        with locked(path, wait=False):
            freed = disk_bytes(path)
            clear(path)
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()
    except OSError as error:
        raise DataError(f"{path} cannot be removed: {error.strerror or error}.") from error
    return freed


def clear(place: Path) -> None:
    """Remove what belongs to a cache, whose lock is held, but for the lock.

    Raises:
        OSError: Something cannot be removed.
    """
    for entry in os.scandir(place):
        if is_ours(entry.name) and entry.name != LOCK:
            os.unlink(entry.path)  # and not emptied: another process may have it mapped


def disk_bytes(folder: Path) -> int:
    """Return how many bytes of the disk the files in a folder take, as far as they are seen."""
    blocks = 0
    with suppress(OSError):  # a folder of another user
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # gone since
                found = entry.stat(follow_symlinks=False)
                blocks += getattr(found, "st_blocks", -(-found.st_size // 512))
    return blocks * 512


def is_rows(name: object) -> bool:
    """Tell whether a file of this name holds pixels of a cache."""
    return isinstance(name, str) and re.fullmatch(r"rows-[0-9a-f]{16}\.bin", name) is not None


def is_ours(name: str) -> bool:
    """Tell whether a file of this name belongs to a cache."""
    ours = {INDEX, LOCK, LOCK_LARGE, UNREADABLE}
    if re.fullmatch(
        r"\.?(rows|places|labels|checks|names|contents)-[0-9a-f]{16}\.bin(\.tmp)?", name
    ):
        return True
    return name in ours or name in {f".{own}.tmp" for own in ours}


def said(place: Path) -> str:
    """Say where images are kept and what they take."""
    return f"Decoded images are kept in {place} ({gigabytes(disk_bytes(place))}): alprune cache."


def _make(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    tag = folder.parent / "CACHEDIR.TAG"  # backups leave such folders out
    if not tag.exists():
        tag.write_text(_TAG)
    folder.mkdir(exist_ok=True, mode=0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it may not be written", str(folder))


def _refuse_among_images(root: Path, folder: Path) -> None:
    inside, real = os.path.realpath(root), Path(os.path.realpath(folder))
    if real.is_relative_to(inside):
        below = real.relative_to(inside).parts
        if not any(part.startswith(".") for part in below):
            raise DataError(
                f"the cache {folder} would lie among the images of {root} and be taken for some. "
                f"Name another folder by --cache, or a hidden one: {root / '.cache'}."
            )
