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
        seconds: `{content: labels}` of the images that others had answered first: what this
            person had given before, empty if nothing.
        renames: How many changes of classes' names there were before.
        new_class: That came with them.
    """

    before: Mapping[str, Answer | None]
    after: Mapping[str, Answer]
    seconds: Mapping[str, Sequence[str | None]]
    renames: int
    new_class: str | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """The images."""
        return (*self.before, *self.seconds)


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


def take_back(journal: Journal, step: Step, user: str) -> None:
    """Bring back what was known before a step, all or none of it.

    Where an answer is withdrawn that a second person gave as well, theirs becomes the label.

    Raises:
        StoreError: It cannot be written; nothing has changed.
    """
    answers, withdrawn = [], []
    for content, before in step.before.items():
        if before is not None:
            answers.append(_renamed(journal, before, step))
            continue
        withdrawn.append(content)
        given = journal.opinions.of.get(content, {})
        for other in [person for person in given if person != user][:1]:
            after, label = step.after[content], given[other]
            held = after.held and label is not None
            answers.append(replace(after, label=label, user=other, held=held))
    seconds = [
        _renamed(journal, replace(journal.answers[content], label=label, user=user), step)
        for content, labels in step.seconds.items()
        for label in labels
    ]
    gone = [(content, user) for content, labels in step.seconds.items() if not labels]
    journal.tell(answers, withdrawn=withdrawn, by="page", seconds=seconds, seconds_withdrawn=gone)


def _renamed(journal: Journal, answer: Answer, step: Step) -> Answer:
    """Return an answer with its class by the name that it has now."""
    if answer.label is None:
        return answer
    renames = journal.renames[step.renames :]
    return replace(answer, label=present_name(answer.label, renames))


__all__ = ["Step", "changed_since", "opinion", "take_back"]
