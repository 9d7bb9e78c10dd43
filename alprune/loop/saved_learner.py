"""The learner in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alprune.errors import StoreError
from alprune.pruning import Plan
from alprune.training.input_spec import Inputs


@dataclass(frozen=True)
class SavedLearner:
    """A learner as a checkpoint holds it.

    Attributes:
        plan: What is left of the unpruned network; of a learner that is pruned during training,
            the plan it began with.
        state: Of the learner, see `alprune.training.state`.
        inputs: What it takes.
        step: Step or round that it was last trained in.
        temperature: Calibrates its logits; None where none was fitted.
        renames: How many changes of classes' names its labels had seen; none in a run.
    """

    plan: Plan
    state: Mapping[str, Any]
    inputs: Inputs
    step: int
    temperature: Any = None
    renames: int = 0

    @property
    def trained(self) -> bool:
        """Whether it was trained at all."""
        return bool(self.state["batches"])

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """State dict of the network that predicts, once it was trained."""
        weights: Mapping[str, Tensor] = self.state["averaged"] or self.state["model"]
        return weights


def saved_learner(state: Mapping[str, Any]) -> SavedLearner | None:
    """Return the learner in a checkpoint's state; None if it holds none yet.

    Raises:
        StoreError: It is not a learner's.
        DataError, PruneError: Its inputs or its plan are damaged.
    """
    if "learner" not in state:
        return None
    try:
        learner = state["learner"]
        kept = learner["averaged"] or learner["model"]
        if int(learner["batches"]) or kept is not None:  # a frozen one has no head before a fit
            dict(kept)
        return SavedLearner(
            plan=Plan.from_json(state["plan"]),
            state=learner,
            inputs=Inputs.from_record(state["inputs"]),
            step=int(state["step"]),
            temperature=state.get("temperature"),
            renames=int(state.get("renames", 0)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"the checkpoint holds no learner: {error!r}.") from error
