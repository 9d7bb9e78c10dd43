"""A user's own images: `train/<class>/...` and `test/<class>/...`."""

import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from tqdm import tqdm

from alprune.data.dataset import LoadOptions, Splits, first_few, make_splits
from alprune.data.images import Decoder
from alprune.errors import DataError, printable
from alprune.files import user_path

DEFAULT_SIZE = (32, 32)
_BATCH = 64  # files a task decodes, so that a million files are not a million tasks


@dataclass(frozen=True)
class _Decoded:
    """Images of one part, in the order of its files; `ok` says which could be read."""

    x: np.ndarray  # (n, h, w, 3) uint8
    grey: np.ndarray  # (n,) bool
    ok: np.ndarray  # (n,) bool

    @classmethod
    def room(cls, part: str, n: int, size: tuple[int, int]) -> "_Decoded":
        try:
            x = np.zeros((n, *size, 3), np.uint8)
        except (MemoryError, ValueError) as error:  # ValueError: more than can be addressed
            raise DataError(
                f"{n:,} {part} images of {size[0]}x{size[1]} pixels take "
                f"{n * size[0] * size[1] * 3 / 2**30:,.1f} GiB, more than there is. Choose a "
                "smaller --image-size."
            ) from error
        return cls(x, np.zeros(n, bool), np.zeros(n, bool))


def load(path: str, options: LoadOptions) -> Splits:
    """Load a folder of images, `train/<class>/...` and `test/<class>/...`, in sorted order.

    Files may lie in folders below the class's; hidden ones are ignored, links to folders there
    are not followed. Links that lead out of `path` are refused, for whoever made the folder could
    name any file of yours by one; `options.follow_links` takes them. `images.Decoder` says how an
    image is read. If all images of both parts are grey, they get one channel instead of three. A
    horizontal flip is taken to keep labels true for colour images and not for grey ones, which
    are often writing.

    Raises:
        DataError: A folder is missing or empty, train and test have different classes, or files
            do not decode (unless `options.skip_unreadable`); the message names them.
    """
    root = user_path(path)
    parts = {part: _list(root, part, options.follow_links) for part in ("train", "test")}
    classes = _same_classes(root, {part: list(files) for part, files in parts.items()})
    size = options.size or DEFAULT_SIZE
    paths = {part: [p for name in classes for p in files[name]] for part, files in parts.items()}
    labels = {
        part: np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes])
        for part, files in parts.items()
    }
    decoded, failures = _decode_all(paths, size, options.progress)
    _report(root, failures, sum(len(p) for p in paths.values()), options.skip_unreadable)
    grey = all(part.grey[part.ok].all() for part in decoded.values())
    tensors = {}
    for part, images in decoded.items():
        if not images.ok.any():
            raise DataError(f"no file below {root / part} could be read as an image.")
        x = images.x if images.ok.all() else images.x[images.ok]
        x = np.ascontiguousarray(x[..., :1]) if grey else x
        tensors[part] = torch.from_numpy(x), torch.from_numpy(labels[part][images.ok])
    return make_splits(tensors["train"], tensors["test"], tuple(classes), flip=not grey)


def _list(root: Path, part: str, follow_links: bool) -> dict[str, list[Path]]:
    """Return the files of each class folder of `root/part`, all sorted."""
    where = root / part
    if not os.path.isdir(where):  # not Path.is_dir, which raises on a name that is too long
        advice = "Expected train/<class>/... and test/<class>/... in it."
        if part == "test" and os.path.isdir(root / "train"):
            advice = (
                "Accuracy is measured on images that are never trained on: move some of each "
                "class (a fifth, say) from train/<class>/ to test/<class>/."
            )
        raise DataError(f"there is no folder {str(where)!r}. {advice}")
    try:
        with os.scandir(where) as entries:
            folders = sorted(
                (e for e in entries if os.path.isdir(e.path) and not e.name.startswith(".")),
                key=lambda entry: entry.name,
            )
        if not follow_links:  # refused before anything there is looked at
            _refuse_links_out(root, [Path(place) for place in (where, *folders)])
        files = {_readable(entry): _files(Path(entry.path)) for entry in folders}
        if not follow_links:
            _refuse_links_out(root, [path for listed in files.values() for path in listed])
    except OSError as error:
        raise DataError(f"{str(where)!r} cannot be listed: {error}.") from error
    if not files:
        raise DataError(f"{str(where)!r} has no class folders; expected {part}/<class>/<image>.")
    empty = [repr(str(where / name)) for name, listed in files.items() if not listed]
    if empty:
        raise DataError(f"no image in {first_few(empty)}. Add images or remove the folder.")
    return files


