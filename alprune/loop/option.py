"""One option of a run: how it is described, its type, and what its value may be."""

from dataclasses import Field, field
from types import NoneType, UnionType
from typing import Any, get_args

from alprune.errors import ConfigError, quoted
from alprune.loop.option_text import named

GROUPS = ("data", "learner", "pruning", "training", "acquisition", "stopping", "run")
"""Of options, as people think of them; the order in which help shows them."""


def option(
    group: str,
    default: Any,
    help: str,
    *,
    common: bool = False,
    least: float | None = None,
    otherwise: str = "",
    unit: str = "",
) -> Any:
    """Describe an option.

    Args:
        group: One of `GROUPS`.
        default: Its value in every run that does not set it; None where that depends on others
            (`alprune.loop.defaults`), or where None means something.
        help: What it does; no default, which help texts add.
        common: Whether the short help shows it.
        least: The smallest value allowed.
        otherwise: What holds where it is None, in words.
        unit: "s" for a duration, which may be written as in "10m".
    """
    facts = {"group": group, "help": help, "common": common, "least": least}
    return field(default=default, metadata=facts | {"otherwise": otherwise, "unit": unit})


def option_type(entry: Field[Any]) -> tuple[type, bool]:
    """Return an option's plain type and whether None is allowed."""
    hint: Any = entry.type
    if isinstance(hint, UnionType):
        plain = [kind for kind in get_args(hint) if kind is not NoneType]
        return plain[0], True
    return hint, False


def check(entry: Field[Any], value: Any, least: float | None) -> None:
    """Make sure that a value can be an option's.

    Raises:
        ConfigError: It is of another type, or less than `least`.
    """
    kind, optional = option_type(entry)
    if value is None and optional:
        return
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    right = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise ConfigError(
            f"{entry.name} must be {named(kind)}, got {quoted(value)} ({type(value).__name__})."
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(
            f"{entry.name} must be less than 2^63, got a number of {value.bit_length()} bits."
        )
    if least is not None and not value >= least:
        raise ConfigError(f"{entry.name} must be at least {least:g}, got {value:g}.")
    # Names of files and folders: neither a file system nor a recipe could hold these.
    if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        raise ConfigError(f"{entry.name} must be text (UTF-8, no null), got {quoted(value)}.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, as Python reads bytes that are no UTF-8
        return False
    return True
