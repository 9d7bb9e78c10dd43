"""Which window shows which image, so that several people get different ones."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

LEASE_S = 120.0  # after which a window that was not heard of has to share its images
_WINDOWS = 200  # that are remembered


@dataclass(frozen=True)
class Client:
    """Who sends a request.

    Attributes:
        session: Key of the browser's session.
        user: Name of the person; empty if it is not known.
        window: Of the browser; each has images of its own.
    """

    session: str = ""
    user: str = ""
    window: str = ""


class Leases:
    """Images that windows hold, in the order in which each shows them; not for several threads.

    A window that closes gives its images back. One that falls silent (a phone in a pocket, a
    computer that sleeps) keeps them until they are wanted elsewhere and `LEASE_S` have passed.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, list[int]] = {}
        self._holder: dict[int, str] = {}
        self._seen: dict[str, float] = {}  # by window, the one heard of last at the end
        self._closed: dict[str, None] = {}  # whose last requests may be served after it closed

    def hear(self, window: str) -> int:
        """Note that a window is there; return how many are, as far as is known; 0 if it closed."""
        if window in self._closed:
            return 0
        now = self._clock()
        self._seen.pop(window, None)
        self._seen[window] = now
        for other, seen in list(self._seen.items()):
            if now - seen <= LEASE_S and len(self._seen) <= _WINDOWS:
                break
            self.leave(other)
        return len(self._seen)

    def share(
        self, window: str, mine: Callable[[int], bool], offered: Iterable[int], most: int
    ) -> None:
        """Give a window images until it has its share.

        Args:
            window: That asks.
            mine: Tells whether it may hold an image.
            offered: Images that it may get, most wanted first.
            most: Images a window shall have; where several share fewer, each has at least one.
        """
        held = [number for number in self._held.get(window, ()) if mine(number)]
        self._set(window, held[:most])
        held = self._held[window]
        for number in offered:
            if len(held) >= most:
                break
            if number not in self._holder:
                held.append(number)
                self._holder[number] = window
        if not held and (richest := self._richest()) is not None:
            number = self._held[richest].pop()
            if mine(number):
                held.append(number)
                self._holder[number] = window
            else:
                del self._holder[number]

    def of(self, window: str) -> Sequence[int]:
        """Return the images that a window holds, the one in front first."""
        return tuple(self._held.get(window, ()))

    def fronts(self) -> list[int]:
        """Return the images that are in front in some window."""
        return [held[0] for held in self._held.values() if held]

    def put(self, window: str, place: int, numbers: Sequence[int]) -> None:
        """Give a window images, whoever held them, at a place in its order."""
        for number in numbers:
            self.release(number)
        if window in self._closed:
            return
        held = self._held.setdefault(window, [])
        held[place:place] = numbers
        self._holder.update(dict.fromkeys(numbers, window))

    def release(self, number: int) -> None:
        """Let go of an image: it was answered, or is to be shared out again."""
        if (window := self._holder.pop(number, None)) is not None:
            self._held[window].remove(number)

    def keep_fronts(self) -> None:
        """Let go of all images but those that people look at."""
        for window, held in list(self._held.items()):
            self._set(window, held[:1])

    def close(self, window: str) -> None:
        """Let go of all that a window holds, for good: a page loaded again is another window."""
        self.leave(window)
        self._closed[window] = None
        if len(self._closed) > _WINDOWS:
            del self._closed[next(iter(self._closed))]

    def leave(self, window: str) -> None:
        """Let go of all that a window holds: it fell silent."""
        self._set(window, [])
        self._held.pop(window, None)
        self._seen.pop(window, None)

    def _richest(self) -> str | None:
        window = max(self._held, key=lambda window: len(self._held[window]), default=None)
        return window if window is not None and len(self._held[window]) > 1 else None

    def _set(self, window: str, numbers: list[int]) -> None:
        for number in self._held.get(window, ()):
            del self._holder[number]
        self._held[window] = list(numbers)
        self._holder.update(dict.fromkeys(numbers, window))


def alternate(first: Iterator[int], second: Iterator[int]) -> Iterator[int]:
    """Yield from both in turn, then what is left of one."""
    for number in first:
        yield number
        yield from itertools.islice(second, 1)
    yield from second
