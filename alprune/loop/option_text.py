"""Values of options as people write them: `10m`, `lr=0.1`, `yes`."""

import re

from alprune.errors import ConfigError, quoted

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NAMES = "|".join(sorted(_UNITS, key=len, reverse=True))
_PART = re.compile(rf"(\d+(?:\.\d*)?|\.\d+)\s*({_NAMES})\s*")
_MOST = 100  # characters of a duration; matching takes their square
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def seconds_of(text: str, name: str) -> float:
    """Read a duration: seconds, or numbers with the units s, m (min), h and d, as in "1h30m".

    Args:
        text: As written.
        name: Of the option, for the message.

    Raises:
        ConfigError: It is not one.
    """
    plain = text.strip().lower()
    try:
        return float(plain)
    except ValueError:
        parts = _PART.findall(plain[:_MOST])
    if not parts or len(plain) > _MOST or _PART.sub("", plain):
        raise ConfigError(
            f"{name} takes a duration, as in 90s, 10m, 2h or 1h30m, or a number of seconds; got "
            f"{quoted(text)}."
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def duration(seconds: float) -> str:
    """Write a duration as `seconds_of` reads it, in the largest unit that divides it."""
    for unit in ("h", "m"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"


def value_of(name: str, kind: type, text: str) -> bool | int | float | str:
    """Read a value of a type.

    Args:
        name: Of the option, for the message.
        kind: bool, int, float or str.
        text: As written.

    Raises:
        ConfigError: It is of another type.
    """
    if kind is str:
        return text
    try:
        return _YES_NO[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} takes {named(kind)}, got {quoted(text)}.") from error


def named(kind: type) -> str:
    """Name a type of option to people."""
    return _KINDS[kind]
