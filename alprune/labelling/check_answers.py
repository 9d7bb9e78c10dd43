"""Check what somebody told against what was asked and told before; nothing is taken by halves."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alprune.errors import DataError, quoted
from alprune.labelling.journal import Answer, Journal, Query
from alprune.labelling.read_answers import SKIPS, Given, spellings

_NAME_MOST = 100  # characters of a class's name
_SHOWN = 3  # of a kind of problem


@dataclass(frozen=True)
class Told:
    """What was taken.

    Attributes:
        labels: Images that got a label, by class.
        skipped: Images of which it was said that nobody can tell.
        known: Answers that were known already.
        replaced: Answers that replaced others.
        left: Images of this round that are still open.
        new_classes: Classes that came with these labels.
        guessed: Labelled images for which the learner had a guess,
        right: and those of them for which it was right.
    """

    labels: Mapping[str, int]
    skipped: int
    known: int
    replaced: int
    left: int
    new_classes: tuple[str, ...]
    guessed: int
    right: int


@dataclass(frozen=True)
class Rules:
    """What `tell` may take.

    Attributes:
        new_classes: Labels that are no class yet.
        replace: Answers other than those told before.
        unasked: Images that were never asked for.
    """

    new_classes: bool = False
    replace: bool = False
    unasked: bool = False


@dataclass
class _Findings:
    """What is wrong, by kind, and what is not."""

    unasked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    known: int = 0
    replaced: int = 0


class Teller:
    """Turns what a file, a page or a caller says into answers for a journal.

    Args:
        journal: Takes them.
        root: The folder of images.
        identify: Returns the content hash of a file below it, None if it is no image there.
    """

    def __init__(self, journal: Journal, root: Path, identify: Callable[[str], str | None]) -> None:
        self._journal, self._root, self._identify = journal, root, identify

    def take(self, given: Sequence[Given], rules: Rules, by: str) -> Told:
        """Check answers and enter them, all or none.

        Raises:
            DataError: Something is not right; the message lists what, and nothing was taken.
            StoreError: The answers cannot be written.
        """
        journal, found = self._journal, _Findings()
        paths = _Paths(journal.queries, self._root)
        names = _Names(journal.offered, rules.new_classes or not journal.offered)
        for entry in given:
            self._sort_in(entry, paths, names, rules, found)
        _refuse(found, names)
        answers = list(found.answers.values())
        guesses = [(journal.queries.get(a.path), a.label) for a in answers if a.label is not None]
        guessed = [(q.guess, label) for q, label in guesses if q is not None and q.guess]
        journal.tell(answers, by=by)
        return Told(
            labels=dict(Counter(answer.label for answer in answers if answer.label is not None)),
            skipped=sum(answer.label is None for answer in answers),
            known=found.known,
            replaced=found.replaced,
            left=len(journal.open),
            new_classes=tuple(names.new),
            guessed=len(guessed),
            right=sum(guess == label for guess, label in guessed),
        )

    def says_more(self, given: Sequence[Given]) -> bool:
        """Tell whether some of these answers are not known."""
        paths = _Paths(self._journal.queries, self._root)
        names = _Names(self._journal.offered, growing=False)
        for entry in given:
            asked, label = paths.find(entry.path), names.meaning(entry)
            answer = self._journal.answers.get(asked[1]) if asked else None
            if label != "" and (answer is None or answer.label != label):
                return True
        return False

    def _sort_in(
        self, entry: Given, paths: "_Paths", names: "_Names", rules: Rules, found: _Findings
    ) -> None:
        """Find out what one entry means, and put it where it belongs."""
        at = f"{quoted(entry.path)} ({entry.where})"
        asked = paths.find(entry.path)
        path, content = asked if asked else (None, None)
        if content is None and rules.unasked:
            path, content = self._on_disk(entry.path)
        if path is None or content is None:
            if entry.label or entry.skipped:
                found.unasked.append(at)
            return
        label = names.meaning(entry)
        if label == "":
            return
        if label is not None and (len(label) > _NAME_MOST or not label.isprintable()):
            found.unnamed.append(f"{quoted(label)} ({entry.where})")
            return
        if label is not None and not names.knows(label):
            found.unknown.append(label)
            return
        self._compare(_answer(self._journal, path, content, label), at, rules, found)

    def _compare(self, answer: Answer, at: str, rules: Rules, found: _Findings) -> None:
        same = found.answers.get(answer.content)
        if same is not None:
            if same.label != answer.label:
                found.twice.append(f"{at}: {_said(same.label)} and {_said(answer.label)}")
            return
        before = self._journal.answers.get(answer.content)
        if before is not None and before.label == answer.label:
            found.known += 1
            return
        if before is not None and before.label is not None:
            if not rules.replace:
                said = f"{_said(before.label)} before, {_said(answer.label)} now"
                found.conflicts.append(f"{at}: {said}")
                return
            found.replaced += 1
        found.answers[answer.content] = answer

    def _on_disk(self, text: str) -> tuple[str | None, str | None]:
        for path in spellings(text, self._root):
            content = self._identify(path)
            if content is not None:
                return path, content
        return None, None


def _answer(journal: Journal, path: str, content: str, label: str | None) -> Answer:
    query = journal.queries.get(path)
    held = label is not None and query is not None and query.why == "random"
    return Answer(path, content, label, journal.round, held)


class _Paths:
    """Finds what was asked by the ways in which a path may be written."""

    def __init__(self, queries: Mapping[str, Query], root: Path) -> None:
        self._asked = {path: query.content for path, query in queries.items()}
        # A Mac writes letters and accents apart, other systems together.
        self._composed = {unicodedata.normalize("NFC", path): path for path in self._asked}
        self._root = root

    def find(self, text: str) -> tuple[str, str] | None:
        """Return path and content; None if no such image was asked for."""
        for spelt in spellings(text, self._root):
            path = self._composed.get(unicodedata.normalize("NFC", spelt))
            if path is not None:
                return path, self._asked[path]
        return None


class _Names:
    """Finds classes by what people write; collects the new ones where they are allowed."""

    def __init__(self, known: Sequence[str], growing: bool) -> None:
        self.known, self._growing = list(known), growing
        self.new: list[str] = []

    def meaning(self, entry: Given) -> str | None:
        """Return the class's name, "" for an open question, None for a skip."""
        if entry.skipped:
            return None
        if not entry.label:
            return ""
        for text in entry.labels:
            if text in self.known:
                return text
        text = entry.labels[0].strip()
        alike = [name for name in self.known if name.casefold() == text.casefold()]
        if len(alike) == 1:
            return alike[0]
        return None if text.casefold() in SKIPS else text

    def knows(self, label: str) -> bool:
        """Tell whether a name is a class, or becomes one here."""
        if label not in self.known and self._growing:
            self.known.append(label)
            self.new.append(label)
        return label in self.known


