"""A run folder that an earlier version wrote: layout 1 of the checkpoint, interrupted in step 1."""

import shutil
from pathlib import Path

import pytest
from tiny_run import events_of

import alprune
from alprune.loop import resume
from alprune.loop.checkpoint import LAYOUT, load_checkpoint
from alprune.loop.config import RunConfig
from alprune.loop.csv_tables import read_labels

FIXTURE = Path(__file__).parent / "fixtures" / "run"


@pytest.fixture
def earlier(tmp_path):
    return shutil.copytree(FIXTURE, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:the run is resumed where it did not begin")
def test_a_run_of_an_earlier_version_is_resumed_to_its_end(earlier):
    assert "layout" not in load_checkpoint(earlier)
    before = read_labels(earlier)
    result = alprune.resume(earlier, trust_code=True)
    assert (result.reason, result.steps, result.labelled) == ("steps", 3, 130)
    assert [event["step"] for event in events_of(earlier, "step")] == [0, 1, 2, 3]
    assert load_checkpoint(earlier)["layout"] == LAYOUT
    assert before.items() <= read_labels(earlier).items() and len(before) == 110


@pytest.mark.filterwarnings("ignore:the run in")
def test_the_learner_of_an_earlier_versions_checkpoint_is_loaded(earlier):
    learner = alprune.load_learner(earlier, trust_code=True)
    assert len(learner.classes) == 10 and learner.temperature is None


def test_an_earlier_versions_run_is_read_as_arrays(earlier):
    history = alprune.load_run(earlier)
    assert history.labelled.tolist() == [100, 110] and history.reason == "interrupted"


@pytest.mark.parametrize(
    ("method", "after", "newer", "meant"),
    [
        ("snip", "reinit", False, "inherit"),  # masked networks kept their weights in any case
        ("snip", "reinit", True, "reinit"),
        ("3sp", "reinit", False, "reinit"),
    ],
)
def test_masked_runs_of_earlier_versions_kept_their_weights(tmp_path, method, after, newer, meant):
    lines = RunConfig(method=method, after_pruning=after, steps=1).to_toml().splitlines()
    kept = [line for line in lines if newer or not line.startswith("score_mode")]
    (tmp_path / "config.toml").write_text("\n".join(kept))
    assert resume.options(tmp_path).after_pruning == meant
