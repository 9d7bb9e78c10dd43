"""The images that a second person is to answer, too."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from alprune.labelling import Asking, Query


class SecondLooks:
    """Answered images that wait for a second person; not for several threads.

    Whether an image goes to two people depends on its content alone, so that it is the same on
    every day. It waits from its first answer by a named person to the second one.

    Args:
        asking: The folder.
        number: Gives an image its number.
    """

    def __init__(self, asking: Asking, number: Callable[[Query], int]) -> None:
        self._journal = asking.journal
        self._waiting: dict[str, OrderedDict[int, None]] = {}  # by the person of the first answer
        self._first: dict[int, str] = {}
        self._number = number
        if self._journal.overlap:
            for content, given in self._journal.opinions.of.items():
                answer = self._journal.answers.get(content)
                if len(given) == 1 and answer is not None:
                    self.look_at(Query(answer.path, content, ""))

    def look_at(self, query: Query) -> None:
        """Decide whether an image waits for a second person now."""
        number = self._number(query)
        if (first := self._first.pop(number, None)) is not None:
            self._waiting[first].pop(number)
        given = self._journal.opinions.of.get(query.content, {})
        answer = self._journal.answers.get(query.content)
        chosen = is_chosen(query.content, self._journal.overlap)
        if chosen and len(given) == 1 and answer is not None and answer.user in given:
            self._first[number] = answer.user
            self._waiting.setdefault(answer.user, OrderedDict())[number] = None

    def has(self, number: int, person: str) -> bool:
        """Return whether an image waits for this person."""
        return bool(person) and self._first.get(number, person) != person

    def offered(self, person: str) -> Iterator[int]:
        """Yield the images that wait for this person; nobody is asked who gave no name."""
        for first, numbers in self._waiting.items():
            if person and first != person:
                yield from numbers


def is_chosen(content: str, percent: float) -> bool:
    """Return whether an image is one of the `percent` that go to two people.

    Args:
        content: Hash of the file, hexadecimal.
        percent: 0 to 100.
    """
    return int(content[:8], 16) < percent / 100 * 2**32
