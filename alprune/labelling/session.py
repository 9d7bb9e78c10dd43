"""Labelling by people: rounds of questions, answers that come at any time, a journal of both."""

import json
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Self

from alprune import data
from alprune.data.dataset import UNKNOWN
from alprune.data.layout import is_surely_unlabelled
from alprune.data.listing import Listing, list_folder
from alprune.data.names import KnownNames
from alprune.errors import ConfigError, DataError, StoreError, quoted
from alprune.labelling import accuracy, images, question_files
from alprune.labelling.check_answers import AnswerChecker, Rules, Told
from alprune.labelling.class_names import declared
from alprune.labelling.journal import Journal, Query, present_guess
from alprune.labelling.options import are_files, root_of
from alprune.labelling.pictures import Pictures
from alprune.labelling.preparation import Preparation
from alprune.labelling.read_answers import Given, read_answers
from alprune.labelling.rounds import Prepared, Round
from alprune.labelling.stop_rule import progress_of, unmeasured, why_stop
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.events import Observer
from alprune.loop.run_folder import RunFolder


class Asking:
    """A folder in which people are asked about images; `ask` and `tell` in turn.

    Use `alprune.open_asking` to open one, and `close` it, or use it in a `with` block. Answers are
    on the disk when `tell` returns; a process that is killed at any instant loses none of them.

    Args:
        folder: Opened for writing.
        config: Complete options.
        observer: Shows how far the training is.

    Attributes:
        path: The folder.
        config: Its options.
        journal: All questions and answers.
        root: The folder of images.
        pictures: Shows the images.
        lock: Held while the journal is read or written, where several threads do.
        preparation: Learns and chooses.
    """

    def __init__(self, folder: RunFolder, config: ResolvedLabelling, observer: Observer) -> None:
        self.path, self.config = folder.path, config
        self.root = root_of(config)
        self.journal = Journal(folder)
        self.lock = threading.RLock()
        self._folder, self._observer = folder, observer
        self.preparation = Preparation(folder, config, self.journal, self.lock, observer)
        self._splits: data.Splits | None = None
        stored = None if are_files(config) else lambda: self._loaded().train.files
        self.pictures = Pictures(self.root, config.follow_links, stored, self._files_read_last)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write labels.csv and let another process work here."""
        try:
            self.write_labels()
        finally:
            self._folder.close()

    @property
    def labels(self) -> dict[str, str]:
        """The labels: `{path: class}`, paths as they were when the images were labelled."""
        with self.lock:
            told = self.journal.answers.values()
            return {answer.path: answer.label for answer in told if answer.label is not None}

    def ask(self, regardless: bool = False) -> Round:
        """Learn from all labels within the budget and choose what to ask next.

        Until a round has an answer, the same images are asked again, without learning.
        Before there are two classes with labels, images are chosen without a learner. The round
        is written to queries.csv, queries.png, label-studio.json and label-studio.xml. Once a stop
        rule is met, nothing is asked, and the round says why.

        Args:
            regardless: Ask on even if a stop rule is met.

        Raises:
            DataError: The folder of images is not usable, or nothing in it is left to label.
            AlpruneError: As from `alprune.run`.
        """
        again = None if self.journal.told_in_round else self.left()
        return again or self.open_round(self.prepare(), stop=not regardless)

    def left(self, hand_out: bool = True) -> Round | None:
        """Return what is still open of the last round; None if nothing is."""
        journal = self.journal
        there = [query for query in journal.open if self.pictures.has(query.path, query.content)]
        if not there:
            return None
        if hand_out and not question_files.is_written(self.path, journal.pending):
            self._write_round()
        return Round(
            journal.round,
            tuple(there),
            True,
            classes=tuple(journal.offered),
            agreement=journal.opinions.agreement(),
            **journal.asked,
        )

    def prepare(self) -> Prepared:
        """Learn, and choose what could be asked next; other threads may take answers meanwhile.

        Raises:
            KeyboardInterrupt: `halt` was called.
            AlpruneError: As from `ask`.
        """
        prepared = self.preparation.prepare()
        if self._splits is not None:  # as old as this at most
            self._splits = self.preparation.splits
        return prepared

    def halt(self) -> None:
        """End `prepare` within a batch, now and ever after, from another thread."""
        self.preparation.halt()

    def say(self, note: str) -> None:
        """Show people a note."""
        self._observer.event("note", {"text": note})

    def open_round(self, prepared: Prepared, hand_out: bool = True, stop: bool = False) -> Round:
        """Ask what was prepared, except for what has been answered meanwhile.

        Args:
            prepared: By `prepare`.
            hand_out: Write the round's table, sheet and tasks, which takes a while.
            stop: Ask nothing if a stop rule is met.
        """
        with self.lock:
            known = self.journal.answers
            renames = self.journal.renames[prepared.images.renames :]  # while it was prepared
            asked = [q for q in prepared.queries if q.content not in known]
            asked = [present_guess(query, renames) for query in asked]
            guessed = accuracy.guesses(self.journal)
            learnt = dict(prepared.learnt)
            learnt["guesses"] = None if guessed is None else asdict(guessed)
            counts = images.counts(prepared.images)
            measured = [*(a["learnt"] for a in self.journal.measured), learnt]
            progress = progress_of(measured, self.config.hold_out)
            note = unmeasured(self.config, progress, counts["held_out"])
            if prepared.learner is not None and note:
                self.say(note)
            why = why_stop(self.config, progress, counts["labelled"])
            asked = [] if stop and why else asked
            summary = {"round": self.journal.round + 1} | counts | learnt
            self._folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
            try:
                self.write_labels()
            except StoreError as error:
                if not isinstance(error.__cause__, PermissionError):
                    raise
                warnings.warn(str(error), stacklevel=2)  # open in a spreadsheet; `close` writes it
            self.journal.ask(asked, learnt=learnt, **counts)  # last: what fails opens no round
            opened = Round(
                self.journal.round,
                tuple(asked),
                False,
                counts["labelled"],
                counts["in_folders"],
                counts["pool"],
                tuple(self.journal.offered),
                learnt,
                prepared.images.changes,
                self.journal.opinions.agreement(),
                why,
            )
        if hand_out and asked:
            self._write_round()
        return opened

    def tell(
        self,
        answers: Mapping[str, str | None] | Sequence[Given] | str | Path,
        *,
        new_classes: bool = False,
        replace: bool = False,
        unasked: bool = False,
        encoding: str | None = None,
        label_column: str | None = None,
        by: str = "python",
        user: str = "",
    ) -> Told:
        """Take labels: all of them, or none if something is not right.

        Args:
            answers: `{path: class}`, where None means that the image cannot be labelled and ""
                that it is left open; or a CSV file or Label Studio export, see `read_answers`.
            new_classes: Take labels that are not a class yet; the first labels always may be.
            replace: Take answers that differ from earlier ones.
            unasked: Take images that were never asked for.
            encoding: Of a file that is not UTF-8, such as cp1251 or shift_jis.
            label_column: Column or Label Studio control that holds the label of a file.
            by: Where they come from, for the record.
            user: Who answers, for the record. What another named person has answered before
                holds, unless `replace`; the two are compared.

        Returns:
            What was taken; it is on the disk.

        Raises:
            DataError: Something is not right; the message lists what.
        """
        if isinstance(answers, str | Path):
            answers = read_answers(Path(answers), encoding, label_column)
        elif isinstance(answers, Mapping):
            answers = [_given(str(path), label) for path, label in answers.items()]
        with self.lock:
            checker = self._checker(self.identify if unasked else _nowhere, unasked)
            user = KnownNames(self.people()).find(user) or user
            return checker.take(answers, Rules(new_classes, replace, unasked, user), by)

    def _checker(
        self, identify: Callable[[str], str | None], unasked: bool = False
    ) -> AnswerChecker:
        own = self._own_labels() if unasked else _nowhere  # nobody is asked about one that has one
        return AnswerChecker(self.journal, self.root, identify, self.every_path, own, self._path_of)

    def came_as(self, path: str) -> str | None:
        """Return the class that an image came with; None if with none, and for all of a trial.

        Of the images as they were read last; they are read if they were not yet.
        """
        if self.config.initial is not None:
            return None
        splits = self._read_last or self._loaded()
        for part in (splits.train, splits.test):
            index = None if part.files is None else part.files.index(path)
            if index is not None and int(part.y[index]) != UNKNOWN:
                return part.classes[int(part.y[index])]
        return None

    def _own_labels(self) -> Callable[[str], str | None]:
        """Return `came_as` by the folders of today, also of files that cannot be read."""
        if self.config.initial is not None or not self.config.dataset.startswith("folder:"):
            return self.came_as

        @cache
        def known() -> dict[str, str]:
            found = self._listing()
            labels = zip(found.paths, found.labels.tolist(), strict=True)
            return {path: found.classes[label] for path, label in labels if label != UNKNOWN}

        return lambda path: None if is_surely_unlabelled(path) else known().get(path)

    def without_class(self) -> list[str]:
        """Return the paths of the images that came with no class; in a trial, of all to learn from.

        The classes that others came with are offered from now on.
        """
        if self.config.dataset.startswith("folder:"):
            found = self._listing()
            to_learn = len(found) - found.tests
            paths, labels, classes = found.paths[:to_learn], found.labels.tolist(), found.classes
        else:
            train = self._loaded().train
            paths, labels, classes = [*(train.paths or ())], train.y.tolist(), train.classes
        with self.lock:
            known = KnownNames(self.journal.classes)
            self.journal.declare([known.find(name) or name for name in classes])
        hidden = self.config.initial is not None
        return [p for p, label in zip(paths, labels, strict=False) if hidden or label == UNKNOWN]

    def every_path(self) -> list[str]:
        """Return the paths of all images, labelled or not, test images among them."""
        if not self.config.dataset.startswith("folder:"):
            return [*(self._loaded().train.paths or ())]
        return self._listing().paths

    def _listing(self) -> Listing:
        links = self.config.follow_links
        return list_folder(self.root, follow_links=links, incomplete=True)

    def tell_truth(self) -> Told:
        """In a trial, answer the round by the labels of the folders.

        Raises:
            ConfigError: This is not a trial: the labels are not known.
        """
        if self.config.initial is None:
            raise ConfigError(
                "only in a trial are the answers known: one that began with --initial."
            )
        train = self._loaded().train
        assert train.files is not None
        answers = {}
        for query in self.journal.open:
            index = train.files.find(query.path, query.content)
            if index is not None and int(train.y[index]) >= 0:
                answers[query.path] = train.classes[int(train.y[index])]
        return self.tell(answers, by="simulation")

    def ask_meanwhile(self, queries: Sequence[Query]) -> None:
        """Ask about more images in this round, which were not chosen."""
        with self.lock:
            self.journal.more(queries)

    def set_overlap(self, percent: float) -> None:
        """Have a share of the images answered by two people from now on, 0 to 100 percent."""
        with self.lock:
            if percent != self.journal.overlap:
                self.journal.set_overlap(percent)

    def declare(self, classes: Iterable[str]) -> None:
        """Name classes before there are labels of them."""
        with self.lock:
            self.journal.declare(declared(classes, self.journal.classes))

    def people(self) -> list[str]:
        """Return the names of those who have answered."""
        with self.lock:
            return [*self.journal.opinions.by]

    def source_of_class(self, name: str) -> str | None:
        """Say which folder or data set a class comes from; None if people named it."""
        dataset = self.config.dataset
        if not dataset.startswith("folder:"):
            return f"the data set {dataset!r}" if name in self._loaded().train.classes else None
        names = KnownNames(self.journal.offered)
        for path in (*self.root.glob("*"), *self.root.glob("train/*")):
            if names.find(path.name) == name and path.is_dir():
                return f"the folder {str(path)!r}"
        return None

    def write_labels(self) -> None:
        """Write labels.csv: all labels so far; disagreements.csv where people were compared."""
        with self.lock:
            answers = list(self.journal.answers.values())
            question_files.write_labels(self._folder, answers, self.journal.ever)
            if self.journal.opinions.agreement() is not None:
                content = question_files.disagreements_table(
                    self.journal.answers, self.journal.opinions
                )
                path = self.path / question_files.DISAGREEMENTS
                if not path.is_file() or path.read_bytes() != content:
                    self._folder.write(path.name, content)

    def _write_round(self) -> None:
        question_files.write_round(
            self._folder,
            self.journal.pending,
            self.journal.offered,
            self.pictures,
            self._checker(_nowhere).says_more,
        )

    def _loaded(self) -> data.Splits:
        if self._splits is None:
            self._splits = images.load(self.config)
        return self._splits

    @property
    def _read_last(self) -> data.Splits | None:
        return self._splits or self.preparation.splits

    def content_at(self, path: str) -> str | None:
        """Return the content hash at a path when the images were read last; None if unknown."""
        files = self._files_read_last()
        index = None if files is None else files.index(path)
        return None if files is None or index is None else files.content(index)

    def _files_read_last(self) -> data.Files | None:
        return self._read_last.train.files if self._read_last else None

    def identify(self, path: str) -> str | None:
        """Return the content hash of an image by its path; None if there is no such image."""
        files = self._loaded().train.files
        index = None if files is None else files.index(path)
        return None if files is None or index is None else files.content(index)

    def _path_of(self, path: str, content: str) -> str | None:
        """Return the path of an image of this content today, best the same; None without one."""
        files = self._loaded().train.files
        index = None if files is None else files.find(path, content)
        return None if files is None or index is None else files.paths[index]


def _given(path: str, label: str | None) -> Given:
    if label is not None and not isinstance(label, str):
        raise DataError(f"the label of {quoted(path)} must be text or None, got {quoted(label)}.")
    return Given("answer", path, label or "", label is None)


def _nowhere(path: str) -> None:
    return None
