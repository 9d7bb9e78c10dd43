"""A backend for Label Studio: it sorts and fills in its tasks, and its answers are taken here."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from alprune.data.names import KnownNames
from alprune.errors import ConfigError, DataError, quoted
from alprune.labelling import Asking, Query
from alprune.labelling.asked_paths import AskedPaths
from alprune.labelling.journal import present_name
from alprune.labelling.read_answers import SKIPS, given_of_task
from alprune.labelling.web.leases import Client
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue
from alprune.labelling.web.steps import given_as, opinion, without
from alprune.loop.event_log import read_events

NAME = "alprune"  # of the model in Label Studio, by which it sorts
_EVENT = "label_studio"
_SCHEMA_LETTERS = 2**20
_CREATED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
_DIGITS = 4


@dataclass(frozen=True)
class Control:
    """The question of a labelling interface: one choice about one image.

    Attributes:
        name: Of the control.
        image: Name of the image that it is about.
        choices: Those that may be filled in; none: not known.
    """

    name: str = "label"
    image: str = "image"
    choices: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Annotation:
    """What a person said of an image, under the name that the class had after so many renames."""

    content: str
    user: str  # empty: not known
    label: str | None
    renames: int


class LabelStudio:
    """Answers what Label Studio asks; several threads may use it.

    Args:
        asking: The folder. Its lock guards this as well.
        queue: Takes answers.
        overview: Has the learner's guesses.
        address: Under which a browser finds the images: a path is added.
    """

    def __init__(
        self, asking: Asking, queue: LabelQueue, overview: Overview, address: str = ""
    ) -> None:
        self._asking, self._queue, self._overview = asking, queue, overview
        self.address = address
        self._reading = threading.Lock()
        self._paths: tuple[int, AskedPaths] | None = None
        self._annotations: dict[int, _Annotation] = {}  # by their numbers, newest last
        renames = 0
        for event in read_events(asking.path):
            renames += event["event"] == "rename_class"
            if event["event"] == _EVENT and isinstance(key := event.get("annotation"), int):
                self._annotations.pop(key, None)
                if (content := event.get("content")) is not None:  # else it was deleted
                    user, label = str(event["user"]), event["label"]
                    self._annotations[key] = _Annotation(str(content), user, label, renames)

    @property
    def version(self) -> str:
        """What the learner is, new after each round: Label Studio then asks for guesses again."""
        return f"{NAME} round {self._asking.journal.round}"

    @property
    def classes(self) -> list[str]:
        """The names that may be chosen."""
        with self._asking.lock:
            return self._asking.journal.offered

    def tasks(self) -> list[dict[str, Any]]:
        """Return a task for each image that has no label yet, nor came with one."""
        with self._asking.lock:
            answers = dict(self._asking.journal.answers)
        known = {answer.path for answer in answers.values()}
        return [
            {"data": {"image": self.address + quote(path), "path": path}}
            for path in self._asking.without_class()
            if path not in known and self._asking.content_at(path) not in answers
        ]

    def predict(self, tasks: Sequence[Any], schema: str) -> list[dict[str, Any]]:
        """Return a prediction for each task.

        Label Studio's "uncertainty sampling" takes the tasks of the lowest scores first. Those
        are the images that the learner asks about, in its order: their scores are below 0.5. The
        other scores are above it: the less sure the learner is, the lower.

        Raises:
            ConfigError: The interface does not ask for one choice.
            DataError: A task is none.
        """
        control = read_control(schema)
        with self._asking.lock:
            open_ = self._asking.journal.open
            order = {query.content: place for place, query in enumerate(open_)}
            guesses = self._overview.guesses() | {q.content: q for q in open_ if q.guess}
            for content in self._asking.journal.drawn:  # people agree with what they see too often
                guesses.pop(content, None)
            return [self._predicted(self._find(task), control, order, guesses) for task in tasks]

    def _predicted(
        self,
        found: tuple[str, str] | None,
        control: Control,
        order: Mapping[str, int],
        guesses: Mapping[str, Query],
    ) -> dict[str, Any]:
        content = found[1] if found else ""
        answer = self._asking.journal.answers.get(content)
        query = guesses.get(content)
        label, probability = (query.guess, query.probability or 0.0) if query else (None, 0.0)
        if answer is not None:
            # A named person's answer is not shown to a second one, with whom it is compared.
            label, probability = None if answer.user else answer.label, 1.0
        score = 0.5 + probability / 2
        if answer is None and content in order:
            score = 0.5 * order[content] / len(order)
        result = []
        if label is not None and (not control.choices or label in control.choices):
            result = [
                {
                    "from_name": control.name,
                    "to_name": control.image,
                    "type": "choices",
                    "value": {"choices": [label]},
                    "score": round(probability, _DIGITS),
                }
            ]
        return {"result": result, "score": round(score, _DIGITS), "model_version": NAME}

    def hear(self, message: Mapping[str, Any]) -> bool:
        """Take what happened in Label Studio; return whether it is an answer.

        Raises:
            DataError: It is an annotation of something else, or of an image that is not here.
            StoreError: The answer cannot be written.
        """
        action = message.get("action")
        if action in _CREATED:
            is_update = action != "ANNOTATION_CREATED"
            self._answer(message.get("task"), message.get("annotation"), is_update)
        elif action == "ANNOTATIONS_DELETED":
            self._withdraw(message.get("annotations"))
        else:
            return False
        return True

    def _answer(self, task: Any, annotation: Any, is_update: bool) -> None:
        if not isinstance(task, Mapping) or not isinstance(annotation, Mapping):
            raise DataError("a task and its annotation are missing.")
        found = self._find(task)
        if found is None:
            raise DataError(f"the image of task {task.get('id')} is not among those here.")
        path, content = found
        [given, *_] = given_of_task({**task, "annotations": [annotation]})
        label = None if given.skipped or given.label.casefold() in SKIPS else given.label
        if label == "":
            return
        user, by_another = _annotator(annotation)
        with self._asking.lock:
            if self._came_with_class(path, label):
                return
            journal = self._asking.journal
            if label is not None and label not in journal.offered:
                self._asking.declare([label])
            known = journal.queries.get(path)
            query = known if known and known.content == content else Query(path, content, "")
            number = self._queue.number(query)
            before = journal.answers.get(content)
            label = label and (KnownNames(journal.offered).find(label) or label)
            if isinstance(key := annotation.get("id"), int):  # noted first: it may be deleted
                journal.note(_EVENT, annotation=key, content=content, user=user, label=label)
                self._annotations.pop(key, None)
                renames = len(journal.renames)
                self._annotations[key] = _Annotation(content, user, label, renames)
            if before is None or (before.label, before.user) != (label, user):
                # A person's correction of their own answer is not a review of it.
                theirs = opinion(journal, content, user) and not by_another
                client = Client("Label Studio", user)
                self._queue.answer({number: label}, client, review=is_update and not theirs)

    def _came_with_class(self, path: str, label: str | None) -> bool:
        """Tell whether an image came with a class, which holds whatever people say.

        Raises:
            DataError: It is another one than the label.
        """
        if path in self._asking.journal.queries:  # nobody is asked about one that did
            return False
        if (own := self._asking.came_as(path)) is None:
            return False
        names = KnownNames(self._asking.journal.offered)
        if label is not None and (names.find(label) or label) != (names.find(own) or own):
            raise DataError(
                f"{quoted(path)} came with the class {own!r}. That decides: move the file into the "
                "folder of the right class, or correct the data set."
            )
        return True

    def _withdraw(self, annotations: Any) -> None:
        sent = annotations if isinstance(annotations, list) else []
        keys = dict.fromkeys(int(a.get("id") or 0) for a in sent if isinstance(a, Mapping))
        with self._asking.lock:
            gone: dict[tuple[str, str], list[int]] = {}
            left: dict[tuple[str, str], _Annotation] = {}  # of a person, their newest
            for key, one in self._annotations.items():
                if key in keys:
                    gone.setdefault((one.content, one.user), []).append(key)
                else:
                    left[one.content, one.user] = one
            for (content, user), ended in gone.items():
                self._end(content, user, left.get((content, user)))
                for key in ended:  # last: what cannot be written is known when it is sent again
                    self._asking.journal.note(_EVENT, annotation=key, content=None)
                    del self._annotations[key]

    def _end(self, content: str, user: str, left: _Annotation | None) -> None:
        """Take a person's answer back; where they annotated the image twice, what is left holds."""
        journal = self._asking.journal
        now = journal.answers.get(content)
        if left is not None:
            label = left.label and present_name(left.label, journal.renames[left.renames :])
            if now is None or label not in (None, *journal.offered):
                return  # not recorded, or its class was removed
            if label in (opinion(journal, content, user) or [now.label]):
                return
            answer = given_as(journal, now, label, user)
            mine = now.user == user
            journal.tell([answer] if mine else [], by="page", seconds=[] if mine else [answer])
        elif now is not None and user == now.user:
            journal.tell(without(journal, now), [content], "undo")
        elif user:  # another person's answer is the label
            journal.tell([], by="undo", seconds_withdrawn=[(content, user)])

    def _find(self, task: Any) -> tuple[str, str] | None:
        """Return path and content of the image of a task; None if it is none of these."""
        if (found := self._named_in(task)) is None:
            return None
        path, content = found  # as it was asked about; people see what is there today
        return path, self._asking.content_at(path) or content

    def _named_in(self, task: Any) -> tuple[str, str] | None:
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping):
            raise DataError(f"{quoted(task)} is not a task.")
        for name in ("path", "image", *data):
            if isinstance(text := data.get(name), str) and text:
                known = self._asking.journal.queries.get(text)
                if known is not None:
                    return text, known.content
                if (content := self._asking.identify(text)) is not None:
                    return text, content  # without a search of all paths
                if (found := self._by_text(self._without_address(text))) is not None:
                    return found
        return None

    def _without_address(self, text: str) -> str:
        found = re.search(r"/image\?path=(.*)", text)
        return found[1] if found else text

    def _by_text(self, text: str) -> tuple[str, str] | None:
        with self._reading:
            asking = self._asking
            if self._paths is None or self._paths[0] != asking.journal.round:
                asked = asking.journal.queries.copy()  # another thread may add to it
                paths = AskedPaths(asked, asking.root, asking.every_path)
                self._paths = asking.journal.round, paths
            paths = self._paths[1]
            if (found := paths.find(text, "Label Studio")) is not None:
                return found
            if (path := paths.anywhere(text)) is None:
                return None
            content = asking.identify(path)
            return None if content is None else (path, content)


