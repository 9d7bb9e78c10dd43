"""Questions and answers, and how the record of a folder holds them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alprune.errors import quoted


@dataclass(frozen=True)
class Query:
    """An image that people are asked about.

    Attributes:
        path: Of the file, relative to the folder of images, with `/`.
        content: Hash of the file as it was when asked.
        why: "uncertain" (the acquisition function chose it), "typical" (chosen before there was a
            learner), "random" (drawn; held out from training if it is answered in its round, by
            itself) or "meanwhile" (drawn while the learner was busy).
        guess: What the learner takes it for; None before there is a learner.
        probability: Of that class.
        entropy: Of the prediction, in nats.
    """

    path: str
    content: str
    why: str
    guess: str | None = None
    probability: float | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Answer:
    """What was answered about an image.

    Attributes:
        path: Of the file when it was answered.
        content: Hash of the file: the label belongs to it wherever the file is.
        label: Name of the class; None: skipped.
        round: In which it was answered.
        held: Whether it is kept from training, to measure accuracy.
        user: Who answered; empty if it is not known.
    """

    path: str
    content: str
    label: str | None
    round: int
    held: bool = False
    user: str = ""


def query_of(record: dict[str, Any]) -> Query:
    """Read a question.

    Raises:
        ValueError: It is none; so from the functions below.
    """
    guess = record["guess"]
    return Query(
        text_of(record["path"]),
        text_of(record["content"]),
        text_of(record["why"]),
        None if guess is None else text_of(guess),
        number_of(record["probability"]),
        number_of(record["entropy"]),
    )


def answer_of(record: dict[str, Any]) -> Answer:
    """Read an answer."""
    label = record["label"]
    return Answer(
        text_of(record["path"]),
        text_of(record["content"]),
        None if label is None else text_of(label),
        count_of(record["round"]),
        record["held"] is True,
        str(record.get("user", "")),
    )


def text_of(value: Any) -> str:
    """Read text that is not empty."""
    return _checked(value, lambda: isinstance(value, str) and bool(value), "text")


def count_of(value: Any) -> int:
    """Read a whole number from 0."""
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return _checked(value, lambda: right, "a whole number")


def number_of(value: Any) -> float | None:
    """Read a finite number; None stays None."""
    if value is None:
        return None
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return float(_checked(value, lambda: right and math.isfinite(value), "a number"))


def _checked(value: Any, right: Callable[[], bool], what: str) -> Any:
    if not right():
        raise ValueError(f"{quoted(value)} is not {what}")
    return value
