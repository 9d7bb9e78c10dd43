"""The classes of a folder of labelling, and what people write for them."""

from collections.abc import Iterable, Sequence

from alprune.data.doubtful import as_whole
from alprune.data.names import LONGEST_NAME, KnownNames, composed, is_name, is_unlabelled
from alprune.errors import ConfigError
from alprune.labelling.read_answers import SKIPS, Given


class ClassNames:
    """Finds classes by what people write; collects the new ones where they are allowed."""

    def __init__(self, known: Sequence[str], growing: bool) -> None:
        self.known, self._growing = list(known), growing
        self._forms = KnownNames(known)
        self.new: list[str] = []

    def meaning(self, entry: Given) -> str | None:
        """Return the class's name, "" for an open question, None for a skip."""
        if entry.skipped:
            return None
        if not entry.label:
            return ""
        whole = as_whole(entry.labels[0])
        for text in (*entry.labels, *([whole] if whole else [])):
            if (name := self._forms.find(text)) is not None:
                return name
        text = composed(entry.labels[0])
        return None if text.casefold() in SKIPS else text

    def find(self, name: str | None) -> str | None:
        """Return the class of a name, as it is spelt here; None for none."""
        return None if name is None else self._forms.find(name) or name

    def alike(self, label: str) -> list[str]:
        """Return the classes that differ from a label only in case, spaces and form."""
        return self._forms.alike(label)

    def add(self, label: str) -> bool:
        """Make a label a class if that is allowed; return whether it is."""
        if self._growing:
            self.known.append(label)
            self._forms.add(label)
            self.new.append(label)
        return self._growing


def declared(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return names of classes that a person gives, spelt as those that are known already.

    Raises:
        ConfigError: One of them cannot name a class.
    """
    forms = KnownNames(known)
    spelt = [forms.find(name) or composed(name) for name in names]
    if odd := [name for name in spelt if not is_name(name) or is_unlabelled(name)]:
        raise ConfigError(
            f"{odd[0]!r} cannot name a class: a name has 1 to {LONGEST_NAME} characters, none of "
            "them a control character, and is not 'unlabelled'."
        )
    return spelt
