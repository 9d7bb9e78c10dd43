"""What a run's checkpoint keeps beside its learner, so that resuming changes no outcome."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alprune.acquisition.base import held_by
from alprune.data.dataset import UNKNOWN
from alprune.errors import quoted
from alprune.loop.config import given
from alprune.loop.pool import drawn_to_hold_out

if TYPE_CHECKING:
    from alprune.loop.session import Session


def run_state(session: "Session") -> dict[str, Any]:
    """Return what the next steps depend on, and, in the last four entries, which run it is of."""
    learning, pool, folder = session.learning, session.pool, session.record.folder
    acquisition, known = held_by(learning.acquisition), session.pool.labelled
    return {
        "asked": learning.asked,
        "elapsed_s": session.budget.elapsed_s,
        "events_bytes": folder.events_bytes,
        "events_digest": folder.events_digest,
        "labelled": known,
        "labels": pool.label_of(known),
        "steps": pool.step_of[known],
        "set_aside": pool.aside,
        "draws": learning.setting.draws.get_state(),
        "training": learning.setting.training.get_state(),
        "exam": session.evaluation.state(),
        "acquisition_state": (
            acquisition.state_dict() if hasattr(acquisition, "state_dict") else None
        ),
        "acquisition": session.chosen_by,
        "config": given(asdict(session.config)),
        "data_digest": session.splits.digest,
        "device": session.learner.device.type,
    }


def restore_run(session: "Session", state: Mapping[str, Any]) -> None:
    """Bring a new session, whose pool is empty, to a state.

    Args:
        session: Of the same options, data, plan and acquisition function, its learner restored.
        state: From a checkpoint.

    Raises:
        RuntimeError, KeyError, TypeError, ValueError: It belongs to another run.
    """
    _check_numbers(state)
    learning, pool = session.learning, session.pool
    pool.label(state["labelled"], state["labels"], state["steps"])
    pool.set_aside(state["set_aside"])
    pool.hold_out(drawn_to_hold_out(pool, session.config.hold_out, session.config.seed))
    _check_asked(session, state["asked"])
    learning.setting.draws.set_state(state["draws"])
    learning.setting.training.set_state(state["training"])
    learning.step, learning.asked = state["step"], state["asked"]
    session.budget.spend(state["elapsed_s"])
    session.evaluation.restore(state["exam"])
    learning.speed.speed = state["scoring_speed"]
    learning.stepped_back = state["stepped_back"]
    learning.alarms.constant_steps = state["constant_steps"]
    _restore_acquisition(held_by(learning.acquisition), state["acquisition_state"])


def _restore_acquisition(acquisition: Any, state: Any) -> None:
    """Give an acquisition function its state back."""
    if state is not None:
        acquisition.load_state_dict(state)
    elif not hasattr(acquisition, "__qualname__") and getattr(acquisition, "__dict__", None):
        kind, why = type(acquisition).__name__, "has no state_dict and load_state_dict"
        if hasattr(acquisition, "load_state_dict"):
            why = "has no state in this run's checkpoint"
        warnings.warn(
            f"{kind} {why}: what it may have kept between steps is lost, and it begins anew.",
            stacklevel=2,
        )


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
            raise ValueError(f"{name} is {quoted(value)}, not a number that a run writes")


def _check_asked(session: "Session", asked: Any) -> None:
    if asked is None:
        return
    if not isinstance(asked, Tensor) or asked.ndim != 1 or asked.dtype != torch.int64:
        raise ValueError(f"asked is {quoted(asked)}, not a list of points")
    if asked.numel() and not 0 <= int(asked.min()) <= int(asked.max()) < len(session.pool):
        raise ValueError(f"asked names points that the pool of {len(session.pool)} lacks")
    if bool((session.pool.label_of(asked) != UNKNOWN).any()):
        raise ValueError("asked names points that have a label")