def _refuse(found: _Findings, names: _Names) -> None:
    """Raise one error that names all that is wrong, if anything is."""
    problems = []
    if found.unasked:
        problems.append(
            f"{len(found.unasked)} image(s) were never asked for: {_few(found.unasked)}. Remove "
            "the lines, or pass --unasked to take them too."
        )
    if found.unknown:
        counts = Counter(found.unknown)
        listed = [
            f"{quoted(name)} ({count}{_near(name, names.known)})" for name, count in counts.items()
        ]
        known = ", ".join(names.known[:20]) + (", ..." if len(names.known) > 20 else "")
        problems.append(
            f"{len(counts)} label(s) are no class: {_few(listed)}; known: {known}. Mend them, or "
            "pass --new-classes to add them."
        )
    if found.unnamed:
        problems.append(
            f"{len(found.unnamed)} label(s) cannot name a class: {_few(found.unnamed)}. A name is "
            f"printable and has at most {_NAME_MOST} characters."
        )
    if found.twice:
        problems.append(f"{len(found.twice)} image(s) have two answers: {_few(found.twice)}.")
    if found.conflicts:
        problems.append(
            f"{len(found.conflicts)} answer(s) differ from those told before: "
            f"{_few(found.conflicts)}. Pass --replace if the new ones are right."
        )
    if problems:
        raise DataError(" ".join([*problems, "Nothing was taken."]))


def _few(found: Iterable[str]) -> str:
    listed = list(found)
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""


def _said(label: str | None) -> str:
    return "skipped" if label is None else repr(label)


__all__ = ["Rules", "Teller", "Told"]
