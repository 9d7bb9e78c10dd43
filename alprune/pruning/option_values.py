"""Refuse values of options that are of the wrong kind or out of range."""

import math
from typing import Any

from alprune.errors import PruneError, quoted


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
