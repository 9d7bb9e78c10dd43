"""Code that a recipe or a run folder names is imported only where the user trusts it."""

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from alprune.errors import ConfigError

TRUSTED = "ALPRUNE_TRUST_CODE"
"""Environment variable: modules, separated by commas, that the user trusts whatever names them."""

_trusting = ContextVar("trusting", default=False)
# Options that name files, folders and devices. Every other text is taken for a name to look up.
_NO_NAMES = {"out", "data_root", "cache", "pretrained", "pretrained_digest", "device"}


@contextmanager
def trusting(allowed: bool) -> Iterator[None]:
    """Let what is called in this block import the code that files name, if `allowed`.

    False leaves it as it is outside: a command's --trust-code holds for all that it calls.
    """
    token = _trusting.set(allowed or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


def trusted() -> bool:
    """Tell whether this is called in a `trusting` block that allows code."""
    return _trusting.get()


def check_trust(
    options: Mapping[str, Any],
    source: str | Path,
    given: Mapping[str, Any] | None = None,
    takes: Collection[str] | None = None,
) -> None:
    """Refuse options from a file that name code, before anything is imported; not in `trusting`.

    Args:
        options: By name, as the file has them; a list holds the values of a grid.
        source: The file.
        given: Options from the command line or from Python; None where none can be given beside
            the file. A name that is among them, too, is the user's own and needs no trust.
        takes: Options that can be given beside the file, for the message; None for all.

    Raises:
        ConfigError: A value is `module:attribute`, which would be imported; the message lists
            module and file, and how to allow it.
    """
    if trusted():
        return
    own = {text for _, text in _texts(given or {})}
    for option, text in _texts(options):
        name = code_name(option, text)
        if name is None or text in own:
            continue
        module = name.partition(":")[0]
        if module in os.environ.get(TRUSTED, "").split(","):
            continue
        file = _file_of(module) or "not found in this folder or among the installed packages"
        flag = "--" + option.replace("_", "-")
        can_be_given = given is not None and (takes is None or option in takes)
        or_name_it = f", or name it yourself: {flag} {text}" if can_be_given else ""
        raise ConfigError(
            f"{source} names code: {option} = {text!r} would import the module {module!r} ({file}),"
            " and code can do whatever you can. If you have read it and trust it, give "
            f"--trust-code (trust_code=True in Python){or_name_it}."
        )


def code_name(option: str, text: str) -> str | None:
    """Return the `module:attribute` that the value of an option would import, or None."""
    if option in _NO_NAMES or ":" not in text:
        return None
    # Imported here: these rooms load torch, and few recipes have a colon in them.
    from alprune.acquisition import WRAPPERS
    from alprune.data import DATASETS
    from alprune.models.registry import LIBRARIES

    head, _, rest = text.partition(":")
    while option == "acquisition" and head in WRAPPERS and rest:
        text = rest
        head, _, rest = text.partition(":")
    if option == "dataset" and f"{head}:PATH" in DATASETS:
        return None
    if option == "model" and text.startswith(LIBRARIES):
        return None
    words = [*head.split("."), *rest.split(".")]
    return text if rest and all(word.isidentifier() for word in words) else None


def _texts(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for option, value in options.items():
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, str):
                yield option, entry


def _file_of(module: str) -> str | None:
    """Return the file that an import would run, without importing a package on the way."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__file__", None) or "built into Python"
    places = [os.getcwd(), *sys.path]
    origin = None
    for word in module.split("."):
        spec = PathFinder.find_spec(word, places)
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or [])
    return origin
