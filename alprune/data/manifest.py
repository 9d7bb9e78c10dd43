"""Images that a table lists, each with path, label and split: `csv:FILE`, `parquet:FILE`."""

import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from alprune.data.dataset import UNKNOWN, LoadOptions, Splits, first_few
from alprune.data.doubtful import as_whole, why_doubtful
from alprune.data.folder import load_listing
from alprune.data.leftovers import in_words
from alprune.data.listing import Listing
from alprune.data.names import folded, is_name, unified
from alprune.data.safe_io import no_folder, read_whole, user_path
from alprune.data.tables import decode, other_readings, read_table
from alprune.errors import DataError, counted, quoted

FILE_BYTES = 2**30  # of a table: ten million images
COLUMNS = {
    "path": ("path", "file", "filename", "image", "filepath", "file_name"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "set", "subset", "fold"),
}
PARTS = {"": "train", "train": "train", "training": "train", "test": "test", "testing": "test",
          **dict.fromkeys(("val", "valid", "validation", "dev"), "val")}  # fmt: skip
_SETTINGS = (*COLUMNS, "root", "encoding")

Row = tuple[str, str, str, str]  # place in the file, path, label, split
Rows = Callable[[Path, Mapping[str, str]], Iterable[Row]]


def load_csv(name: str, options: LoadOptions) -> Splits:
    """Load the images that a CSV file lists, see `listed`; `encoding` names its code page.

    Raises:
        DataError: The table or an image cannot be used; the message says which.
    """
    return load_listing(listed(name, _csv_rows, options.follow_links), options)


def load_parquet(name: str, options: LoadOptions) -> Splits:
    """Load the images that a Parquet file lists, see `listed`.

    Raises:
        DataError: The table or an image cannot be used, or pyarrow is not installed.
    """
    return load_listing(listed(name, _parquet_rows, options.follow_links), options)


def listed(name: str, kind: "str | Rows", follow_links: bool) -> Listing:
    """Return the images that a table lists.

    An empty label is one that is not known. The column `split` says train, test or val; without
    it, or where it is empty, images are for training. Of a table with test and val, the images of
    val are left out; they are tested on where there is no test.

    Args:
        name: Path of the table; `?path=COLUMN&label=COLUMN&split=COLUMN` behind it names columns
            that are called otherwise, `root=FOLDER` the folder that paths begin in instead of the
            table's own.
        kind: "csv" or "parquet", or what reads the rows: `(path, settings) -> rows`.
        follow_links: Take files to which links lead out of the folder.

    Raises:
        DataError: The table cannot be used; the message says why.
    """
    rows_of = {"csv": _csv_rows, "parquet": _parquet_rows}[kind] if isinstance(kind, str) else kind
    path, settings = _settings(name)
    root = root_of(name)
    if not os.path.isdir(root):
        raise DataError(no_folder(root))
    try:
        return _listing(root, list(rows_of(path, settings)), follow_links)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def samples(kind: str, name: str, options: LoadOptions, count: int) -> Iterator[Path]:
    """Yield some of the files that a table lists, evenly spread."""
    listing = listed(name, kind, options.follow_links)
    for path in listing.paths[:: max(1, len(listing) // count)]:
        yield listing.root / path


def root_of(name: str) -> Path:
    """Return the folder that the paths of a table begin in; `name` as for `listed`."""
    path, settings = _settings(name)
    return user_path(settings["root"]) if "root" in settings else path.parent


def settings_of(name: str, known: Sequence[str], example: str) -> tuple[str, dict[str, str]]:
    """Divide a name as in `photos.csv?label=species` into the part before `?` and its settings.

    Raises:
        DataError: A setting is not one of those known; `example` is shown.
    """
    place, _, query = name.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    if strange := sorted({*settings} - {*known}):
        raise DataError(
            f"{strange[0]!r} is not a setting of such a data set; known: {', '.join(known)}, as in "
            f"{example}."
        )
    return place, settings


def _settings(name: str) -> tuple[Path, dict[str, str]]:
    place, settings = settings_of(name, _SETTINGS, "csv:photos.csv?path=file&label=species")
    return user_path(place), settings


def _csv_rows(path: Path, settings: Mapping[str, str]) -> Iterator[Row]:
    try:
        text = decode(read_whole(path, FILE_BYTES), settings.get("encoding"))
        table = read_table(text)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}.") from error
    places = _places(table.columns, settings)
    for number, row in table.rows:
        where, what, part = (row[i] if i is not None else "" for i in places)
        if table.guess is not None and not f"{where}{what}".isascii():
            strange = what if not what.isascii() else where
            raise DataError(
                f"line {number} is in an encoding that the file does not state: "
                f"{' or '.join(other_readings(strange, table.guess)) or quoted(strange)}. Name the "
                "right one, as in ?encoding=cp1251, or save the file as UTF-8."
            )
        yield f"line {number}", where, what.strip(), part


def _parquet_rows(path: Path, settings: Mapping[str, str]) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError("a Parquet file needs the package pyarrow: pip install pyarrow.") from error
    try:
        file = parquet.ParquetFile(path)
        columns = tuple(file.schema_arrow.names)
        places = _places(columns, settings)
        wanted = [columns[i] for i in places if i is not None]
        number = 0
        for batch in file.iter_batches(columns=wanted):
            found = batch.to_pydict()
            for row in range(batch.num_rows):
                number += 1
                cells = (found[columns[i]][row] if i is not None else None for i in places)
                where, what, part = (_text(cell, f"row {number}") for cell in cells)
                yield f"row {number}", where, what.strip(), part
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds on a damaged file
        raise DataError(f"it is not a readable Parquet file: {error}.") from error


def _text(cell: Any, where: str) -> str:
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, bytes):
        return os.fsdecode(cell)
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if not isinstance(cell, str | int | float):
        raise DataError(
            f"{where}: a path, label or split must be text or a number, got {quoted(cell)}."
        )
    return str(cell)


