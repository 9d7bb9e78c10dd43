"""Follow a run from its record alone: nothing is written there."""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from alprune.errors import StoreError, printable, shell_word
from alprune.loop.event_log import EVENTS, Fields, kind_of, options_of, read_events
from alprune.loop.progress import Lines, span
from alprune.loop.run_folder import is_written
from alprune.loop.signals import how_to_resume
from alprune.runs.compare import MANIFEST

WAITING, RUNNING, ENDED = "waiting", "running", "ended"

_SILENT_S = 3.0  # without an event, before the run's lock is looked at
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_BAR = 30  # characters


@dataclass(frozen=True)
class Course:
    """What is known of a run at an instant.

    Attributes:
        path: The run folder.
        state: "waiting" for its first event, "running" or "ended".
        events: All so far.
        quiet_s: Seconds since the last one was seen.
    """

    path: Path
    state: str
    events: list[dict[str, Any]]
    quiet_s: float


def follow(
    path: Path,
    *,
    wait_s: float = 60.0,
    every_s: float = 1.0,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Course]:
    """Look at a run again and again until it ends.

    Args:
        path: The run folder; it may not be there yet.
        wait_s: Seconds to wait for its first event.
        every_s: Seconds between looks.
        now: A clock in seconds.
        sleep: Waits for some seconds.

    Yields:
        What is there, at every look.

    Raises:
        StoreError: Nothing came, the record is damaged or of labelling, or no process writes to it
            any more.
    """
    begin = changed = now()
    mark: tuple[int, int] | None = None
    events: list[dict[str, Any]] = []
    while True:
        found = _mark(path)
        if found is not None and found != mark:
            mark, changed, events = found, now(), read_events(path)
            if events and not kind_of(path).ends:
                raise StoreError(
                    f"people label in {path}: there is no run to watch. Look at its page, or at "
                    f"alprune report {shell_word(str(path))}."
                )
        if not events:
            if now() - begin >= wait_s or (path / MANIFEST).exists():
                raise StoreError(_nothing(path, wait_s))
            yield Course(path, WAITING, [], now() - begin)
        elif events[-1]["event"] == "end" and not is_written(path):  # a run may just be resumed
            yield Course(path, ENDED, events, 0.0)
            return
        else:
            yield Course(path, RUNNING, events, now() - changed)
            if now() - changed >= _SILENT_S and is_written(path) is False and _mark(path) == mark:
                raise StoreError(_nobody(path))
        sleep(every_s)


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever something is written; None if nothing is there."""
    try:
        found = os.stat(path / EVENTS)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _nobody(path: Path) -> str:
    return (
        f"no process holds the lock of {path}, and its record has no end: the run was killed, or "
        f"runs on another machine. {how_to_resume(path)}"
    )


def _nothing(path: Path, wait_s: float) -> str:
    if (path / MANIFEST).exists():
        runs = {entry: _mark(entry) for entry in path.iterdir()}
        begun = {entry: mark[1] for entry, mark in runs.items() if mark is not None}
        newest = max(begun, key=lambda entry: begun[entry], default=path / "...")
        return f"{path} holds a comparison of many runs; watch one: alprune watch {newest}"
    what = "holds no event of a run" if path.is_dir() else "is not there"
    return f"{path} {what}, after {span(wait_s)} of waiting. Start a run with --out {path}."


class Watcher:
    """Shows a run that is followed: a block that is redrawn on a terminal, lines elsewhere.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._lines = Lines(stream, every_s=0.0)
        self._shown: list[dict[str, Any]] = []
        self._height = 0
        self._waited = False
        self._levels = _BLOCKS if _can_write(stream, _BLOCKS) else _ASCII

    def show(self, course: Course) -> None:
        """Show what is new.

        Raises:
            StoreError: An event is not as a run writes it.
        """
        if course.state == WAITING:
            if not self._waited:
                self._say(f"Waiting for a run in {course.path} ...")
            self._waited = True
            return
        try:
            for event in unseen(self._shown, course.events):
                self._tell(course.path, event)
            self._shown = course.events
            if self._terminal:
                self._draw(block(course, self._levels))
            if course.state == ENDED:
                self._height = 0  # the last block stays
                self._end(course)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise StoreError(
                f"an event of {course.path} is not as alprune writes it: {error}."
            ) from error

    def _tell(self, path: Path, event: dict[str, Any]) -> None:
        name = event["event"]
        if name == "start":
            self._say(f"{path}: {_told(options_of(event))}")
        elif name == "warning":
            self._say(f"Warning at step {event['step']}: {event['message']}")
        elif name == "step_back":
            self._say(f"Step {event['step']} is done again from its beginning: {event['why']}")
        elif name in ("resume", "prune") or not self._terminal:
            self._wipe()
            self._lines.event(name, event)

    def _end(self, course: Course) -> None:
        last = course.events[-1]
        self._say(
            f"Ended ({last['reason']}) after {span(last['elapsed_s'])} on the clock: "
            f"{_percent(last['test_accuracy'])} with {last['labelled']} labels."
        )
        if last["reason"].startswith(("interrupted", "stopped", "error")):
            self._say(how_to_resume(course.path))

    def _say(self, text: str) -> None:
        self._wipe()
        print(printable(text), file=self._stream, flush=True)

    def _draw(self, lines: Sequence[str]) -> None:
        width = shutil.get_terminal_size().columns
        text = "\n".join(printable(line)[: width - 1] for line in lines)
        self._wipe()
        print(text, file=self._stream, flush=True)
        self._height = len(lines)

    def _wipe(self) -> None:
        if self._height:
            self._stream.write(f"\033[{self._height}F\033[J")
            self._height = 0


