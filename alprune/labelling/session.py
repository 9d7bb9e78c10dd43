"""Ask people for labels and take them: a folder that is learnt from a bit more in each round."""

import json
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch

from alprune import data
from alprune.data.listing import list_folder
from alprune.data.names import LONGEST_NAME, KnownNames, is_name, is_unlabelled
from alprune.errors import ConfigError, DataError, quoted
from alprune.labelling import accuracy
from alprune.labelling import images as pictures
from alprune.labelling import queries as choosing
from alprune.labelling import question_files as papers
from alprune.labelling.check_answers import Rules, Teller, Told
from alprune.labelling.fit import learn
from alprune.labelling.images import Changes, Pictures
from alprune.labelling.journal import Journal, Query
from alprune.labelling.options import root_of
from alprune.labelling.read_answers import Given, read_answers
from alprune.labelling.rounds import Prepared, Round
from alprune.loop.checkpoint import load_checkpoint, save_checkpoint
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.events import Observer
from alprune.loop.run_folder import RunFolder
from alprune.training.budget import Budget


class Asking:
    """A folder in which people are asked about images; `ask` and `tell` in turn.

    Use `alprune.open_asking` to open one, and `close` it, or use it in a `with` block. Whatever
    was told is on the disk when `tell` returns, and a process that is killed at any instant
    loses none of it.

    Args:
        folder: Opened for writing.
        config: Complete options.
        observer: Is told how far the training is.

    Attributes:
        path: The folder.
        config: Its options.
        journal: All that was asked and told.
        root: The folder of images.
        lock: Held by whoever reads or writes the journal, where several threads do.
    """

    def __init__(self, folder: RunFolder, config: ResolvedLabelling, observer: Observer) -> None:
        self.path, self.config = folder.path, config
        self.root = root_of(config)
        self.journal = Journal(folder)
        self.lock = threading.RLock()
        self._folder, self._observer = folder, observer
        self._clock = Budget(None)
        self._halted = False
        self._looked = False
        self._state: dict[str, Any] | None = None
        self._splits: data.Splits | None = None

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
        """What was told: `{path: class}`, as the files were called then."""
        told = self.journal.answers.values()
        return {answer.path: answer.label for answer in told if answer.label is not None}

    def ask(self) -> Round:
        """Learn from all labels within the budget and choose what to ask next.

        Until something of a round was told, the same images are asked again, without learning.
        Before there are two classes with labels, images are chosen without a learner. The round
        is written to queries.csv, queries.png, label-studio.json and label-studio.xml.

        Raises:
            DataError: The folder of images is not usable, or nothing in it is left to label.
            AlpruneError: As from `alprune.run`.
        """
        again = None if self.journal.told_in_round else self.left()
        return again or self.open_round(self.prepare())

    def left(self, hand_out: bool = True) -> Round | None:
        """Return what is still open of the last round; None if nothing is."""
        journal = self.journal
        there = [query for query in journal.open if self._is_there(query)]
        if not there:
            return None
        if hand_out and not papers.is_written(self.path, journal.pending):
            self._write_round()
        return Round(
            journal.round, tuple(there), True, classes=tuple(journal.offered), **journal.asked
        )

    def _is_there(self, query: Query) -> bool:
        try:
            return papers.place_of(self.root, query.path, self.config.follow_links).is_file()
        except DataError:
            return False

    def prepare(self) -> Prepared:
        """Learn, and choose what could be asked next; a thread may do this while others tell.

        Raises:
            AlpruneError: As from `ask`.
        """
        config, clock = self.config, Budget(None)
        self._clock = clock
        if self._halted:
            clock.halt()
        splits = pictures.load(config, progress=not self._looked)
        self._looked = True
        state = self._checkpoint()
        with self.lock:
            today = pictures.look(config, self.journal, splits, state.get("seen"))
            number = self.journal.round + 1
        self._warn_of(today.changes)
        count = config.query_size
        rest = self._candidates(today, count)
        generator = torch.Generator().manual_seed((config.seed + number) % 2**63)
        drawn = choosing.drawn_at_random(config, today, rest, count, generator)
        rest, count = rest[~torch.isin(rest, drawn)], count - len(drawn)
        learner, learnt = None, {}
        if today.train.y[today.labelled].unique().numel() < 2:
            chosen = {"typical": choosing.typical(config, today, rest, count, generator)}
            self._save(number, state | {"seen": today.seen()})
        else:
            lesson = learn(config, today, state, rest, count, clock, generator, self._tick)
            chosen = {"uncertain": lesson.chosen}
            learner, learnt = lesson.network.learner, lesson.learnt
            lesson.network.write(self._folder)
            speed = {"seen": today.seen(), "scoring_speed": lesson.speed}
            self._save(number, lesson.network.state() | speed)
            with self.lock:
                lesson.note(self.journal)
        queries = choosing.queries(today, {"random": drawn} | chosen, learner)
        return Prepared(today, _mixed(queries, generator), learnt)

    def _candidates(self, today: Pictures, count: int) -> torch.Tensor:
        found = choosing.candidates(today, count)
        if not len(found):
            raise DataError(
                f"all {len(today.train):,} images in {str(self.root)!r} have labels: nothing is "
                "left to ask. Put more into unlabelled/; or, to try things out, begin anew in "
                "another folder with --initial 50, which hides all labels but 50."
            )
        return found

    def _tick(self, done: int, planned: int) -> None:
        self._observer.tick("fit", done, planned, self._clock.elapsed_s)

    def halt(self) -> None:
        """End `prepare` within a batch, now and ever after, from another thread.

        It raises KeyboardInterrupt.
        """
        self._halted = True
        self._clock.halt()

    def open_round(self, prepared: Prepared, hand_out: bool = True) -> Round:
        """Ask what was prepared, except for what has been told meanwhile.

        Args:
            prepared: By `prepare`.
            hand_out: Write the round's table, sheet and tasks, which takes a while.
        """
        with self.lock:
            known = self.journal.answers
            queries = [query for query in prepared.queries if query.content not in known]
            guessed = accuracy.guesses(self.journal)
            learnt = dict(prepared.learnt)
            learnt["guesses"] = None if guessed is None else asdict(guessed)
            described = pictures.described(prepared.pictures)
            self.journal.ask(queries, learnt=learnt, **described)
            summary = {"round": self.journal.round} | described | learnt
            self._folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
            self.write_labels()
            opened = Round(
                self.journal.round,
                tuple(queries),
                False,
                described["labelled"],
                described["in_folders"],
                described["pool"],
                tuple(self.journal.offered),
                learnt,
                prepared.pictures.changes,
            )
        if hand_out:
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
    ) -> Told:
        """Take labels: all of them, or none if something is not right.

        Args:
            answers: `{path: class}`, where None means that nobody can tell and "" that it is left
                open; or a CSV file or Label Studio export, see `read_answers`.
            new_classes: Take labels that are no class yet; the first labels always may be.
            replace: Take answers that differ from those told before.
            unasked: Take images that were never asked for.
            encoding: Of a file that is not UTF-8, such as cp1251 or shift_jis.
            label_column: Column or Label Studio control that holds the label of a file.
            by: Where they come from, for the record.

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
            teller = self._teller(self._identify if unasked else _nowhere)
            return teller.take(answers, Rules(new_classes, replace, unasked), by)

    def _teller(self, identify: Callable[[str], str | None]) -> Teller:
        return Teller(self.journal, self.root, identify, self._every_path)

    def _every_path(self) -> list[str]:
        links = self.config.follow_links
        return list_folder(self.root, follow_links=links, incomplete=True).paths

    def tell_truth(self) -> Told:
        """In a trial, answer the round by the labels of the folders.

        Raises:
            ConfigError: This is no trial: nobody knows the labels.
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
        """Ask about more images in this round, which nobody has chosen."""
        with self.lock:
            self.journal.more(queries)

    def declare(self, classes: Iterable[str]) -> None:
        """Name classes before there are labels of them."""
        known = KnownNames(self.journal.classes)
        names = [known.find(name) or name for name in classes]
        if odd := [name for name in names if not is_name(name) or is_unlabelled(name)]:
            raise ConfigError(
                f"{odd[0]!r} cannot name a class: a name has 1 to {LONGEST_NAME} characters, none "
                "of them a control character, and is not 'unlabelled'."
            )
        with self.lock:
            self.journal.declare(names)

    def write_labels(self) -> None:
        """Write labels.csv: all that was told by now."""
        with self.lock:
            content = papers.labels_table(list(self.journal.answers.values()))
            path = self.path / papers.LABELS
            if not path.is_file() or path.read_bytes() != content:
                self._folder.write(papers.LABELS, content)

    def _write_round(self) -> None:
        papers.write_round(
            self._folder,
            self.journal.pending,
            self.journal.offered,
            self.root,
            self._teller(_nowhere).says_more,
            self.config.follow_links,
        )

    def _checkpoint(self) -> dict[str, Any]:
        if self._state is None:
            self._state = load_checkpoint(self.path) or {}
        return self._state

    def _save(self, number: int, state: dict[str, Any]) -> None:
        self._state = state | {"step": number}
        save_checkpoint(self._folder, number, self._state)

    def _warn_of(self, changes: Changes) -> None:
        if changes.lost:
            warnings.warn(
                f"{changes.lost} image(s) with labels are no longer in {str(self.root)!r}, or have "
                "changed. Their labels are kept in the record, and hold again when they are back.",
                stacklevel=4,
            )

    def _loaded(self) -> data.Splits:
        if self._splits is None:
            self._splits = pictures.load(self.config)
        return self._splits

    def _identify(self, path: str) -> str | None:
        files = self._loaded().train.files
        index = None if files is None else files.index(path)
        return None if files is None or index is None else files.content(index)


def _given(path: str, label: str | None) -> Given:
    if label is not None and not isinstance(label, str):
        raise DataError(f"the label of {quoted(path)} must be text or None, got {quoted(label)}.")
    return Given("answer", path, label or "", label is None)


def _nowhere(path: str) -> None:
    return None


def _mixed(queries: list[Query], generator: torch.Generator) -> list[Query]:
    """Put drawn images among the others: nobody should label them with less care."""
    order = torch.randperm(len(queries), generator=generator).tolist()
    return [queries[place] for place in order]


__all__ = ["Asking"]
