"""The errors alprune raises: each says what, what was got, what is allowed and what to do."""

import os
import re
import shlex
import site
import sysconfig
import traceback
import unicodedata

_LIBRARIES = (
    os.path.dirname(__file__) + os.sep,
    "<frozen",
    *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
    site.getusersitepackages(),
    *site.getsitepackages(),  # Debian's own packages, too
)


def failure(what: str, error: BaseException) -> str:
    """Say that somebody's function failed, with what and where: the start of a message."""
    where = own_line(error)
    return (
        f"{what} failed with {type(error).__name__}: {error} ({where.filename}, line "
        f"{where.lineno})."
    )


def own_line(error: BaseException) -> traceback.FrameSummary:
    """Return the line of somebody's code that an error came from, be it raised in a library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return (own or frames)[-1]


def shell_word(text: str, windows: bool = os.name == "nt") -> str:
    """Return a word of a command as a shell takes it; on Windows, cmd.exe and PowerShell both."""
    if not windows:
        return shlex.quote(text)
    return text if re.fullmatch(r"[\w.:/\\+-]+", text) else f'"{text}"'  # no name there holds a "


def quoted(value: object, most: int = 120) -> str:
    """Show what was got, for a message: its `repr`, cut where it is longer than `most`."""
    try:
        text = repr(value)
    except Exception as error:  # a number of 5,000 digits, lists nested too deep
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def counted(count: int, one: str, several: str) -> str:
    """Count things, with the words for one or for several: "1 link leads", "2 links lead"."""
    return f"{count:,} {one if count == 1 else several}"


def printable(text: str) -> str:
    """Escape what would steer a terminal: all that is not printable.

    Newlines stay, and what names in several scripts need: spaces of any width and the joiners.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(letter: str) -> bool:
    return (
        letter.isprintable()
        or letter in "\n\u200c\u200d"
        or (letter.isspace() and unicodedata.category(letter) == "Zs")
    )


class AlpruneError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class ConfigError(AlpruneError):
    """An option, a name or a recipe is not usable."""


class DataError(AlpruneError):
    """A data set is missing, damaged or does not fit the run."""


class InputError(DataError, ValueError):
    """Arrays given to `PrunedClassifier` do not fit; scikit-learn expects a ValueError."""


class ModelError(AlpruneError):
    """A learner cannot be built, loaded or traced."""


class PruneError(AlpruneError):
    """A pruning request cannot be met on this learner."""


class TrainError(AlpruneError):
    """Training cannot continue, for example because the loss is not finite."""


class AcquisitionError(AlpruneError):
    """An acquisition function returned something unusable."""


class StoreError(AlpruneError):
    """A run folder cannot be created, read or written."""
