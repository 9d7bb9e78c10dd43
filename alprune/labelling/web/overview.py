"""Many images at once: those of one guessed class, those that are labelled, and all on a map."""

from collections.abc import Sequence
from typing import Any

from alprune.data.names import KnownNames
from alprune.errors import DataError
from alprune.labelling import Asking, Query
from alprune.labelling.insight import Insight
from alprune.labelling.journal import Answer
from alprune.labelling.web.queue import LabelQueue

_TILES = 24  # images in a grid
_PAGE = 60  # labelled images that are sent at once


class Overview:
    """Answers what the grid, the review and the map ask; several threads may use it.

    Args:
        asking: The folder. Its lock guards this as well.
        queue: Gives images their numbers.
    """

    def __init__(self, asking: Asking, queue: LabelQueue) -> None:
        self._asking, self._queue = asking, queue
        self._found = Insight()
        self._passed: set[tuple[str, str]] = set()

    def update(self, insight: Insight) -> None:
        """Take what was found after a round."""
        with self._asking.lock:
            self._found = insight
            self._passed.clear()

    @property
    def _insight(self) -> Insight:
        """What was found, the classes by their present names."""
        self._found = self._found.renamed(self._asking.journal.renames)
        return self._found

    def guesses(self) -> dict[str, Query]:
        """Return what the learner takes open images for, `{content: image}`."""
        with self._asking.lock:
            return {query.content: query for query in self._insight.guessed}

    def grid(self, name: str) -> dict[str, Any]:
        """Return the open images that the learner takes for a class, the surest first.

        Raises:
            DataError: There is no such class.
        """
        journal = self._asking.journal
        with self._asking.lock:
            if name not in journal.offered:
                raise DataError(f"there is no class {name!r} here.")
            found = [
                query
                for query in self._insight.guessed
                if query.guess == name
                and self._is_open(query)
                and (name, query.content) not in self._passed
            ]
            return {"class": name, "left": len(found), "images": self._tiles(found[:_TILES])}

    def selected(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return some images by number, to be labelled together, without those that have answers.

        Raises:
            DataError: There is no such image.
        """
        with self._asking.lock:
            queries = [self._queue.known(number) for number in numbers]
            some = [query for query in queries if self._is_open(query)]
            some = [query for query in some if self._asking.came_as(query.path) is None]
            return {"class": None, "left": len(some), "images": self._tiles(some[:_PAGE])}

    def passed(self, name: str, numbers: Sequence[int]) -> None:
        """Note that a person took these images for another class than the learner."""
        with self._asking.lock:
            for number in numbers:
                query = self._queue.query(number)
                if query is not None:
                    self._passed.add((name, query.content))

    def review(self, name: str, order: str, start: int) -> dict[str, Any]:
        """Return labelled images, a page of them.

        Args:
            name: Of a class; empty: all.
            order: "suspect", "newest", "disagreements" for what two people answered differently
                and nobody has settled, or "skipped".
            start: Place of the first one in that order.
        """
        journal = self._asking.journal
        with self._asking.lock:
            any_class = name == "" or order == "skipped"
            some = [answer for answer in self._in_order(order) if any_class or answer.label == name]
            opinions = journal.opinions.of if order == "disagreements" else {}
            shown = []
            for answer in some[start : start + _PAGE]:
                found = self._insight.checked.get(answer.content)
                shown.append(
                    {
                        "number": self._queue.number(Query(answer.path, answer.content, "")),
                        "path": answer.path,
                        "label": answer.label,
                        "user": answer.user,
                        "answers": opinions.get(answer.content),
                        "predicted": None if found is None else found.predicted,
                        "probability": None if found is None else found.probability,
                        "suspect": self._wrong(answer),
                    }
                )
            return {
                "images": shown,
                "total": len(some),
                "suspects": sum(map(self._wrong, some)),
                "checked": self._insight.complete,
            }

    def _in_order(self, order: str) -> list[Answer]:
        journal = self._asking.journal
        if order == "disagreements":
            contents = journal.opinions.unsettled
            return [journal.answers[c] for c in contents if c in journal.answers]
        skipped = order == "skipped"
        answers = reversed(journal.answers.values())
        some = [answer for answer in answers if (answer.label is None) == skipped]
        if order == "suspect":
            checked = self._insight.checked
            some.sort(
                key=lambda answer: (
                    not self._wrong(answer),
                    checked[answer.content].quality if answer.content in checked else 1.0,
                )
            )
        return some

    def _wrong(self, answer: Answer) -> bool:
        found = self._insight.checked.get(answer.content)
        return found is not None and found.wrong and found.predicted != answer.label

    def _is_open(self, query: Query) -> bool:
        """Return whether an image may be labelled together with others."""
        known = query.content in self._asking.journal.answers
        return not known and not self._queue.is_drawn(query)

    def map(self) -> dict[str, Any]:
        """Return the places of all images, with the classes of those that are labelled."""
        with self._asking.lock:
            journal = self._asking.journal
            number = {name: place for place, name in enumerate(journal.offered)}
            names = KnownNames(number)
            points = []
            for content, place in self._insight.places.items():
                query = Query(self._insight.paths[content], content, "map")
                answer, came = journal.answers.get(content), self._asking.came_as(query.path)
                told = None if answer is None else answer.label
                label = told if came is None else names.find(came)
                if label is None and (answer is not None or self._queue.is_drawn(query)):
                    continue  # drawn ones are asked about alone, skipped ones in the review
                points.append(
                    {
                        "at": place,
                        "class": -1 if label is None else number.get(label, -1),
                        "number": self._queue.number(query),
                    }
                )
            return {"points": points}

    def _tiles(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        return [
            {
                "number": self._queue.number(query),
                "path": query.path,
                "probability": query.probability,
            }
            for query in queries
        ]
