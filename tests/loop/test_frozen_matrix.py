"""A frozen learner on a folder of photos, with every acquisition function: no pass is repeated."""

import json

import numpy as np
import pytest
from photos import NAMES, SIDE, fill
from safetensors.torch import load_file, save_file
from torch import nn

import alprune
from alprune.acquisition import ACQUISITIONS
from alprune.loop import frozen
from alprune.models import build
from alprune.runs.report import write_report
from alprune.training.predict import Predictor

pytestmark = pytest.mark.filterwarnings("ignore:.*weights to start from", "ignore:.*was killed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos of three classes, weights, and a cache in which all photos are embedded."""
    place = tmp_path_factory.mktemp("matrix")
    weights = build("tiny_learner:build", 10, (3, SIDE, SIDE), 9).state_dict()
    save_file(weights, place / "w.safetensors")
    for name in NAMES:
        fill(place / "photos" / "train" / name, name, range(30))
        fill(place / "photos" / "test" / name, name, range(100, 105))
    frozen._latest = None
    alprune.run(config(place, "first", steps=0, hold_out=0))
    return place


def config(place, name, **changes):
    options = {
        "dataset": f"folder:{place / 'photos'}",
        "cache": str(place / "cache"),
        "out": str(place / name),
        "learner": "frozen",
        "model": "tiny_learner:build",
        "pretrained": str(place / "w.safetensors"),
        "image_size": SIDE,
        "device": "cpu",
        "initial": 32,
        "query_size": 4,
        "steps": 2,
        "hold_out": 20,
        "stop_plateau": 50,
        "eval_every": 1,
    }
    return alprune.RunConfig(**options | changes)


@pytest.fixture
def passes(monkeypatch):
    """Count the images that pass through the backbone, whoever calls it."""
    seen, real = [], Predictor.stream

    def counted(self, network, x, indices=None, budget=None):
        for part, logits in real(self, network, x, indices, budget):
            if any(isinstance(module, nn.Conv2d) for module in network.modules()):
                seen.append(len(logits))
            yield part, logits

    monkeypatch.setattr(Predictor, "stream", counted)
    frozen._latest = None
    return seen


def kill(path):
    """Leave of a run what is there when it is killed after its last step."""
    (path / "model.safetensors").unlink()
    events = path / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    frozen._latest = None


def same(found, whole, apart):
    """Compare predictions of the same files in any order."""
    said, wanted = (dict(zip(p.paths, p.probabilities, strict=True)) for p in (found, whole))
    assert said.keys() == wanted.keys()
    for path, probabilities in said.items():
        np.testing.assert_allclose(probabilities, wanted[path], atol=apart)


DAILY = {"entropy", "margin", "random", "badge", "typiclust", "falcun", "qbc-vote", "k-center"}


@pytest.mark.parametrize(
    "acquisition",
    [
        pytest.param(name, marks=[] if name in DAILY else [pytest.mark.slow])
        for name in sorted(ACQUISITIONS)
    ],
)
def test_held_out_calibrated_and_resumed_it_costs_no_pass_of_the_backbone(
    place, passes, acquisition
):
    path = alprune.run(config(place, acquisition.replace(":", "-"), acquisition=acquisition)).path
    kill(path)
    result = alprune.resume(path, steps=3)
    assert result.steps == 3 and result.labelled == 44 and result.test_accuracy > 0.5
    assert json.loads((path / "summary.json").read_text())["temperature"] > 0
    assert not passes


def test_it_stops_by_its_rule_and_is_reported_without_a_pass(place, passes):
    result = alprune.run(config(place, "stopped", stop_accuracy=0.4, steps=9, acquisition="margin"))
    assert result.reason == "accuracy reached" and result.steps < 9
    write_report([result.path], place / "report")
    assert not passes


def test_photos_that_were_embedded_are_predicted_by_the_head_alone(place, passes, tmp_path):
    path = alprune.run(config(place, "predicted")).path
    whole = alprune.predict(alprune.load_learner(path), f"folder:{place / 'photos'}")
    passes.clear()
    found = alprune.predict(path, f"folder:{place / 'photos'}")
    assert len(found) == 105 and sum(passes) == 4  # are they of this network?
    same(found, whole, 0.02)
    fill(tmp_path / "new", "dark", range(200, 206))
    passes.clear()
    assert set(alprune.predict(path, tmp_path / "new").predicted) == {"dark"}
    assert sum(passes) == 6


def test_embeddings_by_another_network_are_not_used(place, passes):
    path = alprune.run(config(place, "changed")).path
    kept = load_file(path / "model.safetensors")
    kept["4.weight"] = -kept["4.weight"]
    save_file(kept, path / "model.safetensors")
    whole = alprune.predict(alprune.load_learner(path), f"folder:{place / 'photos'}")
    passes.clear()
    found = alprune.predict(path, f"folder:{place / 'photos'}")
    same(found, whole, 1e-5)
    assert sum(passes) > 105
