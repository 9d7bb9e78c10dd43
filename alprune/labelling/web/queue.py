"""The images that people are asked about, one at a time or several; their answers; the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from alprune.data.names import is_name, is_unlabelled
from alprune.errors import ConfigError, DataError
from alprune.labelling import Asking, Query
from alprune.labelling.accuracy import in_words
from alprune.labelling.journal import Answer
from alprune.labelling.learning_curve import Measured, expected_gain
from alprune.labelling.rounds import Prepared, Round

_AHEAD = 8  # images that a browser may load in advance
_LATEST = 200  # answers that one can go back to
_PATIENCE = 2  # the learner begins again once this part of a round is answered
_NEXT = 50  # labels for which the gain is expected, at least: a round of few brings little
_LITTLE = 0.01  # gain of accuracy below which more labels are hardly worth their time
_CONFIDENT = 0.7  # probability from which a guess is shown without being asked for
_SHOWN = ("", "guess", "alike", "map")  # why an image is here that nobody was asked about
_KEYS = "1234567890qwertyuiopdfhjklxcvbm"  # without a, g, n, s and z, which do other things


@dataclass(frozen=True)
class _Step:
    """Answers given here at once, and what was known before them."""

    contents: tuple[str, ...]
    before: tuple[Answer | None, ...]
    new_class: str | None = None


class LabelQueue:
    """Hands out images and takes the answers; several threads may use it.

    Images have numbers, in the order in which they came here; no path is ever taken from outside.

    Args:
        asking: The folder. Its lock guards the queue as well.

    Attributes:
        message: What the person should know; empty if nothing.
        working: What the learner is doing, in words; empty while it rests.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._queries: list[Query] = []
        self._numbers: dict[str, int] = {}  # by content
        self._waiting: dict[int, None] = {}  # in order
        self._steps: list[_Step] = []
        self._spare: list[Query] = []
        self._alike: Mapping[str, Sequence[Query]] = {}
        self._new_class: str | None = None
        self._fresh = 0
        self._pool = 0
        self._in_folders = 0
        self._learnt: Mapping[str, Any] = {}
        self.message, self.working = "", ""

    def query(self, number: int) -> Query | None:
        """Return the image of a number; None if there is none."""
        with self._asking.lock:
            return self._queries[number] if 0 <= number < len(self._queries) else None

    def number(self, query: Query) -> int:
        """Return an image's number, a new one if it is new; what it is asked for stays known."""
        with self._asking.lock:
            number = self._numbers.setdefault(query.content, len(self._queries))
            if number == len(self._queries):
                self._queries.append(query)
            elif query.why not in _SHOWN:
                self._queries[number] = query
            return number

    def put(self, asked: Round) -> None:
        """Lay out a round; the image that is looked at stays in front."""
        with self._asking.lock:
            looked_at = next(iter(self._waiting), None)
            numbers = [self.number(query) for query in asked.queries]
            front = [] if looked_at is None else [looked_at]
            self._waiting = dict.fromkeys([*front, *numbers])
            self._pool, self._in_folders = asked.pool, asked.in_folders
            self._learnt = asked.learnt
            if asked.again:  # of an earlier day, with answers that nothing was learnt from yet
                journal = self._asking.journal
                self._fresh = len(journal.pending) - len(journal.open)

    def stock(self, prepared: Prepared, alike: Mapping[str, Sequence[Query]] | None = None) -> None:
        """Keep what the round's preparation found.

        Args:
            prepared: Some of its open images, drawn at random, are asked about where a person is
                faster than the learner.
            alike: `{content: images that look the same}`.
        """
        today, most = prepared.images, 10 * self._asking.config.query_size
        generator = torch.Generator().manual_seed(self._asking.config.seed)
        order = torch.randperm(len(today.open), generator=generator)[:most]
        with self._asking.lock:
            self._alike = alike or {}
            self._spare = [
                Query(today.files.paths[i], today.files.content(i), "meanwhile")
                for i in today.open[order].tolist()
            ]

    def answer(self, labels: Mapping[int, str | None], user: str = "") -> None:
        """Take labels, all or none; they are on the disk when this returns.

        Args:
            labels: `{image: class}`; None: nobody can tell.
            user: Who answers.

        Raises:
            DataError: There is no such image or class.
            StoreError: They cannot be written; nothing has changed.
        """
        journal = self._asking.journal
        with self._asking.lock:
            offered = set(journal.offered)
            answers = []
            for number, label in labels.items():
                query = self.query(number)
                if query is None:
                    raise DataError(f"there is no image {number} here.")
                if label is not None and label not in offered:
                    raise DataError(f"there is no class {label!r} here.")
                earlier = journal.answers.get(query.content)
                held = earlier.held if earlier and earlier.label else query.why == "random"
                held = held and label is not None
                answers.append(Answer(query.path, query.content, label, journal.round, held, user))
            before = tuple(journal.answers.get(answer.content) for answer in answers)
            journal.tell(answers, by="page")
            contents = tuple(answer.content for answer in answers)
            self._steps.append(_Step(contents, before, self._new_class))
            self._new_class = None
            for number in labels:
                self._waiting.pop(number, None)
            self._fresh += sum(answer is None for answer in before)
            if not self._waiting:
                self._refill()

    def undo(self) -> None:
        """Take back the last answers given here, and a class that came with them."""
        journal = self._asking.journal
        with self._asking.lock:
            if not self._steps:
                return
            step = self._steps[-1]
            pairs = list(zip(step.contents, step.before, strict=True))
            journal.tell(
                [answer for _, answer in pairs if answer is not None],
                withdrawn=[content for content, answer in pairs if answer is None],
                by="page",
            )
            self._steps.pop()
            if step.new_class is not None and not journal.counts[step.new_class]:
                journal.remove(step.new_class)
            numbers = [self._numbers[content] for content in step.contents]
            self._waiting = dict.fromkeys([*numbers, *self._waiting])
            self._fresh = max(0, self._fresh - sum(answer is None for answer in step.before))

    def set_aside(self, numbers: Sequence[int]) -> None:
        """Ask about images next, one at a time: a person said that the guess is wrong."""
        known = self._asking.journal.answers
        with self._asking.lock:
            some = [n for n in numbers if (q := self.query(n)) and q.content not in known]
            waiting = list(self._waiting)
            self._waiting = dict.fromkeys([*waiting[:1], *some, *waiting[1:]])

    def add_class(self, name: str) -> None:
        """Add a class.

        Raises:
            ConfigError: It is not a name.
        """
        with self._asking.lock:
            new = name.strip() not in self._asking.journal.classes
            self._asking.declare([name.strip()])
            self._new_class = name.strip() if new else None

    def rename_class(self, name: str, to: str) -> None:
        """Rename a class, or merge it into another one.

        Raises:
            ConfigError: There is no such class, its name is that of a folder, or the new one is
                not a name.
        """
        to = to.strip()
        with self._asking.lock:
            self._check_class(name)
            if not is_name(to) or is_unlabelled(to):
                raise ConfigError(f"{to!r} cannot name a class.")
            if name != to:
                self._asking.journal.rename(name, to)

    def remove_class(self, name: str) -> None:
        """Remove a class without labels.

        Raises:
            ConfigError: There is no such class, it has labels, or its name is that of a folder.
        """
        with self._asking.lock:
            self._check_class(name)
            if count := self._asking.journal.counts[name]:
                raise ConfigError(
                    f"class {name!r} has {count} label(s). Rename it to the class that they should "
                    "have, or correct them first."
                )
            self._asking.journal.remove(name)

    def assign_key(self, name: str, key: str) -> None:
        """Assign a key to a class; another class loses it.

        Raises:
            ConfigError: There is no such class, or the key cannot be assigned.
        """
        with self._asking.lock:
            if name not in self._asking.journal.offered:
                raise ConfigError(f"there is no class {name!r}.")
            if key and (len(key) > 1 or key not in _KEYS):
                raise ConfigError(f"key {key!r} cannot be assigned; these can: {' '.join(_KEYS)}.")
            self._asking.journal.assign(name, key)

    def _check_class(self, name: str) -> None:
        if name not in self._asking.journal.offered:
            raise ConfigError(f"there is no class {name!r}.")
        for folder in (self._asking.root, self._asking.root / "train"):
            if (folder / name).is_dir():
                raise ConfigError(
                    f"class {name!r} is that of the folder {str(folder / name)!r}: rename or move "
                    "the folder instead."
                )

    @property
    def due(self) -> bool:
        """Whether the learner should begin: half a round was answered, or no image waits."""
        with self._asking.lock:
            enough = self._asking.config.query_size // _PATIENCE
            return self._fresh >= max(1, enough) or not self._waiting

    def begin(self) -> None:
        """Note that the learner begins: answers from now on are for the next round."""
        with self._asking.lock:
            self._fresh = 0

    def described(self, number: int) -> dict[str, Any]:
        """Describe an image for the page, JSON values.

        Raises:
            DataError: There is none of this number.
        """
        with self._asking.lock:
            query = self.query(number)
            if query is None:
                raise DataError(f"there is no image {number} here.")
            answer, guess = self._asking.journal.answers.get(query.content), None
            if query.guess is not None:
                sure = query.probability or 0.0
                guess = {
                    "class": query.guess,
                    "probability": query.probability,
                    "confident": sure >= _CONFIDENT and query.guess in self._asking.journal.offered,
                }
            return {
                "number": number,
                "path": query.path,
                "why": query.why,
                "guess": guess,
                "answer": None if answer is None else {"label": answer.label, "user": answer.user},
                "also": [self.number(other) for other in self._alike_open(query)],
            }

    def state(self) -> dict[str, Any]:
        """Describe what the page shows, JSON values."""
        with self._asking.lock:
            journal = self._asking.journal
            waiting = [number for number, _ in zip(self._waiting, range(_AHEAD + 1), strict=False)]
            shown = [self.described(number) for number in waiting]
            done = len(journal.pending) - len(journal.open)
            known = sum(journal.counts.values()) - journal.counts[None]
            return {
                "image": shown[0] if shown else None,
                "ahead": shown[1:],
                "past": [self._known_number(answer) for answer in journal.latest(_LATEST)],
                "round": {"number": journal.round, "done": done, "of": len(journal.pending)},
                "classes": self._classes(),
                "labelled": self._in_folders + known,
                "skipped": journal.counts[None],
                "pool": self._pool,
                "here": len(self._steps),
                "learnt": in_words(self._learnt),
                "working": self.working,
                "message": self.message,
                **self._prospects(),
            }

    def _known_number(self, answer: Answer) -> int:
        number = self._numbers.get(answer.content)
        return self.number(Query(answer.path, answer.content, "")) if number is None else number

    def _classes(self) -> list[dict[str, Any]]:
        journal = self._asking.journal
        names, keys = journal.offered, dict(journal.keys)
        free = iter(key for key in _KEYS if key not in keys.values())
        for name in names:  # a key stays with its class, also when others come and go
            if name not in keys and (key := next(free, None)):
                keys[name] = key
        return [{"name": n, "count": journal.counts[n], "key": keys.get(n, "")} for n in names]

    def _prospects(self) -> dict[str, Any]:
        """Return the accuracy so far, and what more labels are expected to bring."""
        curve, rounds = [], []
        for asked in self._asking.journal.measured:
            found = asked["learnt"].get("held_out_accuracy")
            if found:
                rounds.append(Measured(asked["labelled"], found["right"], found["of"]))
                curve.append(
                    {
                        "labels": asked["labelled"],
                        "value": found["accuracy"],
                        "low": found["low"],
                        "high": found["high"],
                    }
                )
        gain = expected_gain(rounds, max(_NEXT, self._asking.config.query_size))
        little = gain is not None and gain.high < _LITTLE
        return {
            "stop": f"the next {gain.labels} labels are expected to bring less than "
            f"{100 * _LITTLE:g} points: it may be time to stop"
            if gain is not None and little
            else "",
            "accuracy": curve[-1] if curve else None,
            "curve": curve,
            "expected": None if gain is None else asdict(gain),
        }

    def _alike_open(self, query: Query) -> list[Query]:
        known = self._asking.journal.answers
        return [other for other in self._alike.get(query.content, ()) if other.content not in known]

    def _refill(self) -> None:
        """Take a few spare images while the learner is busy."""
        known = self._asking.journal.answers
        spare = [query for query in self._spare if query.content not in known]
        few: Sequence[Query] = spare[: max(1, self._asking.config.query_size // _PATIENCE)]
        if few:
            self._spare = spare[len(few) :]
            self._asking.ask_meanwhile(few)
            self._waiting = dict.fromkeys(self.number(query) for query in few)


__all__ = ["LabelQueue"]
