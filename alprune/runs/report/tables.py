"""The tables of a report as plain data, for the page, for Markdown and for people's scripts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alprune.runs.report.cells import (
    NONE,
    Cell,
    estimate_cell,
    mean_cell,
    name_cell,
    number_cell,
    option_cell,
    seconds_cell,
    seconds_text,
    time_cell,
)
from alprune.runs.report.groups import Group, option_text
from alprune.runs.report.runs import OFF_CLOCK, PARTS, Run
from alprune.runs.report.statistics import (
    WILCOXON_PAIRS,
    Estimate,
    accuracy_at,
    area,
    difference,
    known_until,
    speed_up,
    time_to,
)

_LEVELS_MOST = 12
_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        key: Identifies it within the page.
        caption: Says what it shows.
        columns: Headings.
        rows: Cells, as many as columns.
        note: What has to be known to read it.
    """

    key: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What the tables and the pictures are made of.

    Attributes:
        groups: All groups.
        baselines: `{group: what it is compared with}`.
        levels: Accuracies (0 to 1) to which times are told.
        until_s: The end of the areas under the curves: the earliest of a run that has ended.
    """

    groups: tuple[Group, ...]
    baselines: Mapping[str, Group]
    levels: tuple[float, ...]
    until_s: float

    @classmethod
    def of(cls, groups: Sequence[Group], baselines: Mapping[str, Group]) -> "Findings":
        """Choose levels and the common end."""
        runs = [run for group in groups for run in group.sound if len(run.tested)]
        # Runs that failed early would shorten the areas of all others.
        counted = [run for run in runs if run.ended] or runs
        until_s = min(map(known_until, counted), default=0.0)
        return cls(tuple(groups), baselines, _levels(runs), until_s)


def tables(findings: Findings) -> list[Table]:
    """Return every table that has something to say, in the order of the page."""
    made = [results(findings), shares(findings), times(findings), speed_ups(findings)]
    made += [seconds(findings), differences(findings), all_runs(findings)]
    return [table for table in made if table.rows and len(table.columns) > 1]


def results(findings: Findings) -> Table:
    """Tabulate what each group ended with."""
    rows = []
    for group in findings.groups:
        runs, ended = group.sound, group.ended
        final = [100 * run.final for run in ended if run.final is not None]
        areas = [area(run, findings.until_s) for run in runs]
        known = [100 * value for value in areas if value is not None]
        costs = [run.cost for run in runs if run.cost]
        rows.append(
            (
                name_cell(group),
                Cell(f"{len(ended)} of {len(group.seeds)}", len(ended)),
                mean_cell(final, 1),
                mean_cell([float(run.labelled[-1]) for run in ended if len(run.labelled)], 0),
                mean_cell(known, 1, of=len(runs)),
                mean_cell([100 * cost.flops_left for cost in costs], 1, error=False),
                mean_cell([cost.params[1] for cost in costs], 0, error=False),
            )
        )
    columns = (
        *("Group", "Runs ended", "Final accuracy (%)", "Labelled points"),
        f"Mean accuracy over {seconds_text(findings.until_s)} s (%)",
        *("FLOPs left (%)", "Parameters"),
    )
    note = (
        "± is the standard error of the mean over seeds. The mean accuracy is the area under the "
        f"accuracy-time curve over the first {seconds_text(findings.until_s)} s that all runs "
        "have, divided by that time; before a run's first test it counts as 0."
    )
    masked = [g.name for g in findings.groups if any(r.cost and r.cost.sparsity for r in g.runs)]
    if masked:
        note += f" Masked weights still count as parameters and FLOPs ({', '.join(masked)})."
    return Table("results", "What each group ended with", columns, tuple(rows), note)


def shares(findings: Findings) -> Table:
    """Tabulate how accurate each group was after shares of the time that all runs have."""
    clock = np.array([share * findings.until_s for share in _SHARES])
    rows = []
    for group in findings.groups:
        runs = [100 * accuracy_at(run, clock) for run in group.sound]
        at_shares = [
            [float(v) for v in values if not math.isnan(v)] for values in zip(*runs, strict=True)
        ]
        if any(at_shares):
            cells = [mean_cell(values, 1, of=len(runs)) for values in at_shares]
            rows.append((name_cell(group), *cells))
    columns = (
        "Group",
        *(f"{100 * s:.0f}% ({seconds_text(t)} s)" for s, t in zip(_SHARES, clock, strict=True)),
    )
    note = (
        f"Accuracy in percent after shares of the {seconds_text(findings.until_s)} s that all runs "
        "have, interpolated between tests; ± is the standard error over seeds, - means that no run "
        "was tested near then."
    )
    return Table("shares", "Accuracy on the way", columns, tuple(rows), note)


def times(findings: Findings) -> Table:
    """Tabulate when each group first reached each accuracy."""
    rows = []
    for group in findings.groups:
        cells = [time_cell([time_to(run, level) for run in group.sound], len(group.sound))
                 for level in findings.levels]  # fmt: skip
        rows.append((name_cell(group), *cells))
    columns = ("Group", *(f"{level:.0%}" for level in findings.levels))
    note = (
        "Seconds on the clock, the mean over runs, interpolated between tests; an accuracy that "
        "the first test already found has the time of that test. - means not reached by all runs; "
        "? means reached between tests too far apart to say when; (1 of 3) after a time means "
        "that the time is known of one run only."
    )
    return Table("times", "Seconds until an accuracy was reached", columns, tuple(rows), note)


def speed_ups(findings: Findings) -> Table:
    """Tabulate each group against its baseline, paired by seed."""
    rows = []
    for group in findings.groups:
        base = findings.baselines.get(group.name)
        if base is None:
            continue
        more = gain(base, group)
        pairs = more.pairs if more else 0
        sooner = [_sooner(base, group, level) for level in findings.levels]
        rows.append(
            (
                name_cell(group),
                Cell(base.name, base.name),
                estimate_cell(more, "{:+.1f}", pairs=0),
                *(estimate_cell(e, "{:.2f}", pairs) for e in (catch_up(base, group), *sooner)),
            )
        )
    columns = (
        *("Group", "Compared with", "Final accuracy, points more"),
        "Times sooner at the baseline's final accuracy",
        *(f"at {level:.0%}" for level in findings.levels),
    )
    used = 2 if rows else 0
    filled = [
        number
        for number in range(len(columns))
        if number <= used or any(row[number].text != NONE for row in rows)
    ]
    rows = [tuple(row[number] for number in filled) for row in rows]
    columns = tuple(columns[number] for number in filled)
    return Table("speedups", "Against the baseline", columns, tuple(rows), _pairs_note(findings))


def seconds(findings: Findings) -> Table:
    """Tabulate where the time went and how fast the learner was."""
    rows = []
    for group in findings.groups:
        runs = [run for run in group.sound if run.elapsed_s > 0]
        if not runs:
            continue
        parts = [
            mean_cell([100 * r.seconds[part] / r.elapsed_s for r in runs], 1, error=False)
            for part in PARTS
        ]
        aside = [seconds_cell([r.seconds[p] for r in runs]) for p in OFF_CLOCK]
        trained = [r.examples / r.seconds["train"] for r in runs if r.seconds["train"] > 0]
        scored = [r.scored / r.seconds["score"] for r in runs if r.seconds["score"] > 0]
        clock = seconds_cell([r.elapsed_s for r in runs])
        rates = (mean_cell(trained, 0), mean_cell(scored, 0))
        rows.append((name_cell(group), clock, *parts, *aside, *rates))
    columns = (
        *("Group", "Clock (s)", *(f"{part.capitalize()} (%)" for part in PARTS)),
        *("Testing (s)", "Saving (s)", "Examples trained / s", "Points scored / s"),
    )
    note = (
        "Shares are of the time on the clock; rest is the loop itself and what was done again "
        "after an interruption. Testing and saving are not on the clock."
    )
    return Table("seconds", "Where the time went", columns, tuple(rows), note)


def differences(findings: Findings) -> Table:
    """Tabulate the options in which groups differ."""
    options = list(findings.groups[0].options) if findings.groups else []
    rows = tuple(
        (name_cell(group), *(option_cell(group.options[option]) for option in options))
        for group in findings.groups
    )
    columns = ("Group", *(option.replace("_", "-") for option in options))
    note = "Runs of a group differ in nothing but the seed and how often they were tested."
    return Table("options", "Options in which the groups differ", columns, rows, note)


def all_runs(findings: Findings) -> Table:
    """Tabulate the runs one by one."""
    rows = []
    for group in findings.groups:
        for run in group.runs:
            last = run.tested[-1, 2] if len(run.tested) else None
            labelled = float(run.labelled[-1]) if len(run.labelled) else None
            rows.append(
                (
                    Cell(option_text(str(run.path)), str(run.path)),
                    name_cell(group),
                    Cell(str(run.seed), run.seed),
                    Cell(run.state + (f" ({option_text(run.reason)})" if run.reason else "")),
                    number_cell(run.elapsed_s, 1),
                    number_cell(labelled, 0),
                    number_cell(None if last is None else 100 * last, 2),
                )
            )
    columns = (
        *("Run", "Group", "Seed", "State", "Clock (s)", "Labelled points"),
        "Last tested accuracy (%)",
    )
    note = (
        "Means and intervals are of the runs that have ended; of a group in which none has, of "
        "all its runs as far as they came. A seed counts once, by the first run of it that "
        "has ended."
    )
    sorted_by_state = tuple((*r[:3], Cell(r[3].text, r[3].text), *r[4:]) for r in rows)
    return Table("runs", "The runs", columns, sorted_by_state, note)


def gain(base: Group, group: Group) -> Estimate | None:
    """Estimate by how many points of accuracy a group ends above its baseline."""
    return difference(*(_by_seed(g, lambda run: 100 * _final(run)) for g in (base, group)))


def catch_up(base: Group, group: Group) -> Estimate | None:
    """Estimate how many times sooner a group has each baseline run's own final accuracy."""
    goals = _by_seed(base, _final)
    theirs = _by_seed(base, lambda run: time_to(run, _final(run)))
    ours = _by_seed(group, lambda run: time_to(run, goals.get(run.seed, math.inf)))
    return speed_up(theirs, {seed: t for seed, t in ours.items() if seed in goals})


