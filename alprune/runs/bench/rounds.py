"""Time several pieces of work in turns, so that what disturbs the machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], int]
"""Does a piece of work and returns how many items it was; has ended when it returns."""

Tell = Callable[[str], None]
"""Receives progress messages."""


@dataclass(frozen=True)
class Speeds:
    """What `take_turns` measured.

    Attributes:
        rounds: `{name: items a second}` of every round.
    """

    rounds: tuple[Mapping[str, float], ...]

    def median(self, name: str) -> float:
        """Items a second of one work."""
        return statistics.median(speeds[name] for speeds in self.rounds)

    def ratio(self, name: str, base: str) -> float:
        """How many times faster `name` is than `base`: the median of the rounds' own ratios."""
        return statistics.median(speeds[name] / speeds[base] for speeds in self.rounds)


def take_turns(
    works: Mapping[str, Work],
    seconds: float,
    turn_s: float = 0.5,
    least: int = 3,
    tell: Tell = lambda text: None,
    now: Callable[[], float] = time.perf_counter,
) -> Speeds:
    """Run all works in turns until the time is over.

    A first round warms up and is not counted. Every other round goes backwards, so that none
    always runs after the same one.

    Args:
        works: By name; at least one.
        seconds: Time for the counted rounds; the last one begun is finished.
        turn_s: A turn repeats its work until this long has passed.
        least: Counted rounds at least, however long they take.
        tell: Is told of every round.
        now: A clock in seconds.

    Returns:
        The speeds.
    """
    names = list(works)
    tell("warming up")
    for name in names:
        works[name]()
    rounds: list[dict[str, float]] = []
    begin = now()
    while len(rounds) < least or now() - begin < seconds:
        tell(f"round {len(rounds) + 1}, {now() - begin:.0f} of {seconds:.0f} s")
        order = names if len(rounds) % 2 == 0 else names[::-1]
        rounds.append({name: _speed(works[name], turn_s, now) for name in order})
    return Speeds(tuple(rounds))


def _speed(work: Work, turn_s: float, now: Callable[[], float]) -> float:
    begin, items = now(), 0
    while True:
        items += work()
        spent_s = now() - begin
        if spent_s >= turn_s:
            return items / spent_s
