"""Where labels come from: a labelled data set, or answers that a run folder holds already."""

from pathlib import Path

import torch
from torch import Tensor

from alprune.data import Dataset
from alprune.data.corruption import wrong_labels
from alprune.data.dataset import UNKNOWN
from alprune.errors import StoreError, quoted
from alprune.loop.csv_tables import LABELS, from_cell, label_rows
from alprune.loop.pool import LabelPool

_SHOWN = 3  # rows that a message names


class Simulation:
    """An oracle that knows every label already: the data set's own, or wrong ones for a share.

    A point's label is the same whenever it is asked for.

    Args:
        train: The training set.
        noise: Share of the points whose label is wrong, see `wrong_labels`.
        seed: Decides which points these are, and their labels.

    Raises:
        ConfigError: `noise` is not in [0, 1].
    """

    def __init__(self, train: Dataset, noise: float = 0.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._labels = wrong_labels(train.y.to("cpu"), len(train.classes), noise, generator)

    @property
    def labels(self) -> Tensor:
        """Every answer, `(n,)` int64, for an initial set that is drawn by class."""
        return self._labels

    def __call__(self, indices: Tensor) -> Tensor:
        """Return the labels `(k,)` of the points `(k,)`."""
        return self._labels[indices]


class KnownAnswers:
    """Labels in labels.csv that are not in the pool, so that no point is asked for twice.

    A run that was killed resumes at its last checkpoint, and the file may be a step ahead.

    Args:
        pool: The labels in use.
    """

    def __init__(self, pool: LabelPool) -> None:
        self._pool = pool
        self._given: dict[int, tuple[int, int]] = {}

    def read(self, folder: Path, classes: tuple[str, ...]) -> None:
        """Read the labels of a run folder.

        Raises:
            StoreError: The file was edited: a row is not of this data set, or differs from the
                label in use. Rows that are missing are not error; they are written again.
        """
        wrong, given = list[str](), dict[int, tuple[int, int]]()
        for line, row in label_rows(folder):
            if problem := self._problem(row, classes):
                wrong.append(f"line {line} {problem}")
            elif given.setdefault(int(row[0]), entry := (int(row[1]), int(row[3]))) != entry:
                wrong.append(f"line {line} gives point {int(row[0])} another label or step")
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise StoreError(
                f"{folder / LABELS} was edited: {'; '.join(wrong[:_SHOWN])}{more}. A run resumes "
                "only with the labels that it was trained on. Undo the edit, or remove the file: "
                "it is then written again from the checkpoint. Nothing was changed."
            )
        self._given = given

    def _problem(self, row: list[str], classes: tuple[str, ...]) -> str | None:
        """Say what is wrong with a row; None if nothing is."""
        try:
            index, label, name, step = int(row[0]), int(row[1]), row[2], int(row[3])
        except (ValueError, IndexError):
            return f"is not index,label,class,step: {quoted(','.join(row))}"
        if not 0 <= index < len(self._pool):
            return f"names point {index}; the data set has {len(self._pool)} points"
        if not 0 <= label < self._pool.classes:
            return f"has the label {label}; the classes are 0..{self._pool.classes - 1}"
        if classes[label] not in (name, from_cell(name)):
            return f"calls class {label} {quoted(name)}, not {quoted(classes[label])}"
        known = int(self._pool.labels[index])
        if known >= 0 and known != label:
            return f"gives point {index} the label {label}; the run was trained with {known}"
        if known >= 0 and step != (given := int(self._pool.step_of[index])):
            return f"gives point {index} the step {step}; it was labelled in step {given}"
        return None

    def to(self, asked: Tensor) -> Tensor | None:
        """Return the labels of `(k,)` points, `(k,)`; None unless all are known."""
        known = [self._given.get(index) for index in asked.tolist()]
        return None if None in known else torch.tensor([entry[0] for entry in known if entry])

    @property
    def spare(self) -> dict[int, tuple[int, int]]:
        """Those not in the pool: `{index: (label, step)}`."""
        self._given = {i: a for i, a in self._given.items() if self._pool.labels[i] == UNKNOWN}
        return self._given
