"""The data set of a folder of shards: its labels, and its images as they are needed."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from alprune.data.dataset import (
    UNKNOWN,
    Dataset,
    LoadOptions,
    Splits,
    check_classes_present,
    digest_of,
    first_few,
)
from alprune.data.encoded import Encoded, Known, files_of
from alprune.data.folder import DEFAULT_SIZE
from alprune.data.image_cache.decode import MAX_BYTES
from alprune.data.image_cache.store import place_for, temporary, unwritable
from alprune.data.lazy_rows import ChosenRows
from alprune.data.leftovers import in_words
from alprune.data.names import KnownNames, unified
from alprune.data.progress_bar import progress_bar
from alprune.data.safe_io import open_ordinary, read_whole, user_path
from alprune.data.shards.index import TEXT, Index, open_index
from alprune.data.shards.listing import list_shards
from alprune.data.shards.pixels import Pixels
from alprune.data.shards.tar import BLOCK, list_samples
from alprune.data.statistics import channel_statistics
from alprune.data.tables import decode
from alprune.errors import DataError

CLASSES = "classes.txt"
_LOOKED_AT = 10_000  # training images that mean and standard deviation are taken from
_LOOKED_AT_BYTES = 2**28  # and what they may take
_AT_ONCE = 1000
_SMALL_BYTES = 2**25  # of shards that are listed each time
_LONGEST_NAMES = 2**24  # bytes of the class names


def load(path: str, options: LoadOptions) -> Splits:
    """Load the .tar files of training and of test images below a folder.

    `listing.list_shards` says which are which, `tar.list_samples` what makes a sample. A `.cls`
    holds the number of the class, or its name; `classes.txt`, one name a line, gives numbers
    their names, and says how many there are. Images are resized, and of one channel if those
    looked at, 10,000 training images and the test images, all are grey.

    Up to `options.in_memory` bytes images are decoded at once and held in memory. Of more, test
    images are decoded once, to find those that cannot be, and training images when they are
    needed.

    Raises:
        DataError: A shard is missing or damaged, labels are missing or no classes, or images do
            not decode (unless `options.skip_unreadable`); the message names them.
    """
    with ExitStack() as stack:
        index, place, stays = _index(stack, path, options)
        y, classes = _labels(index, options.incomplete)
        left_out = {"samples without an image": index.others.get("cls", 0)}
        try:
            return decoded(index, y, classes, place if stays else None, options, left_out)
        except OSError as error:
            raise unwritable(place, error) from error


def open_images(path: str, options: LoadOptions) -> tuple[Index, Tensor, tuple[str, ...]]:
    """Return the images of shards, their classes `(n,)`, -1 where unknown, and the names of these.

    Raises:
        DataError: As from `load`.
    """
    with ExitStack() as stack:
        index = _index(stack, path, options)[0]
        return index, *_labels(index, options.incomplete)


def _index(stack: ExitStack, path: str, options: LoadOptions) -> tuple[Index, Path, bool]:
    """Return what is in shards, the cache, and whether that stays after the stack."""
    shards = list_shards(user_path(path), options.follow_links, options.incomplete)
    size = options.size or DEFAULT_SIZE
    if options.cache is None and shards.size <= _SMALL_BYTES:
        place, stays = stack.enter_context(temporary()), False
    else:
        place, stays = stack.enter_context(place_for(shards.root, size, options.cache))
    try:
        return open_index(place, shards, size, options.progress), place, stays
    except OSError as error:
        raise unwritable(place, error) from error


def samples(path: str, options: LoadOptions, count: int) -> Iterator[bytes]:
    """Yield some images of the first shard, as they are stored."""
    shards = list_shards(user_path(path), options.follow_links, incomplete=True)
    first = shards.root / (*shards.train, *shards.test)[0].path
    places = list_samples(first).places
    with open_ordinary(first) as file:
        for block, size in places[:: max(1, len(places) // count)].tolist():
            file.seek(block * BLOCK)
            yield file.read(min(size, MAX_BYTES))


def decoded(
    images: Encoded,
    y: Tensor,
    classes: tuple[str, ...],
    place: Path | None,
    options: LoadOptions,
    left_out: Mapping[str, int],
) -> Splits:
    """Make a data set of images that are stored encoded.

    Args:
        images: Test images, then those to train on.
        y: Class of each image, `(n,)`.
        classes: Names of the classes.
        place: Cache for decoded images; None: they are decoded each time.
        options: As for `load`.
        left_out: Number of things that are not images of the data set, by their kind.

    Raises:
        DataError: Images do not decode (unless `options.skip_unreadable`), or classes have none.
        OSError: The cache cannot be written.
    """
    pixels = Pixels(images, place, options.size or DEFAULT_SIZE, options.skip_unreadable)
    known = Known(images, place, options.progress) if options.incomplete else None
    rows = range(images.tests), range(images.tests, len(images))
    parts = [_part(pixels, some, y, options) for some in rows]
    return _splits(parts, classes, pixels, options, known, left_out)


Part = tuple[Tensor, Tensor, Tensor]


def _part(pixels: Pixels, rows: range, y: Tensor, options: LoadOptions) -> Part:
    """Return images and labels of test or training samples, and their numbers, `(m,)`."""
    x: Tensor = ChosenRows(pixels, rows)
    of_test, labels = rows.start == 0, y[rows.start : rows.stop]
    needed, numbers = math.prod(x.shape), torch.arange(rows.start, rows.stop)
    if needed > options.in_memory and not of_test:
        return x, labels, numbers
    what = "test images" if of_test else "training images"
    held = torch.empty(x.shape, dtype=torch.uint8) if needed <= options.in_memory else None
    bar = progress_bar(
        total=len(rows),
        desc=what,
        unit=" images",
        disable=not (options.progress and rows),
        leave=False,
    )
    with bar:
        for begin in range(0, len(rows), _AT_ONCE):
            images = x[begin : begin + _AT_ONCE].read()  # type: ignore[attr-defined]
            if held is not None:
                held[begin : begin + _AT_ONCE] = images
            bar.update(len(images))
    readable = torch.tensor([row for row in rows if row not in pixels.bad]) - rows.start
    if len(readable) == len(rows) or not len(rows):
        return (x if held is None else held), labels, numbers
    if not len(readable):
        raise DataError(f"no {what[:-1]} in {str(pixels.index.root)!r} could be decoded.")
    chosen = x.chosen(readable) if held is None else held[readable]  # type: ignore[attr-defined]
    return chosen, labels[readable], numbers[readable]


def _splits(
    parts: list[Part],
    classes: tuple[str, ...],
    pixels: Pixels,
    options: LoadOptions,
    known: Known | None,
    left_out: Mapping[str, int],
) -> Splits:
    (x_test, y_test, tests), (x_train, y_train, trains) = parts
    seen = _sample(x_train, pixels, options.progress)
    if _grey(seen) and _grey(x_test):
        x_test, x_train, seen = (_first_channel(x) for x in (x_test, x_train, seen))
    mean, std = channel_statistics(seen)
    flip = seen.shape[3] == 3

    def dataset(x: Tensor, y: Tensor, rows: Tensor) -> Dataset:
        size = (x.shape[1], x.shape[2])
        files = None if known is None else files_of(pixels.index, rows.numpy(), size, known)
        return Dataset(x, y, classes, mean, std, flip, digest_of(x, y, files), files)

    notes = (f"left out: {in_words(left_out)}",) if any(left_out.values()) else ()
    train, test = dataset(x_train, y_train, trains), dataset(x_test, y_test, tests)
    splits = Splits(train, test, notes)
    if not options.incomplete and int(y_train.min()) > UNKNOWN:
        check_classes_present(y_train, classes)
    return splits


def _sample(x: Tensor, pixels: Pixels, progress: bool) -> Tensor:
    """Read some training images, evenly spread, those out that cannot be read."""
    taken = min(len(x), _LOOKED_AT, max(1, _LOOKED_AT_BYTES // math.prod(x.shape[1:])))
    rows = torch.arange(taken) * len(x) // taken
    if not (isinstance(x, ChosenRows) and x.on_demand):
        return x[rows]
    found, parts = [], rows.split(_AT_ONCE)
    for some in progress_bar(parts, "looking at a sample", disable=not progress, leave=False):
        images = x[some]
        readable = [row not in pixels.bad for row in (some + pixels.index.tests).tolist()]
        found.append(images[torch.tensor(readable)])
    seen = torch.cat(found)
    if not len(seen):
        raise DataError(f"none of {taken:,} images of {str(pixels.index.root)!r} could be decoded.")
    return seen


def _grey(x: Tensor) -> bool:
    """Tell whether no image has a colour."""
    return all(
        bool((part[..., :1] == part[..., 1:]).all())
        for part in (x[begin : begin + _AT_ONCE] for begin in range(0, len(x), _AT_ONCE))
    )


def _first_channel(x: Tensor) -> Tensor:
    if isinstance(x, ChosenRows):
        return x.of_channels(1)
    return x[..., :1].contiguous()


def _labels(index: Index, incomplete: bool) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class of each sample, `(n,)` int64, and the names of the classes."""
    codes = torch.from_numpy(index.codes)
    named = _names(index)
    most = int(codes.max())
    if not index.texts and most == UNKNOWN and not incomplete:
        raise DataError(without_labels(index))
    if not named and most >= len(codes):
        raise DataError(
            f"a label of {str(index.root)!r} is {most}, of {len(codes):,} images: classes are "
            f"numbered 0..k-1. Number them so, write their names, or add {CLASSES}."
        )
    if not index.texts:  # they are mapped, and stay so
        if named and most >= len(named):
            raise DataError(
                f"a label of {str(index.root)!r} is {most}, and {CLASSES} names {len(named)} "
                f"classes: 0..{len(named) - 1}."
            )
        return codes, named or tuple(str(number) for number in range(most + 1))
    texts = [*index.texts, *(str(number) for number in codes[codes >= 0].unique().tolist())]
    known = KnownNames(named)
    name_of = {t: known.find(t) for t in texts} if named else {**unified(texts)}
    names = named or tuple(sorted({*map(str, name_of.values())}))
    if strange := sorted(text for text, name in name_of.items() if name is None):
        raise DataError(
            f"{len(strange)} labels of {str(index.root)!r} are not in its {CLASSES}: "
            f"{first_few(strange)}."
        )
    number_of = {text: names.index(str(name)) for text, name in name_of.items()}
    y = torch.full_like(codes, UNKNOWN)
    for number, text in enumerate(index.texts):
        y[codes == TEXT - number] = number_of[text]
    for number in codes[codes >= 0].unique().tolist():
        y[codes == number] = number_of[str(number)]
    return y, names


