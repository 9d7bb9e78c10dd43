import sys

import pytest
from made_runs import write_run
from matplotlib.axes import Axes

from alprune.errors import StoreError
from alprune.runs.report import plot_curve

POINTS = [(2, 0.25), (4, None), (6, 0.5), (8, None)]


@pytest.mark.parametrize(
    ("end", "known"), [(None, 2), ("interrupted", 2), ("error: the disk", 2), ("budget", 3)]
)
def test_the_picture_shows_the_accuracy_where_it_was_tested(tmp_path, monkeypatch, end, known):
    drawn, plot = [], Axes.plot

    def seen(axes, x, y, **look):
        drawn.append((x.tolist(), y.tolist()))
        return plot(axes, x, y, **look)

    monkeypatch.setattr(Axes, "plot", seen)
    plot_curve(write_run(tmp_path / "run", points=POINTS, end=end), tmp_path / "curve.svg")
    # Ends early hold the accuracy of the last test, which is not one of the learner then.
    assert drawn[0] == ([2, 6, 8][:known], [25, 50, 50][:known])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path, suffix):
    out = tmp_path / f"curve.{suffix}"
    plot_curve(write_run(tmp_path / "run"), out)
    content = out.read_bytes()
    assert len(content) > 5000
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        plot_curve(tmp_path, tmp_path / "curve.png")


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="cannot draw"):
        plot_curve(write_run(tmp_path / "run"), tmp_path / "nowhere" / "curve.png")


def test_a_machine_on_which_matplotlib_has_no_folder_of_its_own_is_one_message(
    tmp_path, monkeypatch
):
    class Refuses:
        @staticmethod
        def find_spec(name, *_):
            if name == "matplotlib.figure":
                raise OSError("Matplotlib requires access to a writable cache directory")

    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuses, *sys.meta_path])
    with pytest.raises(StoreError, match="cannot draw .*writable cache directory"):
        plot_curve(write_run(tmp_path / "run"), tmp_path / "curve.png")
