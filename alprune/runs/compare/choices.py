"""What `--flops-reduction auto` removes, chosen once for all runs of a comparison that it fits."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from alprune.errors import AlpruneError, counted
from alprune.loop.auto_reduction import AUTO
from alprune.loop.config import RunConfig
from alprune.loop.defaults import PRUNE_OPTIONS
from alprune.loop.learner import with_reduction
from alprune.loop.resume import options
from alprune.loop.setup import first_labels
from alprune.loop.trust import trusting
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.runs import CHOSEN, NEW, SharedData

# Options that the choice depends on; runs that agree in them are pruned alike.
_OF_A_CHOICE = (
    *PRUNE_OPTIONS,
    *"dataset image_size model pretrained method prune_batch prune_batches".split(),
    *"batch_size initial warmup_batches budget score_share device precision".split(),
)

Planned = list[tuple[Cell, str]]


def choose_once(
    planned: Planned,
    load: SharedData,
    tell: Callable[[Cell, str], None],
    threads: int,
    elsewhere: bool = False,
) -> Planned:
    """Put the reduction that is chosen into the options of the runs that have not begun.

    Runs that differ in their seeds, or in how they ask and train, share a choice: that of the
    runs among them that have begun before, or else one that is measured now, on the data of the
    first.

    Args:
        planned: The runs, and whether each is "new", "unended" or "ended".
        load: Returns the data of a run.
        tell: Is told the first run of each choice that is measured, and the choice in words.
        threads: Of each run; the measurements have as many.
        elsewhere: Whether other machines make the runs; a warning says what that may cost.

    Raises:
        AlpruneError: As from `run`, with the name of the run.
    """
    chosen: dict[tuple[Any, ...], tuple[dict[str, Any], str]] = {}
    first: dict[tuple[Any, ...], Cell] = {}
    open_ = [(cell, state) for cell, state in planned if cell.config.flops_reduction == AUTO]
    for cell, state in open_:
        if state != NEW:
            with trusting(True):  # the folder's options have been compared with those given
                decided = _decided(options(cell.path))
            chosen.setdefault(_key(cell), (decided, f"as in run {cell.name}"))
    for cell, state in open_:
        if state == NEW and _key(cell) not in chosen:
            first.setdefault(_key(cell), cell)
    if first and elsewhere:
        warnings.warn(
            "what --flops-reduction auto removes is measured on this machine, with "
            f"{counted(threads, 'thread', 'threads')}, and the runs are made on others. Where "
            "these are faster or slower, give --flops-reduction.",
            stacklevel=3,
        )
    for key, cell in first.items():
        config, reason = _measured(cell, load, threads)
        chosen[key] = _decided(config), reason
        share = config.flops_reduction  # None: the method's own
        told = f"{share:.1%} of the FLOPs removed: " if isinstance(share, float) else ""
        tell(cell, told + reason)

    def filled(cell: Cell, state: str) -> Cell:
        if state != NEW or cell.config.flops_reduction != AUTO:
            return cell
        decided, reason = chosen[_key(cell)]
        return replace(cell, config=replace(cell.config, **decided), chosen=reason)

    return [(filled(cell, state), state) for cell, state in planned]


def _key(cell: Cell) -> tuple[Any, ...]:
    values = asdict(cell.config)
    return tuple(repr(values[name]) for name in _OF_A_CHOICE)


def _decided(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CHOSEN}


def _measured(cell: Cell, load: SharedData, threads: int) -> tuple[RunConfig, str]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train = load(cell.config).train
        pool, first = first_labels(cell.config, train)
        return with_reduction(cell.config, train, first, pool.label_of(first))
    except AlpruneError as error:
        raise type(error)(f"run {cell.name}: {error}") from error
    finally:
        torch.set_num_threads(before)
