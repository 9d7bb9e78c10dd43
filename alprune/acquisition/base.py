"""What an acquisition function is, what it may declare, and how its result is checked."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from alprune.acquisition.evidence import Evidence
from alprune.errors import AcquisitionError, AlpruneError, failure
from alprune.training import BudgetSpent

Acquisition = Callable[[Evidence, int, torch.Generator], Any]
"""`(evidence, count, generator)` -> `(count,)` absolute indices or `(n,)` scores, larger first."""

F = TypeVar("F", bound=Callable[..., Any])
# Types that torch can hold and hardly compute with.
_WIDENED = dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64)
_WIDENED |= dict.fromkeys((torch.float16, torch.bfloat16), torch.float32)
_PIECE = 2**20  # scores of which the best are taken at a time


def needs(*, snapshots: int) -> Callable[[F], F]:
    """Declare what a function wants from the learner before it is called; a decorator.

    Args:
        snapshots: Fits whose averaged weights the learner keeps, for `evidence.committee`; each
            costs the memory of the weights.
    """

    def declare(function: F) -> F:
        function.snapshots = snapshots  # type: ignore[attr-defined]
        return function

    return declare


def snapshots_of(function: Acquisition) -> int:
    """Return how many snapshots a function declares that it needs; 0 if it says nothing."""
    return getattr(held_by(function), "snapshots", 0)


def name_of(function: Acquisition) -> str:
    """Return the name that messages give a function."""
    function = held_by(function)
    return getattr(function, "__name__", type(function).__name__)


def held_by(function: Acquisition) -> Any:
    """Return what a partial holds, which declares and remembers things; others as they are."""
    return function.func if isinstance(function, partial) else function


def full_name(function: Acquisition) -> str:
    """Return `module:name` of a function, of a partial with the arguments that it holds."""
    if isinstance(function, partial):
        held = [_shown(value) for value in function.args]
        held += [f"{key}={_shown(value)}" for key, value in function.keywords.items()]
        return f"{full_name(function.func)}({', '.join(held)})"
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = named.__module__
    if module == "__main__":  # of a script, its name: two scripts may each have a `score`
        module = Path(getattr(sys.modules[module], "__file__", None) or module).stem
    return f"{module}:{named.__qualname__}"


def _shown(value: Any) -> str:
    """Show a value that is written alike in every process; of others, the type."""
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def wrap(name: str, outer: F, inner: Acquisition) -> F:
    """Give `outer`, which asks `inner`, a name and what `inner` declares and remembers."""
    outer.__name__ = f"{name}:{name_of(inner)}"
    outer.__qualname__ = f"{name}:{full_name(inner)}"
    outer.snapshots = snapshots_of(inner)  # type: ignore[attr-defined]
    held = held_by(inner)
    for part in ("state_dict", "load_state_dict"):
        if hasattr(held, part):
            setattr(outer, part, getattr(held, part))
    return outer


def call(
    function: Acquisition, evidence: Evidence, count: int, generator: torch.Generator
) -> Tensor:
    """Call an acquisition function and check what it returns.

    Args:
        function: The function.
        evidence: What it may look at.
        count: Points wanted, at most the candidates there are.
        generator: Source of randomness, on the CPU.

    Returns:
        `(n,)` finite scores, or `(count,)` distinct candidates as int64 on the CPU.

    Raises:
        AcquisitionError: The function failed, or its result is neither; the message names it.
    """
    name = name_of(function)
    try:
        result = function(evidence, count, generator)
    except (AlpruneError, BudgetSpent):
        raise
    except Exception as error:  # anyone's function may fail in any way
        raise AcquisitionError(failure(f"acquisition function {name!r}", error)) from error
    result = _as_tensor(name, result)
    if result.is_floating_point():
        return _checked_scores(name, result, evidence.candidates.numel())
    return _checked_indices(name, result, evidence.candidates, count)


def scores(
    function: Acquisition, evidence: Evidence, count: int, generator: torch.Generator
) -> Tensor:
    """Call a function that must return scores; `(n,)`, checked, on whatever device it chose.

    Raises:
        AcquisitionError: As `call`, or it returned indices.
    """
    result = call(function, evidence, count, generator)
    if not result.is_floating_point():
        raise AcquisitionError(
            f"acquisition function {name_of(function)!r} returned indices; only a function that "
            "returns scores, one a candidate, can be wrapped."
        )
    return result


def top(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the positions of the `count` largest scores, `(count,)` on the CPU, largest first.

    Where equal scores compete for the last places they are drawn at random: a pool that is
    sorted by class would otherwise give the same class every time.
    """
    values, places = _largest(scores, count)
    positions = places.to("cpu")
    least = values[-1:]
    tied = (scores == least).nonzero().flatten().to("cpu")
    above = int((values > least).sum())
    if tied.numel() > count - above:
        drawn = torch.randperm(tied.numel(), generator=generator)[: count - above]
        positions[above:] = tied[drawn]
    return positions


