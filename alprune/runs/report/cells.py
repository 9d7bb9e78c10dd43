"""The entries of a report's tables: what is read, and what they are sorted by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alprune.runs.report.groups import Group, option_text
from alprune.runs.report.statistics import Estimate, mean_and_error

NONE = "-"
_WIDE = 1_000  # the end of an interval is not written out from here on


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: What is read.
        sort: What it is sorted by; None comes last.
    """

    text: str
    sort: float | str | None = None


def name_cell(group: Group) -> Cell:
    """Name a group."""
    return Cell(group.name, group.name)


def number_cell(value: float | None, digits: int) -> Cell:
    """Write a number that may be unknown."""
    return Cell(NONE) if value is None else Cell(f"{value:,.{digits}f}", value)


def option_cell(value: object) -> Cell:
    """Write an option's value; numbers sort as such."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = option_text(value)
    return Cell(text, float(value) if is_number else text)  # type: ignore[arg-type]


def mean_cell(
    values: Sequence[float], digits: int, of: int | None = None, error: bool = True
) -> Cell:
    """Write a mean and its standard error, and of how many of `of` runs if not of all."""
    if not values:
        return Cell(NONE)
    mean, spread = mean_and_error(values)
    text = f"{mean:,.{digits}f}"
    if error and spread is not None:
        text += f" ± {spread:,.{digits}f}"
    if of is not None and len(values) < of:
        text += f" ({len(values)} of {of})"
    return Cell(text, mean)


def seconds_text(seconds: float) -> str:
    """Write seconds for people: the shorter, the more digits."""
    return f"{seconds:,.{2 if seconds < 10 else 1 if seconds < 100 else 0}f}"


def seconds_cell(values: Sequence[float], of: int | None = None) -> Cell:
    """Write a mean time, and of how many of `of` runs if not of all."""
    mean, _ = mean_and_error(values)
    some = f" ({len(values)} of {of})" if of is not None and len(values) < of else ""
    return Cell(seconds_text(mean) + some, mean)


def time_cell(found: Sequence[float], runs: int) -> Cell:
    """Write the mean of times; infinite ones never came, NaN are not known."""
    known = [t for t in found if not math.isnan(t)]
    never = sum(math.isinf(t) for t in known)
    if not known:
        return Cell("?")
    if never:
        some = f" ({len(known) - never} of {len(known)} runs)" if 0 < never < len(known) else ""
        return Cell(NONE + some)
    return seconds_cell(known, of=runs)


def estimate_cell(found: Estimate | None, form: str, pairs: int) -> Cell:
    """Write an estimate, its interval, and of how many pairs it is unless of `pairs`."""
    if found is None:
        return Cell(NONE)
    told = []
    if found.low is not None and found.high is not None:
        told.append(f"{form.format(found.low)} to {form.format(found.high)}")
    if found.interval is not None:
        told.append("t " + " to ".join(interval_end(end, form) for end in found.interval))
    if found.pairs != pairs:
        told.append(f"{found.pairs} pair" + "s" * (found.pairs > 1))
    if found.p is not None:
        told.append(f"p = {found.p:.2g}")
    brackets = f" ({'; '.join(told)})" if told else ""
    return Cell(form.format(found.value) + brackets, found.value)


def interval_end(value: float, form: str) -> str:
    """Write an end of an interval, cut off where it is large."""
    if abs(value) < _WIDE:
        return form.format(value)
    return f"over {_WIDE:,}" if value > 0 else f"under -{_WIDE:,}"
