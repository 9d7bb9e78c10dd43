"""The picture in a run folder: accuracy and labelled points against time."""

import io
from collections.abc import Sequence
from pathlib import Path

from alprune.data.atomic_io import replace
from alprune.errors import StoreError
from alprune.loop.event_log import Fields, read_events


def curves(path: Path) -> tuple[list[tuple[float, float]], list[tuple[float, int]]]:
    """Read a run's course.

    Args:
        path: A run folder.

    Returns:
        `(seconds, test accuracy)` of every step that was tested and of the end, and
        `(seconds, labelled points)` of every step; seconds on the budget clock when the step's
        fit ended, accuracy 0 to 1.
    """
    events = read_events(path)
    steps = [event for event in events if event["event"] == "step"]
    tested = [s for s in steps if s["test_accuracy"] is not None]
    accuracy = [(s["fitted_s"], s["test_accuracy"]) for s in tested]
    if events and events[-1]["event"] == "end" and events[-1]["test_accuracy"] is not None:
        last = (events[-1]["elapsed_s"], events[-1]["test_accuracy"])
        accuracy = [point for point in accuracy if point[0] < last[0]] + [last]
    return accuracy, [(s["fitted_s"], s["labelled"]) for s in steps]


def plot_curves(paths: Sequence[Path], out: Path) -> None:
    """Draw accuracy and labelled points against elapsed time, one line a run folder.

    Args:
        paths: Run folders.
        out: The picture, its type by its suffix (.png, .svg, .pdf).

    Raises:
        StoreError: A run cannot be read, or the picture cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ["-", "--", "-.", ":"]
    for number, path in enumerate(paths):
        start = next((e for e in read_events(path) if e["event"] == "start"), Fields())
        accuracy, labelled = curves(path)
        name = f"{start['config']['method']}, seed {start['config']['seed']}"
        line = styles[number % len(styles)]
        marker = "." if len(accuracy) < 40 else None
        percent = [100 * value for _, value in accuracy]
        left.plot([t for t, _ in accuracy], percent, line, label=name, marker=marker)
        right.step([t for t, _ in labelled], [n for _, n in labelled], line, where="post")
    left.set(xlabel="elapsed time on the budget clock (s)", ylabel="test accuracy (%)")
    right.set(xlabel="elapsed time on the budget clock (s)", ylabel="labelled points")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    left.legend()
    try:
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, format=out.suffix.removeprefix("."))
        replace(out, picture.getvalue())
    except OSError as error:
        raise StoreError(f"cannot draw {out}: {error}.") from error
