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
from alprune.runs import embed_shares
from alprune.runs.compare.engines import ENGINES, Lost

HELPERS = str(Path(__file__).parents[1] / "helpers")
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
    refused = cached(tmp_path, "remove", "--all")
    assert refused.exit_code == 1 and "another process is embedding" in refused.output
    assert refused.stdout.count("freed") == 1  # the decoded images
    assert [one["kind"] for one in json.loads(cached(tmp_path, "list", "--json").stdout)] == [
        "embeddings"
    ]
    store.close()
    assert cached(tmp_path, "remove", embeddings["name"]).exit_code == 0


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(run, share):
    result = run("--share", share)
    assert result.exit_code == 2 and "expected I/N" in result.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_jobs_embed_what_one_process_does(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HELPERS)
    given = str(tmp_path / "alone")
    assert record(run("--cache", given))["embedded"] == 24
    done = record(run("--jobs", "2"))
    assert (done["images"], done["embedded"], done["known"]) == (24, 24, 24)
    alone, shares = (_vectors(tmp_path / name) for name in ("alone", "cache"))
    assert alone.keys() == shares.keys()
    for key, vector in alone.items():
        np.testing.assert_allclose(shares[key], vector, rtol=2e-3, atol=2e-3)
    assert len([*(tmp_path / "cache").rglob("*.vectors")]) == 2  # a part for each share
    assert record(run("--jobs", "2"))["embedded"] == 0


def _vectors(cache):
    [folder] = [path for path in (cache / "embeddings").iterdir() if path.is_dir()]
    store = VectorStore(folder, DIMENSIONS)
    found = {}
    for keys, piece in store.news():
        vectors = store.read(piece, np.arange(len(keys)))
        found |= {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}
    store.close()
    return found


class Died:
    """A job that dies after part of its work, or does it whole."""

    def __init__(self, task, dies):
        self._task, self._dies, self.stopped = task, dies, False

    def done(self):
        return True

    def outcome(self):
        if self._dies:
            raise Lost("killed")
        return self._task()

    def stop(self):
        self.stopped = True


def _pretend(monkeypatch, deaths):
    """Let an engine run tasks here, of which the first ones die."""
    given = []

    class Engine:
        most = None

        def submit(self, task, name):
            given.append(name)
            return Died(task, len(given) <= deaths)

        def close(self):
            given.append("closed")

    monkeypatch.setitem(ENGINES, "ray", lambda resources, out: Engine())
    monkeypatch.setattr(embed_shares, "_LOOK_S", 0.0)
    return given


@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_a_share_that_dies_is_given_out_again(run, monkeypatch):
    given = _pretend(monkeypatch, deaths=2)
    done = record(run("--engine", "ray", "--jobs", "2"))
    assert done["embedded"] == 24
    names = ["embed-1-of-2", "embed-2-of-2"]
    assert given == [*names, *names, "closed"]


@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_shares_that_always_die_are_given_up_with_what_is_known(run, monkeypatch):
    given = _pretend(monkeypatch, deaths=100)
    result = run("--engine", "ray", "--jobs", "1")
    assert result.exit_code == 1 and "died 3 times in a row" in result.output
    assert given == ["embed-1-of-1"] * 3 + ["closed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "2", "--share", "1/2"], "either --share, or --jobs"),
        (["--engine", "cloud"], "unknown engine 'cloud'"),
        (["--jobs", "0"], "at least 1"),
        (["--cpus-per-run", "2"], "need an --engine"),
    ],
)
def test_misuse_of_engines_is_one_message(run, words, message):
    result = run(*words)
    assert result.exit_code in (1, 2) and message in result.output
