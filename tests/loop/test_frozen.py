"""A frozen learner in a run, in labelling and after it: one embedding per image, the same loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from photos import NAMES, make, truth
from photos import options as asking_options
from safetensors.torch import load_file, save_file
from tiny_run import events_of, options

import alprune
from alprune.acquisition.initial import ColdPool, first_points
from alprune.errors import AlpruneError, ConfigError, ModelError
from alprune.loop import frozen
from alprune.loop.config import RunConfig
from alprune.loop.frozen import embedder_for
from alprune.loop.setup import complete, load_splits, open_session
from alprune.models import build
from alprune.training import BudgetSpent
from alprune.training.distributed import Team
from alprune.training.embeddings import Embedder, keys_of, split

pytestmark = pytest.mark.filterwarnings("ignore:.*weights to start from")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(frozen, "_latest", None)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (1, 8, 8), 9).state_dict(), path)
    return path


def start(tmp_path, weights, name="run", **changes):
    base = {
        **dict.fromkeys(["min_channels", "initial_epochs", "epochs"]),
        "learner": "frozen",
        "method": "dense",
        "pretrained": str(weights),
        "initial": 40,
        "query_size": 10,
        "steps": 2,
        "acquisition": "margin",
        "start": "random",
    }
    return options(tmp_path / name, **(base | changes))


def forwards(monkeypatch):
    """Count the images that a backbone sees."""
    seen = []
    real = Embedder._embed

    def counted(self, x, rows, budget):
        seen.append(len(rows))
        return real(self, x, rows, budget)

    monkeypatch.setattr(Embedder, "_embed", counted)
    return seen


def test_each_image_passes_the_backbone_once_in_a_run_and_never_again(
    tmp_path, weights, monkeypatch
):
    seen = forwards(monkeypatch)
    first = alprune.run(start(tmp_path, weights))
    splits = load_splits(complete(start(tmp_path, weights)))
    distinct = len(np.unique(keys_of(splits.train.x), axis=0))
    assert sum(seen) <= distinct + len(splits.test)
    seen.clear()
    monkeypatch.setattr(frozen, "_latest", None)
    second = alprune.run(start(tmp_path, weights, "again"))
    assert sum(seen) == 0
    assert second.test_accuracy == first.test_accuracy


def test_it_learns_more_than_chance_and_says_what_it_knows(tmp_path, weights):
    result = alprune.run(start(tmp_path, weights, initial=300, steps=0, hold_out=60))
    assert result.test_accuracy > 0.5
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary["temperature"] > 0


def test_exported_predicted_and_loaded_it_is_the_same_learner(tmp_path, weights):
    result = alprune.run(start(tmp_path, weights, initial=300, steps=0))
    test = load_splits(complete(start(tmp_path, weights))).test
    said = alprune.predict(result.path, test.x)
    accuracy = (said.probabilities.argmax(1) == test.y.numpy()).mean()
    assert accuracy == pytest.approx(result.test_accuracy, abs=0.01)
    kept = load_file(result.path / "model.safetensors")
    given = load_file(weights)
    assert torch.equal(kept["4.weight"], given["4.weight"])  # the backbone, whole
    assert not torch.equal(kept["9.weight"], given["9.weight"])
    [exported] = alprune.export(result.path, "safetensors")
    assert exported.difference.largest < 1e-3


def test_a_killed_run_leaves_a_small_checkpoint_that_predicts_and_resumes(tmp_path, weights):
    whole = alprune.run(start(tmp_path, weights, "whole", steps=3))
    half = alprune.run(start(tmp_path, weights, steps=2))
    kinds = (half.path / f"checkpoint-{slot}.safetensors" for slot in (0, 1))
    assert max(path.stat().st_size for path in kinds) < 40_000
    (half.path / "model.safetensors").unlink()
    events = half.path / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    with pytest.warns(UserWarning, match="was killed"):
        loaded = alprune.load_learner(half.path)
    assert loaded.network[9].weight.abs().sum() > 0
    resumed = alprune.resume(half.path, steps=3)
    assert resumed.test_accuracy == whole.test_accuracy
    labels = [events_of(path, "step")[-1]["labelled"] for path in (half.path, whole.path)]
    assert labels[0] == labels[1]


def test_a_run_interrupted_while_it_embeds_ends_soundly_keeps_what_it_did_and_resumes(
    tmp_path, weights, monkeypatch
):
    monkeypatch.setattr("alprune.training.embeddings._BLOCK", 64)
    seen, real = [], Embedder._embed

    def slow(self, x, rows, budget):
        if budget is not None:  # of the test images
            seen.append(len(rows))
            if len(seen) == 3:
                budget.halt()
        return real(self, x, rows, budget)

    monkeypatch.setattr(Embedder, "_embed", slow)
    result = alprune.run(start(tmp_path, weights))
    assert result.reason == "interrupted"
    config = complete(start(tmp_path, weights))
    splits = load_splits(config)
    monkeypatch.setattr(frozen, "_latest", None)
    table = embedder_for(config, splits.train).table(splits.test.x)
    assert len(table) - len(table.missing()) >= 2 * 64
    resumed = alprune.resume(result.path)
    whole = alprune.run(start(tmp_path, weights, "whole"))
    assert (resumed.reason, resumed.test_accuracy) == ("steps", whole.test_accuracy)


def test_the_pool_is_embedded_before_the_clock_starts_however_the_first_points_are_found(
    tmp_path, weights
):
    config = complete(start(tmp_path, weights))
    assert config.start == "random"  # which looks at no image
    session = open_session(config, load_splits(config))
    session.record.folder.close()
    assert not len(session.learner.seen.missing())
    assert session.budget.elapsed_s == 0


def test_typical_images_of_the_embeddings_are_the_first_points(tmp_path, weights):
    config = start(tmp_path, weights, start="typiclust", initial=20, steps=0)
    [begin] = events_of(alprune.run(config).path, "start")
    train = load_splits(complete(config)).train
    table = embedder_for(complete(config), train).table(train.x)
    seen = ColdPool(train.x, train.classes, None, lambda i: torch.from_numpy(table.of(i.numpy())))

    def chosen(pool):
        return first_points("typiclust", pool, 20, torch.Generator().manual_seed(0)).tolist()

    assert begin["initial"] == chosen(seen) != chosen(ColdPool(train.x, train.classes))


def test_what_does_not_go_with_a_frozen_backbone_is_refused(tmp_path, weights):
    with pytest.raises(ConfigError, match="method 'snip' prunes"):
        complete(start(tmp_path, weights, method="snip"))
    with pytest.raises(AlpruneError, match=r"learner.*frozen"):
        complete(start(tmp_path, weights, learner="frosen"))
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        split(
            torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()),
            torch.zeros(2, 1, 3, 3),
        )
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        body = [torch.nn.Flatten(), torch.nn.Linear(9, 4), torch.nn.ReLU()]
        split(torch.nn.Sequential(*body), torch.randn(2, 1, 3, 3))


def test_alone_it_is_efficientnet_lite0_with_its_imagenet_weights_at_128_pixels():
    config = complete(RunConfig(dataset="digits", learner="frozen"))
    assert (config.model, config.pretrained) == ("efficientnet-lite0-levels", "imagenet")
    assert config.method == "dense" and config.pretrained_digest


def test_people_are_asked_with_a_frozen_learner_and_new_files_alone_are_embedded(
    tmp_path, monkeypatch
):
    path = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (3, 12, 12), 9).state_dict(), path)
    root = make(tmp_path / "photos")
    chosen = asking_options(root, learner="frozen", method="dense", pretrained=str(path))
    for name in ("min_channels", "initial_epochs", "epochs", "batch_size", "pad"):
        del chosen[name]  # of networks that are trained
    seen = forwards(monkeypatch)
    with alprune.open_asking(tmp_path / "asked", **chosen) as asking:
        for _ in range(3):
            asked = asking.ask()
            asking.tell({q.path: truth(q.path) for q in asked}, new_classes=True)
        assert sum(seen) == 36
        last = asking.ask()
        assert set(last.classes) == set(NAMES)
    assert sum(seen) == 36
    loaded = alprune.load_learner(tmp_path / "asked")
    assert set(loaded.classes) == set(NAMES)
    make(root, each=14)
    with alprune.open_asking(tmp_path / "asked") as asking:
        asking.tell({q.path: truth(q.path) for q in asking.left()}, new_classes=True)
        asking.ask()
    assert sum(seen) == 36 + 6


def test_two_machines_embed_a_share_each(tmp_path, weights):
    config = complete(start(tmp_path, weights))
    train = load_splits(config).train
    for part in range(2):
        frozen._latest = None
        embedder = embedder_for(config, train)
        table = embedder.table(train.x)
        before = len(table.missing())
        embedder.complete(train.x, table, share=(part, 2))
        done = before - len(table.missing())
        assert 0.3 * len(table) < done < 0.7 * len(table)
    assert not len(table.missing())


def test_time_that_runs_out_in_one_process_ends_the_embedding_in_all(tmp_path, weights):
    class Two(Team):
        """The other process's time ends while it embeds what this one has embedded."""

        size, asked = 2, 0

        def any(self, flag):
            self.asked += 1
            return flag or self.asked == 3

    config = complete(start(tmp_path, weights))
    train = load_splits(config).train
    with pytest.raises(BudgetSpent):
        frozen.frozen_learner(config, build(config.model, 10, (1, 8, 8)), train, Two())


def test_snapshots_are_bootstrap_heads_that_differ(tmp_path, weights):
    result = alprune.run(start(tmp_path, weights, acquisition="qbc", steps=1))
    from alprune.loop.checkpoint import load_checkpoint

    state = load_checkpoint(result.path)["learner"]
    heads = [snapshot["linear.weight"] for snapshot in state["snapshots"]]
    assert len(heads) == 5
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(heads[-1], state["model"]["linear.weight"])


def test_images_at_other_sizes_or_scales_are_other_embeddings(tmp_path, weights):
    config = complete(start(tmp_path, weights))
    train = load_splits(config).train
    others = [replace(train, mean=(0.1,)), replace(train, x=train.x[:, :7, :7])]
    assert len({embedder_for(config, images).folder for images in (train, *others)}) == 3
