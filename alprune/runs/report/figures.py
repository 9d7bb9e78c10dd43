"""The pictures of a report: each is drawn on axes given, without any global state."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from alprune.runs.report.groups import REDUCTIONS, Group
from alprune.runs.report.runs import OFF_CLOCK, PARTS, Run
from alprune.runs.report.statistics import accuracy_at, band, joined, known_until, labelled_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2328"  # text and axes; the page gives it the colour of its own text
# Okabe and Ito's colours without yellow and black, which white and dark pages swallow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# What they become on a dark page.
ON_DARK = {INK: "#e6e9ed", "#0072b2": "#4aa8ec", "#d55e00": "#f5843a", "#009e73": "#2fc196"}
_LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (1, 1)))
_MARKERS = "osD^vPX"
_PARTS = {  # colour, hatch
    "train": ("#0072B2", ""),
    "score": ("#E69F00", "//"),
    "acquire": ("#009E73", "xx"),
    "rest": ("#8a8a8a", ""),
}
_POINTS = 400  # of the common clock
_MARKS = 40  # tests of a run that have one
_MARKED_RUNS = 3  # of a group: with more, marks hide the lines
_WIDTH = 5.6  # inches
_NAME = 60  # characters of a group's name in a picture
LAYERS_MOST = 1_000  # that are drawn: what a record names may be any number
_LAYERS = 32  # names below the axis


@dataclass
class Picture:
    """A drawn picture and what goes with it.

    Attributes:
        key: Its file name without suffix.
        title: What is seen.
        text: The same in words and numbers, for those who do not see it.
        note: How it was made.
        figure: The picture.
        wide: Whether it wants the whole width of the page.
        folded: Whether a reader of the page has to open it.
    """

    key: str
    title: str
    text: str
    figure: "Figure"
    note: str = ""
    wide: bool = field(default=False)
    folded: bool = field(default=False)


@dataclass(frozen=True)
class Look:
    """How a group is drawn; colour, line and marker each tell it from its neighbours."""

    colour: str
    line: Any
    marker: str

    @classmethod
    def of(cls, number: int) -> "Look":
        """Return the look of the `number`-th group."""
        # The counts have no common divisor, so that few groups share two of the three.
        return cls(
            _COLOURS[number % len(_COLOURS)],
            _LINES[number % len(_LINES)],
            _MARKERS[number % len(_MARKERS)],
        )


def new_figure(height: float, width: float = _WIDTH) -> tuple["Figure", "Axes"]:
    """Return an empty figure with one set of axes, sizes in inches."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    return figure, axes


def label(axes: "Axes", title: str, x: str, y: str) -> None:
    """Give axes a title and names with units."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def plain(text: str, most: int = _NAME) -> str:
    """Return text that is drawn as it is: no formula, one line, cut where it is long."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    hidden = text.startswith("_")  # which a legend would leave out
    return f"{' ' * hidden}{text}".replace("$", r"\$")


def accuracy_curves(groups: Sequence[Group], by_labels: bool = False) -> "Figure":
    """Draw accuracy against the clock or against labelled points."""
    figure, axes = new_figure(_height(groups))
    for number, group in enumerate(groups):
        look = Look.of(number)
        runs = [run for run in group.sound if len(run.tested)]
        for run in group.runs:
            if len(runs) > 1 or run not in runs:
                _thin(axes, run, look, by_labels, among=len(group.runs))
        x = _common([_reach(run, by_labels) for run in runs])
        curves = [100 * accuracy_at(run, x, by_labels) for run in runs]
        _mean_line(axes, group, look, number, x, curves, runs, by_labels)
    axis = "labelled points" if by_labels else "time on the clock (s)"
    title = "Test accuracy against labels" if by_labels else "Test accuracy against time"
    label(axes, title, axis, "test accuracy (%)")
    _grid(axes)
    axes.locator_params(axis="x", nbins=6)
    if by_labels:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    else:
        axes.set_xlim(left=0)
    _legend(figure, axes)
    return figure


def label_curves(groups: Sequence[Group]) -> "Figure":
    """Draw labelled points against the clock."""
    figure, axes = new_figure(_height(groups))
    for number, group in enumerate(groups):
        look = Look.of(number)
        runs = [run for run in group.sound if len(run.labelled)]
        for run in group.runs:
            if (len(runs) > 1 or run not in runs) and len(run.labelled):
                x = np.linspace(0, run.elapsed_s, _POINTS)
                axes.plot(x, labelled_at(run, x), color=look.colour, lw=1.0, alpha=0.75)
        x = _common([(0.0, run.elapsed_s) for run in runs])
        curves = [labelled_at(run, x) for run in runs]
        _mean_line(axes, group, look, number, x, curves, [], False)
    label(axes, "Labelled points against time", "time on the clock (s)", "labelled points")
    _grid(axes)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(figure, axes)
    return figure


