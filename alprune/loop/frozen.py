"""The frozen learner of a run: its options, its backbone and what it knows before any label."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alprune import models
from alprune.acquisition.initial import ColdPool
from alprune.data import Dataset
from alprune.data.image_cache.vectors import VectorTable
from alprune.errors import ConfigError
from alprune.loop.config import OPTIONS, RunConfig
from alprune.loop.start_weights import start_from
from alprune.models.named_weights import IMAGENET, OWN
from alprune.registry import lookup
from alprune.training.budget import Budget
from alprune.training.device import pick_device
from alprune.training.distributed import ALONE, Team, helps
from alprune.training.embeddings import Embedder
from alprune.training.frozen import FrozenLearner, put_head
from alprune.training.head import Head

FROZEN, TRAINED = "frozen", "trained"
LEARNERS: dict[str, str] = {
    TRAINED: "the whole network, pruned and trained from labels alone",
    FROZEN: "a head on a pretrained network that stays as it is; images are embedded once",
}
_METHODS = ("3sp-ca", "dense")  # the default, and what it comes to here
SCORED = 10_000  # images that a frozen learner chooses from: their embeddings take 72 MB

_latest: tuple[Any, Embedder] | None = None  # an embedder, and what it was made for


def with_learner(config: RunConfig) -> RunConfig:
    """Fill the options that follow from `learner`.

    Raises:
        ConfigError: It is unknown, or another option does not go with it.
    """
    if config.learner is not None:
        lookup("learner", config.learner, LEARNERS)
    if config.learner != FROZEN:
        return config
    if config.method not in _METHODS:
        raise ConfigError(
            f"method {config.method!r} prunes, and a frozen learner stays as it is. Leave --method "
            "out, or choose --learner trained."
        )
    if config.pretrained is None:
        if config.model == OPTIONS["model"].default:
            config = replace(config, model=OWN)
        config = replace(config, pretrained=IMAGENET)
    return replace(config, method="dense").resolved({"score_subset": SCORED})


def frozen_learner(
    config: RunConfig, model: nn.Module, train: Dataset, team: Team = ALONE
) -> FrozenLearner:
    """Make the learner of a run and embed its images, which is on no clock: once done it is kept.

    Args:
        config: Complete options.
        model: The network, as pruning (none, here) left it; its weights are loaded.
        train: The training set, scaled for the weights.
        team: The processes that make the run together.
    """
    start_from(config, model, len(train.classes), quiet=True)
    embedder, shown = embedder_for(config, train), team.rank == 0
    learner = FrozenLearner(model, embedder, train, None, team, progress=shown)
    learner.embed()
    return learner


def frozen_network(
    config: RunConfig, image_shape: tuple[int, int, int], state: Mapping[str, Any]
) -> nn.Module:
    """Make the whole network of a frozen learner from its checkpoint, in eval mode.

    Args:
        config: Its options.
        image_shape: `(c, h, w)` of an image.
        state: From `FrozenLearner.state`.
    """
    kept = state["model"]
    classes, dimensions = kept["linear.weight"].shape
    head = Head(torch.zeros(dimensions), 1.0, classes)
    head.load_state_dict(kept)
    model = models.build(config.model, classes, image_shape, config.seed)
    start_from(config, model, classes, quiet=True)
    put_head(model, *head.plain())
    return model.eval()


def embedder_for(config: RunConfig, train: Dataset) -> Embedder:
    """Return what embeds images like these; the same again while options and images are alike."""
    global _latest
    device = pick_device(config.device)
    names = ("model", "pretrained", "pretrained_digest", "cache", "seed")
    key = (
        *(getattr(config, name) for name in names),
        *(train.image_shape, train.mean, train.std, device),
    )
    if _latest is None or _latest[0] != key:
        model = models.build(config.model, 2, train.image_shape, config.seed)
        start_from(config, model, 2, quiet=True)
        shape, digest = train.image_shape, config.pretrained_digest or ""
        name = config.model.rpartition(":")[2]
        made = Embedder(
            model.to(device).eval(), shape, train.mean, train.std, name, digest, config.cache
        )
        _latest = key, made
    return _latest[1]


def embed_pool(config: RunConfig, train: Dataset, budget: Budget | None = None) -> VectorTable:
    """Embed the images of a pool that were not embedded before, with progress on the terminal.

    Args:
        config: Complete options of a frozen learner.
        train: The pool.
        budget: A clock that may be halted from another thread.

    Raises:
        BudgetSpent: It was; what was embedded is kept.
    """
    embedder = embedder_for(config, train)
    table = embedder.table(train.x, train.files)
    embedder.complete(train.x, table, budget, progress=None if helps() else "embedding")
    return table


def cold_pool(config: RunConfig, train: Dataset, labels: Tensor | None = None) -> ColdPool:
    """Return what the first points are chosen from: with embeddings, if the learner is frozen.

    Args:
        config: Complete options.
        train: The training set.
        labels: Of a simulation, see `ColdPool`.
    """
    if config.learner != FROZEN:
        return ColdPool(train.x, train.classes, labels)

    def embeddings(rows: Tensor) -> Tensor:
        table = embed_pool(config, train)
        return torch.from_numpy(table.of(rows.numpy()))

    return ColdPool(train.x, train.classes, labels, embeddings)
