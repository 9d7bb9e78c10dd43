"""Tables and pictures from run folders."""

from collections.abc import Sequence
from pathlib import Path

from alprune.store import read_events


def accuracy_curve(path: Path) -> tuple[list[float], list[float], list[int]]:
    """Read when a run's learner was how accurate.

    Args:
        path: A run folder.

    Returns:
        Seconds on the clock when the tested learner was fitted, its test accuracies (0 to 1),
        and the labelled points it had; only steps that were tested.
    """
    tested = [
        event
        for event in read_events(path)
        if event["event"] == "step" and event["test_accuracy"] is not None
    ]
    return (
        [event["fitted_s"] for event in tested],
        [event["test_accuracy"] for event in tested],
        [event["labelled"] for event in tested],
    )


def plot_curves(paths: Sequence[Path], out: Path) -> None:
    """Draw accuracy and labelled points against elapsed time, one line a run folder.

    Args:
        paths: Run folders.
        out: The picture, its type by its suffix (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ["-", "--", "-.", ":"]
    for number, path in enumerate(paths):
        events = read_events(path)
        config = next(e for e in events if e["event"] == "start")["config"]
        seconds, accuracies, labelled = accuracy_curve(path)
        look = {
            "label": f"{config['method']}, seed {config['seed']}",
            "linestyle": styles[number % len(styles)],
            "marker": "." if len(seconds) < 40 else None,
        }
        left.plot(seconds, [100 * a for a in accuracies], **look)
        right.step(seconds, labelled, where="post", **{**look, "marker": None})
    left.set(xlabel="elapsed time on the budget clock (s)", ylabel="test accuracy (%)")
    right.set(xlabel="elapsed time on the budget clock (s)", ylabel="labelled points")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    left.legend()
    figure.savefig(out, dpi=150)
