"""What must be kept of a session, so that another one goes on exactly as it would have."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alprune.acquisition.base import name_of
from alprune.data.dataset import UNKNOWN
from alprune.errors import quoted
from alprune.loop.config import given

if TYPE_CHECKING:
    from alprune.loop.session import Session


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
        "events_digest": session.record.folder.events_digest,
        "labelled": known,
        "labels": pool.label_of(known),
        "steps": pool.step_of[known],
        "set_aside": pool.aside,
        "draws": session.draws.get_state(),
        "training": session.training.get_state(),
        "exam": session.exam.state(),
        "scoring_speed": session.share.speed,
        "stepped_back": session.stepped_back,
        "constant_steps": session.alarms.constant_steps,
        "learner": session.learner.state(),
        "acquisition_state": (
            acquisition.state_dict() if hasattr(acquisition, "state_dict") else None
        ),
        "acquisition": name_of(acquisition),
        "plan": session.plan.to_json(),
        "config": given(asdict(session.config)),
        "data_digest": session.splits.digest,
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
    _check_numbers(state)
    session.learner.restore(state["learner"])
    session.pool.label(state["labelled"], state["labels"], state["steps"])
    session.pool.set_aside(state.get("set_aside", torch.empty(0, dtype=torch.int64)))
    _check_asked(session, state["asked"])
    session.draws.set_state(state["draws"])
    session.training.set_state(state["training"])
    session.step, session.asked = state["step"], state["asked"]
    session.budget.spend(state["elapsed_s"])
    session.exam.restore(state["exam"])
    session.share.speed = state["scoring_speed"]
    session.stepped_back = state["stepped_back"]
    session.alarms.constant_steps = state["constant_steps"]
    if state["acquisition_state"] is not None:
        session.acquisition.load_state_dict(state["acquisition_state"])  # type: ignore[attr-defined]


def _check_numbers(state: Mapping[str, Any]) -> None:
    """Refuse what would fail only later, in the middle of a step."""
    learner = state["learner"]
    for name, value, kinds in (
        ("step", state["step"], (int,)),
        ("constant_steps", state["constant_steps"], (int,)),
        ("events_bytes", state["events_bytes"], (int,)),
        ("elapsed_s", state["elapsed_s"], (int, float)),
        ("scoring_speed", state["scoring_speed"] or 0, (int, float)),
        ("batches", learner["batches"], (int,)),
        ("lr", learner["lr"], (int, float)),
    ):
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {quoted(value)}, no such number")


def _check_asked(session: "Session", asked: Any) -> None:
    if asked is None:
        return
    if not isinstance(asked, Tensor) or asked.ndim != 1 or asked.dtype != torch.int64:
        raise ValueError(f"asked is {quoted(asked)}, no list of points")
    if asked.numel() and not 0 <= int(asked.min()) <= int(asked.max()) < len(session.pool):
        raise ValueError(f"asked names points that the pool of {len(session.pool)} lacks")
    if bool((session.pool.label_of(asked) != UNKNOWN).any()):
        raise ValueError("asked names points that have a label")
