"""A backend for Label Studio: it sorts and fills in its tasks, and its answers are taken here."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from alprune.errors import ConfigError, DataError, quoted
from alprune.labelling import Asking, Query
from alprune.labelling.asked_paths import AskedPaths
from alprune.labelling.journal import Answer
from alprune.labelling.read_answers import SKIPS, given_of_task
from alprune.labelling.web.leases import Client
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue
from alprune.labelling.web.steps import opinion, without
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
        self._annotations: dict[int, tuple[str, str | None]] = {}  # content and person of each
        for event in read_events(asking.path):
            if event["event"] == _EVENT and isinstance(key := event.get("annotation"), int):
                self._annotations.pop(key, None)
                if (content := event.get("content")) is not None:  # else it was deleted
                    self._annotations[key] = str(content), event.get("user")

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
            known = {answer.path for answer in self._asking.journal.answers.values()}
            own = self._asking.own_labels()
        return [
            {"data": {"image": self.address + quote(path), "path": path}}
            for path in self._asking.every_path()
            if path not in known and own(path) is None
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
            if label is not None and label not in self._asking.journal.offered:
                self._asking.declare([label])
            known = self._asking.journal.queries.get(path)
            query = known if known and known.content == content else Query(path, content, "")
            number = self._queue.number(query)
            before = self._asking.journal.answers.get(content)
            if isinstance(key := annotation.get("id"), int):  # noted first: it may be deleted
                self._asking.journal.note(_EVENT, annotation=key, content=content, user=user)
                self._annotations[key] = content, user
            if before is None or (before.label, before.user) != (label, user):
                # A person's correction of their own answer is no review of it.
                theirs = opinion(self._asking.journal, content, user) and not by_another
                client = Client("Label Studio", user)
                self._queue.answer({number: label}, client, review=is_update and not theirs)

    def _withdraw(self, annotations: Any) -> None:
        sent = annotations if isinstance(annotations, list) else []
        keys = [int(a.get("id") or 0) for a in sent if isinstance(a, Mapping)]
        with self._asking.lock:
            journal, answers = self._asking.journal, list[Answer]()
            withdrawn, seconds = [], []
            keys = [key for key in keys if key in self._annotations]
            gone = dict.fromkeys(self._annotations.pop(key) for key in keys)
            left = {*self._annotations.values()}  # of a person who annotated an image twice
            for content, user in gone:
                now = journal.answers.get(content)
                if (content, user) in left:
                    continue
                if now is not None and user in (None, now.user):
                    withdrawn.append(content)
                    answers += without(journal, now)
                elif user:  # another person's answer is the label
                    seconds.append((content, user))
            journal.tell(answers, withdrawn, "undo", seconds_withdrawn=seconds)
            for key in keys:
                journal.note(_EVENT, annotation=key, content=None)

    def _find(self, task: Any) -> tuple[str, str] | None:
        """Return path and content of the image of a task; None if it is none of these."""
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping):
            raise DataError(f"{quoted(task)} is no task.")
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


__all__ = ["NAME", "Control", "LabelStudio", "read_control"]
