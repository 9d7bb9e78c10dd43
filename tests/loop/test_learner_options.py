"""Every option of a run's training and pruning reaches what it is for."""

from dataclasses import asdict, fields, replace

import pytest
import torch
from tiny_run import options

from alprune.loop import learner
from alprune.loop.config import OPTIONS
from alprune.loop.defaults import PRUNE_OPTIONS
from alprune.loop.learner import early_pruner, fit_settings, prune_learner
from alprune.loop.setup import complete, load_splits
from alprune.models import INITS, build
from alprune.training import FitSettings
from alprune.training.augment import normalise

# Values that are nobody's default.
TRAINING = {
    "lr": 0.3,
    "momentum": 0.1,
    "weight_decay": 0.2,
    "batch_size": 7,
    "label_smoothing": 0.4,
    "warmup_batches": 5,
    "schedule": "cosine",
    "averaging": 0.6,
    "pad": 2,
    "flip": True,
}
PRUNING = {
    "flops_reduction": 0.11,
    "params_reduction": 0.12,
    "channels_reduction": 0.13,
    "latency_reduction": 0.14,
    "time_reduction": 0.15,
    "smoothing": 0.16,
    "channel_cost": "step",
    "temperature": 3.0,
    "min_channels": 5,
    "round_to": 3,
    "rounds": 4,
    "latency_batch": 6,
    "latency_aware": True,
    "init": "vs-x",
    "ignore": "0",
    "local": True,
    "normalised": "follow",
    "score_mode": "eval",
    "redraw_linear": True,
}
EPI = {"prune_at": "7", "epi_criterion": "magnitude", "epi_tau": 0.9, "epi_window": 3}
OF_A_FIT = {"epochs", "initial_epochs", "sync_batchnorm"}  # the loop's, not the learner's
OF_A_BATCH = {"method", "after_pruning", "prune_batch", "prune_batches"}


@pytest.fixture(scope="module")
def train():
    return load_splits(complete(options("unused"))).train


@pytest.fixture
def pruned(monkeypatch):
    """The calls of `prune`: the network, the method and what else was given."""
    calls = []
    monkeypatch.setattr(learner, "prune", lambda *args, **given: calls.append((*args, given)))
    return calls


def named(group):
    return {name for name, entry in OPTIONS.items() if entry.metadata["group"] == group}


def test_every_option_is_looked_at_here():
    assert named("training") == set(TRAINING) | OF_A_FIT
    assert set(TRAINING) == {entry.name for entry in fields(FitSettings)}
    assert named("pruning") == set(PRUNING) - {"init"} | set(EPI) | OF_A_BATCH
    assert set(PRUNING) == set(PRUNE_OPTIONS)


def test_every_training_option_reaches_the_learner(train):
    found = asdict(fit_settings(complete(options("x", **TRAINING)), train))
    assert found == TRAINING
    usual = asdict(fit_settings(complete(options("x")), train))
    assert all(usual[name] != value for name, value in TRAINING.items())
    made = learner.new_learner(
        complete(options("x", **TRAINING)), build("tiny_learner:build", 10, (1, 8, 8), 0), train
    )
    assert asdict(made.settings) == TRAINING


@pytest.mark.parametrize("mirrored", [True, False])
def test_images_are_mirrored_where_the_data_allow_it_unless_it_is_asked_for(train, mirrored):
    images = replace(train, flip=mirrored)
    assert fit_settings(complete(options("x")), images).flip is mirrored
    asked = complete(options("x", flip=not mirrored))
    assert fit_settings(asked, images).flip is not mirrored


def test_every_pruning_option_reaches_the_method(train, pruned):
    usual = complete(options("x", batch_size=17))
    assert all(getattr(usual, name) != value for name, value in PRUNING.items())
    config = replace(usual, **PRUNING, method="3sp-ca", after_pruning="rescale")
    prune_learner(config, train, torch.arange(100), train.y[:100])
    [(_, method, given)] = pruned
    assert method == "3sp-ca"
    assert {name: given.pop(name) for name in PRUNING} == PRUNING
    assert given.pop("after") == "rescale" and given.pop("latency_step_batch") == 17
    assert set(given) == {"batch", "generator"}


def test_a_method_that_prunes_during_training_gets_its_options_then(train, pruned):
    asked = PRUNING | EPI | dict.fromkeys((n for n in PRUNING if "_reduction" in n), None)
    config = replace(complete(options("x", method="epi")), **asked | {"channels_reduction": 0.3})
    prune_learner(replace(config, latency_aware=False), train, torch.arange(100), train.y[:100])
    [(model, method, given)] = pruned
    assert method == "dense" and not {"ignore", "local", "channels_reduction"} & set(given)
    early = early_pruner(config, model, train)
    settings, limits = early.settings, early.settings.target.limits
    assert (settings.target.quantity, settings.target.reduction) == ("channels", 0.3)
    assert (settings.criterion, str(settings.prune_at)) == ("magnitude", "7")
    assert (settings.threshold, settings.past) == (0.9, 3)
    assert (limits.min_channels, limits.round_to, limits.local) == (5, 3, True)
    assert "0" in limits.ignore and early.cost is not None
    assert early_pruner(replace(config, latency_aware=False), model, train).cost is None


def test_each_pruning_batch_is_of_other_labelled_points(train, pruned):
    labelled, rows = torch.arange(300, 400), torch.arange(100)  # rows in place of classes
    config = complete(options("x", prune_batches=3, prune_batch=9))
    prune_learner(config, train, labelled, rows)
    [(_, _, given)] = pruned
    chosen = [drawn.tolist() for _, drawn in given["batch"]]
    assert [len(set(drawn)) for drawn in chosen] == [9, 9, 9]
    assert len({tuple(sorted(drawn)) for drawn in chosen}) == 3
    for inputs, drawn in given["batch"]:
        images = train.x[labelled[drawn]]
        wanted = normalise(images, torch.tensor(train.mean), torch.tensor(train.std))
        assert torch.equal(inputs, wanted)


@pytest.mark.parametrize("init", ["he", "vs-x"])
def test_a_network_of_the_registry_starts_from_the_initialisation_asked_for(train, pruned, init):
    config = complete(options("x", model="lenet-300-100", init=init, seed=3))
    prune_learner(config, train, torch.arange(100), train.y[:100])
    [(model, _, _)] = pruned
    wanted = build("lenet-300-100", 10, train.image_shape, 3)
    INITS[init](wanted, torch.Generator().manual_seed(3))
    assert all(torch.equal(v, wanted.state_dict()[k]) for k, v in model.state_dict().items())
