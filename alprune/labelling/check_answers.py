"""Check answers against what was asked and answered before: all of them are taken, or none."""

import difflib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from alprune.data.doubtful import why_doubtful
from alprune.data.names import LONGEST_NAME, is_name
from alprune.data.tables import other_readings
from alprune.errors import DataError, counted, quoted
from alprune.labelling.asked_paths import AskedPaths
from alprune.labelling.class_names import ClassNames
from alprune.labelling.journal import Answer, Journal
from alprune.labelling.read_answers import Given, spellings

_SHOWN = 3  # of a kind of problem


@dataclass(frozen=True)
class Told:
    """The labels that were taken, in numbers.

    Attributes:
        labels: Images that got a label, by class.
        skipped: Images that nobody can tell.
        known: Answers that were known already.
        replaced: Answers that replaced others.
        seconds: Answers about images that another person has answered: the two are compared, and
            the first one holds.
        absent: Labels of a table of ours whose images are not here: deleted or changed since.
        left: Images of this round that are still open.
        new_classes: Classes that came with these labels.
        guessed: Labelled images for which the learner had a guess.
        right: Those of them for which the guess was right.
    """

    labels: Mapping[str, int]
    skipped: int
    known: int
    replaced: int
    seconds: int
    absent: int
    left: int
    new_classes: tuple[str, ...]
    guessed: int
    right: int


@dataclass(frozen=True)
class Rules:
    """What `tell` may take.

    Attributes:
        new_classes: Labels that are not a class yet.
        replace: Answers that differ from earlier ones.
        unasked: Images that were never asked for.
        user: Who answers, for the record.
    """

    new_classes: bool = False
    replace: bool = False
    unasked: bool = False
    user: str = ""


@dataclass
class _Findings:
    """What is wrong, by kind, and what is not."""

    unasked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    guessed: dict[str, str] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    sorted: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    seconds: dict[str, Answer] = field(default_factory=dict)
    known: int = 0
    replaced: int = 0
    absent: int = 0


