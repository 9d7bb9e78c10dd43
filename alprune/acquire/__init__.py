"""Which points to label next: `(evidence, count, generator) -> indices or scores`."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alprune.acquire.evidence import Evidence
from alprune.acquire.uncertainty import entropy, least_confidence, margin, random
from alprune.errors import AcquisitionError, AlpruneError, ConfigError, failure
from alprune.names import lookup
from alprune.train import BudgetSpent

__all__ = ["ACQUISITIONS", "Acquisition", "Evidence", "acquire", "find_acquisition"]

Acquisition = Callable[[Evidence, int, torch.Generator], Tensor]

ACQUISITIONS: dict[str, Acquisition] = {
    "entropy": entropy,
    "least-confidence": least_confidence,
    "margin": margin,
    "random": random,
}


def find_acquisition(name: str | Acquisition) -> Acquisition:
    """Return the function for a name in `ACQUISITIONS` or `package.module:function`.

    A class is instantiated without arguments, so that it may keep state over the run.

    Raises:
        ConfigError: Unknown name.
    """
    found: Any = name
    if isinstance(name, str):
        found = lookup("acquisition function", name, ACQUISITIONS)
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


def acquire(
    function: Acquisition, evidence: Evidence, count: int, generator: torch.Generator
) -> Tensor:
    """Ask an acquisition function for points and check what it returns.

    Args:
        function: Returns `(count,)` distinct absolute indices among the candidates (int64), or
            `(n,)` scores (floating point), of which the largest are taken.
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
    name = getattr(function, "__name__", type(function).__name__)
    try:
        result = function(evidence, count, generator)
    except (AlpruneError, BudgetSpent):
        raise
    except Exception as error:
        raise AcquisitionError(failure(f"acquisition function {name!r}", error)) from error
    if not isinstance(result, Tensor):
        raise AcquisitionError(
            f"acquisition function {name!r} returned {type(result).__name__}; it must return a "
            "tensor of indices (int64) or of scores (float)."
        )
    if result.is_floating_point():
        return _top(name, result, evidence.candidates, count)
    return _checked(name, result, evidence.candidates, count)


def _top(name: str, scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    if scores.shape != candidates.shape:
        raise AcquisitionError(
            f"acquisition function {name!r} returned scores {tuple(scores.shape)}; one for each "
            f"of the {candidates.numel()} candidates is needed: ({candidates.numel()},)."
        )
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise AcquisitionError(
            f"acquisition function {name!r} returned {bad} scores of {scores.numel()} that are "
            "not finite."
        )
    return candidates[scores.topk(count).indices.to("cpu")]


def _checked(name: str, indices: Tensor, candidates: Tensor, count: int) -> Tensor:
    indices = indices.to("cpu", torch.int64)
    if indices.shape != (count,):
        raise AcquisitionError(
            f"acquisition function {name!r} returned indices {tuple(indices.shape)}; ({count},) "
            "were asked for."
        )
    if indices.unique().numel() != count:
        raise AcquisitionError(f"acquisition function {name!r} returned an index twice.")
    strange = indices[~torch.isin(indices, candidates)]
    if strange.numel():
        raise AcquisitionError(
            f"acquisition function {name!r} returned {strange.numel()} indices that are no "
            f"candidates (labelled, out of range or not in the scored subset), first "
            f"{int(strange[0])}. Return absolute indices taken from evidence.candidates."
        )
    return indices
