import pytest

from alprune.errors import StoreError
from alprune.loop.run_folder import RunFolder
from alprune.runs.report import curves, plot_curves


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.event("start", 0.0, config={"method": "3sp", "seed": 4})
    folder.event("step", 2.5, fitted_s=2.0, labelled=100, test_accuracy=0.25)
    folder.event("step", 4.5, fitted_s=4.0, labelled=110, test_accuracy=None)
    folder.event("step", 6.5, fitted_s=6.0, labelled=120, test_accuracy=0.5)
    return tmp_path / "run"


def test_curves_hold_tested_accuracies_and_all_labels(run):
    accuracy, labelled = curves(run)
    assert accuracy == [(2.0, 0.25), (6.0, 0.5)]
    assert labelled == [(2.0, 100), (4.0, 110), (6.0, 120)]


def test_a_curve_ends_with_the_final_test(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.event("start", 0.0, config={"method": "3sp", "seed": 4})
    folder.event("step", 2.5, fitted_s=2.0, labelled=100, test_accuracy=0.25)
    folder.event("step", 4.0, fitted_s=4.0, labelled=110, test_accuracy=0.5)
    folder.event("end", 4.0, test_accuracy=0.5)
    assert curves(tmp_path / "run")[0] == [(2.0, 0.25), (4.0, 0.5)]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn_of_several_runs(run, tmp_path, suffix):
    out = tmp_path / f"curve.{suffix}"
    plot_curves([run, run], out)
    content = out.read_bytes()
    assert len(content) > 5000
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        plot_curves([tmp_path], tmp_path / "curve.png")


def test_a_picture_that_cannot_be_written_is_an_error(run, tmp_path):
    with pytest.raises(StoreError, match="cannot draw"):
        plot_curves([run], tmp_path / "nowhere" / "curve.png")
