"""Find things by name: a key of a registry, or anyone's `package.module:attribute`."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from alprune.errors import ConfigError, quoted

_LONGEST = 200  # characters of a name that is looked for
_MOST = 5  # names in a message
_LISTED = dict.fromkeys(
    ("method", "model", "data set", "acquisition function", "start"), "`alprune list`"
) | {"option": "`alprune run --help-all`"}


def lookup(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """Return `registry[name]`, or the object that `package.module:attribute` names.

    Args:
        kind: What is looked up, for the message ("method", "model", ...).
        name: A key of `registry`, or `package.module:attribute`; modules in the current
            folder are found too. Importing runs the module's code: name none that you do not
            trust, and read a stranger's recipe before you run it.
        registry: The known names.

    Returns:
        The entry, or the imported object as it is.

    Raises:
        ConfigError: Nothing of that name; the message lists the known names and suggests the
            nearest.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return _import(kind, name, registry)
    raise unknown(kind, name, registry)


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for an unknown name: the nearest known one, or some of them."""
    names = sorted(known)
    if near := _nearest(name, names):
        return ConfigError(f"unknown {kind} {quoted(name)}. Did you mean {near!r}?")
    return ConfigError(f"unknown {kind} {quoted(name)}; known: {_some(kind, names)}.")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the known name that is most like a name; of those with a colon, before it."""
    whole = ":" not in name
    heads = {each if whole else each.partition(":")[0]: each for each in names}
    if not whole:
        heads = {head: each for head, each in heads.items() if ":" in each}
    wanted = name[:_LONGEST].partition(":")[0]
    near = difflib.get_close_matches(wanted, heads, n=1, cutoff=0.5)
    return heads[near[0]] if near else None


def _some(kind: str, names: Sequence[str]) -> str:
    if len(names) <= _MOST:
        return ", ".join(names)
    where = _LISTED.get(kind)
    return f"{', '.join(names[:_MOST])}, ..." + (f" ({where} shows all)" if where else "")


def installed(group: str, own: Container[str]) -> dict[str, EntryPoint]:
    """Return what installed packages offer in a group of entry points; `own` names win."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if entry.name not in own:
            found.setdefault(entry.name, entry)
    return found


def loaded(kind: str, entry: EntryPoint) -> Any:
    """Load what an installed package offers.

    Raises:
        ConfigError: It cannot be loaded.
    """
    try:
        return entry.load()
    except Exception as error:  # anyone's package may fail in any way
        raise ConfigError(
            f"{kind} {entry.name!r} of {origin(entry)} cannot be loaded from {entry.value}: "
            f"{type(error).__name__}: {error}. Mend or uninstall that package."
        ) from error


def origin(entry: EntryPoint) -> str:
    """Name the package that offers something."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported when first used (PEP 562).

    Args:
        package: Its `__name__`.
        modules: `{module: names}`, where each name is defined.
    """
    where = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(where[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return get


def later(name: str, *first: Any) -> Callable[..., Any]:
    """Return a function that is imported when it is first called, for tables that stay light.

    Args:
        name: `package.module:function`.
        *first: Arguments that are passed before those of the call.
    """
    return partial(_import_and_call, name, *first)


def _import_and_call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(*args, **kwargs)


def _import(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    module_name, _, attribute = name.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if len(name) > _LONGEST or not all(word.isidentifier() for word in words):
        raise ConfigError(
            f"{kind} {quoted(name)} is not a name that can be imported: expected "
            f"package.module:attribute, or one of: {_some(kind, sorted(known))}."
        )
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a module of the user's may fail in any way
        near = _nearest(name, sorted(known))
        raise ConfigError(
            f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}. "
            + (f"Did you mean {near!r}? " if near else "")
            + "Expected package.module:attribute, with the module installed or in the current "
            f"folder ({here}), or one of: {_some(kind, sorted(known))}."
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    return found
