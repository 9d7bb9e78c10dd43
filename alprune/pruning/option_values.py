"""Refuse values of options that are of the wrong kind or out of range; NumPy's are made plain."""

import math
import sys
from dataclasses import fields
from typing import Any

from alprune.errors import PruneError, quoted


def plain(value: Any) -> Any:
    """Turn a NumPy number, as loops over arrays give them, into Python's; leave all else."""
    numpy = sys.modules.get("numpy")  # where it is not imported there are none
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def make_plain(record: Any) -> None:
    """Turn the NumPy numbers in the fields of a frozen dataclass into Python's, in place."""
    for entry in fields(record):
        object.__setattr__(record, entry.name, plain(getattr(record, entry.name)))


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise PruneError(f"{name} must be a whole number, at least {least}; got {quoted(value)}.")
    if value < least:
        raise PruneError(f"{name} must be at least {least}, got {quoted(value)}.")


def check_number(name: str, value: Any, positive: bool = False) -> None:
    """Refuse what is not a finite number of at least 0, or more than 0."""
    bound = "more than 0" if positive else "at least 0"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PruneError(f"{name} must be a number, {bound}; got {quoted(value)}.")
    if value < 0 or (positive and value == 0):
        raise PruneError(f"{name} must be {bound}, got {value:g}.")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise PruneError(f"{name} must be True or False, got {quoted(value)}.")
