"""A folder of labelling that an earlier version wrote: layout 1 of the checkpoint, four rounds."""

import shutil
from pathlib import Path

import photos
import pytest

import alprune
from alprune.loop.checkpoint import LAYOUT, load_checkpoint
from alprune.loop.event_log import read_events

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(FIXTURES / "photos", tmp_path / "photos")
    return shutil.copytree(FIXTURES / "asked", tmp_path / "asked")


def test_labelling_of_an_earlier_version_continues_with_its_learner(earlier, tmp_path):
    before = load_checkpoint(earlier)
    assert "layout" not in before
    options = {"dataset": f"folder:{tmp_path / 'photos'}", "trust_code": True}
    with alprune.open_asking(earlier, **options) as asking:
        assert len(asking.labels) == 12
        asked = asking.ask()
        assert asked.again and asked.number == 4
        asking.tell({query.path: photos.truth(query.path) for query in asked})
        asked = asking.ask()
        assert asked.number == 5 and asked.labelled == 16
    after = load_checkpoint(earlier)
    assert after["layout"] == LAYOUT and after["plan"] == before["plan"]
    assert after["learner"]["batches"] > before["learner"]["batches"]
    assert sum(event["event"] == "prune" for event in read_events(earlier)) == 1


def test_the_learner_of_an_earlier_versions_labelling_is_loaded(earlier):
    assert alprune.load_learner(earlier, trust_code=True).classes == photos.NAMES
