"""`alprune prune`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.common import Command, config_of, run_options
from alprune.errors import ConfigError
from alprune.loop.defaults import PRUNE_OPTIONS

if TYPE_CHECKING:
    from alprune.pruning import Pruned

_PRUNE_ONLY = (
    *PRUNE_OPTIONS,
    *"method after_pruning prune_batch prune_batches dataset data_root skip_unreadable".split(),
    *"follow_links cache model image_size pretrained pretrained_digest initial seed".split(),
    *"device".split(),
    *"start imbalance label_noise hold_out".split(),
)


@click.command("prune", cls=Command)
@run_options(_PRUNE_ONLY)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def prune_command(recipe: Path | None, as_json: bool, **given: Any) -> None:
    """Prune a learner before training and print what that did; nothing is written."""
    from alprune.loop.setup import complete, first_labels, load_splits, prune_learner
    from alprune.pruning import find_method

    config = complete(config_of(recipe, given))
    if find_method(config.method).early:
        raise ConfigError(
            f"method {config.method!r} prunes during training: there is nothing to show before a "
            "run. Try alprune run."
        )
    splits = load_splits(config)
    pool, first = first_labels(config, splits.train)
    pruned = prune_learner(config, splits.train, first, pool.label_of(first))
    click.echo(json.dumps(_prune_record(pruned)) if as_json else _prune_table(pruned))


def _prune_record(pruned: "Pruned") -> dict[str, Any]:
    from alprune.loop.events import pruning_fields

    return pruning_fields(pruned) | {"params_reduction": pruned.params_reduction}


def _prune_table(pruned: "Pruned") -> str:
    from alprune.loop.progress import prune_line

    sizes = {name: len(kept) for name, kept in pruned.plan.kept.items()}
    width = max([len(name) for name in sizes] + [10])
    lines = [prune_line(_prune_record(pruned))]
    lines += [
        f"{'':{width}}  {'before':>13}  {'after':>13}",
        f"{'FLOPs':{width}}  {2 * pruned.macs_before:>13,}  {2 * pruned.macs_after:>13,}",
        f"{'parameters':{width}}  {pruned.params_before:>13,}  {pruned.params_after:>13,}",
    ]
    for name, size in pruned.plan.sizes.items():
        lines.append(f"{name:{width}}  {size:>13,}  {sizes[name]:>13,}")
    lines += [f"not pruned: {text}" for text in pruned.pinned]
    return "\n".join(lines)