class AnswerChecker:
    """Turns the answers of a file, a page or a caller into answers for a journal.

    Args:
        journal: Takes them.
        root: The folder of images.
        identify: Returns the content hash of a file below it, None if it is not an image there.
        every_path: Returns the paths of all images below it, for paths that are known by their
            end; called where that is needed.
        own_label: Returns the class that an image came with by its path, as that of its folder;
            None if it came with none. It holds whatever people say.
        locate: Returns the path of an image of some content today, by the path that it had and
            its content hash; None if there is none.
    """

    def __init__(
        self,
        journal: Journal,
        root: Path,
        identify: Callable[[str], str | None],
        every_path: Callable[[], Iterable[str]] = tuple,
        own_label: Callable[[str], str | None] = lambda path: None,
        locate: Callable[[str, str], str | None] = lambda path, content: None,
    ) -> None:
        self._journal, self._root, self._identify = journal, root, identify
        self._every_path, self._own_label, self._locate = every_path, own_label, locate

    def take(self, given: Sequence[Given], rules: Rules, by: str) -> Told:
        """Check answers and enter them, all or none.

        Raises:
            DataError: Something is not right; the message lists what, and nothing was taken.
            StoreError: The answers cannot be written.
        """
        journal, found = self._journal, _Findings()
        paths = AskedPaths(journal.queries, self._root, self._every_path)
        names = ClassNames(journal.offered, rules.new_classes or not journal.offered)
        for entry in given:
            self._sort_in(entry, paths, names, rules, found)
        _refuse(found, names, paths, self._root, rules)
        drawn = journal.drawn
        answers = [_held_out(journal, answer, drawn) for answer in found.answers.values()]
        guesses = [(journal.queries.get(a.path), a.label) for a in answers if a.label is not None]
        guessed = [(q.guess, label) for q, label in guesses if q is not None and q.guess]
        seconds = [*found.seconds.values()]
        journal.declare([answer.label for answer in seconds if answer.label is not None])
        journal.tell(answers, by=by, seconds=seconds)
        return Told(
            labels=dict(Counter(answer.label for answer in answers if answer.label is not None)),
            skipped=sum(answer.label is None for answer in answers),
            known=found.known,
            replaced=found.replaced,
            seconds=len(found.seconds),
            absent=found.absent,
            left=len(journal.open),
            new_classes=tuple(names.new),
            guessed=len(guessed),
            right=sum(guess == label for guess, label in guessed),
        )

    def says_more(self, given: Sequence[Given]) -> bool:
        """Tell whether some of these answers are not known."""
        paths = AskedPaths(self._journal.queries, self._root, self._every_path)
        names = ClassNames(self._journal.offered, growing=False)
        for entry in given:
            asked, label = paths.find(entry.path, entry.where), names.meaning(entry)
            answer = self._journal.answers.get(asked[1]) if asked else None
            if label != "" and (answer is None or answer.label != label):
                return True
        return False

    def _sort_in(
        self, entry: Given, paths: AskedPaths, names: ClassNames, rules: Rules, found: _Findings
    ) -> None:
        """Find out what one entry means, and put it where it belongs."""
        at = f"{quoted(entry.path)} ({entry.where})"
        path, content = self._asked(entry, paths, rules)
        if content is None and entry.content and rules.unasked:
            found.absent += 1
            return
        if content is None and rules.unasked:
            spelt = spellings(entry.path, self._root)
            label = names.meaning(entry)
            if label and any(names.find(self._own_label(path)) == label for path in spelt):
                found.known += 1
                return
            path, content = self._on_disk(entry, paths)
        if path is None or content is None:
            if entry.guess and not entry.path.isascii():
                found.guessed[entry.path] = entry.guess
            elif entry.label or entry.skipped:
                alike = paths.alike(entry.path, entry.predicted)
                (found.ambiguous if alike else found.unasked).append(
                    f"{at}: {_few([repr(path) for path in alike])}" if alike else at
                )
            return
        label = names.meaning(entry)
        if label == "":
            return
        if label is not None and label not in names.known:
            if entry.guess and not label.isascii():
                found.guessed[label] = entry.guess
                return
            if not is_name(label):
                found.unnamed.append(f"{quoted(label)} ({entry.where})")
                return
            if len(alike := names.alike(label)) > 1:
                found.ambiguous.append(
                    f"{quoted(label)} ({entry.where}): {_few([repr(name) for name in alike])}"
                )
                return
            if (why := why_doubtful(label)) is not None:
                found.doubtful.append(f"{quoted(label)} ({entry.where}): {why}")
                return
            if not names.add(label):
                found.unknown.append(label)
                return
        own = names.find(self._own_label(path))
        if label is not None and own not in (None, label):
            found.sorted.append(f"{at}: {label!r}, where it came as {own!r}")
            return
        if label is not None and label == own and rules.unasked:
            found.known += 1
            return
        self._compare(
            Answer(path, content, label, self._journal.round, user=rules.user),
            entry,
            at,
            rules,
            found,
        )

    def _asked(
        self, entry: Given, paths: AskedPaths, rules: Rules
    ) -> tuple[str | None, str | None]:
        """Return path and content of an image that was asked for, or that its content names."""
        if entry.content:
            before = self._journal.answers.get(entry.content)
            path = self._locate(entry.path, entry.content) if rules.unasked else None
            path = before.path if path is None and before is not None else path
            if path is not None:
                return path, entry.content
        asked = paths.find(entry.path, entry.where, entry.predicted)
        if asked is None or entry.content not in ("", asked[1]):
            return None, None
        if rules.unasked:  # the table is about what is there today
            return asked[0], self._identify(asked[0]) or asked[1]
        return asked

    def _compare(
        self, answer: Answer, entry: Given, at: str, rules: Rules, found: _Findings
    ) -> None:
        same = found.answers.get(answer.content) or found.seconds.get(answer.content)
        if same is not None:
            if same.label != answer.label:
                found.twice.append(f"{at}: {_said(same.label)} and {_said(answer.label)}")
            return
        before = self._journal.answers.get(answer.content)
        if before is not None and not entry.content and _is_second(answer, before, rules):
            given = self._journal.opinions.of.get(answer.content, {})
            if (rules.user, answer.label) in given.items():
                found.known += 1
            else:
                found.seconds[answer.content] = answer
            return
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

    def _on_disk(self, entry: Given, paths: AskedPaths) -> tuple[str | None, str | None]:
        meant = paths.anywhere(entry.path, entry.predicted)
        for path in (*spellings(entry.path, self._root), *([meant] if meant else [])):
            content = self._identify(path)
            if content is not None:
                return path, content
        return None, None


