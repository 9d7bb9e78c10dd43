"""Data sets of Hugging Face, from the Hub or from a folder: `hf:NAME_OR_PATH`."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alprune.data.dataset import UNKNOWN, LoadOptions, Splits
from alprune.data.encoded import content_of
from alprune.data.folder import DEFAULT_SIZE
from alprune.data.image_cache.append_log import BlockWriter, read_blocks
from alprune.data.image_cache.decode import MAX_BYTES
from alprune.data.image_cache.store import INDEX, clear, locked, place_for, temporary, unwritable
from alprune.data.manifest import COLUMNS, PARTS, settings_of
from alprune.data.names import folded, unified
from alprune.data.safe_io import open_ordinary, user_path
from alprune.data.shards.splits import decoded
from alprune.errors import DataError, quoted

if TYPE_CHECKING:
    import datasets

_FORMAT = "alprune hf 1"
_SETTINGS = ("config", "image", "label")
_LABELS = ("label", "labels", *COLUMNS["label"][1:])
_SMALL = 1000  # images up to which nothing is kept, if the tables take less than _SMALL_BYTES
_SMALL_BYTES = 2**25
_MOST_CLASSES = 100_000


class HubImages:
    """The images of a data set as it stores them; those of its test split come first.

    Args:
        parts: Names of splits with their images, one column that is not decoded.
        tests: How many of all rows are test images.
        root: Folder that image files must be in, if the data set only names them.
        follow_links: Take files to which links lead out of it.

    Attributes:
        root, tests, token, digest: As of `alprune.data.encoded.Encoded`.
    """

    def __init__(
        self,
        parts: Mapping[str, "datasets.Dataset"],
        tests: int,
        root: Path,
        follow_links: bool,
    ) -> None:
        self.root, self.tests = root, tests
        self._parts, self._names = list(parts.values()), list(parts)
        self._first = np.cumsum([0, *map(len, self._parts)])
        self._inside = None if follow_links else os.path.realpath(root)
        self._column = self._parts[0].column_names[0]
        digest = hashlib.blake2b(repr(self._names).encode(), digest_size=8)
        for part in self._parts:
            digest.update(f"{part.cache_files} {len(part)}".encode())
            for file in part.cache_files:
                found = os.stat(file["filename"])
                digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
        if len(self):
            digest.update(content_of(self, 0))
        self.token = self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def kept_in_files(self) -> bool:
        """Whether the data set is in files, by which it is recognised."""
        return all(part.cache_files for part in self._parts)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the tables take; images may be in files besides."""
        return sum(int(part.data.nbytes) for part in self._parts)

    def pieces(self, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """Divide ascending rows into pieces of up to `most`."""
        for begin in range(0, len(rows), most):
            yield rows[begin : begin + most]

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Yield rows with their images, empty where one is too large, or missing.

        Raises:
            DataError: A file cannot be read, or is not below `root`.
        """
        for row in rows.tolist():
            stored = self._stored(row) or {}
            if (content := stored.get("bytes")) is None and stored.get("path"):
                content = self._file(stored["path"])
            yield row, b"" if content is None or len(content) > MAX_BYTES else content

    def called(self, row: int) -> str:
        """Return the name of an image: its split, then that of its file, or its number."""
        part = int(np.searchsorted(self._first, row, "right")) - 1
        path = (self._stored(row) or {}).get("path") or ""
        name = os.path.basename(path.replace("\\", "/")) or str(row - int(self._first[part]))
        return f"{self._names[part]}/{name}"

    def _stored(self, row: int) -> dict[str, Any] | None:
        part = int(np.searchsorted(self._first, row, "right")) - 1
        found = self._parts[part][row - int(self._first[part])][self._column]
        return found if isinstance(found, dict) else None

    def _file(self, path: str) -> bytes:
        real = os.path.realpath(path)
        if self._inside is not None and not Path(real).is_relative_to(self._inside):
            raise DataError(
                f"the data set names the file {path!r}, which is not in {str(self.root)!r}. If you "
                "made it, pass --follow-links."
            )
        try:
            with open_ordinary(real) as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path!r} cannot be read: {error.strerror or error}.") from error


def load(name: str, options: LoadOptions) -> Splits:
    """Load a data set with a column of images and a column of classes.

    The split `train` is trained on, `test` tested on, or `validation` where there is no `test` or
    all its labels are hidden. An image without a class has none, or -1. Images are decoded as those
    of shards are, see `alprune.data.shards`.

    Args:
        name: Of a data set on the Hub, or the path of a folder (images, Parquet files, or what
            `save_to_disk` wrote) or Parquet file. `?config=NAME&image=COLUMN&label=COLUMN` behind
            it chooses where there is more than one.
        options: As for a folder of images.

    Raises:
        DataError: The package `datasets` is missing, or the data set cannot be used.
    """
    images, y, classes, left_out = _opened(name, options)
    size = options.size or DEFAULT_SIZE
    with ExitStack() as stack:
        few = len(images) <= _SMALL and images.stored_bytes <= _SMALL_BYTES
        small = options.cache is None and few
        if small or not images.kept_in_files:
            place, stays = stack.enter_context(temporary()), False
        else:
            place, stays = stack.enter_context(place_for(images.root / "hf", size, options.cache))
        try:
            if stays:
                _prepare(place, images, size)
            return decoded(images, y, classes, place if stays else None, options, left_out)
        except OSError as error:
            raise unwritable(place, error) from error


def samples(name: str, options: LoadOptions, count: int) -> Iterator[bytes]:
    """Yield some images, evenly spread, as they are stored."""
    images = _opened(name, options)[0]
    for row in range(0, len(images), max(1, len(images) // count)):
        yield content_of(images, row)


def open_images(name: str, options: LoadOptions) -> tuple[HubImages, Tensor, tuple[str, ...]]:
    """Return all images of a data set, their classes `(n,)`, and the names of the classes.

    Those of `test` are among them though their labels are hidden: they are to be predicted.

    Raises:
        DataError: As from `load`.
    """
    return _opened(name, options, tested=False)[:3]


def _opened(
    name: str, options: LoadOptions, tested: bool = True
) -> tuple[HubImages, Tensor, tuple[str, ...], dict[str, int]]:
    place, settings = settings_of(name, _SETTINGS, "hf:photos?image=photo&label=species")
    found, root = _loaded(place, settings.get("config"), options.progress)
    chosen: dict[str, list[str]] = {"train": [], "test": [], "val": []}
    left_out = {}
    for split, table in found.items():
        if (part := PARTS.get(folded(split))) is not None:
            chosen[part].append(split)
        else:
            left_out[f"images of the split {split}"] = len(table)
    hidden = tested and not _labelled(chosen["test"], found, settings)
    if hidden and _labelled(chosen["val"], found, settings):
        for split in chosen["test"]:
            left_out[f"images of the split {split}, none with a label"] = len(found[split])
        chosen["test"] = []
    tests = chosen["test"] or chosen["val"]
    if chosen["test"]:
        left_out |= {f"images of the split {split}": len(found[split]) for split in chosen["val"]}
    if not chosen["train"]:
        raise DataError(f"{place!r} has no split train; it has {', '.join(found) or 'nothing'}.")
    order = [*tests, *chosen["train"]]
    tables = {split: found[split] for split in order}
    image, label = _columns(place, tables, settings, options.incomplete)
    import datasets

    pictures = {
        split: table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        for split, table in tables.items()
    }
    y, classes = _labels(place, tables, label)
    count = sum(len(found[split]) for split in tests)
    return HubImages(pictures, count, root, options.follow_links), y, classes, left_out


def _loaded(
    place: str, config: str | None, progress: bool
) -> tuple[dict[str, "datasets.Dataset"], Path]:
    """Return the splits of a data set, and the folder that its files must be in."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "hf: needs the package datasets: pip install 'alprune[hf]', or pip install datasets."
        ) from error
    path = user_path(place)
    local = os.path.exists(path)
    try:
        with _quiet(progress):
            if local and any((path / n).exists() for n in ("dataset_dict.json", "state.json")):
                loaded: Any = datasets.load_from_disk(str(path))
            elif local and os.path.isfile(path):
                loaded = datasets.load_dataset("parquet", data_files=str(path))
            else:
                loaded = datasets.load_dataset(str(path) if local else place, config)
    except Exception as error:  # the library and what it calls raise nearly everything
        said = str(error).strip().split("\n")[0][:300] or type(error).__name__
        hint = "" if local else " It is not a folder here; a name on the Hub needs a network."
        raise DataError(
            f"data set {place!r} cannot be loaded: {said.rstrip('.')}.{hint}"
        ) from error
    found = loaded if isinstance(loaded, dict) else {"train": loaded}
    root = path if local and os.path.isdir(path) else path.parent
    return dict(found), root if local else Path(datasets.config.HF_CACHE_HOME)


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    import datasets

    shown = datasets.is_progress_bar_enabled()
    if shown and not progress:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _labelled(
    splits: Sequence[str], tables: Mapping[str, "datasets.Dataset"], settings: Mapping[str, str]
) -> bool:
    """Tell whether an image of these splits has a class."""
    for table in map(tables.__getitem__, splits):
        label = _label_column(table.features, settings)
        cells = table[label][:] if label in table.features else ()
        if any(_whole(cell) not in (None, "", UNKNOWN) for cell in cells):
            return True
    return False