def without_labels(index: Index) -> str:
    """Say that shards have no labels where these are looked for, and where they may be."""
    said = (
        f"no image of the shards in {str(index.root)!r} has a label. Labels are read from a .cls "
        "file beside each image: 7.jpg, then 7.cls."
    )
    if count := index.others.get("cls"):
        said += (
            f" There are {count:,} .cls files apart from their images: files of one sample must "
            "follow one another, as tar --sort=name puts them."
        )
    other = {name: n for name, n in index.others.items() if name != "cls" and n}
    if other:
        listed = ", ".join(f"{count:,} .{name}" for name, count in sorted(other.items())[:5])
        said += f" Other files are not read ({listed}): write the class into a .cls file."
    return said


def _names(index: Index) -> tuple[str, ...]:
    """Read the names of the classes; none if there is no such file."""
    path = index.root / CLASSES
    if not os.path.exists(path):
        return ()
    try:
        text = decode(read_whole(path, _LONGEST_NAMES))
    except (OSError, DataError) as error:
        raise DataError(f"{str(path)!r} cannot be read as text: {error}") from error
    if text.guess is not None:
        raise DataError(f"{str(path)!r} is not in UTF-8. Save it as UTF-8 with a mark.")
    return tuple(line.strip() for line in text.content.splitlines() if line.strip())