def _is_second(answer: Answer, before: Answer, rules: Rules) -> bool:
    """Tell whether an answer is only compared with that of another person, which holds."""
    by_another = rules.user != "" and before.user not in ("", rules.user)
    agree, labelled = before.label == answer.label, before.label is not None
    return by_another and (agree or (labelled and not rules.replace))


def _held_out(journal: Journal, answer: Answer, drawn: Container[str]) -> Answer:
    """Keep an answer from training if its image was drawn for that, or a label that it corrects."""
    before = journal.answers.get(answer.content)
    held = before.held if before and before.label is not None else answer.content in drawn
    return replace(answer, held=held and answer.label is not None)


def _refuse(
    found: _Findings, names: ClassNames, paths: AskedPaths, root: Path, rules: Rules
) -> None:
    """Raise one error that names all that is wrong, if anything is."""
    problems = paths.problems()
    if found.unasked and rules.unasked:
        problems.append(
            counted(len(found.unasked), "image is", "images are")
            + f" not among those to learn from in {str(root)!r}: {_few(found.unasked)}. Remove the "
            "lines, or write the paths as they are below that folder."
        )
    elif found.unasked:
        problems.append(
            counted(len(found.unasked), "image was", "images were")
            + f" never asked for: {_few(found.unasked)}. Remove the lines, or pass "
            "--unasked to take them too."
        )
    if found.unknown:
        counts = Counter(found.unknown)
        listed = [
            f"{quoted(name)} ({count}{_near(name, names.known)})" for name, count in counts.items()
        ]
        known = ", ".join(names.known[:20]) + (", ..." if len(names.known) > 20 else "")
        problems.append(
            counted(len(counts), "label is not a class", "labels are not classes")
            + f": {_few(listed)}; known: {known}. Correct the table, or "
            "pass --new-classes to add what is new."
        )
    if found.unnamed:
        problems.append(
            counted(len(found.unnamed), "label", "labels")
            + f" cannot name a class: {_few(found.unnamed)}. A name has at most {LONGEST_NAME} "
            "characters, none of them a control character."
        )
    if found.ambiguous:
        problems.append(
            counted(len(found.ambiguous), "name", "names")
            + f" may mean several: {_few(found.ambiguous)}. Write them in full, as they are in "
            "queries.csv."
        )
    if found.doubtful:
        problems.append(
            counted(len(found.doubtful), "label is hardly the name", "labels are hardly names")
            + f" of a class: {_few(found.doubtful)}. "
            "If one is meant as a class, name it first: alprune ask DIR --classes NAME."
        )
    if found.sorted:
        problems.append(
            counted(len(found.sorted), "image came", "images came")
            + f" with another class: {_few(found.sorted)}. That decides: move the file into the "
            "folder of the right class, or correct the data set, and remove the line."
        )
    if found.guessed:
        readings = [other_readings(name, guess) for name, guess in found.guessed.items()]
        listed = [" or ".join(some) for some in readings if some]
        likely = listed[0].split()[0] if listed else "cp1252"
        problems.append(
            counted(len(found.guessed), "name is", "names are")
            + f" in an encoding that the file does not state: {_few(listed)}. Name the right one "
            f"(such as --encoding {likely}), or save the file as UTF-8 with a mark."
        )
    if found.twice:
        problems.append(
            counted(len(found.twice), "image has", "images have")
            + f" two answers: {_few(found.twice)}."
        )
    if found.conflicts:
        problems.append(
            counted(len(found.conflicts), "answer differs", "answers differ")
            + f" from earlier ones: {_few(found.conflicts)}. Pass --replace if the new "
            "ones are right."
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