def _places(columns: tuple[str, ...], settings: Mapping[str, str]) -> list[int | None]:
    """Return where path, label and split are; None for a split or label that is not there."""
    lower, places = [column.strip().lower() for column in columns], []
    for what, names in COLUMNS.items():
        wanted = (settings[what].lower(),) if what in settings else names
        found = next((lower.index(name) for name in wanted if name in lower), None)
        if found is not None and lower.count(lower[found]) > 1:
            raise DataError(f"it has two columns {columns[found]!r}. Remove one.")
        if found is None and (what == "path" or what in settings):
            raise DataError(
                f"it has no column {' or '.join(map(repr, wanted))}; got {quoted([*columns])}. "
                f"Name the right one, as in ?{what}=COLUMN."
            )
        places.append(found)
    others = [column for i, column in enumerate(columns) if i not in places and column.strip()]
    if places[1] is None and others:
        warnings.warn(
            f"the table has no column {' or '.join(map(repr, COLUMNS['label']))}, so no image has "
            f"a label. If one of {quoted(others)} holds them, name it, as in ?label=COLUMN.",
            stacklevel=2,
        )
    return places


def _listing(root: Path, rows: list[Row], follow_links: bool) -> Listing:
    """Make a listing of the rows, training images first, each part in the order of its paths."""
    label_of = _classes(rows)
    parts: dict[str, dict[str, int]] = {"train": {}, "test": {}, "val": {}}
    classes = tuple(sorted({*label_of.values()}, key=_in_order))
    number_of = {name: number for number, name in enumerate(classes)}
    seen: dict[str, tuple[str, str, str]] = {}
    for where, written, label, split in rows:
        path = _below(root, written, where)
        part = PARTS.get(folded(split))
        if part is None:
            raise DataError(
                f"{where}: the split is {quoted(split)}; known: {', '.join(filter(None, PARTS))}."
            )
        if (first := seen.setdefault(path, (where, label, part)))[1:] != (label, part):
            raise DataError(
                f"{where} and {first[0]} name {quoted(path)} with different labels or splits."
            )
        parts[part][path] = number_of[label_of[label]] if label else UNKNOWN
    left_out = {}
    if parts["test"]:
        left_out = {"images of the split val": len(parts["val"])}
    else:
        parts["test"] = parts["val"]
    if not parts["train"]:
        raise DataError("it lists no image to train on.")
    known = {part: sorted(parts[part], key=_by_parts) for part in ("train", "test")}
    paths = [*known["train"], *known["test"]]
    labels = [parts[part][path] for part, some in known.items() for path in some]
    if not follow_links:
        _refuse_links_out(root, paths)
    looked = np.array([_look(root / path) for path in paths], np.int64)
    notes = (f"left out: {in_words(left_out)}",) if any(left_out.values()) else ()
    return Listing(
        root=root,
        classes=classes,
        paths=paths,
        sizes=looked[:, 0],
        modified=looked[:, 1],
        labels=np.array(labels, np.int64),
        tests=len(parts["test"]),
        unusable=[],
        notes=notes,
    )


