"""Which files a folder of images holds, and what the folders they lie in say of their labels."""

import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alprune.data.dataset import UNKNOWN, first_few
from alprune.data.layout import UNLABELLED, Layout, images_without_label, layout_of
from alprune.data.leftovers import (
    FOLDER_LINKS,
    OWN_FOLDERS,
    SPECIAL_FILES,
    in_words,
    is_link,
    kind_of_file,
    kind_of_folder,
    kind_of_loose,
    visible,
)
from alprune.data.names import KnownNames, has_control, is_unlabelled, unified
from alprune.data.safe_io import no_folder
from alprune.errors import DataError, counted, printable


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a folder: training images first, then test images, each sorted by path.

    Attributes:
        root: The folder.
        classes: Names of the class folders, sorted.
        paths: Each file's path below `root`, its parts joined by "/".
        sizes: Bytes of each file, `(n,)` int64; -1 where it cannot be looked at.
        modified: When each was changed last, nanoseconds, `(n,)` int64.
        labels: Class of each by its folder, `(n,)` int64, -1 where unknown.
        tests: How many of the last files are test images.
        unusable: Files that cannot even be listed, each with the reason.
        left_out: Number of files and folders that are not images of the data set, by their kind.
        notes: What was decided that could have been meant otherwise, for people.
    """

    root: Path
    classes: tuple[str, ...]
    paths: list[str]
    sizes: np.ndarray
    modified: np.ndarray
    labels: np.ndarray
    tests: int
    unusable: list[str]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class _Part:
    """What is found of one part, training or test, in no order yet."""

    paths: list[str] = field(default_factory=list)
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    modified: "array[int]" = field(default_factory=lambda: array("q"))
    folders: list[tuple[str | None, int]] = field(default_factory=list)  # class, files up to it
    links: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str | None, int]:
        """Number of files of each class, None for those without."""
        counts: dict[str | None, int] = {}
        begin = 0
        for name, end in self.folders:
            counts[name] = counts.get(name, 0) + end - begin
            begin = end
        return counts

    @property
    def classes(self) -> list[str]:
        return sorted(name for name in self.counts if name is not None)

    def end(self, name: str | None) -> None:
        """Note that the files up to here are of a class, or of none."""
        self.folders.append((name, len(self.paths)))

    def rename(self, classes: dict[str, str]) -> None:
        """Call classes otherwise."""
        self.folders = [(n if n is None else classes.get(n, n), end) for n, end in self.folders]

    def add(self, path: str, entry: "os.DirEntry[str]") -> None:
        if not _is_text(entry.name):
            self.unusable.append(f"{printable(entry.path)!r} (its name is no UTF-8 text)")
            return
        try:
            found = entry.stat()
        except OSError:  # a broken link; it is named when it is read
            size, modified = -1, 0
        else:
            if not stat.S_ISREG(found.st_mode):  # opening a pipe or a device could wait for ever
                self.left_out[SPECIAL_FILES] += 1
                return
            size, modified = found.st_size, found.st_mtime_ns
        if entry.is_symlink():
            self.links.append(path)
        self.paths.append(path)
        self.sizes.append(size)
        self.modified.append(modified)

    def sorted(self, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
        """Return the paths by their parts, and `(n, 3)` of sizes, times and labels."""
        labels = np.full(len(self.paths), UNKNOWN)
        begin = 0
        for name, end in self.folders:
            labels[begin:end] = UNKNOWN if name is None else classes.index(name)
            begin = end
        keys = [path.replace("/", "\0") for path in self.paths]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        columns = np.stack([np.array(self.sizes), np.array(self.modified), labels], 1)
        return [self.paths[i] for i in order], columns[order].astype(np.int64)


def list_folder(root: Path, *, follow_links: bool = False, incomplete: bool = False) -> Listing:
    """List a folder of images.

    `layout.layout_of` says which folders hold class folders: `train` with `test` beside it or, if
    `incomplete`, the folder itself. Images in `unlabelled/...` beside the class folders, and images
    beside them in no folder, have no label yet. A class has one name, whether its folder in
    `test` is called `Café`, `café ` or, as on a Mac, has its accents apart.

    Files may lie in folders below these. Hidden ones and what systems and programs leave behind
    (see `leftovers`) are left out, and counted. Links to folders are not followed. Links that
    lead out of `root` are refused, since an untrusted folder could name any file of yours by one.

    Args:
        root: The folder.
        follow_links: Take files to which links lead out.
        incomplete: Whether test images, labels, or any image of a class may be missing, as where
            a person is asked for the labels.

    Raises:
        DataError: A folder or what must be in it is missing, or could be meant in two ways; the
            message says what to do.
    """
    if not os.path.isdir(root):  # not Path.is_dir, which raises on a long name
        raise DataError(no_folder(root))
    layout = layout_of(root, incomplete)
    train = _scan(root, layout.train, layout, follow_links)
    if layout.test is None and not incomplete:
        raise DataError(
            f"there is no folder {str(root / 'test')!r}. Accuracy is measured on images that are "
            "never trained on: move some of each class (a fifth, say) from train/<class>/ to "
            "test/<class>/."
        )
    test = _Part() if layout.test is None else _scan(root, layout.test, layout, follow_links)
    if test.counts.get(None):
        raise DataError(
            f"{str(root / str(layout.test))!r} holds images without a label, which can test "
            f"nothing. Move them to {str(root / layout.train / UNLABELLED)!r}."
        )
    notes = [*layout.notes, *_unify(train, test)]
    if not incomplete:
        _check_complete(root, layout, train, test)
    classes = tuple(sorted({*train.classes, *test.classes}))
    parts = [part.sorted(classes) for part in (train, test)]
    left_out = layout.left_out + train.left_out + test.left_out
    if not parts[0][0]:
        found = f" ({in_words(left_out)} left out)" if left_out else ""
        raise DataError(
            f"there is no image in {str(root)!r}{found}. Put images into {UNLABELLED}/, and those "
            "whose class you know into a folder of its name."
        )
    columns = np.concatenate([columns for _, columns in parts])
    return Listing(
        root=root,
        classes=classes,
        paths=parts[0][0] + parts[1][0],
        sizes=columns[:, 0],
        modified=columns[:, 1],
        labels=columns[:, 2],
        tests=len(parts[1][0]),
        unusable=train.unusable + test.unusable,
        left_out=left_out,
        notes=tuple(notes),
    )


def _scan(root: Path, part: str, layout: Layout, follow_links: bool) -> _Part:
    """Find the files of `root/part`; of `root` itself if `part` is empty."""
    found, where, prefix = _Part(), root / part, f"{part}/" if part else ""
    of_test = part != "" and part == layout.test
    try:
        with os.scandir(where) as entries:
            shown = list(visible(entries, found.left_out))
        folders = [e for e in shown if os.path.isdir(e.path)]
        if not part:
            folders = [e for e in folders if e.name != layout.test]
        more = [] if of_test else _beside(root, layout)
        if not follow_links:  # refused before anything there is looked at
            links = [where, *(e.path for e in (*folders, *more) if is_link(e))]
            _refuse_links_out(root, [str(link) for link in links])
        for entry in shown:
            if not os.path.isdir(entry.path):
                _add_loose(found, prefix, entry, of_test)
        for entry in more:
            if os.path.isdir(entry.path):
                _add_all(found, entry, entry.name)
            else:
                found.add(entry.name, entry)
        if found.paths:
            found.end(None)
        for entry in folders:
            before = found.left_out[OWN_FOLDERS]
            if (kind := kind_of_folder(entry.path, entry.name)) is not None:
                found.left_out[kind] += 1
                continue
            _check_folder(entry)
            count = len(found.paths)
            _add_all(found, entry, prefix + entry.name)
            if len(found.paths) > count or found.left_out[OWN_FOLDERS] == before:
                found.end(None if is_unlabelled(entry.name) else entry.name)
        if not follow_links:
            _refuse_links_out(root, [f"{root}/{path}" for path in found.links])
    except OSError as error:
        raise DataError(f"{str(where)!r} cannot be listed: {error}.") from error
    return found


def _beside(root: Path, layout: Layout) -> list["os.DirEntry[str]"]:
    """Return the entries of the root that hold more images without a label."""
    if not layout.beside:
        return []
    with os.scandir(root) as entries:
        return [entry for entry in entries if entry.name in layout.beside]


def _add_loose(found: _Part, prefix: str, entry: "os.DirEntry[str]", of_test: bool) -> None:
    """Add a file outside of class folders, if its name says that it is an image."""
    kind = kind_of_loose(entry.name)
    if kind is None and of_test:
        kind = f"images in no folder of {prefix}"
    if kind is not None:
        found.left_out[kind] += 1
    else:
        found.add(prefix + entry.name, entry)


def _add_all(found: _Part, folder: "os.DirEntry[str]", prefix: str) -> None:
    """Add the files below a folder."""
    for path, file in _files(folder.path, prefix, found.left_out):
        found.add(path, file)


def _unify(train: _Part, test: _Part) -> list[str]:
    """Give class folders that are the same class one name; return notes on what was decided."""
    renamed = unified(train.classes)
    names = KnownNames(renamed.values())
    train.rename(renamed)
    of_test = {name: names.find(name) or name for name in test.classes}
    test.rename(of_test)
    differing = sorted(n for n, to in (renamed | of_test).items() if n != to)
    notes = []
    if differing:
        notes.append(
            counted(len(differing), "class folder is", "class folders are")
            + " one with another of the same name, written otherwise: "
            f"{first_few([repr(name) for name in differing])}"
        )
    if twins := sorted(n for n in train.classes if len(names.alike(n)) > 1):
        notes.append(f"different classes: {first_few([repr(name) for name in twins])}")
    return notes


def _files(
    where: str, prefix: str, left_out: Counter[str]
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the files below a folder, in no order, with their paths from `prefix` on."""
    folders = [(where, prefix)]
    while folders:
        folder, path = folders.pop()
        with os.scandir(folder) as entries:
            for entry in visible(entries, left_out):
                if entry.is_dir(follow_symlinks=False) and not is_link(entry):
                    if (kind := kind_of_folder(entry.path, entry.name)) is not None:
                        left_out[kind] += 1
                    else:
                        folders.append((entry.path, f"{path}/{entry.name}"))
                elif is_link(entry) and os.path.isdir(entry.path):
                    left_out[FOLDER_LINKS] += 1
                elif (kind := kind_of_file(entry.name)) is not None:
                    left_out[kind] += 1
                else:
                    yield f"{path}/{entry.name}", entry


