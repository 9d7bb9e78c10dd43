import numpy as np
import pytest
import torch
from made_runs import OPTIONS, write_run
from tiny_run import options

import alprune
from alprune.runs.local_data import local_splits
from alprune.runs.report.contact_sheet import _chosen, _mosaic, _rows, _stages, load_pool, sheet
from alprune.runs.report.groups import group_runs
from alprune.runs.report.runs import read_run
from alprune.runs.report.write import _sheets

KNOWN = {0: (1, 0), 1: (0, 0), 2: (1, 0), 5: (1, 3), 9: (0, 7), 4: (1, 7)}


@pytest.mark.parametrize("last", [0, 1, 5, 11, 12, 77, 5000])
def test_every_step_is_in_one_stage(last):
    stages = _stages(last)
    assert stages[0] == (0, 0) and len(stages) <= 12
    covered = [step for first, end in stages for step in range(first, end + 1)]
    assert covered == list(range(last + 1))


def test_each_class_and_stage_shows_its_first_image():
    assert _chosen(KNOWN, [(0, 0), (1, 4), (5, 7)], [0, 1]) == [[1, None, 9], [0, 5, 4]]


def test_of_many_classes_those_labelled_most_are_shown():
    known = {i: (label, 0) for i, label in enumerate([11] * 3 + [4] * 2 + list(range(12)))}
    rows = _rows(known, 12)
    assert len(rows) == 10 and rows == sorted(rows) and {4, 11} <= set(rows)


@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (3, 5, 7, 3), (3, 120, 60, 2)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_images_lie_where_their_cell_is(shape, kind):
    x = torch.zeros(shape, dtype=kind)
    x[2] = 255 if kind == torch.uint8 else -3.5
    x[1] = 128 if kind == torch.uint8 else -7.0
    out = _mosaic([[None, 2], [1, 0]], x)
    height, width = out.shape[0] // 2, out.shape[1] // 2
    assert max(height, width) <= 48 + 3
    centre = out[height // 2 :: height, width // 2 :: width]
    assert centre[..., 3].tolist() == [[0, 255], [255, 255]]  # nothing where no image is
    expected = [255, 128, 0] if kind == torch.uint8 else [128, 0, 255]
    found = [centre[0, 1], centre[1, 0], centre[1, 1]]
    assert [int(c[0]) for c in found] == pytest.approx(expected, abs=1)
    assert out.dtype == np.uint8


def test_a_run_of_today_is_read_and_its_images_are_shown(tmp_path):
    result = alprune.run(options(tmp_path / "run", steps=2))
    run = read_run(result.path)
    assert (run.state, run.final) == ("ended", result.test_accuracy)
    assert run.labelled[-1] == result.labelled and len(run.labelled) == 3
    assert sum(run.seconds[p] for p in ("train", "score", "acquire", "rest")) == pytest.approx(
        result.elapsed_s, abs=0.01
    )
    assert run.seconds["train"] > 0 and run.seconds["test"] > 0 and run.examples > 0
    assert run.cost.flops_left < 1
    assert all(after <= before for before, after in run.widths.values() if before)
    figure, said = sheet(group_runs([run])[0], load_pool(run))
    shape = figure.axes[0].images[0].get_array().shape
    assert shape == (10 * (8 + 3), 3 * (8 + 3), 4)  # ten digits in three stages, 8 x 8 pixels
    assert f"of {result.labelled:,} labelled images" in said


def test_the_data_are_those_of_the_run_that_is_shown(tmp_path):
    config = alprune.RunConfig(**OPTIONS)
    digest = local_splits(config, "a test").digest
    labels = [(index, index % 2, "x", index) for index in range(4)]
    paths = (
        write_run(tmp_path / "a", end=None, start={"data_digest": "of last week"}),
        write_run(tmp_path / "b", start={"data_digest": digest}, labels=labels),
    )
    [picture], remarks = _sheets(group_runs([read_run(path) for path in paths]))
    assert picture.key == "images-1" and not remarks