def _classes(rows: list[Row]) -> dict[str, str]:
    """Return the class of each label, however it is spelt."""
    first = {label: where for where, _, label, _ in reversed(rows) if label}
    wholes = {label: as_whole(label) or label for label in first}
    _warn_of_numbers(wholes, first)
    if all(whole.lstrip("+-").isdigit() for whole in wholes.values()):
        return wholes  # numbers that pandas has written as 3.0, where some are missing
    for label, where in first.items():
        if (why := why_doubtful(label)) is not None:
            raise DataError(f"{where}: {quoted(label)} is hardly the name of a class: {why}.")
        if not is_name(label):
            raise DataError(f"{where}: {quoted(label)} cannot name a class.")
    return unified(first)


def _warn_of_numbers(wholes: Mapping[str, str], first: Mapping[str, str]) -> None:
    """Warn of numbers that may be no class, or the same class as another."""
    spelt: dict[int, set[str]] = {}
    for whole in wholes.values():
        if whole.isascii() and whole.removeprefix("-").isdigit() and len(whole) < 18:
            spelt.setdefault(int(whole), set()).add(whole)
    if min(spelt, default=0) < 0:
        label = next(label for label, whole in wholes.items() if whole in spelt[min(spelt)])
        warnings.warn(
            f"{first[label]}: {quoted(label)} counts as a class. If it marks images without a "
            "label, leave their cells empty.",
            stacklevel=2,
        )
    if alike := [sorted(names) for _, names in sorted(spelt.items()) if len(names) > 1]:
        warnings.warn(
            f"{first_few([' and '.join(map(quoted, names)) for names in alike])} are different "
            "classes, though the same number. If a spreadsheet dropped zeros, write them alike.",
            stacklevel=2,
        )


def _below(root: Path, written: str, where: str) -> str:
    """Return a path below the root, parts joined by "/"."""
    plain = written if os.path.lexists(root / written) else written.strip().replace("\\", "/")
    if not plain or "\0" in plain:
        raise DataError(f"{where} names no image.")
    path = os.path.normpath(os.path.join(os.path.abspath(root), plain))
    try:
        inside = os.path.relpath(path, os.path.abspath(root))
    except ValueError:  # on another drive of Windows
        inside = ".."
    if inside == ".." or inside.startswith(f"..{os.sep}"):
        raise DataError(
            f"{where}: {quoted(written)} does not lie in {str(root)!r}. Name the folder of all "
            "images, as in ?root=FOLDER."
        )
    return Path(inside).as_posix()


def _refuse_links_out(root: Path, paths: list[str]) -> None:
    """Refuse files that links lead to outside of the root."""
    inside, known = os.path.realpath(root), {}
    out = []
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in known:
            known[folder] = os.path.realpath(os.path.join(root, folder))
        place = os.path.join(root, path)
        end = os.path.realpath(place) if os.path.islink(place) else known[folder]
        if not Path(end).is_relative_to(inside):
            out.append(repr(path))
    if out:
        raise DataError(
            counted(len(out), "path leads", "paths lead")
            + f" out of {str(root)!r} by links: {first_few(out)}. If that is meant, pass "
            "--follow-links."
        )


def _look(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # it is named when it is read
        return -1, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)


def _in_order(name: str) -> tuple[int, str]:
    is_number = name.isascii() and name.isdigit() and len(name) < 18
    return (int(name), name) if is_number else (2**63, name)


def _by_parts(path: str) -> str:
    return path.replace("/", "\0")