def _check_folder(entry: "os.DirEntry[str]") -> None:
    if not _is_text(entry.name):
        raise DataError(
            f"the name of class folder {entry.path!r} is no UTF-8 text. Rename the folder."
        )
    if has_control(entry.name):
        raise DataError(
            f"the name of class folder {entry.path!r} holds control characters. Rename the folder."
        )
    if is_link(entry) and Path(os.path.realpath(os.path.dirname(entry.path))).is_relative_to(
        os.path.realpath(entry.path)
    ):
        raise DataError(f"{entry.path!r} links to a folder that contains it. Remove the link.")


def _refuse_links_out(root: Path, places: list[str]) -> None:
    inside = os.path.realpath(root)
    ends = {place: os.path.realpath(place) for place in places if is_link(Path(place))}
    out = [
        f"{link!r} to {end!r}"
        for link, end in sorted(ends.items())
        if not Path(end).is_relative_to(inside)
    ]
    if out:
        raise DataError(
            counted(len(out), "link leads", "links lead")
            + f" out of {str(root)!r}: {first_few(out)}. If that is meant, pass --follow-links; "
            "otherwise remove what leads out, or copy the files in."
        )


def _check_complete(root: Path, layout: Layout, train: _Part, test: _Part) -> None:
    """Refuse a folder that lacks what a run on a labelled data set needs."""
    if unknown := train.counts.get(None, 0):
        raise images_without_label(root / layout.train, unknown)
    for part, found in ((layout.train, train), (str(layout.test), test)):
        if not found.classes:
            raise DataError(
                f"{str(root / part)!r} has no class folders; expected {part}/<class>/<image>."
            )
        empty = [repr(str(root / part / c)) for c in found.classes if not found.counts[c]]
        if empty:
            raise DataError(f"no image in {first_few(empty)}. Add images or remove the folder.")
    only = {"train": {*train.classes} - {*test.classes}, "test": {*test.classes} - {*train.classes}}
    if any(only.values()):
        found_only = "; ".join(
            f"only in {part}: {first_few([repr(name) for name in sorted(few)])}"
            for part, few in only.items()
            if few
        )
        raise DataError(
            f"train and test of {str(root)!r} must have the same classes; {found_only}."
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python reads names
        return False
    return True
