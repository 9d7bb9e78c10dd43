"""What a report says in sentences."""

from collections.abc import Sequence

from alprune.loop.machine_load import OTHERS_MOST
from alprune.runs.report.cells import interval_end, seconds_text
from alprune.runs.report.groups import Group
from alprune.runs.report.statistics import Estimate, mean_and_error
from alprune.runs.report.tables import Findings, at_first_test, catch_up, gain

_LINES = 8  # of the headline
_NAMED = 6  # groups that a picture's words tell of


def headline(findings: Findings) -> list[str]:
    """Return what was found, the most accurate group first, and how far it can be relied on."""
    told, compared = [], 0
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
            compared += 1
            other = "" if _same_end(base, group) else ", which had another budget"
            text += f" That is {_points(more)} {base.name}{other}."
            limits = at_first_test(base, group)
            if not all(limits) and (sooner := catch_up(base, group)):
                pace = _pace(sooner, more.pairs, *limits)
                text += f" It reached {base.name}'s final accuracy {pace}."
        told.append((mean, text))
    lines = [text for _, text in sorted(told, key=lambda entry: -entry[0])]
    rest = len(lines) - _LINES
    if rest > 0:
        lines = [*lines[:_LINES], f"{rest} more groups are in the tables."]
    return [*lines, *_limits(findings, compared)]


def _limits(findings: Findings, compared: int) -> list[str]:
    """Say what ± and intervals cover, and whether other programs slowed the runs."""
    lines = []
    if any(len(group.ended) > 1 for group in findings.groups):
        lines.append(
            "± is the standard error over seeds; neither it nor an interval covers other test "
            "images."
        )
        if compared > 1:
            lines[-1] += (
                f" Each of the {compared} comparisons has an interval of its own: where nothing "
                "differs, one in 20 excludes zero by chance."
            )
    runs = [run for group in findings.groups for run in group.sound]
    shares = [run.others_share for run in runs if run.others_share is not None]
    busy = [share for share in shares if share > OTHERS_MOST]
    if busy:
        lines.append(
            f"Other programs took up to {max(busy):.0%} of the processors during {len(busy)} of "
            f"{len(runs)} runs: times, and what was reached in them, would differ on an idle "
            "machine."
        )
    return lines


def _same_end(base: Group, group: Group) -> bool:
    ends = ("budget", "steps")
    return all(base.options.get(option) == group.options.get(option) for option in ends)


def curve_text(findings: Findings) -> str:
    """Describe the accuracy curves for those who do not see them."""
    told = []
    for group in findings.groups:
        runs = [run for run in group.sound if len(run.tested)]
        if runs:
            first, _ = mean_and_error([100 * run.tested[0, 2] for run in runs])
            last, _ = mean_and_error([100 * run.tested[-1, 2] for run in runs])
            once = all(len(run.tested) == 1 for run in runs)
            way = f"has {last:.0f}%" if once else f"goes from {first:.0f}% to {last:.0f}%"
            told.append(f"{group.name} {way}")
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
    size = f"{abs(found.value):.1f} points"
    side = "away from" if size == "0.0 points" else "above" if found.value > 0 else "below"
    if found.interval is None:
        return f"{size} (one pair of seeds, so its spread is not known) {side}"
    low, high = found.interval
    unclear = "; no clear difference" if low <= 0 <= high else ""
    return f"{size} (95% t-interval {low:+.1f} to {high:+.1f}, {_pairs(found)}{unclear}) {side}"


def _pace(sooner: Estimate, pairs: int, base_limit: bool, limit: bool) -> str:
    """Write a ratio of times, the other's over its own, as people say it, and how sure it is.

    Args:
        sooner: The ratio.
        pairs: Of the sentence before.
        base_limit: Whether the baseline's times are upper limits.
        limit: Whether the group's are.
    """
    same = "1.0" in (f"{sooner.value:.1f}", f"{1 / sooner.value:.1f}")
    slower = sooner.value < 1 and not same
    text = f"{1 / sooner.value if slower else sooner.value:.1f} times"
    if same:
        text = "in about the same time"
    else:
        if base_limit or limit:
            text = f"at {'least' if base_limit == slower else 'most'} {text}"
        text += " slower" if slower else " faster"
    told = []
    if sooner.interval is not None:
        low, high = sooner.interval
        ends = (1 / high, 1 / low) if slower else (low, high)
        told.append(f"95% t-interval {' to '.join(interval_end(x, '{:.1f}') for x in ends)}")
    if sooner.pairs != pairs:
        told.append(_pairs(sooner))
    text += f" ({', '.join(told)}" if told else ""
    unclear = sooner.interval is not None and low <= 1 <= high
    return text + ("; no clear difference" if unclear else "") + (")" if told else "")


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
        run = next((run for run in group.seeds if run.widths), group.runs[0])
        kept = [width for _, width in run.widths.values()]
        told.append(f"{group.name} has {min(kept)} to {max(kept)} channels a layer")
    return _listed(told)


def _listed(told: Sequence[str]) -> str:
    if not told:
        return ""
    more = len(told) - _NAMED
    return "; ".join(told[:_NAMED]) + (f"; and {more} groups more." if more > 0 else ".")
