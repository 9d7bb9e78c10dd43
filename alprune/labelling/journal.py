"""The record of a folder's questions and answers, and the state that it adds up to."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alprune.errors import StoreError
from alprune.labelling.keys import new_keys
from alprune.labelling.opinions import Opinions
from alprune.labelling.records import (
    Answer,
    Query,
    answer_of,
    count_of,
    number_of,
    query_of,
    text_of,
)
from alprune.loop.event_log import EVENTS, read_events, sound_bytes
from alprune.loop.run_folder import RunFolder

_ROUNDS_SKIPPED = 10  # rounds in which a skipped image is not asked again


class Journal:
    """All questions and answers, in a run folder's events.jsonl; what is added is on the disk.

    Args:
        folder: Opened for writing: a line that a killed process left half written is cut off. Or
            the path of one, which may belong to another process: nothing can be added then.

    Attributes:
        classes: Names in the order in which they came, the order of the learner's outputs.
        round: Number of the last round of asking, 0 before the first.
        pending: Queries of that round, answered or not.
        asked: What else the event of that round says.
        queries: `{path: query}`, the latest that was ever asked of each file.
        answers: `{content: answer}`, what holds now.
        ever: `(path, label)` of every answer, also of those that were replaced.
        taught: Contents that ever had a label to learn from.
        elapsed_s: Seconds spent on training and choosing so far.
        started: Whether the record has a beginning.
        trial: Whether the first labels were drawn from a wholly labelled folder.
        held_of_folder: Contents of images in class folders that are kept from training.
        counts: `{class: answers}`, skips under None.
        keys: `{class: key}` of the keys that people have assigned.
        first_keys: `{class: key}` of the keys that the classes came with.
        renames: `(earlier name, later name)` of classes, in the order of the changes.
        measured: Accuracy after each round, oldest first.
        opinions: What each named person answered first-hand.
        overlap: Percent of the images that go to two people.
        lost: Labelled images that the last round found gone or changed.

    Raises:
        StoreError: The record is damaged, or is that of something else.
    """

    def __init__(self, folder: RunFolder | Path) -> None:
        self.folder = folder
        self.classes: list[str] = []
        self.round = 0
        self.pending: tuple[Query, ...] = ()
        self.asked: dict[str, Any] = {}
        self.queries: dict[str, Query] = {}
        self.answers: dict[str, Answer] = {}
        self.ever: set[tuple[str, str | None]] = set()
        self.taught: set[str] = set()
        self.elapsed_s = 0.0
        self.started = False
        self.trial = False
        self.held_of_folder: set[str] = set()
        self.counts: Counter[str | None] = Counter()
        self.keys: dict[str, str] = {}
        self.first_keys: dict[str, str] = {}
        self.renames: list[tuple[str, str]] = []
        self.measured: list[dict[str, Any]] = []
        self.opinions = Opinions()
        self.overlap = 0.0
        self.lost = 0
        self._asked_now: set[str] = set()
        self._left_now: set[str] = set()
        self._declared: set[str] = set()
        self._told_in_round = False
        path = folder if isinstance(folder, Path) else folder.path
        if not isinstance(folder, Path):
            folder.rewind(sound_bytes(path))
        for number, event in enumerate(read_events(path), start=1):
            try:
                self._apply(event)
            except (ValueError, TypeError, AttributeError) as error:
                raise StoreError(
                    f"{path / EVENTS} line {number} is not a record of asking: {error}."
                ) from error

    @property
    def offered(self) -> list[str]:
        """Names of the classes that were declared or that an answer has, in their order."""
        return [name for name in self.classes if name in self._declared or self.counts[name]]

    @property
    def open(self) -> tuple[Query, ...]:
        """Queries of the last round that have neither label nor skip."""
        return tuple(query for query in self.pending if query.content not in self.answers)

    @property
    def drawn(self) -> set[str]:
        """Contents that were drawn in the last round, to be held out once they have a label."""
        return {query.content for query in self.pending if query.why == "random"}

    @property
    def asked_now(self) -> int:
        """Number of images of the last round, answered or not."""
        return len(self._asked_now)

    @property
    def left_now(self) -> int:
        """Number of images of the last round that are still open."""
        return len(self._left_now)

    @property
    def told_in_round(self) -> bool:
        """Whether anything was answered since the last round was asked."""
        return self._told_in_round

    def latest(self, count: int, user: str = "") -> list[Answer]:
        """Return the last answers, newest first; of one person, where a name is given."""
        if not user:
            return list(itertools.islice(reversed(self.answers.values()), count))
        own = itertools.islice(reversed(self.opinions.by.get(user, {})), count)
        return [self.answers[content] for content in own if content in self.answers]

    def resting(self) -> set[str]:
        """Return the contents that were skipped lately."""
        return {
            answer.content
            for answer in self.answers.values()
            if answer.label is None and self.round < answer.round + _ROUNDS_SKIPPED
        }

    def start(self, config: dict[str, Any], machine: dict[str, Any]) -> None:
        """Begin the record."""
        self._add("start", asking=True, config=config, **machine)

    def declare(self, names: Iterable[str]) -> list[str]:
        """Add classes; return those that were not offered before."""
        offered = set(self.offered)
        new = [name for name in dict.fromkeys(names) if name not in offered]
        if new:
            self._add("classes", added=new)
        return new

    def rename(self, name: str, to: str) -> None:
        """Rename a class; its answers are merged into those of `to` if that is a class."""
        self._add("rename_class", of=name, to=to)

    def remove(self, name: str) -> None:
        """Remove a class that no answer has."""
        self._add("remove_class", of=name)

    def assign(self, name: str, key: str) -> None:
        """Assign a key to a class; an empty key takes it away."""
        self._add("key", of=name, key=key)

    def ask(self, queries: Sequence[Query], **fields: Any) -> None:
        """Open a round."""
        self._add(
            "ask", round=self.round + 1, images=[asdict(query) for query in queries], **fields
        )

    def more(self, queries: Sequence[Query]) -> None:
        """Add to the round that is open."""
        self._add("more", images=[asdict(query) for query in queries])

    def tell(
        self,
        answers: Sequence[Answer],
        withdrawn: Sequence[str] = (),
        by: str = "",
        seconds: Sequence[Answer] = (),
        seconds_withdrawn: Sequence[tuple[str, str]] = (),
        settled: Mapping[str, bool] | None = None,
    ) -> None:
        """Enter answers, all of them or none; later ones replace earlier ones.

        Args:
            answers: Labels and skips.
            withdrawn: Contents whose answer no longer holds, after an undo.
            by: Where they come from; "review" settles what two people answered differently, and
                what holds again after an "undo" is nobody's opinion anew.
            seconds: Answers of second people, which are compared and replace nothing.
            seconds_withdrawn: `(content, person)` of such answers that no longer hold.
            settled: Whether images count as reviewed from now on, after an undo.
        """
        fields: dict[str, Any] = {}
        if seconds or seconds_withdrawn:
            fields["seconds"] = [asdict(answer) for answer in seconds]
            fields["seconds_withdrawn"] = [list(pair) for pair in seconds_withdrawn]
        if settled:
            fields["settled"] = dict(settled)
        if answers or withdrawn or fields:
            told = [asdict(answer) for answer in answers]
            self._add("tell", answers=told, withdrawn=list(withdrawn), by=by, **fields)

    def set_overlap(self, percent: float) -> None:
        """Note how many images are to go to two people, in percent."""
        self._add("overlap", percent=percent)

    def hold_out(self, contents: Sequence[str]) -> None:
        """Keep images that lie in class folders from training."""
        self._add("hold_out", contents=list(contents))

    def note(self, name: str, **fields: Any) -> None:
        """Write down anything else that happened."""
        self._add(name, **fields)

    def spend(self, seconds: float) -> None:
        """Count time spent on training and choosing."""
        self.elapsed_s += seconds

    def _add(self, name: str, **fields: Any) -> None:
        assert not isinstance(self.folder, Path), "opened to read only"
        self.folder.event(name, self.elapsed_s, **fields)
        self._apply({"event": name, "elapsed_s": self.elapsed_s, **fields})

    def _apply(self, event: dict[str, Any]) -> None:
        self.elapsed_s = max(self.elapsed_s, float(event["elapsed_s"]))
        name = event["event"]
        if not self.started:
            if name != "start" or event.get("asking") is not True:
                raise ValueError("it is that of a run")
            self.started = True
        elif name == "classes":
            names = [text_of(name) for name in event["added"]]
            self._declared.update(names)
            self._know(names)
        elif name == "ask":
            self.round = count_of(event["round"])
            self.pending = tuple(map(query_of, event["images"]))
            self.asked = {n: count_of(event[n]) for n in ("labelled", "in_folders", "pool")}
            self.asked["learnt"] = dict(event["learnt"])
            self.lost = count_of(event.get("lost", 0))
            self.queries.update({query.path: query for query in self.pending})
            self._told_in_round = False
            self.measured.append(self.asked)
            self._asked_now, self._left_now = set(), set()
            self._open(self.pending)
        elif name == "more":
            more = tuple(map(query_of, event["images"]))
            self.pending += more
            self.queries.update({query.path: query for query in more})
            self._open(more)
        elif name == "tell":
            answers = list(map(answer_of, event["answers"]))
            for content in map(text_of, event["withdrawn"]):
                if (gone := self._forget(content)) is not None:
                    self.opinions.withdraw(content, gone.user)
            for answer in answers:  # an answer that is replaced becomes the latest
                self._forget(answer.content)
                self.answers[answer.content] = answer
                self.counts[answer.label] += 1
                self.ever.add((answer.path, answer.label))
                if answer.label is not None and not answer.held:
                    self.taught.add(answer.content)
                self._left_now.discard(answer.content)
                if event["by"] == "review":
                    self.opinions.settle(answer.content)
                elif event["by"] != "undo":
                    self.opinions.add(answer.content, answer.user, answer.label)
            for answer in map(answer_of, event.get("seconds", ())):
                self.opinions.add(answer.content, answer.user, answer.label)
            for content, person in event.get("seconds_withdrawn", ()):
                self.opinions.withdraw(text_of(content), text_of(person))
            for content, settled in event.get("settled", {}).items():
                self.opinions.settle(content, settled is True)
            self._know(answer.label for answer in answers if answer.label is not None)
            self.trial = self.trial or event["by"] == "trial"
            self._told_in_round = True
        elif name == "hold_out":
            self.held_of_folder.update(map(text_of, event["contents"]))
        elif name == "overlap":
            self.overlap = number_of(event["percent"]) or 0.0
        elif name == "rename_class":
            self._rename(text_of(event["of"]), text_of(event["to"]))
        elif name == "remove_class":
            self._drop(text_of(event["of"]))
        elif name == "key":
            self._assign(text_of(event["of"]), event["key"])

    def _open(self, queries: Iterable[Query]) -> None:
        contents = {query.content for query in queries}
        self._asked_now |= contents
        self._left_now |= contents - self.answers.keys()

    def _forget(self, content: str) -> Answer | None:
        answer = self.answers.pop(content, None)
        if answer is not None:
            self.counts[answer.label] -= 1
            if content in self._asked_now:
                self._left_now.add(content)
        return answer

    def _rename(self, name: str, to: str) -> None:
        """Keep the place of the class, or give its answers to the other one."""
        if name not in self.classes:
            raise ValueError(f"there is no class {name!r}")
        for content, answer in self.answers.items():
            if answer.label == name:
                self.answers[content] = replace(answer, label=to)
                self.ever.add((answer.path, to))
        self.opinions.rename(name, to)
        self.pending = tuple(present_guess(query, [(name, to)]) for query in self.pending)
        for path, query in self.queries.items():
            self.queries[path] = present_guess(query, [(name, to)])
        self.counts[to] += self.counts.pop(name, 0)
        if to in self.classes:
            self.classes.remove(name)
        else:
            self.classes[self.classes.index(name)] = to
        self.renames.append((name, to))
        if name in self._declared:
            self._declared.discard(name)
            self._declared.add(to)
        for keys in (self.keys, self.first_keys):
            if (key := keys.pop(name, None)) is not None:
                keys.setdefault(to, key)
        self._told_in_round = True

    def _drop(self, name: str) -> None:
        self._declared.discard(name)
        self.keys.pop(name, None)
        self.first_keys.pop(name, None)
        if name in self.classes:
            self.classes.remove(name)

    def _assign(self, name: str, key: str) -> None:
        for other in [other for other, assigned in self.keys.items() if assigned == key]:
            del self.keys[other]
        if key:
            self.keys[name] = key
        else:
            self.keys.pop(name, None)

    def _know(self, names: Iterable[str]) -> None:
        new = [name for name in dict.fromkeys(names) if name not in self.classes]
        self.classes += new
        taken = {*self.first_keys.values(), *self.keys.values()}
        self.first_keys |= new_keys(new, taken)


def present_name(name: str, renames: Iterable[tuple[str, str]]) -> str:
    """Return the name of a class after changes of names, `(earlier name, later name)` in order."""
    for earlier, later in renames:
        name = later if name == earlier else name
    return name


def present_guess(query: Query, renames: Iterable[tuple[str, str]]) -> Query:
    """Return a query whose guess is called as after changes of names."""
    guess = query.guess and present_name(query.guess, renames)
    return query if guess == query.guess else replace(query, guess=guess)
