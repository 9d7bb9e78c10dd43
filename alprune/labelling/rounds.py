"""What people are asked in a round."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from alprune.labelling.images import Changes, Pictures
from alprune.labelling.journal import Query


@dataclass(frozen=True)
class Round:
    """What people are asked.

    Attributes:
        number: Of the round, from 1.
        queries: The images that are still open, most wanted first; none if there is nothing left.
        again: Whether this round was asked before.
        labelled: Labelled images, those held out included.
        in_folders: Those of them whose class is that of their folder.
        pool: Images in the folder, test images left out.
        classes: Names of the classes so far.
        learnt: What the learner is worth by now, see `alprune.labelling.accuracy`; empty before
            there is one.
        changes: Of the folder since the round before.
    """

    number: int
    queries: tuple[Query, ...]
    again: bool
    labelled: int
    in_folders: int
    pool: int
    classes: tuple[str, ...]
    learnt: Mapping[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)

    def __iter__(self) -> Iterator[Query]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Prepared:
    """A round that was learnt and chosen for, but not asked yet."""

    pictures: Pictures
    queries: list[Query]
    learnt: dict[str, Any]


__all__ = ["Prepared", "Round"]
