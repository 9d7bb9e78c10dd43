"""Which points to label next: `(evidence, count, generator) -> indices or scores`."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alprune.acquisition.badge import badge
from alprune.acquisition.base import (
    Acquisition,
    call,
    full_name,
    needs,
    snapshots_of,
    top,
)
from alprune.acquisition.bayesian import bald, batchbald, variation_ratios
from alprune.acquisition.clustering import clue, cluster_margin
from alprune.acquisition.committee import qbc, qbc_vote
from alprune.acquisition.core_set import k_center
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.falcun import falcun
from alprune.acquisition.probcover import probcover
from alprune.acquisition.stochastic import power, softmax, softrank
from alprune.acquisition.typiclust import typiclust
from alprune.acquisition.uncertainty import entropy, least_confidence, margin, random
from alprune.acquisition.wrappers import class_balanced, diverse
from alprune.errors import ConfigError
from alprune.registry import installed, loaded, lookup, origin

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Evidence",
    "WRAPPERS",
    "acquire",
    "find_acquisition",
    "needs",
    "recorded_name",
    "snapshots_of",
    "summaries",
]

ACQUISITIONS: dict[str, Acquisition] = {
    "badge": badge,
    "bald": bald,
    "batchbald": batchbald,
    "clue": clue,
    "cluster-margin": cluster_margin,
    "entropy": entropy,
    "falcun": falcun,
    "k-center": k_center,
    "least-confidence": least_confidence,
    "margin": margin,
    "power-bald": power(bald),
    "power-entropy": power(entropy),
    "probcover": probcover,
    "qbc": qbc,
    "qbc-vote": qbc_vote,
    "random": random,
    "softmax-bald": softmax(bald),
    "softmax-entropy": softmax(entropy),
    "softrank-bald": softrank(bald),
    "softrank-entropy": softrank(entropy),
    "typiclust": typiclust,
    "variation-ratios": variation_ratios,
}

WRAPPERS: dict[str, Callable[[Acquisition], Acquisition]] = {
    "balanced": class_balanced,
    "diverse": diverse,
    "power": power,
    "softmax": softmax,
    "softrank": softrank,
}
"""What goes around a function that returns scores: `balanced:entropy`, `diverse:mine:function`."""

ENTRY_POINTS = "alprune.acquisitions"
"""The entry point group in which an installed package offers functions by name."""

_KIND = "acquisition function"


def find_acquisition(name: str | Acquisition) -> Acquisition:
    """Return the function for a name.

    Args:
        name: In this order: `wrapper:name` with one of `WRAPPERS`, a key of `ACQUISITIONS`, a
            name that an installed package offers in the entry point group
            `alprune.acquisitions`, or `package.module:function`. A function is returned as it
            is. A class is instantiated without arguments, so that it may keep state over the run.

    Raises:
        ConfigError: Unknown name, or what it names cannot be imported or made.
    """
    if isinstance(name, str):
        head, _, rest = name.partition(":")
        if rest and head in WRAPPERS:
            return WRAPPERS[head](find_acquisition(rest))
        return _callable(name, _named(name))
    return _callable(name, name)


def recorded_name(asked: str | Acquisition) -> str:
    """Return what the record of a run calls its function.

    Args:
        asked: As for `find_acquisition`.

    Returns:
        The name as given; of a function that was passed, the name that it has here, or else
        `module:name`, which two lambdas of a module share, and two objects of a class.
    """
    if isinstance(asked, str):
        return asked
    ours = (name for name, function in ACQUISITIONS.items() if function is asked)
    return next(ours, full_name(asked))


def acquire(
    function: Acquisition, evidence: Evidence, count: int, generator: torch.Generator
) -> Tensor:
    """Ask an acquisition function for points and check what it returns.

    Args:
        function: Returns `(count,)` distinct absolute indices among the candidates (integers),
            or `(n,)` scores (floating point), of which the largest are taken, equal ones at
            random; a tensor or a NumPy array.
        evidence: The candidates and the learner's view of them.
        count: Points wanted; fewer are taken if there are fewer candidates.
        generator: Source of randomness, on the CPU.

    Returns:
        `(min(count, n),)` absolute indices, int64 on the CPU.

    Raises:
        AcquisitionError: The result has the wrong type or shape, doubles, strangers or NaN;
            or the function itself failed.
    """
    count = min(count, evidence.candidates.numel())
    if count < 1:
        return torch.empty(0, dtype=torch.int64)
    result = call(function, evidence, count, generator)
    if not result.is_floating_point():
        return result
    return evidence.candidates[top(result, count, generator)]


def summaries() -> dict[str, str]:
    """Say in a line what each known name is: ours, installed packages' and the wrappers'."""
    known = {name: _first_line(function) for name, function in ACQUISITIONS.items()}
    for name, entry in sorted(installed(ENTRY_POINTS, ACQUISITIONS).items()):
        try:
            known[name] = f"{_first_line(loaded(_KIND, entry))} ({origin(entry)})"
        except ConfigError as error:
            known[name] = str(error)
    return known | {f"{name}:NAME": _first_line(wrapper) for name, wrapper in WRAPPERS.items()}


def _named(name: str) -> Any:
    if name in ACQUISITIONS:
        return ACQUISITIONS[name]
    offered = installed(ENTRY_POINTS, ACQUISITIONS)
    if name in offered:
        return loaded(_KIND, offered[name])
    known = {*ACQUISITIONS, *offered, *(f"{wrapper}:NAME" for wrapper in WRAPPERS)}
    return lookup(_KIND, name, dict.fromkeys(known))


def _callable(name: str | Acquisition, found: Any) -> Acquisition:
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"acquisition class {found.__name__!r} cannot be made without arguments: {error}."
            ) from error
    if not callable(found):
        raise ConfigError(
            f"acquisition function {name!r} is a {type(found).__name__}; it must be a function "
            "(evidence, count, generator) -> indices or scores."
        )
    return found


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]