def at_first_test(base: Group, group: Group) -> tuple[bool, bool]:
    """Return whether a baseline's or a group's first test already found the final accuracies.

    The times of `catch_up` are then upper limits on that side.
    """
    goals = _by_seed(base, _final)
    sides = []
    for side in (base, group):
        runs = [run for run in side.ended if run.seed in goals and len(run.tested)]
        sides.append(any(run.tested[0, 2] >= goals[run.seed] for run in runs))
    return sides[0], sides[1]


def _sooner(base: Group, group: Group, level: float) -> Estimate | None:
    return speed_up(*(_by_seed(g, lambda run: time_to(run, level)) for g in (base, group)))


def _by_seed(group: Group, value: Callable[[Run], float]) -> dict[int, float]:
    """Return `{seed: value}` of the runs that ended."""
    return {run.seed: value(run) for run in group.ended if run.final is not None}


def _final(run: Run) -> float:
    return math.nan if run.final is None else run.final


def _levels(runs: Sequence[Run]) -> tuple[float, ...]:
    """Return round accuracies between the lowest first and the highest test."""
    if not runs:
        return ()
    low = min(float(run.tested[0, 2]) for run in runs)
    high = max(float(run.tested[:, 2].max()) for run in runs)
    for step in (5, 10, 20):
        levels = [n / 100 for n in range(step, 100, step) if low < n / 100 <= high]
        if len(levels) <= _LEVELS_MOST:
            break
    return tuple(levels)


