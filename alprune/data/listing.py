"""Which files a folder of images holds, and what the folders they lie in say of their labels."""

import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alprune.data.dataset import UNKNOWN, first_few
from alprune.errors import DataError, printable

UNLABELLED = ("unlabelled", "unlabeled")
TEST = "test"
# Outside the class folders only files of these names count as images: there are notes as well.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .gif .bmp .dib .tif .tiff .webp .avif .ppm .pgm .pbm .pnm "
    ".jp2 .j2k .jpx".split()
)
_ASK = "A person can label them: alprune ask --dataset folder:{root}, or alprune label."


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a folder: training images first, then test images, each sorted by path.

    Attributes:
        root: The folder.
        classes: Names of the class folders, sorted.
        paths: Each file's path below `root`, its parts joined by "/".
        sizes: Bytes of each file, `(n,)` int64; -1 where it cannot be looked at.
        modified: When each was changed last, nanoseconds, `(n,)` int64.
        labels: Class of each by the folder that it lies in, `(n,)` int64, -1 where unknown.
        tests: How many of the last files are test images.
        unusable: Files that cannot even be listed, each with the reason.
    """

    root: Path
    classes: tuple[str, ...]
    paths: list[str]
    sizes: np.ndarray
    modified: np.ndarray
    labels: np.ndarray
    tests: int
    unusable: list[str]

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

    def add(self, path: str, entry: "os.DirEntry[str]") -> None:
        if not _is_text(entry.name):
            self.unusable.append(f"{printable(entry.path)!r} (its name is no UTF-8 text)")
            return
        try:
            found = entry.stat()
        except OSError:  # a broken link; it is named when it is read
            size, modified = -1, 0
        else:
            if not stat.S_ISREG(found.st_mode):
                return  # opening a pipe or a device could wait for ever
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

    Where there is a folder `train`, class folders lie in it: `train/<class>/...`, with
    `test/<class>/...` beside it. Otherwise, if `incomplete`, they lie in `root` itself:
    `<class>/...`, with or without `test/<class>/...`. Images in `unlabelled/...` beside the class
    folders, and images beside them in no folder, have no label yet.

    Files may lie in folders below these; hidden ones are ignored, links to folders there are not
    followed. Links that lead out of `root` are refused, for whoever made the folder could name
    any file of yours by one.

    Args:
        root: The folder.
        follow_links: Take files to which links lead out.
        incomplete: Whether test images, labels, or any image of a class may be missing, as where
            a person is asked for the labels.

    Raises:
        DataError: A folder or what must be in it is missing; the message says what to do.
    """
    nested = os.path.isdir(root / "train")  # not Path.is_dir, which raises on a long name
    if not nested and not incomplete:
        raise DataError(_no_train(root))
    if not os.path.isdir(root):
        raise DataError(f"there is no folder {str(root)!r}.")
    train = _scan(root, "train" if nested else "", follow_links)
    has_test = os.path.isdir(root / TEST)
    if not has_test and not incomplete:
        raise DataError(
            f"there is no folder {str(root / TEST)!r}. Accuracy is measured on images that are "
            "never trained on: move some of each class (a fifth, say) from train/<class>/ to "
            "test/<class>/."
        )
    test = _scan(root, TEST, follow_links) if has_test else _Part()
    if test.counts.get(None):
        raise DataError(
            f"{str(root / TEST)!r} holds images without a label, which can test nothing. Move them "
            f"to {str(root / ('train' if nested else '') / UNLABELLED[0])!r}."
        )
    if not incomplete:
        _check_complete(root, train, test)
    classes = tuple(sorted({*train.classes, *test.classes}))
    parts = [part.sorted(classes) for part in (train, test)]
    if not parts[0][0]:
        raise DataError(
            f"there is no image in {str(root)!r}. Put images into {UNLABELLED[0]}/, and those of "
            "which you know the class into folders of its name."
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
    )


def _scan(root: Path, part: str, follow_links: bool) -> _Part:
    """Find the files of `root/part`; of `root` itself if `part` is empty."""
    found, where, prefix = _Part(), root / part, f"{part}/" if part else ""
    try:
        with os.scandir(where) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [e for e in visible if os.path.isdir(e.path) and (part or e.name != TEST)]
        if not follow_links:  # refused before anything there is looked at
            links = [where, *(e.path for e in folders if e.is_symlink())]
            _refuse_links_out(root, [str(link) for link in links])
        loose = [e for e in visible if Path(e.name).suffix.lower() in SUFFIXES and e.is_file()]
        for entry in loose if part != TEST else []:
            found.add(prefix + entry.name, entry)
        if found.paths:
            found.folders.append((None, len(found.paths)))
        for entry in folders:
            _check_folder(entry)
            for path, file in _files(entry.path, prefix + entry.name):
                found.add(path, file)
            name = None if entry.name in UNLABELLED else entry.name
            found.folders.append((name, len(found.paths)))
        if not follow_links:
            _refuse_links_out(root, [f"{root}/{path}" for path in found.links])
    except OSError as error:
        raise DataError(f"{str(where)!r} cannot be listed: {error}.") from error
    return found


def _files(where: str, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the files below a folder, in no order, with their paths from `prefix` on."""
    folders = [(where, prefix)]
    while folders:
        folder, path = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{path}/{entry.name}"))
                elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                    yield f"{path}/{entry.name}", entry


def _check_folder(entry: "os.DirEntry[str]") -> None:
    if not _is_text(entry.name):
        raise DataError(
            f"the name of class folder {entry.path!r} is no UTF-8 text. Rename the folder."
        )
    if entry.is_symlink() and Path(os.path.realpath(os.path.dirname(entry.path))).is_relative_to(
        os.path.realpath(entry.path)
    ):
        raise DataError(f"{entry.path!r} links to a folder that contains it. Remove the link.")


def _refuse_links_out(root: Path, places: list[str]) -> None:
    inside = os.path.realpath(root)
    ends = {place: os.path.realpath(place) for place in places if os.path.islink(place)}
    out = [
        f"{link!r} to {end!r}"
        for link, end in sorted(ends.items())
        if not Path(end).is_relative_to(inside)
    ]
    if out:
        raise DataError(
            f"{len(out)} link(s) lead out of {str(root)!r}: {first_few(out)}. If you made them, "
            "pass --follow-links; otherwise remove them, or copy the files in."
        )


def _check_complete(root: Path, train: _Part, test: _Part) -> None:
    """Refuse a folder that lacks what a run on a labelled data set needs."""
    if unknown := train.counts.get(None, 0):
        raise DataError(
            f"{unknown:,} images in {str(root / 'train')!r} have no label (those in "
            f"{UNLABELLED[0]}/, or in no class folder), and this needs labelled ones. "
            + _ASK.format(root=root)
        )
    for part, found in (("train", train), ("test", test)):
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


def _no_train(root: Path) -> str:
    advice = "Expected train/<class>/... and test/<class>/... in it."
    if os.path.isdir(root):
        advice += " Are there images of which the classes are not known? " + _ASK.format(root=root)
    return f"there is no folder {str(root / 'train')!r}. {advice}"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python reads names
        return False
    return True
