"""The picture in a run folder: accuracy and labelled points against time."""

import io
from pathlib import Path

import numpy as np

from alprune.data.atomic_io import replace
from alprune.errors import StoreError
from alprune.runs.history import load_run


def plot_curve(path: Path, out: Path) -> None:
    """Draw a run's accuracy, where it was tested, and its labelled points against elapsed time.

    Args:
        path: The run folder.
        out: The picture, its type by its suffix (.png, .svg, .pdf).

    Raises:
        StoreError: The run cannot be read, or the picture cannot be written.
    """
    try:
        replace(out, _picture(path, out.suffix.removeprefix(".")))
    except OSError as error:  # also of matplotlib, which wants a folder of its own
        raise StoreError(f"cannot draw {out}: {error}.") from error


def _picture(path: Path, kind: str) -> bytes:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    run = load_run(path)
    tested = ~np.isnan(run.test_accuracy)
    name = f"{run.config.get('method')}, seed {run.config.get('seed')}"
    marker = "." if tested.sum() < 40 else None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(run.fitted_s[tested], 100 * run.test_accuracy[tested], label=name, marker=marker)
    right.step(run.fitted_s, run.labelled, where="post")
    left.set(xlabel="elapsed time on the budget clock (s)", ylabel="test accuracy (%)")
    right.set(xlabel="elapsed time on the budget clock (s)", ylabel="labelled points")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    left.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=kind)
    return picture.getvalue()
