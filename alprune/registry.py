"""Find things by name: a key of a registry, or anyone's `package.module:attribute`."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from alprune.errors import ConfigError, quoted

_LONGEST = 200  # characters of a name that is looked for


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


def unknown(kind: str, name: str, known: Mapping[str, Any] | list[str]) -> ConfigError:
    """Build the error for an unknown name, with the nearest known one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST], names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {kind} {quoted(name)}; known: {', '.join(names)}.{hint}")


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
            f"{kind} {quoted(name)} is no name that can be imported: expected "
            f"package.module:attribute, or one of: {', '.join(sorted(known))}."
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
        raise ConfigError(
            f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}. Expected "
            f"package.module:attribute, with the module installed or in the current folder "
            f"({here}), or one of: {', '.join(sorted(known))}."
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    return found
