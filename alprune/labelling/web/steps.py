"""What one person did at once on the page, and how it is taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from alprune.labelling.journal import Answer, Journal, present_name


@dataclass(frozen=True)
class Step:
    """Answers that one person gave at once.

    Attributes:
        before: `{content: answer}` that held before; None: there was none.
        after: The answers.
        own: `{content: labels}` of all images, also of those that others had answered first: what
            this person had given first-hand before, empty if nothing.
        settled: The images that had been reviewed.
        renames: How many changes of classes' names there were before.
        new_class: That came with them.
    """

    before: Mapping[str, Answer | None]
    after: Mapping[str, Answer]
    own: Mapping[str, Sequence[str | None]]
    settled: frozenset[str]
    renames: int
    new_class: str | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """The images."""
        return tuple(self.own)


def step_of(
    journal: Journal, answers: Sequence[Answer], seconds: Sequence[Answer], user: str
) -> Step:
    """Return what a person is about to answer, `seconds` as a second person, as a step."""
    before = {answer.content: journal.answers.get(answer.content) for answer in answers}
    after = {answer.content: answer for answer in answers}
    own = {a.content: opinion(journal, a.content, user) for a in (*answers, *seconds)}
    settled = frozenset(filter(journal.opinions.is_settled, own))
    return Step(before, after, own, settled, len(journal.renames))


def opinion(journal: Journal, content: str, user: str) -> list[str | None]:
    """Return what a person has answered first-hand; empty if nothing."""
    given = journal.opinions.of.get(content, {})
    return [given[user]] if user in given else []


def changed_since(journal: Journal, step: Step) -> str | None:
    """Return who has changed one of the answers since; None if nobody has."""
    for content, answer in step.after.items():
        now, then = journal.answers.get(content), _renamed(journal, answer, step)
        if now is None or (now.label, now.user, now.round) != (then.label, then.user, then.round):
            return (now and now.user) or "somebody"
    return None


def without(journal: Journal, answer: Answer) -> list[Answer]:
    """Return what becomes the label once an answer is withdrawn: another person's, if there is."""
    given = journal.opinions.of.get(answer.content, {})
    others = [person for person in given if person != answer.user]
    return [given_as(journal, answer, given[person], person) for person in others[:1]]


def given_as(journal: Journal, answer: Answer, label: str | None, user: str) -> Answer:
    """Return an answer about the same image by another person, or another one of the same."""
    held = answer.held or (answer.label is None and answer.content in journal.drawn)
    return replace(answer, label=label, user=user, held=held and label is not None)


def take_back(journal: Journal, step: Step, user: str) -> None:
    """Bring back what was known before a step, all or none of it.

    Where an answer is withdrawn that a second person gave as well, theirs becomes the label.

    Raises:
        StoreError: It cannot be written; nothing has changed.
    """
    answers, seconds = list[Answer](), list[Answer]()
    withdrawn, gone = [], []
    for content, labels in step.own.items():
        now, given = journal.answers.get(content), opinion(journal, content, user)
        own = [given_as(journal, now, label, user) for label in labels if now]
        own = [_renamed(journal, answer, step) for answer in own]
        if (before := step.before.get(content)) is not None:
            answers.append(_renamed(journal, before, step))
        elif content in step.before and now is not None:
            withdrawn.append(content)
            answers += without(journal, now)
        elif now is not None and now.user == user and [now.label] == given:
            # Their second answer has become the label, as the first one was taken back.
            answers += own or without(journal, now)
            if not own:
                withdrawn.append(content)
        if own and [answer.label for answer in own] != given:
            seconds += own
        elif given and not own:
            gone.append((content, user))
    journal.tell(
        answers,
        withdrawn=withdrawn,
        by="undo",
        seconds=seconds,
        seconds_withdrawn=gone,
        settled={
            content: content in step.settled
            for content in step.own
            if content in step.settled or journal.opinions.is_settled(content)
        },
    )


def _renamed(journal: Journal, answer: Answer, step: Step) -> Answer:
    """Return an answer with its class by the name that it has now."""
    if answer.label is None:
        return answer
    renames = journal.renames[step.renames :]
    return replace(answer, label=present_name(answer.label, renames))
