"""What lies before the person who labels: the queue of images, their answers, the way back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alprune.errors import DataError
from alprune.labelling import Asking, Given, Query
from alprune.labelling.accuracy import in_words
from alprune.labelling.journal import Answer
from alprune.labelling.rounds import Prepared, Round

_AHEAD = 3  # images that a browser may load in advance
_PATIENCE = 2  # the learner begins anew once this part of a round is answered


@dataclass(frozen=True)
class _Step:
    """An answer given here, and what held before it."""

    number: int
    before: Answer | None


class LabelQueue:
    """Hands out images one at a time and takes the answers; several threads may use it.

    Images have numbers, in the order in which they came here; no path is ever taken from outside.

    Args:
        asking: The folder. Its lock guards the queue as well.

    Attributes:
        message: What the person should know; empty if nothing.
        working: What the background fit is doing, in words; empty while it rests.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._queries: list[Query] = []
        self._numbers: dict[str, int] = {}  # by content
        self._queue: list[int] = []
        self._steps: list[_Step] = []
        self._spare: list[Query] = []
        self._fresh = 0
        self._pool = 0
        self._in_folders = 0
        self._learnt: Mapping[str, Any] = {}
        self.message, self.working = "", ""

    def query(self, number: int) -> Query | None:
        """Return the image of a number; None if there is none."""
        with self._asking.lock:
            return self._queries[number] if 0 <= number < len(self._queries) else None

    def put(self, asked: Round) -> None:
        """Lay out a round; the image that is looked at stays in front."""
        with self._asking.lock:
            looked_at = self._queue[:1]
            numbers = [self._number(query) for query in asked.queries]
            self._queue = looked_at + [n for n in numbers if n not in looked_at]
            self._pool, self._in_folders = asked.pool, asked.in_folders
            self._learnt = asked.learnt
            if asked.again:  # of an earlier day, with answers that nothing was learnt from yet
                journal = self._asking.journal
                self._fresh = len(journal.pending) - len(journal.open)

    def stock(self, prepared: Prepared) -> None:
        """Keep some images at hand, drawn at random, for whoever is faster than the learner."""
        today, most = prepared.images, 10 * self._asking.config.query_size
        generator = torch.Generator().manual_seed(self._asking.config.seed)
        order = torch.randperm(len(today.open), generator=generator)[:most]
        with self._asking.lock:
            self._spare = [
                Query(today.files.paths[i], today.files.content(i), "meanwhile")
                for i in today.open[order].tolist()
            ]

    def answer(self, number: int, label: str | None) -> None:
        """Take a label, or None for a skip; it is on the disk when this returns.

        Raises:
            DataError: There is no such image or class.
            StoreError: It cannot be written; nothing has changed.
        """
        asking = self._asking
        with asking.lock:
            query = self.query(number)
            if query is None:
                raise DataError(f"there is no image {number} here.")
            if label is not None and label not in asking.journal.offered:
                raise DataError(f"there is no class {label!r} here.")
            before = asking.journal.answers.get(query.content)
            given = Given(f"image {number}", query.path, label or "", label is None)
            asking.tell([given], replace=True, by="page")
            self._steps.append(_Step(number, before))
            self._queue = [n for n in self._queue if n != number]
            self._fresh += 1
            if not self._queue:
                self._refill()

    def undo(self) -> int | None:
        """Take back the last answer given here; return its image, None if there is none."""
        asking = self._asking
        with asking.lock:
            if not self._steps:
                return None
            step = self._steps[-1]
            content = self._queries[step.number].content
            if step.before is None:
                asking.journal.tell([], withdrawn=[content], by="page")
            else:
                asking.journal.tell([step.before], by="page")
            self._steps.pop()
            self._queue = [step.number, *(n for n in self._queue if n != step.number)]
            self._fresh = max(0, self._fresh - 1)
            return step.number

    def add_class(self, name: str) -> str:
        """Add a class; return its name, spaces around it removed.

        Raises:
            ConfigError: It is no name.
        """
        self._asking.declare([name.strip()])
        return name.strip()

    @property
    def due(self) -> bool:
        """Whether the learner should begin: half a round was answered, or nothing lies here."""
        with self._asking.lock:
            enough = self._asking.config.query_size // _PATIENCE
            return self._fresh >= max(1, enough) or not self._queue

    def begin(self) -> None:
        """Note that the learner begins: answers from now on are for the next time."""
        with self._asking.lock:
            self._fresh = 0

    def state(self) -> dict[str, Any]:
        """Describe what the page shows, JSON values."""
        with self._asking.lock:
            journal = self._asking.journal
            answers = journal.answers.values()
            counts = Counter(answer.label for answer in answers)
            return {
                "image": self._shown(self._queue[0]) if self._queue else None,
                "ahead": self._queue[1 : 1 + _AHEAD],
                "left": len(self._queue),
                "done": len(journal.pending) - len(journal.open),
                "classes": [{"name": n, "count": counts.get(n, 0)} for n in journal.offered],
                "labelled": self._in_folders + sum(a.label is not None for a in answers),
                "skipped": counts.get(None, 0),
                "pool": self._pool,
                "round": journal.round,
                "here": len(self._steps),
                "learnt": in_words(self._learnt),
                "working": self.working,
                "message": self.message,
            }

    def _shown(self, number: int) -> dict[str, Any]:
        query = self._queries[number]
        guess = None
        if query.guess is not None:
            guess = {"class": query.guess, "probability": query.probability}
        return {"number": number, "why": query.why, "guess": guess}

    def _number(self, query: Query) -> int:
        """Return an image's number, a new one if it is new; the latest guess counts."""
        number = self._numbers.setdefault(query.content, len(self._queries))
        if number == len(self._queries):
            self._queries.append(query)
        else:
            self._queries[number] = query
        return number

    def _refill(self) -> None:
        """Take a few spare images while the learner is busy."""
        known = self._asking.journal.answers
        spare = [query for query in self._spare if query.content not in known]
        few: Sequence[Query] = spare[: max(1, self._asking.config.query_size // _PATIENCE)]
        if few:
            self._spare = spare[len(few) :]
            self._asking.ask_meanwhile(few)
            self._queue = [self._number(query) for query in few]


__all__ = ["LabelQueue"]
