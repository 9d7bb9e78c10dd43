"""One option of a run: how it is described, its type, and what its value may be."""

import math
from collections.abc import Mapping
from dataclasses import Field, field
from types import NoneType, UnionType
from typing import Any, get_args

from alprune.errors import ConfigError, quoted
from alprune.loop.option_text import named
from alprune.pruning.registry import AFTER_PRUNING

# What an option may be. Where a registry that imports torch decides, a test compares the names.
CHOICES = {
    "after_pruning": tuple(AFTER_PRUNING),
    "normalised": ("auto", "pinned", "follow"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "schedule": ("constant", "linear", "cosine"),
    "score_mode": ("train", "eval"),
}

# Options whose text may name what somebody wrote.
_NAMED = {"dataset", "model", "method", "acquisition", "start", "epi_criterion"}

GROUPS = ("data", "learner", "pruning", "training", "acquisition", "stopping", "run")
"""Of options, as people think of them; the order in which help shows them."""


def option(
    group: str,
    default: Any,
    help: str,
    *,
    common: bool = False,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    words: tuple[str, ...] = (),
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
        above: What a value must be greater than; it must be finite, too.
        most: The largest value allowed.
        words: Words that are allowed in place of a number.
        otherwise: What holds where it is None, in words.
        unit: "s" for a duration, which may be written as in "10m".
    """
    facts: dict[str, Any] = {"group": group, "help": help, "common": common}
    facts |= {"least": least, "above": above, "most": most, "words": words}
    return field(default=default, metadata=facts | {"otherwise": otherwise, "unit": unit})


def option_type(entry: Field[Any]) -> tuple[type, bool]:
    """Return an option's plain type and whether None is allowed."""
    hint: Any = entry.type
    if isinstance(hint, UnionType):
        plain = [kind for kind in get_args(hint) if kind is not NoneType]
        return plain[0], True
    return hint, False


def check(entry: Field[Any], value: Any, facts: Mapping[str, Any]) -> None:
    """Make sure that a value can be an option's.

    Args:
        entry: Its name and type.
        value: As given.
        facts: What `option` says of it.

    Raises:
        ConfigError: It is of another type, or out of range.
    """
    kind, optional = option_type(entry)
    if (value is None and optional) or value in facts["words"]:
        return
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    right = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    if not right:
        needed = " or ".join([named(kind), *facts["words"]])
        how = ""
        if kind is str and entry.name in _NAMED and _is_code(value):
            how = " Name it package.module:function (of a notebook `__main__:function`)"
            how += ", or pass it to alprune.run." if entry.name == "acquisition" else "."
        raise ConfigError(
            f"{entry.name} must be {needed}, got {quoted(value)} ({type(value).__name__}).{how}"
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(
            f"{entry.name} must be less than 2^63, got a number of {value.bit_length()} bits."
        )
    _check_range(entry.name, value, facts)
    # Names of files and folders: neither a file system nor a recipe could hold these.
    if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        raise ConfigError(f"{entry.name} must be text (UTF-8, no null), got {quoted(value)}.")


def _check_range(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    least, above, most = facts["least"], facts["above"], facts["most"]
    if least is above is most is None:
        return
    low = least if above is None else above
    right = value >= low and value != above and value <= (math.inf if most is None else most)
    if right and math.isfinite(value):
        return
    if most is not None:
        needed = f"in {'[' if above is None else '('}{low:g}, {most:g}]"
        name += " is a share: it" * (most == 1)
    elif above is not None:
        needed = f"more than {above:g} and finite"
    else:
        needed = f"at least {low:g}" + " and finite" * (value > low)
    raise ConfigError(f"{name} must be {needed}, got {value:g}.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, as Python reads bytes that are no UTF-8
        return False
    return True


def _is_code(value: Any) -> bool:
    """Whether a value is a function, a network or the like in place of its name."""
    return callable(value) or type(value).__module__ != "builtins"
