"""The learner between two rounds of labelling: pruned once, warm-started; outputs may change."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alprune import models
from alprune.data import Dataset
from alprune.errors import AlpruneError, StoreError
from alprune.labelling.journal import present_name
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.frozen import FROZEN
from alprune.loop.learner import new_learner, prune_learner
from alprune.loop.rebuild import rebuilt_learner
from alprune.loop.saved_learner import SavedLearner, saved_learner
from alprune.pruning import Plan, Pruned
from alprune.training.input_spec import Inputs
from alprune.training.interface import Trainable

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A learner, and what its rebuilding takes.

    Attributes:
        learner: Ready to train.
        plan: What is left of the unpruned network.
        train: The images that it learns from, normalised as in its first round.
        pruned: What pruning did, if it happened now.
        added: Classes by which its outputs have grown.
    """

    learner: Trainable
    plan: Plan
    train: Dataset
    pruned: Pruned | None = None
    added: tuple[str, ...] = ()


def open_network(
    config: ResolvedLabelling,
    train: Dataset,
    labelled: Tensor,
    state: Mapping[str, Any],
    snapshots: int,
    renames: Sequence[tuple[str, str]] = (),
) -> Network:
    """Rebuild the learner of the last round, or prune a new one.

    Args:
        config: Complete options.
        train: Today's images, with labels and all classes.
        labelled: Indices of those to learn from, `(m,)`.
        state: Of the last round's checkpoint; empty before there was one. A learner that takes
            other images (colour images came into a folder of grey ones, for example) is not used.
        snapshots: Number of networks of past fits to keep.
        renames: `(earlier name, later name)` of classes, in order; the state says how many of these
            came before it.

    Raises:
        AlpruneError: As from `alprune.run`; or the state is damaged.
    """
    try:
        saved = saved_learner(state)
        if saved is None or not _takes(saved.inputs, train):
            pruned = prune_learner(config, train, labelled, train.y[labelled])
            return Network(new_learner(config, pruned.model, train), pruned.plan, train, pruned)
        return _rebuilt(config, train, saved, snapshots, renames[saved.renames :])
    except AlpruneError:
        raise
    except Exception as error:  # what a state of another folder leads to
        raise StoreError(
            f"the checkpoint in {config.out} does not fit its options: {error!r}. It was written "
            "by another version of alprune or of the learner."
        ) from error


def _rebuilt(
    config: ResolvedLabelling,
    train: Dataset,
    saved: SavedLearner,
    snapshots: int,
    renames: Sequence[tuple[str, str]],
) -> Network:
    inputs = saved.inputs
    before = [present_name(name, renames) for name in inputs.classes]
    # Of two classes that were merged, the output of the first one stays.
    sources = [before.index(name) if name in before else None for name in train.classes]
    added = tuple(n for n, source in zip(train.classes, sources, strict=True) if source is None)
    train = replace(train, mean=inputs.mean, std=inputs.std)
    if sources != list(range(len(before))):
        saved = _Outputs(config, train, len(before), sources)(saved)
    if config.learner == FROZEN:  # every fit of its head begins from all labels
        fresh = models.build(config.model, len(train.classes), train.image_shape, config.seed)
        return Network(new_learner(config, fresh, train), saved.plan, train, added=added)
    # Each round begins with the rate of the options, which may have changed, and at rest.
    saved = replace(saved, state={**saved.state, "lr": config.lr, "optimiser": {}})
    learner = rebuilt_learner(config, train, saved, snapshots)
    return Network(learner, saved.plan, train, added=added)


def _takes(inputs: Inputs, train: Dataset) -> bool:
    return inputs.image_shape == train.image_shape and inputs.torch_dtype == train.x.dtype


class _Outputs:
    """Gives a network's last layer other outputs; what it has learnt of a class stays with it.

    Args:
        config: Names the network.
        train: Its images, with all classes.
        before: Number of classes that the weights know.
        sources: Which of them each class of today was; the output of a new one begins at zero.
    """

    def __init__(
        self, config: ResolvedLabelling, train: Dataset, before: int, sources: Sequence[int | None]
    ) -> None:
        self._before, self._sources = before, sources

        def shapes(classes: int) -> dict[str, torch.Size]:
            made: nn.Module = models.build(config.model, classes, train.image_shape, config.seed)
            return {name: tensor.shape for name, tensor in made.state_dict().items()}

        some, more = shapes(before), shapes(before + 1)
        self._heads = {name.rpartition(".")[0] for name in more if some.get(name) != more[name]}

    def __call__(self, saved: SavedLearner) -> SavedLearner:
        """Return the learner for all classes."""
        state = dict(saved.state)
        state["model"] = self._weights(state["model"])
        state["averaged"] = state["averaged"] and self._weights(state["averaged"])
        state["snapshots"] = [self._weights(weights) for weights in state["snapshots"]]
        return replace(saved, plan=self._plan(saved.plan), state=state)

    def _weights(self, weights: Weights) -> Weights:
        return {name: self._with_outputs(name, tensor) for name, tensor in weights.items()}

    def _plan(self, plan: Plan) -> Plan:
        """Return the plan for all classes: widths count a network's outputs, too."""
        widths = {
            name: (inputs, len(self._sources) if name in self._heads else outputs)
            for name, (inputs, outputs) in plan.layer_widths.items()
        }
        return replace(plan, layer_widths=widths)

    def _with_outputs(self, name: str, tensor: Tensor) -> Tensor:
        of_head = any(re.search(rf"(^|\.){re.escape(head)}\.", name) for head in self._heads)
        if not of_head or tensor.ndim == 0 or tensor.shape[0] != self._before:
            return tensor
        rows = tensor.new_zeros((len(self._sources), *tensor.shape[1:]))
        if tensor.dtype == torch.bool:  # of a mask: True where a weight stays
            rows.fill_(True)
        for place, source in enumerate(self._sources):
            if source is not None:
                rows[place] = tensor[source]
        return rows
