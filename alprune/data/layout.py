"""How a folder of images is to be read: which of its folders are parts, and which classes."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from alprune.data.dataset import first_few
from alprune.data.leftovers import FOLDER_LINKS, is_link, kind_of_folder, kind_of_loose
from alprune.data.names import KnownNames, folded, is_unlabelled
from alprune.errors import DataError, counted, printable

UNLABELLED = "unlabelled"
_TRAIN, _TEST, _VALIDATION = ("train",), ("test",), ("val", "valid", "validation")
_MOST_COUNTED = 100_000  # images of a folder that is left out
_ASK = "A person can label them: alprune label NEW_FOLDER --dataset folder:{root}"


@dataclass(frozen=True)
class Layout:
    """The reading of a folder of images.

    Attributes:
        train: Name of the folder whose class folders are trained on; "" if they lie in the root.
        test: Name of the folder whose class folders are tested on; None without one.
        beside: Folders and files of the root that hold more images without a label.
        left_out: Images of the root that belong to no part, by where they lie.
        notes: What was decided that could have been meant otherwise, for people.
    """

    train: str
    test: str | None
    beside: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """Content of a folder, without hidden entries and what programs leave behind."""

    folders: tuple[str, ...]
    images: tuple[str, ...]


def layout_of(root: Path, incomplete: bool) -> Layout:
    """Find out how a folder is meant.

    Images are in `train/<class>/` and `test/<class>/` (or `val/<class>/`, if there is no `test`);
    if `incomplete`, without a folder `train`, in `<class>/` and `test/<class>/`. A folder `train`
    that holds images and no folders, beside folders that hold images too, is a class.

    Raises:
        DataError: A folder is missing, or could be meant in two ways; the message says what to do.
    """
    here = _look(root)
    train, test, val = (_part(root, here, words) for words in (_TRAIN, _TEST, _VALIDATION))
    notes = []
    others = [name for name in here.folders if name not in (train, test)]
    classes = [name for name in others if not is_unlabelled(name)]
    if train is not None and not _look(root / train).folders and _look(root / train).images:
        if any(_has_image(root / name) for name in classes):
            notes.append(f"{train}/ is read as a class: it holds images and no class folders")
            others, classes, train = [*others, train], [*classes, train], None
    if train is None:
        if not incomplete:
            raise DataError(_no_train(root))
        _refuse_test_of_images(root, test, classes)
        return Layout("", test, notes=tuple(notes))
    if test is None and val is not None and _look(root / val).folders:
        test = val
        others, classes = ([n for n in some if n != val] for some in (others, classes))
        notes.append(f"{val}/ is tested on")
    holding = [name for name in classes if _has_image(root / name)]
    if incomplete and (strange := [name for name in holding if name != val]):
        raise DataError(
            f"{str(root)!r} holds {train}/ and, beside it, other folders of images: "
            f"{first_few([repr(name) for name in strange])}. If these are classes, move them into "
            f"{train}/ (or, if {train!r} is a class itself, its folders out of it); if not, move "
            "them elsewhere."
        )
    _refuse_test_of_images(root, test, [train])
    if incomplete:
        without = [name for name in others if is_unlabelled(name)]
        return Layout(train, test, (*without, *here.images), _counted(root, holding), tuple(notes))
    left = [name for name in others if name in holding or is_unlabelled(name)]
    counts = _counted(root, left)
    if here.images:
        counts["images in no folder"] = len(here.images)
    return Layout(train, test, (), counts, tuple(notes))


def _look(folder: Path) -> _Found:
    try:
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name)
        folders = [e.name for e in visible if os.path.isdir(e.path)]
        files = [e.name for e in visible if not os.path.isdir(e.path)]
    except OSError as error:
        raise DataError(f"{str(folder)!r} cannot be listed: {error}.") from error
    return _Found(
        tuple(name for name in folders if kind_of_folder(f"{folder}/{name}", name) is None),
        tuple(name for name in files if kind_of_loose(name) is None),
    )


def _part(root: Path, here: _Found, words: tuple[str, ...]) -> str | None:
    """Return the folder of one of these names, in upper or lower case."""
    for word in words:
        found = [name for name in here.folders if folded(name) == word]
        if len(found) > 1:
            listed = " and ".join(repr(name) for name in found)
            raise DataError(f"{str(root)!r} holds both {listed}. Put their images together.")
        if found:
            return found[0]
    return None


def _has_image(folder: Path) -> bool:
    # Where a link leads is not looked at before it is known that it may be.
    return is_link(folder) or next(_images(folder), None) is not None


def _images(folder: Path) -> Iterator[str]:
    """Yield the files below a folder that have an image's name, in no order."""
    for path, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and kind_of_folder(f"{path}/{name}", name) is None
        ]
        yield from (n for n in files if n[0] != "." and kind_of_loose(n) is None)


def _counted(root: Path, folders: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name in folders:
        if is_link(root / name):
            counts[FOLDER_LINKS] += 1
            continue
        count = sum(1 for _ in islice(_images(root / name), _MOST_COUNTED))
        counts[f"images in {printable(name)}/"] = count
    return counts


def _refuse_test_of_images(root: Path, test: str | None, beside: list[str]) -> None:
    """Refuse a folder of test images that lie in no class folders."""
    if test is None:
        return
    found = _look(root / test)
    if found.images and not found.folders:
        advice = f"Sort them into {test}/<class>/, or move them to {UNLABELLED}/."
        if beside and folded(test) in _TEST:
            advice += f" If {test!r} is a class, give its folder a longer name."
        raise DataError(
            f"{str(root / test)!r} holds {counted(len(found.images), 'image', 'images')} without a "
            f"label, which can test nothing. {advice}"
        )


def _no_train(root: Path) -> str:
    advice = "Expected train/<class>/... and test/<class>/... in it."
    if os.path.isdir(root):
        advice += " Are there images whose class is not known? " + _ASK.format(root=root)
    return f"there is no folder {str(root / 'train')!r}. {advice}"


def images_without_label(root: Path, count: int) -> DataError:
    """Return the error of a run on images that lack labels."""
    return DataError(
        counted(count, f"image in {str(root)!r} has", f"images in {str(root)!r} have")
        + f" no label (those in {UNLABELLED}/, or in no class folder), and this needs labelled "
        "ones. " + _ASK.format(root=root.parent)
    )


def label_of(shown: str, classes: KnownNames) -> str | None:
    """Return the class that a file's folders name, however it is spelt; None if they do not."""
    folders = shown.split("/")[:-1]
    if len(folders) > 1:  # a class folder called train or test holds none: see `layout_of`
        named, maybe = folded(folders[0]), folders[0] not in classes
        if named in (*_TRAIN, *_TEST) or (named in _VALIDATION and maybe):
            folders = folders[1:]
    return classes.find(folders[0]) if folders else None


def is_surely_unlabelled(path: str) -> bool:
    """Tell by its path alone that an image has no label; of others a listing knows."""
    folders = path.split("/")[:-1]
    if len(folders) > 1 and folded(folders[0]) in _TRAIN:
        folders = folders[1:]
    return not folders or is_unlabelled(folders[0])
