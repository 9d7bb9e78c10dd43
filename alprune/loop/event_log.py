"""Read the events of a run folder, also while they are written, and what it holds the record of."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from alprune.data.safe_io import open_ordinary
from alprune.errors import StoreError, quoted, shell_word

EVENTS = "events.jsonl"
LINE_BYTES = 2**24  # of an event: a million acquired points take half of it
FILE_BYTES = 2**28  # of events.jsonl

_NUMBER = (int, float)
_LONGEST_S = 10**10  # three hundred years
_COUNT = 2**63
# Names, types, and the least and the most of a number.
_FIELDS: tuple[tuple[str, tuple[type, ...], str, tuple[int, int]], ...] = (
    ("elapsed_s fitted_s", _NUMBER, "a number of seconds", (0, _LONGEST_S)),
    ("prune_s", (*_NUMBER, NoneType), "a number of seconds or null", (0, _LONGEST_S)),
    ("test_accuracy", (*_NUMBER, NoneType), "a number from 0 to 1 or null", (0, 1)),
    ("train_loss", (*_NUMBER, NoneType), "a number or null", (-(10**39), 10**39)),
    ("sparsity flops_reduction", _NUMBER, "a number up to 1", (-100, 1)),  # PreConfig widens
    ("macs_before macs_after params_before params_after", _NUMBER, "a count", (0, _COUNT)),
    ("step labelled", (int,), "a whole number that counts", (0, _COUNT)),
    ("steps", (int, NoneType), "a whole number that counts or null", (0, _COUNT)),
    ("reason acquisition device data_digest", (str,), "text", (0, 0)),
    ("acquired initial", (list,), "a list", (0, 0)),
    ("config versions", (dict,), "an object", (0, 0)),
)


@dataclass(frozen=True)
class Kind:
    """What a folder holds the record of.

    Attributes:
        resume: Command that resumes it.
        ends: Whether its record has an end.
        moment: When the learner in its checkpoint was trained, a format of `step`.
    """

    resume: str
    ends: bool
    moment: str


RUN = Kind("run --resume", ends=True, moment="the last checkpoint, trained in step {step}")
LABELLING = Kind("ask", ends=False, moment="round {step}")


def kind_of(path: Path) -> Kind:
    """Return what a folder holds the record of, by its first event; `RUN` where it has none."""
    return LABELLING if first_event(path).get("asking") is True else RUN


def first_event(path: Path) -> dict[str, Any]:
    """Return the first event of a folder's record; empty where it has none."""
    try:
        return _event(next(_lines(path / EVENTS), b""))
    except (OSError, ValueError, RecursionError, StoreError):
        return {}


def resume_command(path: Path) -> str:
    """Return the command that resumes what is in a folder."""
    return f"alprune {kind_of(path).resume} {shell_word(str(path))}"


def sound_bytes(path: Path) -> int:
    """Return how many bytes of a folder's record are whole lines; a torn one may follow them."""
    return sum(map(len, _lines(path / EVENTS)))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read the events of a run folder, also of one that is being written.

    Args:
        path: The run folder.

    Returns:
        One dictionary an event, in order. A last line that is half written is left out: one
        without an end, or, after a power cut, with zeros where the disk has got nothing.

    Raises:
        StoreError: No run there, or a damaged line before the last.
    """
    events: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(_lines(path / EVENTS), start=1):
            try:
                events.append(_event(line))
            except (ValueError, RecursionError) as error:
                raise StoreError(f"{path / EVENTS} line {number} is damaged: {error}.") from error
    except OSError as error:
        raise StoreError(f"{path} holds no readable run: {error}.") from error
    return events


def events_since(path: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Return the events of a record from a byte on, without damaged lines, and where they end."""
    found: list[dict[str, Any]] = []
    for line in _lines(path / EVENTS, begin):
        begin += len(line)
        with suppress(ValueError, RecursionError):  # begun in the middle of a line, for example
            found.append(_event(line))
    return found, begin


def options_of(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options by its start event, with the acquisition function that it used."""
    options = dict(start["config"])
    if recorded := start.get("acquisition"):  # a folder of labelling has none
        options["acquisition"] = recorded
    return options


class Fields(dict[str, Any]):
    """A JSON object of an event; to ask for a field that it lacks is a StoreError."""

    def __missing__(self, name: str) -> Any:
        raise StoreError(
            f"an event lacks {name!r}: the run's {EVENTS} was changed, or written by another "
            "version of alprune."
        )


def _lines(path: Path, begin: int = 0) -> Iterator[bytes]:
    with open_ordinary(path) as file:
        file.seek(begin)
        left = FILE_BYTES
        while line := file.readline(LINE_BYTES + 1):
            left -= len(line)
            if len(line) > LINE_BYTES or left < 0:
                raise StoreError(
                    f"{path} is not a record of a run: it has a line of more than {LINE_BYTES:,} "
                    f"bytes, or more than {FILE_BYTES:,} in all."
                )
            torn = b"\0" in line and not file.read(1)  # JSON has no zeros, and there is no more
            if torn or not line.endswith(b"\n"):
                return  # half written
            yield line


def _event(line: bytes) -> Fields:
    """Read one line and check the types of what is read from it elsewhere."""
    event = json.loads(line.decode(), object_hook=Fields)
    if not isinstance(event, Fields) or not isinstance(event.get("event"), str):
        raise ValueError("it is no JSON object with an 'event'")
    for names, kinds, what, (least, most) in _FIELDS:
        for name in names.split():
            value = event.get(name)
            odd = isinstance(value, bool) or not isinstance(value, kinds)
            out = isinstance(value, _NUMBER) and not least <= value <= most
            if name in event and (odd or out):
                raise ValueError(f"{name!r} is {quoted(value)}, not {what}")
    return event