def _annotator(annotation: Mapping[str, Any]) -> tuple[str, bool]:
    """Return who annotated (empty: not known), and whether another person has changed it since."""
    by, changed_by = annotation.get("completed_by"), annotation.get("updated_by")
    name, number = (by.get("email"), by.get("id")) if isinstance(by, Mapping) else (by, by)
    by_another = number is not None and changed_by not in (None, number)
    return "" if name is None else f"{name}"[:100], by_another


def read_control(schema: str) -> Control:
    """Read which control of a labelling interface asks for the class.

    Args:
        schema: The interface, XML; empty: that of label-studio.xml.

    Raises:
        ConfigError: There is none, or several.
    """
    if not schema.strip():
        return Control()
    if len(schema) > _SCHEMA_LETTERS or "<!" in schema.replace("<!--", ""):
        raise ConfigError("the labelling interface is too long, or has a document type.")
    try:
        root = ElementTree.fromstring(schema)
    except ElementTree.ParseError as error:
        raise ConfigError(f"the labelling interface is no XML: {error}.") from error
    controls = [node for node in root.iter("Choices") if node.get("choice") != "multiple"]
    named = [node for node in controls if node.get("name") == "label"]
    if len(named or controls) != 1:
        raise ConfigError(
            f"the labelling interface has {len(controls)} controls <Choices> with one choice; one "
            "is expected, or one called 'label'. label-studio.xml in the folder is an example."
        )
    [node] = named or controls
    choices = [str(c.get("alias") or c.get("value")) for c in node.iter("Choice")]
    return Control(str(node.get("name")), str(node.get("toName")), frozenset(choices))