def time_bars(groups: Sequence[Group]) -> "Figure":
    """Draw where the time went, a bar a group."""
    shown = [g for g in groups if any(run.elapsed_s > 0 for run in g.sound)]
    figure, axes = new_figure(2.0 + 0.42 * len(shown))
    spent = {
        part: np.array([np.mean([run.seconds[part] for run in g.sound]) for g in shown])
        for part in (*PARTS, *OFF_CLOCK)
    }
    clock = sum((spent[part] for part in PARTS), np.zeros(len(shown)))
    aside = spent["test"] + spent["save"]
    widest = float((clock + aside).max())
    rows = np.arange(len(shown))
    left = np.zeros(len(shown))
    for part in PARTS:
        colour, hatch = _PARTS[part]
        axes.barh(rows, spent[part], 0.62, left, color=colour, hatch=hatch, edgecolor="white",
                  linewidth=0.6, label=part)  # fmt: skip
        for row in rows[spent[part] > 0.09 * widest]:
            axes.text(left[row] + spent[part][row] / 2, row, f"{spent[part][row] / clock[row]:.0%}",
                      ha="center", va="center", color="#111111", fontsize=9,
                      bbox={"fc": "white", "ec": "none", "pad": 1.2, "alpha": 0.85})  # fmt: skip
        left = left + spent[part]
    axes.barh(rows, aside, 0.3, left, color="none", edgecolor=INK, linewidth=1.0,
              linestyle=(0, (3, 2)), label="off the clock")  # fmt: skip
    axes.set_yticks(rows, [_folded(group.name) for group in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    label(axes, "Where the time went", "mean seconds of a run", "")
    axes.grid(axis="x", color="#808080", alpha=0.25)
    axes.set_axisbelow(True)
    _legend(figure, axes)
    return figure


def cost_points(groups: Sequence[Group]) -> "Figure":
    """Draw final accuracy against FLOPs left; reductions of one method are joined."""
    figure, axes = new_figure(_height(groups))
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, group in enumerate(groups):
        found = [
            (100 * run.cost.flops_left, 100 * run.final)
            for run in group.ended
            if run.cost and run.final is not None
        ]
        if not found:
            continue
        look = Look.of(number)
        xs, ys = np.array(found).T
        spread = ys.std(ddof=1) if len(ys) > 1 else None
        if len(ys) > 1:
            axes.plot(xs, ys, look.marker, color=look.colour, ms=4, alpha=0.45)
        axes.errorbar(xs.mean(), ys.mean(), spread, fmt=look.marker, color=look.colour, ms=8,
                      mec=INK, mew=0.8, capsize=4, lw=1.6, label=plain(group.name))  # fmt: skip
        same = repr({k: v for k, v in group.options.items() if k not in REDUCTIONS})
        lines.setdefault(same, []).append((float(xs.mean()), float(ys.mean())))
    for points in lines.values():
        if len(points) > 1:
            xs, ys = np.array(sorted(points)).T
            axes.plot(xs, ys, color=INK, lw=1.2, alpha=0.5, zorder=1)
    label(axes, "Final accuracy against compute left", "FLOPs left (%)", "final accuracy (%)")
    _grid(axes)
    axes.set_xlim(left=0, right=max(104.0, axes.get_xlim()[1]))
    _legend(figure, axes)
    return figure


def width_steps(groups: Sequence[Group], numbers: Sequence[int]) -> "Figure":
    """Draw channels a layer before and after pruning, of the first `LAYERS_MOST` layers.

    Args:
        groups: Whose learners have the same layers.
        numbers: Of the groups among all, for their looks.
    """
    layers = list(groups[0].runs[0].widths)[:LAYERS_MOST]
    before = {name: w[0] for g in groups for r in g.runs for name, w in r.widths.items() if w[0]}
    dense = {n: w[1] for g in groups if g.method == "dense" for n, w in g.runs[0].widths.items()}
    before = dense | before
    figure, axes = new_figure(_height(groups) + 1.0, width=9.0)
    places = np.arange(len(layers))
    heights = np.array([before.get(name) or np.nan for name in layers], dtype=float)
    axes.bar(places, heights, 0.82, color="#8a8a8a", alpha=0.35, label="before")
    for number, group in zip(numbers, groups, strict=True):
        look = Look.of(number)
        complete = (run.widths for run in group.seeds if run.widths.keys() >= {*layers})
        kept = [[widths[name][1] for name in layers] for widths in complete]
        if not kept:
            continue
        mean, low, high = np.mean(kept, axis=0), np.min(kept, axis=0), np.max(kept, axis=0)
        axes.vlines(places, low, high, color=look.colour, lw=2.5, alpha=0.5)
        axes.plot(places, mean, color=look.colour, linestyle=look.line, lw=1.8, marker=look.marker,
                  ms=5, label=plain(group.name))  # fmt: skip
    every = -(-len(layers) // _LAYERS)
    names = [plain(name, 24) for name in layers[::every]]
    axes.set_xticks(places[::every], names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_ylim(bottom=0)
    label(axes, "Channels of each layer before and after pruning", "", "channels")
    axes.grid(axis="y", color="#808080", alpha=0.25)
    axes.set_axisbelow(True)
    _legend(figure, axes)
    return figure


def _reach(run: Run, by_labels: bool) -> tuple[float, float]:
    if by_labels:
        return float(run.tested[0, 1]), float(run.tested[-1, 1])
    return float(run.tested[0, 0]), known_until(run)


def _common(reaches: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the points `(n,)` from the last beginning to the first end."""
    if not reaches:
        return np.zeros(0)
    begin, end = max(b for b, _ in reaches), min(e for _, e in reaches)
    return np.linspace(begin, end, _POINTS) if end > begin else np.array([end])


def _thin(axes: "Axes", run: Run, look: Look, by_labels: bool, among: int) -> None:
    """Draw a single run; its tests are marked unless it is one of many."""
    if not len(run.tested):
        return
    begin, end = _reach(run, by_labels)
    x = np.union1d(np.linspace(begin, end, _POINTS), run.tested[:, 1 if by_labels else 0])
    many = among > _MARKED_RUNS
    line: dict[str, Any] = {"color": look.colour, "lw": 1.0, "alpha": 0.5 if many else 0.75}
    axes.plot(x, 100 * accuracy_at(run, x, by_labels), **line)
    if many and joined(run).all():
        return
    marked = _marked(run)
    axes.plot(
        marked[:, 1 if by_labels else 0],
        100 * marked[:, 2],
        look.marker,
        color=look.colour,
        ms=3,
        alpha=0.75,
    )


def _marked(run: Run) -> np.ndarray:
    """Return some of the tests, the last among them; each mark makes the picture larger."""
    every = -(-len(run.tested) // _MARKS)
    return run.tested[(len(run.tested) - 1) % every :: every] if every else run.tested


def _mean_line(
    axes: "Axes",
    group: Group,
    look: Look,
    number: int,
    x: np.ndarray,
    curves: Sequence[np.ndarray],
    runs: Sequence[Run],
    by_labels: bool,
) -> None:
    """Draw the mean and one standard deviation; where only the end is known, a point there."""
    name = plain(group.name) + (f" ({len(curves)} seeds)" if len(curves) > 1 else "")
    style: dict[str, Any] = {"color": look.colour, "ms": 6, "mec": INK, "mew": 0.5}
    shape: dict[str, Any] = {"linestyle": look.line, "lw": 2.2, "marker": look.marker}
    if not curves:
        axes.plot([], [], label=name, **shape, **style)
        return
    mean = band(x, curves)
    known = np.isfinite(mean.mean)
    if len(runs) == 1:  # its tests are marked, joined or not
        marked = _marked(runs[0])
        axes.plot(marked[:, 1 if by_labels else 0], 100 * marked[:, 2], look.marker, **style)
        axes.plot(x, mean.mean, color=look.colour, linestyle=look.line, lw=2.2)
        axes.plot([], [], label=name, **shape, **style)
        return
    if known.sum() < 0.1 * len(x):
        axes.plot([], [], label=name, **shape, **style)
        if group.ended:  # then the last tests are of the final learners
            ends = [(_reach(run, by_labels)[1], 100 * run.tested[-1, 2]) for run in runs]
            (at, last), deviation = np.mean(ends, axis=0), np.std(ends, axis=0, ddof=1)[1]
            axes.errorbar(at, last, deviation, fmt=look.marker, capsize=4, lw=1.8,
                          **(style | {"ms": 8}))  # fmt: skip
        return
    every = max(1, len(x) // 8)
    axes.fill_between(x, mean.mean - mean.sd, mean.mean + mean.sd, color=look.colour, alpha=0.2,
                      lw=0)  # fmt: skip
    offset = number * every // 5 % every
    axes.plot(x, mean.mean, markevery=(offset, every), label=name, **shape, **style)


def _height(groups: Sequence[Group]) -> float:
    return 3.5 + 0.22 * len(groups)


def _grid(axes: "Axes") -> None:
    axes.grid(color="#808080", alpha=0.25)
    axes.set_axisbelow(True)


def _folded(name: str) -> str:
    """Break a name into two short lines."""
    lines = textwrap.wrap(name, 24, max_lines=2, placeholder="…")
    return "\n".join(plain(line) for line in lines)


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=0)
    # An inch holds some 13 characters of this size; line and gaps take as much as eleven.
    columns = max(1, int(13 * figure.get_figwidth() / (longest + 11)))
    figure.legend(handles, names, loc="outside lower left", ncols=columns, frameon=False,
                  labelcolor=INK, fontsize=9, handlelength=3.4)  # fmt: skip
