"""What must be kept of a session, so that another one goes on exactly as it would have."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from alprune.acquire.protocol import name_of
from alprune.learner_state import learner_state, restore_learner

if TYPE_CHECKING:
    from alprune.session import Session


def session_state(session: "Session") -> dict[str, Any]:
    """Return the state for `save_checkpoint`.

    The second half is not changed by the run: it says to which run the state belongs and from
    what its learner is made again.
    """
    pool, acquisition = session.pool, session.acquisition
    known = pool.labelled
    return {
        "step": session.step,
        "asked": session.asked,
        "elapsed_s": session.budget.elapsed_s,
        "events_bytes": session.record.folder.events_bytes,
        "labelled": known,
        "labels": pool.labels[known],
        "steps": pool.step_of[known],
        "draws": session.draws.get_state(),
        "training": session.training.get_state(),
        "test_accuracy": session.test_accuracy,
        "tested_step": session.tested_step,
        "scoring_speed": session.share.speed,
        "stepped_back": session.stepped_back,
        "constant_steps": session.watch.constant_steps,
        "learner": learner_state(session.learner),
        "acquisition_state": (
            acquisition.state_dict() if hasattr(acquisition, "state_dict") else None
        ),
        "acquisition": name_of(acquisition),
        "plan": session.plan.to_json(),
        "config": {k: v for k, v in asdict(session.config).items() if v is not None},
        "data_digest": session.splits.train.digest,
        "device": session.learner.device.type,
    }


def restore_session(session: "Session", state: Mapping[str, Any]) -> None:
    """Bring a new session, whose pool is empty, to a state.

    Args:
        session: Of the same options, data, plan and acquisition function.
        state: From `session_state`.

    Raises:
        PruneError, RuntimeError, KeyError, TypeError, ValueError: It belongs to another run.
    """
    restore_learner(session.learner, state["learner"])
    session.pool.label(state["labelled"], state["labels"], state["steps"])
    session.draws.set_state(state["draws"])
    session.training.set_state(state["training"])
    session.step, session.asked = state["step"], state["asked"]
    session.budget.spend(state["elapsed_s"])
    session.test_accuracy, session.tested_step = state["test_accuracy"], state["tested_step"]
    session.share.speed = state["scoring_speed"]
    session.stepped_back = state["stepped_back"]
    session.watch.constant_steps = state["constant_steps"]
    if state["acquisition_state"] is not None:
        session.acquisition.load_state_dict(state["acquisition_state"])  # type: ignore[attr-defined]