def _label_column(features: Mapping[str, Any], settings: Mapping[str, str]) -> str | None:
    return settings.get("label") or next((name for name in _LABELS if name in features), None)


def _columns(
    place: str,
    tables: Mapping[str, "datasets.Dataset"],
    settings: Mapping[str, str],
    incomplete: bool,
) -> tuple[str, str | None]:
    """Return the names of the columns of images and of classes."""
    features = next(iter(tables.values())).features
    images = [name for name, feature in features.items() if _holds_images(feature)]
    image = settings.get("image") or (images[0] if len(images) == 1 else None)
    if image is None or image not in images:
        what = "it has several columns of images" if images else "it has no column of images"
        raise DataError(
            f"{place!r}: {what if 'image' not in settings else f'{image!r} holds no images'}; its "
            f"columns are {quoted([*features])}. Name one, as in ?image=COLUMN."
        )
    label = _label_column(features, settings)
    if label is None and incomplete:
        return image, None
    if label is None or label not in features:
        raise DataError(
            f"{place!r} has no column {label or 'label'!r}; its columns are "
            f"{quoted([*features])}. Name that of the classes, as in ?label=COLUMN."
        )
    if strange := [split for split, table in tables.items() if table.features != features]:
        raise DataError(f"the splits of {place!r} have different columns: see {strange[0]!r}.")
    return image, label


