"""The state of a learner, from which another one continues exactly as it would have."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from alprune.models.copies import copy_network
from alprune.models.load_state import load_state
from alprune.pruning.epi import EarlyPruner
from alprune.pruning.graph.rebase import narrow_graph
from alprune.pruning.graph.surgery import narrow
from alprune.training.optimiser import new_optimiser

if TYPE_CHECKING:
    from alprune.training.learner import Learner


def learner_state(learner: "Learner") -> dict[str, Any]:
    """Return all that training changes: plain values and tensors that later training will change.

    The optimiser's memory stands under the names of the parameters.
    """
    return {
        "lr": learner.lr,
        "batches": learner.batches,
        "model": dict(learner.model.state_dict()),
        "averaged": dict(learner.averaged.state_dict()) if learner.settings.averaging else None,
        "snapshots": [dict(network.state_dict()) for network in learner.snapshots],
        "optimiser": {
            name: {k: v for k, v in learner.optimiser.state[parameter].items() if v is not None}
            for name, parameter in learner.model.named_parameters()
            if parameter in learner.optimiser.state
        },
        "early": None if learner.early is None else learner.early.state(),
        "scaler": learner.scaler.state_dict(),  # {} unless gradients are scaled
    }


def restore_learner(learner: "Learner", state: Mapping[str, Any]) -> None:
    """Bring a learner to a state, in place.

    Args:
        learner: Of the same network and settings. One that is pruned during training may be less
            pruned than the state, and is narrowed then.
        state: From `learner_state`; left as found.

    Raises:
        PruneError, RuntimeError, KeyError: The state belongs to another network.
    """
    if learner.early is not None:
        _narrow(learner, learner.early, state["early"])
    load_state(learner.model, state["model"])
    average = state["averaged"]
    load_state(learner.averaged, state["model"] if average is None else average)
    learner.snapshots = deque(maxlen=learner.snapshots.maxlen)
    for weights in state["snapshots"]:
        learner.snapshots.append(copy_network(learner.averaged))
        load_state(learner.snapshots[-1], weights)
    learner.optimiser = new_optimiser(learner.model, learner.settings)
    parameters = dict(learner.model.named_parameters())
    for name, memory in state["optimiser"].items():
        parameter = parameters[name]
        learner.optimiser.state[parameter] = {k: _beside(parameter, v) for k, v in memory.items()}
    learner.lr, learner.batches = state["lr"], state["batches"]
    if scaler := state.get("scaler"):
        learner.scaler.load_state_dict(dict(scaler))


def weights_file(network: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Pack a network's weights and buffers into a safetensors file.

    A copy of each is packed: safetensors refuses tensors that share memory, as tied weights do.

    Args:
        network: On any device.
        metadata: Goes into the file's header.
    """
    state = network.state_dict()
    plain = {k: torch.empty(v.shape, dtype=v.dtype).copy_(v) for k, v in state.items()}
    return to_safetensors(plain, None if metadata is None else dict(metadata))


def _narrow(learner: "Learner", early: EarlyPruner, state: Mapping[str, Any]) -> None:
    """Bring the early pruner to its state, and the networks to the channels it has left."""
    before = early.keep
    early.restore(state)
    if torch.equal(before, early.keep):
        return
    graph, keep = narrow_graph(early.unpruned, before), early.keep[before]
    averaging = learner.averaged is not learner.model
    learner.model = narrow(learner.model, graph, keep)
    learner.averaged = narrow(learner.averaged, graph, keep) if averaging else learner.model


def _beside(parameter: nn.Parameter, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    # Fused steps walk parameter and memory side by side: both need the same strides.
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
