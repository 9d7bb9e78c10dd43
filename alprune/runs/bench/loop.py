"""The loop's own time: what a run spends beside fitting, scoring and evaluating."""

import time
import warnings
from dataclasses import replace
from typing import Any

from alprune.data import Splits
from alprune.loop.config import RunConfig
from alprune.loop.defaults import unmeasured_reduction
from alprune.loop.events import Observer
from alprune.loop.oracle import Simulation
from alprune.loop.setup import complete, open_session

_WORK = ("train_s", "score_s", "eval_s")


class _Steps(Observer):
    """Keeps what each step took."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "step":
            self.steps.append({k: v for k, v in fields.items() if k.endswith("_s")})


def own_time(config: RunConfig, splits: Splits, seconds: float) -> tuple[float, str] | None:
    """Run the loop for a while.

    Args:
        config: The run's options and folder; it trains only a quarter of a pass at first, so
            that steps begin soon, and has no limit but the time.
        splits: The data.
        seconds: The run's budget.

    Returns:
        The share of the run's wall-clock time, evaluation apart, that was neither fitting nor
        scoring, from the first fit until the folder is closed; and what it was made of. None if
        no step ended in that time.
    """
    reduction = unmeasured_reduction(config)
    config = replace(config, budget=seconds, initial_epochs=0.25, flops_reduction=reduction)
    watch = _Steps()
    session = open_session(complete(config, new=False), splits, observer=watch)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that random labels cannot be learnt is not news
        session.run(Simulation(splits.train))
    wall_s = time.perf_counter() - begin
    if len(watch.steps) < 2:
        return None
    spent = {k: sum(step.get(k, 0.0) for step in watch.steps) for k in watch.steps[0]}
    own_s = wall_s - sum(spent.get(name, 0.0) for name in _WORK)
    counted_s = wall_s - spent.get("eval_s", 0.0)
    steps = len(watch.steps)
    parts = ", ".join(
        f"{name.removesuffix('_s')} {1e3 * s / steps:.1f}"
        for name, s in spent.items()
        if name not in (*_WORK, "elapsed_s", "fitted_s")
    )
    return own_s / counted_s, (
        f"{1e3 * own_s / steps:.1f} ms in each of {steps} steps of {counted_s / steps:.2f} s"
        + (f" ({parts} ms)" if parts else "")
    )
