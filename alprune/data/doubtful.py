"""Labels that are hardly meant as names of classes: marks of missing values, garbled letters."""

import re

from alprune.data.names import is_unlabelled

_MISSING = frozenset(
    "na n/a #na #n/a <na> nan -nan +nan 1.#qnan null (null) #null! none nil nat undefined "
    "#ref! #value! #name? #div/0! #num! #spill! #calc! #getting_data".split()
)
_WHOLE = re.compile(r"([+-]?\d+)[.,]0+")
_SCIENTIFIC = re.compile(r"[+-]?\d+([.,]\d+)?[eE][+-]?\d+")

_MONTHS = (  # short, in some languages, as a spreadsheet writes what it takes for a date
    "jan feb mar mrz mär apr mai may jun jul aug sep sept okt oct nov dez dec janv févr mars avr "
    "juin juil août ene abr ago dic gen mag giu lug set ott"
).replace(" ", "|")
_FIRST = "jan|feb|mar|mrz|apr|mai|may|jun|jul|aug|sep|okt|oct|nov|dez|dec"  # "set 1" is a name
_DATE = re.compile(rf"\d{{1,2}}[-. ]+({_MONTHS})\.?|({_FIRST})-\d\d", re.IGNORECASE)


def why_doubtful(label: str) -> str | None:
    """Return why a label should not become a new class unless that is meant; None if it may."""
    if label.casefold() in _MISSING:
        return "it stands for a missing value: leave the cell empty"
    if is_unlabelled(label):
        return "it says that there is no label: leave the cell empty"
    if (whole := as_whole(label)) is not None:
        return f"it looks like the number {whole}, changed by a program"
    if _SCIENTIFIC.fullmatch(label):
        return "it looks like a number or name that a spreadsheet has changed"
    if _DATE.fullmatch(label):
        return "it looks like a date, which a spreadsheet may have made of a name"
    if "\ufffd" in label or re.fullmatch(r"[?\s]{2,}", label):
        return "its letters were lost when the file was saved: save it as UTF-8"
    if (meant := ungarbled(label)) is not None:
        return f"it looks like {meant!r} in UTF-8 that was read as another encoding"
    return None


def as_whole(label: str) -> str | None:
    """Return the whole number that pandas or a spreadsheet has turned into a text such as 3.0."""
    found = _WHOLE.fullmatch(label)
    return found[1] if found else None


def ungarbled(label: str) -> str | None:
    """Return the text that gives this one if its UTF-8 is taken for a Western code page."""
    if label.isascii():
        return None
    for page in ("cp1252", "latin-1", "cp1251", "cp1250"):
        try:
            meant = label.encode(page).decode("utf-8")
        except UnicodeError:
            continue
        return meant if meant.isprintable() else None
    return None
