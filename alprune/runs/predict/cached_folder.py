"""A folder whose images were decoded before, by a run or by asking: they are not decoded again."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from alprune import data
from alprune.data.image_cache.store import WAITING, cache_of
from alprune.data.names import KnownNames
from alprune.errors import DataError
from alprune.runs.predict.files import (
    BATCH,
    Batch,
    Entry,
    Source,
    as_text,
    channels_of,
    decoded,
    joined,
    label_of,
    walk,
)
from alprune.training.input_spec import Inputs


def kept_source(
    name: str,
    root: Path,
    prefix: str,
    inputs: Inputs,
    follow_links: bool,
    cache: Path | None,
) -> Source | None:
    """Return a folder's images out of its cache, then those files that are not in there.

    Files that were added or changed since are decoded, and kept. What the cache knows comes
    first, training images before test images, each sorted by path. The paths are held in memory.

    Args:
        name: As the source is called.
        root: The folder.
        prefix: Of the paths to show.
        inputs: What the learner takes.
        follow_links: Read files to which links lead out of the folder.
        cache: As for `alprune.data.load`.

    Returns:
        The images; None if the folder has no cache of this size.
    """
    size = inputs.image_shape[1:]
    if not os.path.isdir(cache_of(root, size, cache)):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be read has a row of its own here
        warnings.filterwarnings("always", message=WAITING)
        try:
            splits = data.load(
                f"folder:{root}",
                size=size,
                skip_unreadable=True,
                follow_links=follow_links,
                incomplete=True,
                cache=cache,
                progress=True,
            )
        except DataError:  # links that lead out, say: file by file they are named
            return None
    parts = [_part(split, prefix, inputs) for split in (splits.train, splits.test) if len(split)]
    known = {path for split in (splits.train, splits.test) for path in split.paths or ()}
    others = [e for e in walk(root, inputs, follow_links) if e.shown not in known]
    if others:
        shown = [replace(entry, shown=prefix + entry.shown) for entry in others]
        parts.append(
            Source(name, len(shown), lambda begin: decoded(islice(shown, begin, None), inputs))
        )
    # What was counted as what is said by loading.
    return replace(joined(parts), name=f"{name} (kept)", is_described=True)


def _part(split: data.Dataset, prefix: str, inputs: Inputs) -> Source:
    paths, classes = split.paths or (), KnownNames(inputs.classes)

    def batches(begin: int) -> Iterator[Batch]:
        for start in range(begin, len(paths), BATCH):
            rows = range(start, min(start + BATCH, len(paths)))
            images = split.x.index_select(0, torch.tensor(rows))
            entries = [
                Entry("", prefix + as_text(paths[i]), label_of(paths[i], classes)) for i in rows
            ]
            yield Batch(entries, _fitting(images, inputs.image_shape[0]))

    return Source("", len(paths), batches)


def _fitting(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Return images `(n, h, w, c)` with as many channels as the learner takes."""
    if images.shape[3] == channels:
        return images
    if images.shape[3] == 1:
        return images.expand(-1, -1, -1, channels)
    return torch.from_numpy(channels_of(images.numpy(), channels))
