"""Weights that a run starts from, by name or from a file, and what follows from them."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from alprune import models
from alprune.data import Splits
from alprune.data.safe_io import user_path
from alprune.errors import ConfigError, ModelError
from alprune.loop.config import RunConfig
from alprune.models.named_weights import IMAGENET, USUAL, find_weights
from alprune.models.pretrained import digest_of, load_pretrained, put_weights

_REINITIALISED = ("preconfig", "precrop", "precrop-flops", "precrop-params")  # methods of widths


def with_weights(config: RunConfig) -> RunConfig:
    """Check `pretrained`, if it is given, and fill in what identifies its weights.

    Raises:
        ConfigError: Another option would re-initialise the weights.
        ModelError: The file cannot be read.
    """
    source = config.pretrained
    if source is None:
        if config.pretrained_digest is not None:
            raise ConfigError("pretrained_digest is of the file of pretrained, which is not given.")
        return config
    if config.after_pruning == "reinit" or config.method in _REINITIALISED:
        why = "after_pruning reinit" if config.after_pruning == "reinit" else config.method
        raise ConfigError(
            f"{why} re-initialises all weights and would discard those of {config.pretrained!r}. "
            "Inherit them, with a method that keeps weights, such as taylor or 3sp."
        )
    if source == IMAGENET:
        weights = find_weights(config.model)
        config = config.resolved(
            {
                "pretrained_digest": weights.digest,
                "image_size": None if config.model in models.MODELS else weights.preprocessing.size,
            }
        )
        if config.pretrained_digest != weights.digest:
            raise ModelError(
                f"the {config.pretrained} weights of {config.model!r} are not those that were used "
                f"at first (their digest is {weights.digest}, was {config.pretrained_digest}): "
                "another version of their package is installed. Install the old one, or start a "
                "new run."
            )
    else:
        place = str(user_path(source).absolute())  # it is found again from any folder
        # A run that is resumed need not find the file yet.
        digest = config.pretrained_digest or digest_of(place)
        config = replace(config, pretrained=place, pretrained_digest=digest)
    return config


def scaled(config: RunConfig, splits: Splits) -> Splits:
    """Return a data set with the mean and deviation that the run's weights were trained with.

    Those of the weights, not of the pool: the network has learnt to read such inputs. What a file
    of weights was trained with is not known: under a frozen learner it is taken to be ImageNet's
    usual scale, which stays as it is when images are added. Float images keep their own scale.
    """
    train = splits.train
    named, fixed = config.pretrained == IMAGENET, config.learner == "frozen"
    if not (named or fixed) or train.x.dtype != torch.uint8:
        return splits
    expected = find_weights(config.model).preprocessing if named else USUAL
    mean, std = expected.of_channels(train.image_shape[0])
    return Splits(replace(train, mean=mean, std=std), replace(splits.test, mean=mean, std=std))


def start_from(config: RunConfig, model: nn.Module, classes: int, quiet: bool = False) -> None:
    """Put the weights of `config.pretrained`, if it is given, into the unpruned network.

    What was taken and what was not is said in a warning, unless `quiet` or
    under a frozen learner.

    Raises:
        ModelError: As from `load_pretrained`.
    """
    if config.pretrained == IMAGENET:
        weights = find_weights(config.model)
        loaded = put_weights(model, weights.tensors, classes, weights.source)
        said = loaded.sentence(weights.source)
    elif config.pretrained is not None:
        if config.pretrained_digest is not None and not Path(config.pretrained).exists():
            raise ModelError(
                f"the weights that the learner began with are no longer at {config.pretrained!r}. "
                "Put the file back, or write its new place at `pretrained` in config.toml of the "
                "folder (alprune ask and alprune label: give --pretrained FILE); its content must "
                f"be the same (digest {config.pretrained_digest})."
            )
        loaded = load_pretrained(model, config.pretrained, classes, config.pretrained_digest)
        said = loaded.sentence(config.pretrained)
    else:
        return
    if not quiet and config.learner != "frozen":  # whose classifier is always a new one
        warnings.warn(said, stacklevel=3)
