"""`alprune embed`: what it does, does not do again, and refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from photos import SIDE, make
from safetensors.torch import save_file

from alprune.cli import main
from alprune.data.image_cache.vectors import VectorStore
from alprune.loop import frozen
from alprune.models import build

DIMENSIONS = 32  # of the tiny network's embeddings


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


def cached(tmp_path, *words):
    return CliRunner().invoke(main, ["cache", *words, "--cache", str(tmp_path / "cache")])


def test_the_cache_lists_embeddings_and_removes_them(run, tmp_path):
    run()
    images, embeddings = json.loads(cached(tmp_path, "list", "--json").stdout)
    assert (images["kind"], embeddings["kind"]) == ("images", "embeddings")
    assert embeddings["embeddings"] == 24 and images["embeddings"] is None
    assert "24 images" in cached(tmp_path, "list").stdout
    folder = Path(embeddings["path"])
    (folder / "notes.txt").write_text("mine")
    refused = cached(tmp_path, "remove", embeddings["name"])
    assert refused.exit_code == 1 and "cannot be removed" in refused.output
    assert os.listdir(folder) == ["notes.txt"]
    (folder / "notes.txt").unlink()
    assert "freed" in cached(tmp_path, "remove", embeddings["name"]).stdout
    assert not folder.exists()
    assert record(run())["embedded"] == 24
    assert cached(tmp_path, "remove", "--all").exit_code == 0
    assert cached(tmp_path, "list").stdout.count("nothing") == 2


def test_embeddings_that_are_being_written_stay(run, tmp_path):
    run()
    [_, embeddings] = json.loads(cached(tmp_path, "list", "--json").stdout)
    store = VectorStore(Path(embeddings["path"]), DIMENSIONS)
    store.add(np.zeros((1, 16), np.uint8), np.zeros((1, DIMENSIONS)))
    refused = cached(tmp_path, "remove", embeddings["name"])
    assert refused.exit_code == 1 and "another process is embedding" in refused.output
    store.close()
    assert cached(tmp_path, "remove", embeddings["name"]).exit_code == 0


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(run, share):
    result = run("--share", share)
    assert result.exit_code == 2 and "expected I/N" in result.output
