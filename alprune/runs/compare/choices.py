"""What `--flops-reduction auto` removes, chosen once for all runs of a comparison that it fits."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from alprune.errors import AlpruneError, StoreError, quoted
from alprune.loop.auto_reduction import AUTO
from alprune.loop.config import RunConfig
from alprune.loop.defaults import PRUNE_OPTIONS
from alprune.loop.learner import with_reduction
from alprune.loop.resume import options
from alprune.loop.setup import first_labels
from alprune.loop.trust import trusting
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.manifest import MANIFEST, read_grid_recipe
from alprune.runs.compare.runs import CHOSEN, NEW, SharedData

# Options that the choice depends on; runs that agree in them are pruned alike.
_OF_A_CHOICE = (
    *PRUNE_OPTIONS,
    *"dataset image_size model pretrained method prune_batch prune_batches".split(),
    *"batch_size initial warmup_batches budget score_share device precision".split(),
)

Planned = list[tuple[Cell, str]]


def check_chosen(planned: Planned, out: Path) -> None:
    """Refuse to keep runs whose reduction was given as those of one that is chosen.

    Args:
        planned: The runs and their states.
        out: Folder of the comparison, whose compare.toml holds what was asked before.

    Raises:
        StoreError: It was given.
        ConfigError: compare.toml cannot be read.
    """
    kept = [c for c, s in planned if s != NEW and c.config.flops_reduction == AUTO]
    if not kept or not (out / MANIFEST).exists():
        return
    fixed, grid = read_grid_recipe(out / MANIFEST)
    then = fixed.get("flops_reduction", AUTO)

    def of_it(cell: Cell) -> bool:  # another comparison may share the folder
        return all(v in grid.get(name, [fixed.get(name, v)]) for name, v in cell.values.items())

    if then != AUTO and any(map(of_it, kept)):
        raise StoreError(
            f"the runs in {out} were begun with flops_reduction {quoted(then)}, and now it is to "
            "be chosen by measurement. Give --flops-reduction as before, or choose another --out."
        )


def choose_once(
    planned: Planned, load: SharedData, tell: Callable[[Cell, str], None], threads: int
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

    Raises:
        AlpruneError: As from `run`, with the name of the run.
    """
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    open_ = [(cell, state) for cell, state in planned if cell.config.flops_reduction == AUTO]
    for cell, state in open_:
        if state != NEW:
            with trusting(True):  # the folder's options have been compared with those given
                chosen.setdefault(_key(cell), _decided(options(cell.path)))
    for cell, state in open_:
        if state == NEW and _key(cell) not in chosen:
            config, reason = _measured(cell, load, threads)
            chosen[_key(cell)] = _decided(config)
            share = config.flops_reduction  # None: the method's own
            told = f"{share:.1%} of the FLOPs removed: " if isinstance(share, float) else ""
            tell(cell, told + reason)
    return [
        (cell, state)
        if state != NEW or cell.config.flops_reduction != AUTO
        else (replace(cell, config=replace(cell.config, **chosen[_key(cell)])), state)
        for cell, state in planned
    ]


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
