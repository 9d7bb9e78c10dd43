"""The options of asking: those of a run that apply, with defaults of their own."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alprune.data import manifest
from alprune.data.safe_io import user_path
from alprune.errors import ConfigError, DataError
from alprune.loop.config import RunConfig, given
from alprune.loop.defaults import ResolvedLabelling, resolve_labelling
from alprune.loop.frozen import with_learner
from alprune.loop.setup import check_names
from alprune.loop.start_weights import with_weights
from alprune.loop.unused import refuse_in_labelling
from alprune.models.named_weights import IMAGENET
from alprune.models.pretrained import digest_of
from alprune.pruning import find_method

_OURS = ("out", "pretrained_digest")  # written by us
# What may be changed at any time: all else is in the network that was pruned at the beginning.
_FREE = (
    "budget dataset data_root skip_unreadable follow_links acquisition start hold_out query_size "
    "score_share initial_epochs epochs batch_size lr momentum weight_decay label_smoothing "
    "warmup_batches schedule averaging flip pad device precision cuda_graphs cache "
    "stop_labels stop_accuracy stop_uncertainty stop_plateau"
).split()


def completed(config: RunConfig, options: Mapping[str, Any] | None = None) -> ResolvedLabelling:
    """Fill the options left open, and check that all can be used.

    Args:
        config: The options.
        options: Those of them that were given now; None: all that are set.

    Raises:
        ConfigError: One cannot.
    """
    if options is None:
        options = {name: v for name, v in given(asdict(config)).items() if name not in _OURS}
    refuse_in_labelling(options, config)
    root_of(config)
    if find_method(config.method).early:
        raise ConfigError(
            f"method {config.method!r} prunes during training, and here the learner is pruned with "
            "the first labels. Choose another, 3sp-ca for example."
        )
    # Choosing is limited by the time of a round, see `alprune.labelling.fit`.
    config = replace(with_weights(with_learner(config)), score_subset=None)
    whole = resolve_labelling(config)
    check_names(whole)
    return whole


def changed(before: RunConfig, options: dict[str, Any]) -> ResolvedLabelling:
    """Return options with some of them changed.

    Raises:
        ConfigError: One of them cannot be changed any more.
        DataError: There is no such data set.
    """
    then = asdict(before)
    free = {*_FREE, "pretrained"} if _is_moved(before, options.get("pretrained")) else _FREE
    fixed = [name for name, value in options.items() if name not in free and value != then[name]]
    if fixed:
        told = ", ".join(f"{name} is {then[name]!r}" for name in fixed)
        raise ConfigError(
            f"{', '.join(fixed)} cannot be changed any more in {before.out} ({told}). Leave it "
            "out, or begin in another folder: alprune tell takes labels.csv there, with --unasked."
        )
    after = replace(before, **options)
    if "dataset" in options and not after.dataset.startswith("hf:"):  # those may be on a hub
        if not os.path.exists(root := root_of(after)):
            raise DataError(f"there is no {str(root)!r}; {before.out} stays as it was.")
    return completed(after, options)


def _is_moved(before: RunConfig, pretrained: str | None) -> bool:
    """Tell whether a file of weights is the one that the folder began with, at another place.

    Raises:
        ModelError: It cannot be read.
    """
    if (
        pretrained is None
        or before.pretrained_digest is None
        or IMAGENET in (pretrained, before.pretrained)
    ):
        return False
    return digest_of(user_path(pretrained)) == before.pretrained_digest


def root_of(config: RunConfig) -> Path:
    """Return the folder that the images are in, or the file that holds them.

    Raises:
        ConfigError: The data set is none that people could be asked about.
    """
    kind, _, path = config.dataset.partition(":")
    if kind in ("csv", "parquet") and path:
        return manifest.root_of(path)
    if kind in ("folder", "shards", "npz", "hf") and path:
        return user_path(path.partition("?")[0] if kind == "hf" else path)
    raise ConfigError(
        f"the data set is {config.dataset!r}, but people are asked about images of their own: give "
        "--dataset folder:PATH, with images in PATH/unlabelled/, or csv:, parquet:, npz:, hf: or "
        "shards:."
    )


def are_files(config: RunConfig) -> bool:
    """Tell whether each image of a data set is a file of its own."""
    return config.dataset.partition(":")[0] in ("folder", "csv", "parquet")
