"""What a report says in sentences."""

from collections.abc import Sequence

from alprune.runs.report.cells import interval_end, seconds_text
from alprune.runs.report.groups import Group
from alprune.runs.report.statistics import FEW_PAIRS, Estimate, mean_and_error
from alprune.runs.report.tables import Findings, catch_up, gain

_LINES = 8  # of the headline
_NAMED = 6  # groups that a picture's words tell of


def headline(findings: Findings) -> list[str]:
    """Return what was found, a sentence or two a group, the most accurate first."""
    told = []
    for group in findings.groups:
        final = [100 * run.final for run in group.ended if run.final is not None]
        if not final:
            told.append((-1.0, f"{group.name}: no run of it has ended."))
            continue
        mean, error = mean_and_error(final)
        clock, _ = mean_and_error([run.elapsed_s for run in group.ended])
        spread = f" ± {error:.1f}" if error is not None else ""
        number = "one run" if len(final) == 1 else f"{len(final)} runs"
        text = (
            f"{group.name} ended at {mean:.1f}%{spread} after {seconds_text(clock)} s ({number})."
        )
        base = findings.baselines.get(group.name)
        if base is not None and (more := gain(base, group)):
            text += f" That is {_points(more)} {base.name}."
            if sooner := catch_up(base, group):
                text += f" It reached {base.name}'s final accuracy {_pace(sooner, more.pairs)}."
        told.append((mean, text))
    lines = [text for _, text in sorted(told, key=lambda entry: -entry[0])]
    rest = len(lines) - _LINES
    return lines if rest <= 0 else [*lines[:_LINES], f"{rest} more groups are in the tables."]


def curve_text(findings: Findings) -> str:
    """Describe the accuracy curves for those who do not see them."""
    told = []
    for group in findings.groups:
        runs = [run for run in group.sound if len(run.tested)]
        if runs:
            first, _ = mean_and_error([100 * run.tested[0, 2] for run in runs])
            last, _ = mean_and_error([100 * run.tested[-1, 2] for run in runs])
            told.append(f"{group.name} goes from {first:.0f}% to {last:.0f}%")
    return _listed(told) or "No run was tested."


def labels_text(findings: Findings) -> str:
    """Describe the curves of labelled points."""
    told = []
    for group in findings.groups:
        last = [float(run.labelled[-1]) for run in group.sound if len(run.labelled)]
        if last:
            told.append(f"{group.name} ends with {mean_and_error(last)[0]:,.0f}")
    return _listed(told) or "No run made a step."


def _points(found: Estimate) -> str:
    side = "above" if found.value >= 0 else "below"
    size = f"{abs(found.value):.1f} points"
    if found.interval is None:
        return f"{size} (one pair of seeds, so its spread is not known) {side}"
    low, high = found.interval
    unclear = "; no clear difference" if low <= 0 <= high else ""
    return f"{size} (95% {_kind(found)} {low:+.1f} to {high:+.1f}, {_pairs(found)}{unclear}) {side}"


def _pace(sooner: Estimate, pairs: int) -> str:
    """Write a ratio of times, the other's over its own, as people say it, and how sure it is."""
    same = "1.0" in (f"{sooner.value:.1f}", f"{1 / sooner.value:.1f}")
    slower = sooner.value < 1 and not same
    text = f"{1 / sooner.value if slower else sooner.value:.1f} times"
    text = "in about the same time" if same else f"{text} {'slower' if slower else 'faster'}"
    told = []
    if sooner.interval is not None:
        low, high = sooner.interval
        ends = (1 / high, 1 / low) if slower else (low, high)
        told.append(f"95% {_kind(sooner)} {' to '.join(interval_end(x, '{:.1f}') for x in ends)}")
    if sooner.pairs != pairs:
        told.append(_pairs(sooner))
    text += f" ({', '.join(told)}" if told else ""
    unclear = sooner.interval is not None and low <= 1 <= high
    return text + ("; no clear difference" if unclear else "") + (")" if told else "")


def _kind(found: Estimate) -> str:
    return "t-interval" if found.pairs < FEW_PAIRS else "interval"


def _pairs(found: Estimate) -> str:
    return "1 pair of seeds" if found.pairs == 1 else f"{found.pairs} pairs of seeds"


def cost_text(findings: Findings) -> str:
    """Describe final accuracies against FLOPs left."""
    told = []
    for group in findings.groups:
        pairs = [
            (r.cost.flops_left, r.final) for r in group.ended if r.cost and r.final is not None
        ]
        if pairs:
            left, final = (100 * sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            told.append(f"{group.name} has {final:.1f}% with {left:.0f}% of the FLOPs")
    return _listed(told)


def time_text(findings: Findings) -> str:
    """Describe how the clock was spent."""
    told = []
    for group in findings.groups:
        runs = [run for run in group.sound if run.elapsed_s > 0]
        if runs:
            shares = (
                f"{sum(r.seconds[p] / r.elapsed_s for r in runs) / len(runs):.0%} {name}"
                for p, name in (("train", "training"), ("score", "scoring"))
            )
            told.append(f"{group.name}: {', '.join(shares)}")
    return _listed(told)


def width_text(groups: Sequence[Group]) -> str:
    """Describe what pruning left of the layers."""
    told = []
    for group in groups:
        kept = [width for _, width in group.runs[0].widths.values()]
        told.append(f"{group.name} has {min(kept)} to {max(kept)} channels a layer")
    return _listed(told)


def _listed(told: Sequence[str]) -> str:
    if not told:
        return ""
    more = len(told) - _NAMED
    return "; ".join(told[:_NAMED]) + (f"; and {more} groups more." if more > 0 else ".")
