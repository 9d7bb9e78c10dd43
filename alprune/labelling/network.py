"""The learner between two rounds of asking: pruned once, warm-started, its outputs may grow."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alprune import models
from alprune.acquisition import Acquisition, snapshots_of
from alprune.data import Dataset
from alprune.errors import AlpruneError, StoreError
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.frozen import FROZEN
from alprune.loop.run_folder import RunFolder
from alprune.loop.setup import new_learner, prune_learner
from alprune.pruning import Plan, Pruned, rebuild
from alprune.training.input_spec import INPUTS, Inputs
from alprune.training.interface import Trainable
from alprune.training.state import weights_file

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A learner and what it is made again from.

    Attributes:
        learner: Ready to train, or trained.
        plan: What stayed of the unpruned network.
        train: The images that it learns from, normalised as its first ones were.
        pruned: What pruning did, if it happened now.
        added: Classes that its outputs have grown by.
    """

    learner: Trainable
    plan: Plan
    train: Dataset
    pruned: Pruned | None = None
    added: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        """Return what `open_network` needs, for a checkpoint."""
        return {
            "plan": self.plan.to_json(),
            "classes": list(self.train.classes),
            "image_shape": list(self.train.image_shape),
            "dtype": str(self.train.x.dtype),
            "mean": list(self.train.mean),
            "std": list(self.train.std),
            # The optimiser begins anew in every round, as its rate does.
            "learner": self.learner.state() | {"optimiser": {}},
        }

    def write(self, folder: RunFolder) -> None:
        """Write the learner as a run leaves it, for whoever exports or uses it."""
        folder.write("plan.json", self.plan.to_json())
        folder.write(INPUTS, Inputs.of(self.train).to_json())
        folder.write("model.safetensors", weights_file(self.learner.averaged))


def open_network(
    config: ResolvedLabelling,
    train: Dataset,
    labelled: Tensor,
    state: Mapping[str, Any] | None,
    acquisition: Acquisition,
) -> Network:
    """Make the learner of the last round again, or prune a new one.

    Args:
        config: Complete options.
        train: The images as they are today, with labels and all classes.
        labelled: Indices of those to learn from, `(m,)`.
        state: Of the last round; None before there was a learner. One that takes other images
            (colour images came into a folder of grey ones, say) is not used.
        acquisition: Says how many snapshots of past fits are kept.

    Raises:
        AlpruneError: As from `alprune.run`; or the state is damaged.
    """
    if state is None or not _takes(state, train):
        pruned = prune_learner(config, train, labelled, train.y[labelled])
        learner = new_learner(config, pruned.model, train)
        learner.keep_snapshots(snapshots_of(acquisition))
        return Network(learner, pruned.plan, train, pruned)
    try:
        return _opened(config, train, state, acquisition)
    except AlpruneError:
        raise
    except Exception as error:  # what a state that belongs elsewhere leads to
        raise StoreError(
            f"the checkpoint in {config.out} does not fit its options: {error!r}. It was written "
            "by another version of alprune or of the learner."
        ) from error


def _opened(
    config: ResolvedLabelling, train: Dataset, state: Mapping[str, Any], acquisition: Acquisition
) -> Network:
    before, after = list(state["classes"]), list(train.classes)
    if after[: len(before)] != before:
        raise StoreError(
            f"the learner in {config.out} tells {before} apart, which are not the first of {after}."
        )
    train = replace(train, mean=tuple(state["mean"]), std=tuple(state["std"]))
    fresh = models.build(config.model, len(after), train.image_shape, config.seed)
    plan, saved = Plan.from_json(state["plan"]), state["learner"]
    grow = _Grow(config, train, fresh, len(before))
    plan = grow.plan(plan)
    added = tuple(after[len(before) :])
    if config.learner == FROZEN:  # every fit of its head begins from all labels
        learner = new_learner(config, rebuild(fresh, plan), train)
        learner.keep_snapshots(snapshots_of(acquisition))
        return Network(learner, plan, train, added=added)
    learner = new_learner(config, rebuild(fresh, plan, grow(saved["model"])), train)
    if saved["averaged"] is not None:
        learner.averaged.load_state_dict(grow(saved["averaged"]))
    learner.keep_snapshots(snapshots_of(acquisition))
    for weights in saved["snapshots"]:
        learner.snapshots.append(copy.deepcopy(learner.averaged))
        learner.snapshots[-1].load_state_dict(grow(weights))
    learner.batches = int(saved["batches"])
    return Network(learner, plan, train, added=added)


def _takes(state: Mapping[str, Any], train: Dataset) -> bool:
    same_shape = tuple(state["image_shape"]) == train.image_shape
    return same_shape and state["dtype"] == str(train.x.dtype)


class _Grow:
    """Gives a network's last layer more outputs; what it had learnt stays, new ones begin at zero.

    Args:
        config: Names the network.
        train: Its images, with all classes.
        fresh: The unpruned network for these classes.
        before: Number of classes that the weights know.
    """

    def __init__(
        self, config: ResolvedLabelling, train: Dataset, fresh: nn.Module, before: int
    ) -> None:
        self._before, self._after = before, len(train.classes)
        self._heads: set[str] = set()
        if before == self._after:
            return
        old = models.build(config.model, before, train.image_shape, config.seed)
        shapes = {name: tensor.shape for name, tensor in old.state_dict().items()}
        for name, tensor in fresh.state_dict().items():
            if shapes.get(name) != tensor.shape:
                self._heads.add(name.rpartition(".")[0])

    def __call__(self, weights: Weights) -> Weights:
        """Return the state dict for all classes."""
        return {name: self._grown(name, tensor) for name, tensor in weights.items()}

    def plan(self, plan: Plan) -> Plan:
        """Return the plan for all classes: widths count a network's outputs, too."""
        widths = {
            name: (inputs, self._after if name in self._heads else outputs)
            for name, (inputs, outputs) in plan.layer_widths.items()
        }
        return replace(plan, layer_widths=widths)

    def _grown(self, name: str, tensor: Tensor) -> Tensor:
        of_head = any(re.search(rf"(^|\.){re.escape(head)}\.", name) for head in self._heads)
        if not of_head or tensor.ndim == 0 or tensor.shape[0] != self._before:
            return tensor
        more = tensor.new_zeros((self._after - self._before, *tensor.shape[1:]))
        if tensor.dtype == torch.bool:  # of a mask: True where a weight stays
            more.fill_(True)
        return torch.cat([tensor, more])


__all__ = ["Network", "open_network"]