def unseen(seen: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the events after those seen; a resumed run may have taken back some of them."""
    same = 0
    while same < min(len(seen), len(events)) and seen[same] == events[same]:
        same += 1
    return list(events[same:])


def block(course: Course, levels: str = _BLOCKS) -> list[str]:
    """Return the lines that show a run: how far, how good, its curves, how long it will take."""
    steps = [event for event in course.events if event["event"] == "step"]
    last = course.events[-1]
    share, left_s = progress(course)
    filled = round(_BAR * share)
    elapsed_s = last["elapsed_s"] + course.quiet_s
    lines = [f"{share:4.0%} [{'#' * filled}{'.' * (_BAR - filled)}] {span(elapsed_s)}"]
    if course.state == RUNNING and left_s is not None:
        lines[0] += f", about {span(left_s)} left"
    if not steps:
        return [*lines, "  training on the first points"]
    tested = [e["test_accuracy"] for e in steps if e["test_accuracy"] is not None]
    labelled = [float(e["labelled"]) for e in steps]
    lines.append(f"  step {steps[-1]['step']}, {steps[-1]['labelled']} labelled")
    if tested:
        lines[1] += f", accuracy {_percent(tested[-1])}, best {_percent(max(tested))}"
        ends = f"{_percent(tested[0])} to {_percent(tested[-1])}"
        lines.append(f"  accuracy  {sparkline(tested, levels)}  {ends}")
    ends = f"{labelled[0]:.0f} to {labelled[-1]:.0f}"
    lines.append(f"  labelled  {sparkline(labelled, levels)}  {ends}")
    if course.state == RUNNING:
        lines.append(f"  last event {span(course.quiet_s)} ago")
    return lines


def progress(course: Course) -> tuple[float, float | None]:
    """Return how much of a run is done, 0 to 1, and the seconds left; None if that is not known.

    The budget clock is assumed to run since the last event; in truth it is paused in tests.
    """
    start = next((e for e in course.events if e["event"] == "start"), Fields())
    limits = dict(start["config"])
    for event in course.events:
        if event["event"] == "resume":
            limits |= {"budget": event["budget"], "steps": event["steps"]}
    budget, steps = _number(limits.get("budget")), _number(limits.get("steps"))
    last = course.events[-1]
    done = max((e["step"] + 1 for e in course.events if e["event"] == "step"), default=0)
    shares, left = [0.0], []
    elapsed_s = last["elapsed_s"] + course.quiet_s
    if budget:
        shares.append(elapsed_s / budget)
        left.append(max(0.0, budget - elapsed_s))
    if steps:
        shares.append(done / (steps + 1))
        if done:
            left.append(max(0.0, last["elapsed_s"] / done * (steps + 1 - done) - course.quiet_s))
    return min(1.0, max(shares)), min(left, default=None)


def sparkline(values: Sequence[float], levels: str = _BLOCKS, width: int = 40) -> str:
    """Draw values in a line of at most `width` characters, each the mean of several values."""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)] if count else []
    means = [
        sum(values[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a
    ]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] for value in means)


def _told(config: dict[str, Any]) -> str:
    names = ("dataset", "model", "method", "acquisition")
    told = [str(config[name]) for name in names if name in config]
    limits = [f"{n} {config[n]:g}" for n in ("budget", "steps") if _number(config.get(n))]
    return ", ".join([*told, f"seed {config.get('seed', '-')}", *limits])


def _percent(accuracy: float | None) -> str:
    return "not tested" if accuracy is None else f"{accuracy:.1%}"


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
