"""A user's own images: `train/<class>/...` and `test/<class>/...`."""

import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from alprune.data.dataset import LoadOptions, Splits, first_few, make_splits
from alprune.errors import DataError

DEFAULT_SIZE = (32, 32)
MAX_PIXELS = 89_478_485  # Pillow's own limit of suspicion: a quarter of a GiB of RGB
# Photographs and scans only. Formats that Pillow hands to another program (EPS) stay out.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_BATCH = 64  # files a task decodes, so that a million files are not a million tasks


@dataclass(frozen=True)
class _Decoded:
    """Images of one part, in the order of its files; `ok` says which could be read."""

    x: np.ndarray  # (n, h, w, 3) uint8
    grey: np.ndarray  # (n,) bool
    ok: np.ndarray  # (n,) bool


def load(path: str, options: LoadOptions) -> Splits:
    """Load a folder of images, `train/<class>/...` and `test/<class>/...`, in sorted order.

    Files may lie in folders below the class's; hidden ones are ignored, links to folders there
    are not followed. Every image is turned upright (EXIF), flattened onto white where
    transparent, brought to 8 bits (of 16, the upper ones), converted to RGB and resized without
    regard to its proportions. If all images of both parts are grey, they get one channel instead.
    Of an animation the first frame counts. A horizontal flip is taken to keep labels true for
    colour images and not for grey ones, which are often writing.

    Raises:
        DataError: A folder is missing or empty, train and test have different classes, or files
            do not decode (unless `options.skip_unreadable`); the message names them.
    """
    root = Path(path).expanduser()
    parts = {part: _list(root, part) for part in ("train", "test")}
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


def _list(root: Path, part: str) -> dict[str, list[Path]]:
    """Return the files of each class folder of `root/part`, all sorted."""
    where = root / part
    if not where.is_dir():
        advice = "Expected train/<class>/... and test/<class>/... in it."
        if part == "test" and (root / "train").is_dir():
            advice = (
                "Accuracy is measured on images that are never trained on: move some of each "
                "class (a fifth, say) from train/<class>/ to test/<class>/."
            )
        raise DataError(f"there is no folder {str(where)!r}. {advice}")
    try:
        names = sorted(
            e.name for e in os.scandir(where) if e.is_dir() and not e.name.startswith(".")
        )
        found = {name: _files(where / name) for name in names}
    except OSError as error:
        raise DataError(f"{str(where)!r} cannot be listed: {error}.") from error
    if not found:
        raise DataError(f"{str(where)!r} has no class folders; expected {part}/<class>/<image>.")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(
            f"no image in {first_few([str(where / name) for name in empty])}. Add images or remove "
            "the folder."
        )
    return found


def _files(where: Path) -> list[Path]:
    if where.is_symlink() and where.parent.resolve().is_relative_to(where.resolve()):
        raise DataError(f"{str(where)!r} links to a folder that contains it. Remove the link.")
    files = []
    for folder_name, below, names in os.walk(where, onerror=_raise):  # links are not followed
        below[:] = sorted(name for name in below if not name.startswith("."))
        visible = (Path(folder_name, name) for name in names if not name.startswith("."))
        # Opening a pipe or a device could wait for ever; a broken link is named when it is read.
        files += [path for path in visible if path.is_file() or not path.exists()]
    return sorted(files)


def _raise(error: OSError) -> None:
    raise error


def _same_classes(root: Path, names: dict[str, list[str]]) -> list[str]:
    if names["train"] != names["test"]:
        only = {
            "train": sorted(set(names["train"]) - set(names["test"])),
            "test": sorted(set(names["test"]) - set(names["train"])),
        }
        found = "; ".join(f"only in {part}: {first_few(few)}" for part, few in only.items() if few)
        raise DataError(f"train and test of {str(root)!r} must have the same classes; {found}.")
    return names["train"]


def _decode_all(
    paths: dict[str, list[Path]], size: tuple[int, int], progress: bool
) -> tuple[dict[str, _Decoded], list[str]]:
    """Decode all files in threads; return the images and what went wrong, in the files' order."""
    decoded, failures = {}, []
    total = sum(len(files) for files in paths.values())
    with (
        # Pillow warns about odd metadata and near bombs, from every thread, file by file.
        warnings.catch_warnings(),
        tqdm(
            total=total, desc="reading images", unit="img", disable=None if progress else True
        ) as bar,
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool,
    ):
        warnings.simplefilter("ignore")
        Image.init()
        for part, files in paths.items():
            out = _Decoded(
                np.zeros((len(files), *size, 3), np.uint8),
                np.zeros(len(files), bool),
                np.zeros(len(files), bool),
            )
            starts = range(0, len(files), _BATCH)
            tasks = [pool.submit(_decode_batch, files, start, size, out) for start in starts]
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
    files: list[Path], start: int, size: tuple[int, int], out: _Decoded
) -> tuple[int, list[str]]:
    """Decode `files[start : start + _BATCH]` into `out`; return their number and the failures."""
    batch, failures = files[start : start + _BATCH], []
    for index, path in enumerate(batch, start):
        try:
            out.x[index], out.grey[index] = _decode(path, size)
            out.ok[index] = True
        except Exception as error:  # decoders raise nearly everything on a damaged file
            failures.append(f"{path} ({error or type(error).__name__})")
    return len(batch), failures


def _decode(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Return the image as `(h, w, 3)` uint8, and whether the file is grey."""
    h, w = size
    with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded"
            )
        grey = image.mode in _GREY_MODES
        # JPEG can decode at 1/2, 1/4 or 1/8: many times faster, and still twice what is needed.
        image.draft(None, (2 * max(h, w), 2 * max(h, w)))
        rgb = _rgb(ImageOps.exif_transpose(image))
    if rgb.size != (w, h):
        rgb = rgb.resize((w, h), Image.Resampling.BILINEAR)  # Pillow's is antialiased
    return np.asarray(rgb), grey


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; store 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits; older Pillows call it "I"
        sixteen = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray((sixteen >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


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
