"""What each person answered first-hand, and how far two who saw the same image agree."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from alprune.errors import counted

_DIGITS = 4

Label = str | None  # None: skipped


@dataclass(frozen=True)
class Agreement:
    """How far the first two people who answered an image agree; a skip counts as an answer.

    Attributes:
        images: That two people answered.
        agreed: Those of them with equal answers.
        share: `agreed / images`.
        kappa: Cohen's kappa; None where it is not defined, because all answers are the same.
        unsettled: Images with different answers that nobody has reviewed.
    """

    images: int
    agreed: int
    share: float
    kappa: float | None
    unsettled: int

    def __str__(self) -> str:
        kappa = "" if self.kappa is None else f", kappa {self.kappa:.2f}"
        left = f"; {self.unsettled} to review" if self.unsettled else ""
        images = counted(self.images, "image", "images")
        return f"{self.share:.0%} of {images} that two people answered{kappa}{left}"


class Opinions:
    """The answers that named people gave first-hand, image by image.

    The first answer to an image is its label. A second person's answer is only compared with it;
    where the two differ, the first holds until somebody settles it in the review.

    Attributes:
        of: `{content: {person: label}}`, people in the order in which they answered.
        by: `{person: {content: None}}`, contents in the order of the answers.
    """

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Label]] = {}
        self.by: dict[str, dict[str, None]] = {}
        self._settled: set[str] = set()
        self._pairs: dict[str, tuple[Label, Label]] = {}
        self._counts: Counter[tuple[Label, Label]] = Counter()
        self._unsettled: dict[str, None] = {}

    @property
    def unsettled(self) -> Collection[str]:
        """Contents on which two people differ and that nobody has reviewed, oldest first."""
        return self._unsettled.keys()

    def add(self, content: str, person: str, label: Label) -> None:
        """Take a person's answer; nothing is kept of people without a name."""
        if person:
            self.of.setdefault(content, {})[person] = label
            own = self.by.setdefault(person, {})
            own.pop(content, None)
            own[content] = None
        self._settled.discard(content)
        self._compare(content)

    def withdraw(self, content: str, person: str) -> None:
        """Forget a person's answer."""
        self.of.get(content, {}).pop(person, None)
        self.by.get(person, {}).pop(content, None)
        self._compare(content)

    def is_settled(self, content: str) -> bool:
        """Return whether somebody has reviewed an image since it was answered last."""
        return content in self._settled

    def settle(self, content: str, settled: bool = True) -> None:
        """Note that somebody has reviewed an image, or that this was taken back."""
        (self._settled.add if settled else self._settled.discard)(content)
        self._compare(content)

    def rename(self, name: str, to: str) -> None:
        """Rename a class."""
        for content, given in self.of.items():
            if name in given.values():
                self.of[content] = {who: to if v == name else v for who, v in given.items()}
                self._compare(content)

    def agreement(self) -> Agreement | None:
        """Compare the answers of people who saw the same images; None where nobody did.

        Source: Cohen 1960, the first answer and the second taken as the two raters.
        """
        images = sum(self._counts.values())
        if not images:
            return None
        agreed = sum(count for (a, b), count in self._counts.items() if a == b)
        first: Counter[Label] = Counter()
        second: Counter[Label] = Counter()
        for (a, b), count in self._counts.items():
            first[a] += count
            second[b] += count
        share = agreed / images
        chance = sum(count * second[label] for label, count in first.items()) / images**2
        kappa = None if chance == 1 else round((share - chance) / (1 - chance), _DIGITS)
        return Agreement(images, agreed, round(share, _DIGITS), kappa, len(self._unsettled))

    def disagreements(self) -> Iterator[tuple[str, Mapping[str, Label]]]:
        """Yield contents that two people answered differently, settled or not, with the answers."""
        for content, (a, b) in self._pairs.items():
            if a != b:
                yield content, self.of[content]

    def _compare(self, content: str) -> None:
        before = self._pairs.pop(content, None)
        if before is not None:
            self._counts[before] -= 1
            if not self._counts[before]:
                del self._counts[before]
        given = list(self.of.get(content, {}).values())
        if len(given) >= 2:
            pair = (given[0], given[1])
            self._pairs[content] = pair
            self._counts[pair] += 1
        if len(given) >= 2 and given[0] != given[1] and content not in self._settled:
            self._unsettled.setdefault(content)
        else:
            self._unsettled.pop(content, None)
