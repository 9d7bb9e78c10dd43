"""Images that a table lists, or that shards and Hugging Face data sets hold."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alprune.data import LoadOptions, hugging_face, manifest
from alprune.data.encoded import Encoded, content_of
from alprune.data.names import KnownNames
from alprune.data.shards.splits import open_images as open_shards
from alprune.errors import DataError
from alprune.runs.predict.files import Batch, Entry, Source, as_text, decoded
from alprune.training.input_spec import Inputs

_Opens = Callable[[str, LoadOptions], tuple[Encoded, Tensor, tuple[str, ...]]]
_OPENS: dict[str, _Opens] = {"shards": open_shards, "hf": hugging_face.open_images}
TABLES = ("csv", "parquet")
KINDS = (*TABLES, *_OPENS)


@dataclass(frozen=True)
class _Listed:
    """The images of a data set, those for training before those for testing."""

    total: int
    entry: Callable[[int], Entry]
    left_out: str = ""


def stored_source(
    name: str, inputs: Inputs, follow_links: bool = False, cache: Path | None = None
) -> Source:
    """Open the images of a data set, those for training before those for testing.

    Args:
        name: Of one of the `KINDS`, as for `alprune.data.load`.
        inputs: What the learner takes.
        follow_links: Read files to which links lead out of a folder.
        cache: Where decoded images are kept.

    Raises:
        DataError: It is not there, or cannot be used.
    """
    found = _listed(name, inputs, follow_links, cache)

    def batches(begin: int) -> Iterator[Batch]:
        return decoded(map(found.entry, range(begin, found.total)), inputs)

    return Source(name, found.total, batches, found.left_out)


def sample_stored(name: str, inputs: Inputs, count: int, follow_links: bool) -> Tensor:
    """Read up to `count` images spread evenly over a data set, `(m, h, w, c)`.

    Raises:
        DataError: As from `stored_source`, or none of them can be read.
    """
    found = _listed(name, inputs, follow_links, None)
    rows = sorted({place * found.total // count for place in range(count)})
    images = [batch.images for batch in decoded(map(found.entry, rows), inputs)]
    if not any(map(len, images)):
        raise DataError(f"no image in {name!r} could be read.")
    return torch.cat(images)


def _listed(name: str, inputs: Inputs, follow_links: bool, cache: Path | None) -> _Listed:
    kind, _, path = name.partition(":")
    options = LoadOptions(
        size=inputs.image_shape[1:], follow_links=follow_links, incomplete=True, cache=cache
    )
    if kind in TABLES:
        listing = manifest.listed(path, kind, follow_links)
        of_files = _named(listing.classes, listing.labels, inputs)

        def file(row: int) -> Entry:
            shown = listing.paths[row]
            return Entry(str(listing.root / shown), as_text(shown), of_files[row])

        return _Listed(len(listing), file, "; ".join(listing.notes).removeprefix("left out: "))
    images, y, classes = _OPENS[kind](path, options)
    if not (total := len(images)):
        raise DataError(f"there is no image in {name!r}.")
    named = _named(classes, y, inputs)
    return _Listed(total, lambda row: _stored_entry(images, (row + images.tests) % total, named))


def _stored_entry(images: Encoded, row: int, named: Sequence[str | None]) -> Entry:
    return Entry("", as_text(images.called(row)), named[row], read=partial(content_of, images, row))


def _named(classes: Sequence[str], labels: Tensor | np.ndarray, inputs: Inputs) -> list[str | None]:
    """Return the class of each image, as the learner calls it; None if it does not know it."""
    known = KnownNames(inputs.classes)
    found = [*map(known.find, classes), None]
    return [found[label] for label in labels.tolist()]