def ranked(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return all scores' positions, `(n,)` on the CPU, largest first, equal ones at random."""
    order = torch.randperm(scores.numel(), generator=generator)
    return order[scores.cpu()[order].argsort(descending=True, stable=True)]


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest scores and their positions, `(count,)` each, largest first.

    The best of each piece come first: over 100 million scores that is 14 times as fast.
    """
    if scores.numel() > 2 * max(_PIECE, count):
        pieces = [piece.topk(min(count, len(piece))) for piece in scores.split(_PIECE)]
        places = [best.indices + i * _PIECE for i, best in enumerate(pieces)]
        values, order = torch.cat([best.values for best in pieces]).topk(count)
        return values, torch.cat(places)[order]
    return scores.topk(count)  # type: ignore[return-value]


def _as_tensor(name: str, result: Any) -> Tensor:
    """Return what a function returned as a plain tensor, which torch can work with."""
    if isinstance(result, np.ndarray) and result.dtype.kind in "fiu" and result.itemsize <= 8:
        if isinstance(result, np.ma.MaskedArray) and np.ma.is_masked(result):
            raise AcquisitionError(
                f"acquisition function {name!r} returned an array of which "
                f"{np.ma.count_masked(result):,} numbers are masked. Fill them in: array.filled(0)."
            )
        native = result.dtype.newbyteorder("=")
        result = torch.from_numpy(np.ascontiguousarray(np.asarray(result), native))
    if not isinstance(result, Tensor):
        raise AcquisitionError(
            f"acquisition function {name!r} returned {type(result).__name__}; it must return a "
            "tensor or array of indices (integers) or of scores (floats)."
        )
    if result.is_nested or result.is_quantized or result.layout != torch.strided:
        kind = "nested" if result.is_nested else "quantised" if result.is_quantized else "sparse"
        raise AcquisitionError(
            f"acquisition function {name!r} returned a {kind} tensor; it must be a plain one. "
            "Tensor.to_dense(), dequantize() or torch.cat make one."
        )
    if result.dtype == torch.bool or result.is_complex():
        raise AcquisitionError(
            f"acquisition function {name!r} returned a tensor of {result.dtype}; it must hold "
            "indices (integers) or scores (floats)."
        )
    if result.dtype in _WIDENED:
        result = result.to(_WIDENED[result.dtype])
    return result.detach()


def _checked_scores(name: str, scores: Tensor, candidates: int) -> Tensor:
    if scores.shape != (candidates,):
        raise AcquisitionError(
            f"acquisition function {name!r} returned scores {tuple(scores.shape)}; one for each "
            f"of the {candidates} candidates is needed: ({candidates},)."
        )
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise AcquisitionError(
            f"acquisition function {name!r} returned {bad} scores of {scores.numel()} that are "
            "not finite."
        )
    return scores


def _checked_indices(name: str, indices: Tensor, candidates: Tensor, count: int) -> Tensor:
    hint = ""
    if indices.shape == candidates.shape:
        hint = " Whole numbers are taken for indices: return scores as floats, scores.float()."
    indices = indices.to("cpu", torch.int64)
    if indices.shape != (count,):
        raise AcquisitionError(
            f"acquisition function {name!r} returned indices {tuple(indices.shape)}; ({count},) "
            f"were asked for.{hint}"
        )
    if indices.unique().numel() != count:
        raise AcquisitionError(f"acquisition function {name!r} returned an index twice.{hint}")
    strange = indices[~torch.isin(indices, candidates)]
    if strange.numel():
        raise AcquisitionError(
            f"acquisition function {name!r} returned {strange.numel()} indices that are not "
            f"candidates (labelled, out of range or not in the scored subset), first "
            f"{int(strange[0])}. Return absolute indices taken from evidence.candidates.{hint}"
        )
    return indices
