"""A learner made again from its checkpoint."""

from collections.abc import Callable

import torch
from torch import nn

from alprune import models
from alprune.data import Dataset
from alprune.loop.config import RunConfig
from alprune.loop.defaults import Resolved
from alprune.loop.frozen import FROZEN, frozen_network
from alprune.loop.learner import new_learner
from alprune.loop.saved_learner import SavedLearner
from alprune.pruning import Plan, rebuild, trace
from alprune.training.distributed import ALONE, Team
from alprune.training.input_spec import Inputs
from alprune.training.interface import Trainable


def rebuilt_network(
    config: RunConfig, inputs: Inputs, saved: SavedLearner, unpruned: Callable[[Inputs], nn.Module]
) -> tuple[nn.Module, Plan]:
    """Return the network that predicts, in eval mode, and the plan of what is left of it.

    Args:
        config: Complete options.
        inputs: What it takes.
        saved: From its checkpoint.
        unpruned: Builds the unpruned network.
    """
    if config.learner == FROZEN:
        return frozen_network(config, inputs.image_shape, saved.state), saved.plan
    plan, early, fresh = saved.plan, saved.state["early"], unpruned(inputs)
    if early is not None:
        graph = trace(fresh, torch.zeros(2, *inputs.image_shape))
        plan = Plan.of(graph, graph.check(early["keep"]), tuple(early["floored"]))
    return rebuild(fresh, plan, saved.weights).eval(), plan


def rebuilt_learner(
    config: Resolved, train: Dataset, saved: SavedLearner, snapshots: int, team: Team = ALONE
) -> Trainable:
    """Return the learner as it was when the checkpoint was written.

    Args:
        config: Complete options.
        train: The training set, with as many classes as the learner has outputs.
        saved: From its checkpoint.
        snapshots: Number of networks of past fits to keep.
        team: The processes that train it together.

    Raises:
        PruneError, RuntimeError, KeyError: The state belongs to another network.
    """
    fresh = models.build(config.model, len(train.classes), train.image_shape, config.seed)
    # The masks of a masked network are part of its state dict.
    weights = saved.state["model"] if saved.plan.kind == "masks" else None
    learner = new_learner(config, rebuild(fresh, saved.plan, weights), train, team)
    learner.keep_snapshots(snapshots)
    learner.restore(saved.state)
    return learner
