"""A comparison in a table: final accuracies of the runs that differ only in their seed."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from alprune.runs.compare.grid import name_of
from alprune.runs.compare.runs import Outcome


def summary_table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each kind of run: mean final accuracy and its standard error.

    Args:
        outcomes: As from `compare`; those that did not end are counted and left out of the means.
    """
    kinds: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        values = {name: value for name, value in outcome.values.items() if name != "seed"}
        kinds.setdefault(name_of(values) or "all", []).append(outcome)
    width = max([len(kind) for kind in kinds] + [4])
    lines = [f"{'':{width}}  {'ended':>7}  {'labelled':>8}  {'seconds':>8}  test accuracy"]
    for kind, group in kinds.items():
        ended = [o.result for o in group if o.result and o.state in ("done", "kept")]
        counts = f"{len(ended)} of {len(group)}"
        if not ended:
            lines.append(f"{kind:{width}}  {counts:>7}  {'-':>8}  {'-':>8}  -")
            continue
        labelled, seconds = mean(r.labelled for r in ended), mean(r.elapsed_s for r in ended)
        tested = [r.test_accuracy for r in ended if r.test_accuracy is not None]
        lines.append(
            f"{kind:{width}}  {counts:>7}  {labelled:>8.0f}  {seconds:>8.1f}  {_accuracy(tested)}"
        )
    return "\n".join(lines)


def _accuracy(values: list[float]) -> str:
    """Write a mean and, of two values or more, its standard error."""
    if not values:
        return "not tested"
    if len(values) == 1:
        return f"{values[0]:.2%} (one seed)"
    return f"{mean(values):.2%} ± {100 * stdev(values) / math.sqrt(len(values)):.2f}"
