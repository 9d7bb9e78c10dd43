"""`alprune prune`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.common import config_of
from alprune.cli.options import Command, given_options, run_options
from alprune.errors import ConfigError
from alprune.loop.config import RunConfig
from alprune.loop.defaults import PRUNE_OPTIONS
from alprune.models.registry import LIBRARIES

if TYPE_CHECKING:
    from torch import Tensor

    from alprune.data import Dataset

_PRUNE_ONLY = (
    *PRUNE_OPTIONS,
    *"method after_pruning prune_batch prune_batches dataset data_root skip_unreadable".split(),
    *"follow_links cache model image_size pretrained pretrained_digest initial seed".split(),
    *"device".split(),
    *"start imbalance label_noise hold_out".split(),
)


@click.command("prune", cls=Command)
@run_options(_PRUNE_ONLY)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
def prune_command(recipe: Path | None, as_json: bool, **given: Any) -> None:
    """Prune a learner before training and print what that did; nothing is written.

    With a recipe, as much is removed as in its run, by measurement where that chooses by its time.
    Without a data set, a network of torchvision or timm is pruned on random images.
    """
    from alprune.loop.events import pruning_fields
    from alprune.loop.learner import prune_learner, with_reduction
    from alprune.loop.setup import complete, first_labels, load_splits
    from alprune.pruning import describe, figures, find_method

    asked = config_of(recipe, given)
    if recipe is None and asked.flops_reduction != "auto":  # no time that it could follow
        asked = replace(asked, budget=None, steps=0)
    config = complete(asked)
    if find_method(config.method).early:
        raise ConfigError(
            f"method {config.method!r} prunes during training: there is nothing to show before a "
            "run. Try alprune run."
        )
    if (
        recipe is None
        and "dataset" not in given_options(given)
        and config.model.startswith(LIBRARIES)
    ):
        train, first, labels = _random_images(config)
    else:
        train = load_splits(config).train
        pool, first = first_labels(config, train)
        labels = pool.label_of(first)
    config, reason = with_reduction(config, train, first, labels)
    if reason:
        click.echo(f"Reduction: {reason}.", err=True)
    pruned = prune_learner(config, train, first, labels)
    click.echo(
        json.dumps(pruning_fields(pruned) | figures(pruned)) if as_json else describe(pruned)
    )


def _random_images(config: RunConfig) -> "tuple[Dataset, Tensor, Tensor]":
    """Draw enough images to prune on, of the size that the network was published for."""
    import torch

    from alprune.data import Dataset
    from alprune.models import published_shape

    channels, height, width = published_shape(config.model)
    if config.image_size is not None:
        height = width = config.image_size
    click.echo(f"No --dataset: pruned on random images of {width}x{height} pixels.", err=True)
    count = config.prune_batch * config.prune_batches
    images = torch.randn(
        count, height, width, channels, generator=torch.Generator().manual_seed(config.seed)
    )
    labels = torch.arange(count) % 10
    names = tuple(map(str, range(10)))
    mean, std = (0.0,) * channels, (1.0,) * channels
    train = Dataset(images, labels, names, mean, std, flip=False, digest="random")
    return train, torch.arange(count), labels
