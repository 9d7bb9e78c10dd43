"""Names of classes and files, which systems and keyboards spell in different ways."""

import unicodedata
from collections.abc import Iterable

LONGEST_NAME = 100  # characters of a class's name
# Control characters, halves of characters, and separators of lines and paragraphs.
_NO_LETTERS = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Spaces, and what copying from pages leaves at the ends of words: never seen, and no letter.
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200e\u200f\u2060\ufeff"
_UNLABELLED = frozenset({"unlabelled", "unlabeled"})


def composed(name: str) -> str:
    """Return a name with its accents composed (NFC) and without blanks at the ends."""
    return unicodedata.normalize("NFC", name).strip(_BLANKS)


def folded(name: str) -> str:
    """Return what names have in common that differ in case, in spaces at the ends or in form."""
    return composed(composed(name).casefold())


def is_name(text: str) -> bool:
    """Tell whether a text can name a class: some letters, of any script, and none of control."""
    return 0 < len(text) <= LONGEST_NAME and bool(text.strip()) and not has_control(text)


def has_control(text: str) -> bool:
    """Tell whether a text holds characters that no name in any script needs."""
    return any(unicodedata.category(letter) in _NO_LETTERS for letter in text)


def is_unlabelled(name: str) -> bool:
    """Tell whether a folder or label says that there is no label: `unlabelled`, `_Unlabeled`."""
    return folded(name).strip("_-. ()[]") in _UNLABELLED


class KnownNames:
    """Finds names by how they may be written: the exact one first, then one that is alike.

    Args:
        names: All that there are.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._composed: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Add one more name."""
        if name in self._names:
            return
        self._names.add(name)
        self._composed.setdefault(composed(name), []).append(name)
        self._folded.setdefault(folded(name), []).append(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def find(self, text: str) -> str | None:
        """Return the one name that a text means; None if there is none, or several are alike."""
        if text in self._names:
            return text
        for found in (self._composed.get(composed(text), []), self._folded.get(folded(text), [])):
            if len(found) == 1:
                return found[0]
        return None

    def alike(self, text: str) -> list[str]:
        """Return all names that differ from a text in nothing but case, spaces and form."""
        return self._folded.get(folded(text), [])


def unified(texts: Iterable[str]) -> dict[str, str]:
    """Return the name of the class that each text means, where forms of a name are one class.

    Of forms of one name the composed one is taken, as keyboards write it. Case makes two classes.
    """
    known = KnownNames()
    found = {}
    for text in sorted({*texts}, key=lambda text: (composed(text) != text, text)):
        like = [name for name in known.alike(text) if composed(name) == composed(text)]
        found[text] = like[0] if like else text
        known.add(found[text])
    return found
