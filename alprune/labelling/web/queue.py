"""The images that people are asked about, one at a time or several; their answers; the way back."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from alprune.data.names import KnownNames
from alprune.errors import DataError, StoreError
from alprune.labelling import Asking, Query
from alprune.labelling.accuracy import in_words
from alprune.labelling.classes import (
    assign_key,
    keys_of,
    merge_classes,
    remove_class,
    rename_class,
)
from alprune.labelling.journal import Answer, present_guess
from alprune.labelling.rounds import Prepared, Round
from alprune.labelling.web.leases import Client, Leases, alternate
from alprune.labelling.web.prospects import Prospects
from alprune.labelling.web.second_looks import SecondLooks
from alprune.labelling.web.steps import Step, changed_since, opinion, step_of, take_back

_AHEAD = 8  # images that a browser may load in advance
_LATEST = 200  # answers that one can go back to
_PATIENCE = 2  # the learner begins again once this part of a round is answered
_CONFIDENT = 0.7  # probability from which a guess is shown without being asked for
_SHOWN = ("", "guess", "alike", "map")  # why an image is here that nobody was asked about
_SOMEBODY = Client()  # where nobody tells people apart


class LabelQueue:
    """Hands out images and takes the answers; several threads may use it.

    Images have numbers, in the order in which they came here; no path is ever taken from outside.
    Each window has images of its own. An image that was chosen for two people goes to a second one
    as soon as it has its first answer.

    Args:
        asking: The folder. Its lock guards the queue as well.
        first: Number of the first image. A page of an earlier start, with another, answers none.

    Attributes:
        message: What people should know; empty if nothing.
        finished: What they may do now that all images have labels; empty until then.
        working: What the learner is doing, in words; empty while it rests.
        regardless: Whether people want to continue after a stop rule is met.
    """

    def __init__(self, asking: Asking, first: int = 0) -> None:
        self._asking, self._first = asking, first
        self._queries: dict[int, Query] = {}
        self._numbers: dict[str, int] = {}  # by content
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._leases = Leases()
        self._seconds = SecondLooks(asking, self.number)
        self._steps: dict[str, list[Step]] = {}  # by session
        self._new_class: dict[str, str] = {}  # by session: one that nobody has used yet
        self._prospects = Prospects(asking)
        self._spare: list[Query] = []
        self._drawn = asking.journal.drawn  # contents that are held out if answered by themselves
        self._alike: Mapping[str, Sequence[Query]] = {}
        self._fresh = 0
        self._pool = 0
        self._in_folders = 0
        self._learnt: Mapping[str, Any] = {}
        self.message, self.finished, self.working, self.regardless = "", "", "", False

    def query(self, number: int) -> Query | None:
        """Return the image of a number; None if there is none."""
        with self._asking.lock:
            return self._queries.get(number)

    def known(self, number: int) -> Query:
        """Return the image of a number, or raise a DataError that says what to do."""
        if (query := self.query(number)) is None:
            raise DataError(f"there is no image {number} here, or no more: load the page again.")
        return query

    def number(self, query: Query) -> int:
        """Return an image's number, a new one if it is new; what it is asked for stays known."""
        with self._asking.lock:
            number = self._numbers.setdefault(query.content, self._first + len(self._queries))
            if number not in self._queries or query.why not in _SHOWN:
                self._queries[number] = query
            elif query.why and query.path != self._queries[number].path:  # it was moved since
                self._queries[number] = replace(self._queries[number], path=query.path)
            return number

    def is_drawn(self, query: Query) -> bool:
        """Return whether an image is to be held out: it is asked about by itself alone."""
        return query.content in self._drawn

    def put(self, asked: Round) -> None:
        """Lay out a round; the images that people look at stay in front."""
        with self._asking.lock:
            looked_at = [n for n in self._leases.fronts() if n in self._waiting]
            before = {self._queries[n].content for n in looked_at} & self._drawn
            numbers = [self.number(query) for query in asked.queries]
            self._drawn = before | self._asking.journal.drawn
            self._leases.keep_fronts()
            self._waiting = OrderedDict.fromkeys([*looked_at, *numbers])
            self._pool, self._in_folders = asked.pool, asked.in_folders
            self._learnt = asked.learnt
            if asked.again:  # of an earlier day, with answers that nothing was learnt from yet
                self._fresh = self._asking.journal.asked_now - self._asking.journal.left_now

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

    def answer(
        self,
        labels: Mapping[int, str | None],
        client: Client = _SOMEBODY,
        *,
        review: bool = False,
        fresh: bool = False,
        shown: Sequence[str | None] = (),
    ) -> str:
        """Take labels, all or none; they are on the disk when this returns.

        A label is replaced by a later one of the same person, or of the review. What a second
        person answers first-hand is kept beside it, to be compared.

        Args:
            labels: `{image: class}`; None: nobody can tell.
            client: Who answers.
            review: Whether the person saw an answer.
            fresh: Whether the person saw that there was none.
            shown: What a reviewed image was labelled as when the person saw it.

        Returns:
            What the person should know; empty if nothing.

        Raises:
            DataError: There is no such image or class.
            StoreError: They cannot be written; nothing has changed.
        """
        journal = self._asking.journal
        with self._asking.lock:
            names = KnownNames(journal.offered)
            answers, seconds, changed = [], [], []
            alone = len(labels) == 1  # several at once are alike, or surely of one class
            for number, label in labels.items():
                query = self.known(number)
                if label is not None:
                    if (name := names.find(label)) is None:
                        raise DataError(f"there is no class {label!r} here.")
                    label = name
                earlier = journal.answers.get(query.content)
                there = self._asking.pictures.has
                if label is None and earlier is None and not there(query.path, query.content):
                    continue  # gone or renamed: nobody saw it
                held = earlier.held if earlier and earlier.label else alone and self.is_drawn(query)
                held = held and label is not None
                user = client.user
                answer = Answer(query.path, query.content, label, journal.round, held, user)
                if not review and earlier and user and earlier.user not in ("", user):
                    if not fresh or opinion(journal, query.content, user) != [label]:
                        seconds.append(answer)
                elif not (fresh and earlier and earlier.label == label):  # sent once more
                    answers.append(answer)
                    if earlier and (fresh or (shown and earlier.label not in (label, *shown))):
                        changed.append(f"{query.path} was {_said(earlier.label)}")
            step = step_of(journal, answers, seconds, client.user)
            journal.tell(answers, by="review" if review else "page", seconds=seconds)
            if answers or seconds:
                new = self._new_class.pop(client.session, None)
                used = new in {answer.label for answer in (*answers, *seconds)}
                step = replace(step, new_class=new if used else None)
                self._steps.setdefault(client.session, []).append(step)
            for number in labels:
                self._done_with(number)
            self._fresh += sum(answer is None for answer in step.before.values())
            if not changed:
                return ""
            return f"Answered in another window meanwhile: {'; '.join(changed[:3])}. Yours holds."

    def undo(self, client: Client = _SOMEBODY) -> None:
        """Take back a person's last answers, and a class that came with them.

        Raises:
            DataError: Somebody else has answered one of the images since.
        """
        journal = self._asking.journal
        with self._asking.lock:
            unused = self._new_class.pop(client.session, None)
            if unused is not None and not journal.counts[unused]:  # else others have used it
                journal.remove(unused)
                return
            steps = self._steps.get(client.session)
            if not steps:
                return
            step = steps[-1]
            if (who := changed_since(journal, step)) is not None:
                steps.pop()
                raise DataError(f"{who} has changed that answer since: it stays.")
            take_back(journal, step, client.user)
            steps.pop()
            if step.new_class is not None and not journal.counts[step.new_class]:
                with suppress(StoreError):  # the answers are taken back; the class can wait
                    journal.remove(step.new_class)
            self._drawn |= {content for content, answer in step.after.items() if answer.held}
            numbers = [self._numbers[content] for content in step.contents]
            open_ = [n for n in numbers if self._queries[n].content not in journal.answers]
            for number in reversed(open_):
                self._waiting[number] = None
                self._waiting.move_to_end(number, last=False)
            for number in numbers:
                self._seconds.look_at(self._queries[number])
            self._leases.put(client.window, 0, [n for n in numbers if self._shows(n, client)])
            self._fresh = max(0, self._fresh - sum(a is None for a in step.before.values()))

    def _done_with(self, number: int) -> None:
        """Keep an answered image from being shown again, unless a second person is to see it."""
        self._waiting.pop(number, None)
        self._leases.release(number)
        self._seconds.look_at(self._queries[number])

    def set_aside(self, numbers: Sequence[int], client: Client = _SOMEBODY) -> None:
        """Ask about images next, one at a time: a person said that the guess is wrong."""
        known = self._asking.journal.answers
        with self._asking.lock:
            some = [n for n in numbers if (q := self.query(n)) and q.content not in known]
            self._share(client)
            self._waiting.update(dict.fromkeys(some))
            self._leases.put(client.window, 1, some)

    def leave(self, client: Client) -> None:
        """Share out the images of a window that was closed."""
        with self._asking.lock:
            self._leases.close(client.window)

    def add_class(self, name: str, client: Client = _SOMEBODY) -> None:
        """Add a class.

        Raises:
            ConfigError: It is not a name.
        """
        with self._asking.lock:
            before = set(self._asking.journal.offered)
            self._asking.declare([name])
            if new := set(self._asking.journal.offered) - before:
                self._new_class[client.session] = new.pop()

    def rename_class(self, name: str, to: str) -> None:
        """Rename a class, or merge it into one that has the new name already.

        Raises:
            ConfigError: As from `rename_class` and `merge_classes` of `alprune.labelling.classes`.
        """
        with self._asking.lock:
            merges = to.strip() != name and to.strip() in self._asking.journal.offered
            before = len(self._asking.journal.renames)
            (merge_classes if merges else rename_class)(self._asking, name, to.strip())
            renames = self._asking.journal.renames[before:]
            for number, query in self._queries.items():
                self._queries[number] = present_guess(query, renames)

    def remove_class(self, name: str) -> None:
        """Remove a class without labels, as `alprune.labelling.classes.remove_class`."""
        remove_class(self._asking, name)

    def assign_key(self, name: str, key: str) -> None:
        """Assign a key to a class, as `alprune.labelling.classes.assign_key`."""
        assign_key(self._asking, name, key)

    @property
    def due(self) -> bool:
        """Whether the learner should begin: half a round was answered, or no image waits."""
        with self._asking.lock:
            enough = self._asking.config.query_size // _PATIENCE
            return self._fresh >= max(1, enough) or not self._waiting

    def begin(self) -> int:
        """Note that the learner begins; return how many answers are new to it."""
        with self._asking.lock:
            fresh, self._fresh = self._fresh, 0
            return fresh

    def put_back(self, fresh: int) -> None:
        """Note that the learner learnt nothing of some new answers."""
        with self._asking.lock:
            self._fresh += fresh

    def described(self, number: int, client: Client = _SOMEBODY) -> dict[str, Any]:
        """Describe an image for the page, JSON values; what others answered is not shown.

        Raises:
            DataError: There is none of this number.
        """
        with self._asking.lock:
            query = self.known(number)
            answer, guess = self._asking.journal.answers.get(query.content), None
            own = opinion(self._asking.journal, query.content, client.user)
            if own and answer is not None:
                answer = replace(answer, label=own[0], user=client.user)
            elif answer is not None and client.user and answer.user not in ("", client.user):
                answer = None
            unseen = query.content not in self._asking.journal.answers and not self.is_drawn(query)
            if query.guess is not None and unseen:  # people agree with what they see too often
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

    def state(self, client: Client = _SOMEBODY) -> dict[str, Any]:
        """Describe what the page shows a person, JSON values."""
        with self._asking.lock:
            journal = self._asking.journal
            told = sum(journal.counts.values()) - journal.counts[None] - journal.lost
            labelled = self._in_folders + told
            why_stop = self._prospects.why_stop(labelled)
            stopped = bool(why_stop) and not self.regardless
            shown = [] if stopped else [self.described(n, client) for n in self._share(client)]
            here = len(self._steps.get(client.session, ())) + (client.session in self._new_class)
            agreement = journal.opinions.agreement()
            done = journal.asked_now - journal.left_now
            return {
                "image": shown[0] if shown else None,
                "ahead": shown[1:],
                "past": [
                    self._known_number(answer) for answer in journal.latest(_LATEST, client.user)
                ],
                "round": {"number": journal.round, "done": done, "of": journal.asked_now},
                "classes": [
                    {"name": name, "count": journal.counts[name], "key": key}
                    for name, key in keys_of(journal).items()
                ],
                "labelled": labelled,
                "why_stop": why_stop,
                "stopped": stopped,
                "skipped": journal.counts[None],
                "pool": self._pool,
                "here": here,
                "user": client.user,
                "people": {name: len(given) for name, given in journal.opinions.by.items()},
                "agreement": None
                if agreement is None
                else asdict(agreement) | {"said": str(agreement)},
                "learnt": in_words(self._learnt),
                "working": self.working,
                "message": self.message,
                "finished": self.finished,
                **self._prospects.state(),
            }

    def _share(self, client: Client) -> Sequence[int]:
        """Return the images of a window, the one in front first."""
        if not (windows := self._leases.hear(client.window)):
            return ()
        most = max(1, min(_AHEAD + 1, len(self._waiting) // windows))
        for _ in range(2):
            offered = alternate(self._seconds.offered(client.user), iter(self._waiting))
            mine = partial(self._shows, client=client)
            self._leases.share(client.window, mine, offered, most)
            if held := self._leases.of(client.window):
                return held
            with suppress(StoreError):  # a full disk: people can still correct answers
                self._refill()
        return ()

    def _shows(self, number: int, client: Client) -> bool:
        return number in self._waiting or self._seconds.has(number, client.user)

    def _known_number(self, answer: Answer) -> int:
        number = self._numbers.get(answer.content)
        return self.number(Query(answer.path, answer.content, "")) if number is None else number

    def _alike_open(self, query: Query) -> list[Query]:
        alike, known = self._alike.get(query.content, ()), self._asking.journal.answers
        return [q for q in alike if q.content not in known and not self.is_drawn(q)]

    def _refill(self) -> None:
        """Take a few spare images while the learner is busy."""
        known = self._asking.journal.answers
        spare = [query for query in self._spare if query.content not in known]
        few: Sequence[Query] = spare[: max(1, self._asking.config.query_size // _PATIENCE)]
        if few:
            self._spare = spare[len(few) :]
            self._asking.ask_meanwhile(few)
            self._waiting.update(dict.fromkeys(self.number(query) for query in few))


def _said(label: str | None) -> str:
    return "skipped" if label is None else f"labelled {label!r}"
