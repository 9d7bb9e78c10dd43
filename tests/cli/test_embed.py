"""`alprune embed`: what it does, does not do again, and refuses."""

import json

import pytest
from click.testing import CliRunner
from photos import SIDE, make
from safetensors.torch import save_file

from alprune.cli import main
from alprune.loop import frozen
from alprune.models import build


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "_latest", None)
    weights = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (3, SIDE, SIDE), 9).state_dict(), weights)
    make(tmp_path / "photos", each=8)
    words = [
        *("embed", "--dataset", f"folder:{tmp_path / 'photos'}", "--model", "tiny_learner:build"),
        *("--pretrained", str(weights), "--image-size", str(SIDE), "--device", "cpu", "--json"),
        *("--cache", str(tmp_path / "cache")),
    ]

    def call(*more):
        frozen._latest = None
        return CliRunner().invoke(main, [*words, *more])

    return call


def record(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_embeds_each_image_once(run, tmp_path):
    done = record(run())
    assert (done["images"], done["embedded"], done["known"]) == (24, 24, 24)
    assert record(run())["embedded"] == 0
    make(tmp_path / "photos", each=9)
    assert record(run())["embedded"] == 3


@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_shares_make_up_the_whole(run):
    parts = [record(run("--share", f"{part}/3"))["embedded"] for part in (1, 2, 3)]
    assert sum(parts) == 24 and all(parts)
    assert record(run())["embedded"] == 0


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(run, share):
    result = run("--share", share)
    assert result.exit_code == 2 and "expected I/N" in result.output