def _pairs_note(findings: Findings) -> str:
    note = (
        "Runs of the same seed are paired. In brackets the 95% interval of a percentile bootstrap "
        "over pairs (all resamples up to 5 pairs, 10,000 above); the one by Student's t, which "
        "takes the differences for normal and which the sentences above quote, because a bootstrap "
        "of few pairs is too narrow (of 10 it covers the true mean about 90 times in 100); the "
        "number of pairs (beside a ratio where it is another than beside the difference) and, from "
        "6 pairs on, p of Wilcoxon's two-sided signed-rank test, which cannot fall under 0.05 "
        "below 6. Ratios are geometric means of the baseline's seconds over the group's; - means "
        "that a run of either did not reach the accuracy or no pair was tested often enough."
    )
    estimates = [
        found
        for group in findings.groups
        if (base := findings.baselines.get(group.name)) and (found := gain(base, group))
    ]
    for pairs in sorted({found.pairs for found in estimates} & set(range(1, WILCOXON_PAIRS))):
        if pairs == 1:
            note += " One pair shows no spread: a second seed may turn it round."
            continue
        note += (
            f" Few seeds: a bootstrap of {pairs} pairs reaches no further than the smallest and "
            "the largest of them, between which the true median lies with "
            f"{1 - 2 ** (1 - pairs):.0%} certainty, not 95%; go by the interval after the t."
        )
    return note