def _readable(entry: "os.DirEntry[str]") -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of class folder {entry.path!r} is no UTF-8 text. Rename the folder."
        ) from error
    return entry.name


def _files(where: Path) -> list[Path]:
    """Return the files below a class folder, sorted."""
    if where.is_symlink() and Path(os.path.realpath(where.parent)).is_relative_to(
        os.path.realpath(where)
    ):
        raise DataError(f"{str(where)!r} links to a folder that contains it. Remove the link.")
    files, folders = [], [str(where)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                # Opening a pipe or a device could wait for ever; a broken link is named when read.
                elif os.path.isfile(entry.path) or not os.path.exists(entry.path):
                    files.append(Path(entry.path))
    return sorted(files)


def _refuse_links_out(root: Path, places: list[Path]) -> None:
    inside = os.path.realpath(root)
    ends = {place: os.path.realpath(place) for place in places if place.is_symlink()}
    out = [
        f"{str(link)!r} to {end!r}"
        for link, end in sorted(ends.items())
        if not Path(end).is_relative_to(inside)
    ]
    if out:
        raise DataError(
            f"{len(out)} link(s) lead out of {str(root)!r}: {first_few(out)}. If you made them, "
            "pass --follow-links; otherwise remove them, or copy the files in."
        )


def _same_classes(root: Path, names: dict[str, list[str]]) -> list[str]:
    if names["train"] != names["test"]:
        only = {
            "train": sorted(set(names["train"]) - set(names["test"])),
            "test": sorted(set(names["test"]) - set(names["train"])),
        }
        found = "; ".join(
            f"only in {part}: {first_few(list(map(repr, few)))}"
            for part, few in only.items()
            if few
        )
        raise DataError(f"train and test of {str(root)!r} must have the same classes; {found}.")
    return names["train"]


def _decode_all(
    paths: dict[str, list[Path]], size: tuple[int, int], progress: bool
) -> tuple[dict[str, _Decoded], list[str]]:
    """Decode all files in threads; return the images and what went wrong, in the files' order."""
    decoded, failures = {}, []
    total = sum(len(files) for files in paths.values())
    threads = min(16, os.cpu_count() or 1)
    with (
        # Pillow warns about odd metadata and near bombs, from every thread, file by file.
        warnings.catch_warnings(),
        tqdm(
            total=total, desc="reading images", unit="img", disable=None if progress else True
        ) as bar,
        ThreadPoolExecutor(max_workers=threads) as pool,
    ):
        warnings.simplefilter("ignore")
        decode = Decoder(size, threads)
        for part, files in paths.items():
            out = _Decoded.room(part, len(files), size)
            starts = range(0, len(files), _BATCH)
            tasks = [pool.submit(_decode_batch, decode, files, start, out) for start in starts]
            try:
                for task in as_completed(tasks):
                    bar.update(task.result()[0])
            except BaseException:  # Ctrl-C too must not wait for all that is queued
                pool.shutdown(cancel_futures=True)
                raise
            decoded[part] = out
            failures += _failures(tasks)
    return decoded, failures


def _failures(tasks: "list[Future[tuple[int, list[str]]]]") -> list[str]:
    return [failure for task in tasks for failure in task.result()[1]]


def _decode_batch(
    decode: Decoder, files: list[Path], start: int, out: _Decoded
) -> tuple[int, list[str]]:
    """Decode `files[start : start + _BATCH]` into `out`; return their number and the failures."""
    batch, failures = files[start : start + _BATCH], []
    for index, path in enumerate(batch, start):
        try:
            out.x[index], out.grey[index] = decode(path)
            out.ok[index] = True
        except UnidentifiedImageError:
            failures.append(f"{str(path)!r} (an image in no known format)")
        except Exception as error:  # decoders raise nearly everything on a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{str(path)!r} ({printable(reason)})")
    return len(batch), failures


def _report(root: Path, failures: list[str], total: int, skip: bool) -> None:
    if not failures:
        return
    message = (
        f"{len(failures)} of {total} files in {str(root)!r} cannot be read as images: "
        f"{first_few(failures)}."
    )
    if not skip:
        raise DataError(f"{message} Mend or remove them, or pass --skip-unreadable.")
    warnings.warn(f"{message} They are left out.", stacklevel=2)