def _holds_images(feature: Any) -> bool:
    """Tell whether a column is of images, or of what a Parquet file stores of one."""
    if isinstance(feature, Mapping):
        return feature.keys() == {"bytes", "path"}
    return type(feature).__name__ == "Image"


def _labels(
    place: str, tables: Mapping[str, "datasets.Dataset"], label: str | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class of each image, `(n,)`, -1 where it has none, and the names."""
    if label is None:
        return torch.full((sum(map(len, tables.values())),), UNKNOWN), ()
    feature = next(iter(tables.values())).features[label]
    cells = [_whole(cell) for table in tables.values() for cell in table[label][:]]
    if names := getattr(feature, "names", None):
        y = [UNKNOWN if cell is None else int(cell) for cell in cells]
        return torch.tensor(y), tuple(map(str, names))
    if not all(cell is None or isinstance(cell, str | int) for cell in cells):
        raise DataError(f"{place!r}: the column {label!r} must hold text or whole numbers.")
    if all(cell is None or isinstance(cell, int) for cell in cells):
        y = [UNKNOWN if cell is None else max(int(cell), UNKNOWN) for cell in cells]
        if (most := max(y)) >= min(len(y), _MOST_CLASSES):
            raise DataError(f"{place!r}: a class is {most}; number them 0..k-1, or write names.")
        return torch.tensor(y), tuple(map(str, range(most + 1)))
    texts = [str(cell).strip() if cell is not None else "" for cell in cells]
    name_of = unified(sorted({*texts} - {""}))
    classes = tuple(sorted({*name_of.values()}))
    number_of = {text: classes.index(whole) for text, whole in name_of.items()}
    return torch.tensor([number_of.get(text, UNKNOWN) for text in texts]), classes


def _whole(cell: Any) -> Any:
    """Return the whole number, or None, that pandas turns into a float where some are missing."""
    if not isinstance(cell, float):
        return cell
    return None if math.isnan(cell) else int(cell) if cell.is_integer() else cell


def _prepare(place: Path, images: HubImages, size: tuple[int, int]) -> None:
    """Clear a cache that is not of these images."""
    header = {"format": _FORMAT, "root": str(images.root), "size": [*size], "token": images.token}
    said = json.dumps(header).encode()
    with locked(place):
        first = next(read_blocks(place / INDEX), None)
        if first is None or first.payload != said:
            clear(place)
            BlockWriter(place / INDEX, None, said).close()
