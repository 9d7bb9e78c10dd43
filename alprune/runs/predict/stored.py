"""Images that a table lists, or that shards and Hugging Face data sets hold."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
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
    kind, _, path = name.partition(":")
    options = LoadOptions(
        size=inputs.image_shape[1:], follow_links=follow_links, incomplete=True, cache=cache
    )
    if kind in TABLES:
        listing = manifest.listed(path, kind, follow_links)
        total = len(listing)
        named = _named(listing.classes, listing.labels, inputs)

        def entry(row: int) -> Entry:
            file = listing.paths[row]
            return Entry(str(listing.root / file), as_text(file), named[row])

        left_out = "; ".join(listing.notes).removeprefix("left out: ")
    else:
        images, y, classes = _OPENS[kind](path, options)
        total, left_out = len(images), ""
        named = _named(classes, y, inputs)

        def entry(row: int) -> Entry:
            return _stored_entry(images, (row + images.tests) % total, named)

    if not total:
        raise DataError(f"there is no image in {name!r}.")

    def batches(begin: int) -> Iterator[Batch]:
        return decoded((entry(row) for row in range(begin, total)), inputs)

    return Source(name, total, batches, left_out)


def _stored_entry(images: Encoded, row: int, named: Sequence[str | None]) -> Entry:
    return Entry("", as_text(images.called(row)), named[row], read=partial(content_of, images, row))


def _named(classes: Sequence[str], labels: Tensor | np.ndarray, inputs: Inputs) -> list[str | None]:
    """Return the class of each image, as the learner calls it; None if it does not know it."""
    known = KnownNames(inputs.classes)
    found = [*map(known.find, classes), None]
    return [found[label] for label in labels.tolist()]


__all__ = ["KINDS", "stored_source"]
