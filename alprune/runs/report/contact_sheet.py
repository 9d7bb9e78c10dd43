"""The contact sheet: what was acquired when, and what it turned out to be."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from alprune.data import Dataset
from alprune.data.mosaic import mosaic
from alprune.errors import AlpruneError, DataError
from alprune.loop.config import RunConfig
from alprune.loop.csv_tables import read_labels
from alprune.runs.local_data import local_splits
from alprune.runs.report.figures import label, new_figure, plain
from alprune.runs.report.groups import Group
from alprune.runs.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLASSES = 10  # rows
_STAGES = 12  # columns
_SIDE = 48  # pixels of a thumbnail at most
_GAP = 3  # pixels between thumbnails


def load_pool(run: Run) -> Dataset:
    """Load the images that a run chose from, if they are on this machine and still the same.

    Nothing is downloaded and no function that the run folder names is called.

    Raises:
        AlpruneError: They cannot be had; the message says why.
    """
    known = RunConfig.__dataclass_fields__
    config = RunConfig.from_mapping({k: v for k, v in run.config.items() if k in known})
    splits = local_splits(config, "a report")
    if run.digest not in (splits.digest, splits.train.digest):  # old runs wrote down the latter
        raise DataError(
            f"the data set {config.dataset!r} as it is found here is not the one that the run "
            "began with."
        )
    return splits.train


def sheet(group: Group, train: Dataset) -> "tuple[Figure, str] | None":
    """Draw the acquired images of a group's first run, a row a class, a column a stage.

    Args:
        group: Of whose runs that count the one with the lowest seed is shown.
        train: Its images.

    Returns:
        The figure and what it shows in words; None if labels.csv holds nothing usable.
    """
    run = group.sound[0]
    known = {
        index: entry
        for index, entry in read_labels(run.path).items()
        if 0 <= index < len(train) and 0 <= entry[0] < len(train.classes) and entry[1] >= 0
    }
    if not known:
        return None
    stages = _stages(max(step for _, step in known.values()))
    rows = _rows(known, len(train.classes))
    cells = _chosen(known, stages, rows)
    shown = sum(index is not None for row in cells for index in row)
    picture = _mosaic(cells, train.x)
    names = [plain(train.classes[row], 18) for row in rows]
    width = 0.5 + 0.09 * max(map(len, names)) + 0.55 * len(stages)
    figure, axes = new_figure(1.1 + 0.55 * len(rows), max(width, 3.5))
    axes.imshow(picture, interpolation="none", cmap="gray", vmin=0, vmax=255, aspect="equal")
    axes.set_anchor("W")
    axes.spines[:].set_visible(False)
    pitch_y, pitch_x = picture.shape[0] / len(rows), picture.shape[1] / len(stages)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * pitch_y - 0.5, names)
    axes.set_xticks((np.arange(len(stages)) + 0.5) * pitch_x - 0.5,
                    [_span(stage) for stage in stages], fontsize=8)  # fmt: skip
    axes.tick_params(length=0)
    label(axes, f"Acquired by {plain(group.name)}, seed {run.seed}", "step", "")
    return figure, _words(known, stages, rows, train.classes, shown)


def of_same_data(groups: Sequence[Group], most: int) -> list[list[Group]]:
    """Sort the first `most` groups by the data that they chose from."""
    sorted_out: dict[tuple[str, str], list[Group]] = {}
    for group in groups[:most]:
        run = group.sound[0]
        sorted_out.setdefault((str(run.config["dataset"]), run.digest), []).append(group)
    return list(sorted_out.values())


def why_not(error: AlpruneError) -> str:
    """Say in a sentence why there is no contact sheet."""
    return f"The acquired images are not shown: {error}"


def _stages(last: int) -> list[tuple[int, int]]:
    """Cut the steps 0 (the first points) to `last` into at most `_STAGES` stages, ends included."""
    if last == 0:
        return [(0, 0)]
    edges = np.linspace(1, last + 1, min(last, _STAGES - 1) + 1).round().astype(int)
    later = zip(edges.tolist(), (edges[1:] - 1).tolist(), strict=False)
    return [(0, 0), *((first, end) for first, end in later)]


def _span(stage: tuple[int, int]) -> str:
    if stage == (0, 0):
        return "first\npoints"
    first, last = stage
    return f"{first}" if first == last else f"{first}\nto {last}"


def _rows(known: Mapping[int, tuple[int, int]], classes: int) -> list[int]:
    """Return the classes that are shown: those acquired most, in their own order."""
    counts = np.bincount([label for label, _ in known.values()], minlength=classes)
    return sorted(np.argsort(-counts, kind="stable")[:_CLASSES].tolist())


def _chosen(
    known: Mapping[int, tuple[int, int]], stages: Sequence[tuple[int, int]], rows: Sequence[int]
) -> list[list[int | None]]:
    """Return for each class and stage the first image acquired then, or None."""
    order = sorted(known, key=lambda index: (known[index][1], index))
    cells: dict[tuple[int, int], int] = {}
    for index in order:
        label, step = known[index]
        stage = next(i for i, (first, last) in enumerate(stages) if first <= step <= last)
        cells.setdefault((label, stage), index)
    return [[cells.get((row, stage)) for stage in range(len(stages))] for row in rows]


def _mosaic(cells: Sequence[Sequence[int | None]], x: Tensor) -> np.ndarray:
    """Lay thumbnails out, `(h, w, 4)` uint8."""
    chosen = [index for row in cells for index in row if index is not None]
    images = torch.stack([x[index] for index in chosen]).float()  # (n, h, w, c)
    if x.dtype != torch.uint8:
        low, high = images.min(), images.max()
        images = 255 * (images - low) / (high - low).clamp(min=1e-12)
    images = images if images.shape[3] == 3 else images[..., :1].expand(-1, -1, -1, 3)
    images = images.permute(0, 3, 1, 2)
    scale = _SIDE / max(images.shape[2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    pixels = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    thumbnails = iter(Image.fromarray(one) for one in pixels)
    rows = [[None if index is None else next(thumbnails) for index in row] for row in cells]
    return np.asarray(mosaic(rows, (images.shape[3], images.shape[2]), _GAP))


def _words(
    known: Mapping[int, tuple[int, int]],
    stages: Sequence[tuple[int, int]],
    rows: Sequence[int],
    classes: Sequence[str],
    shown: int,
) -> str:
    later = [label for label, step in known.values() if step > 0]
    told = f"{shown} of {len(known):,} labelled images, one of each class in each stage."
    if len(rows) < len(classes):
        told += f" Only the {len(rows)} classes labelled most of {len(classes)} are shown."
    if later:
        counts = np.bincount(later, minlength=len(classes))
        most, least = int(counts.argmax()), int(counts.argmin())
        told += (
            f" After the first points most were of class {classes[most]} ({counts[most]:,}), "
            f"fewest of {classes[least]} ({counts[least]:,})."
        )
    return told
