"""Defaults: what fills the options left open, and what help texts say of it."""

from dataclasses import asdict, fields

import pytest

from alprune.errors import ConfigError
from alprune.loop.config import OPTIONS, RunConfig
from alprune.loop.defaults import (
    BENCH,
    DEFAULTS,
    Resolved,
    ResolvedLabelling,
    ResolvedRun,
    default_text,
    resolve,
    resolve_labelling,
)
from alprune.loop.option import CHOICES, GROUPS
from alprune.loop.unused import LABELLING_OPTIONS, NOT_FOR_LABELLING
from alprune.models import MODELS
from alprune.pruning import METHODS, Latency, Limits, ScoreOptions
from alprune.pruning.criteria.base import SCORE_MODES
from alprune.pruning.width_limits import AUTO, LEAST

# Written down here a second time on purpose: a run folder depends on every one of them.
CASES = [
    ({}, {"lr": 0.05, "initial": 1000, "query_size": 50, "budget": 3600.0, "start": "balanced"}),
    ({}, {"flops_reduction": "auto", "smoothing": 0.01, "channel_cost": "step", "epochs": 0.5}),
    ({"steps": 3}, {"budget": None, "steps": 3, "flops_reduction": 0.9}),
    ({"steps": 3, "budget": 60.0}, {"flops_reduction": "auto"}),
    ({"flops_reduction": 0.5}, {"flops_reduction": 0.5}),
    ({"params_reduction": 0.5}, {"flops_reduction": None, "smoothing": 0.01}),
    ({"method": "3sp"}, {"flops_reduction": None, "smoothing": 0.05, "channel_cost": "made"}),
    ({"method": "dense"}, {"warmup_batches": 200, "round_to": 1, "min_channels": LEAST}),
    ({"method": "3sp"}, {"warmup_batches": 50, "round_to": AUTO, "min_channels": AUTO}),
    ({"method": "epi"}, {"initial_epochs": 20.0, "prune_at": "epi", "warmup_batches": 200}),
    (
        {"dataset": "digits"},
        {"initial": 100, "query_size": 10, "batch_size": 32, "initial_epochs": 40.0},
    ),
    ({"initial": 199}, {"batch_size": 32, "initial_epochs": 40.0}),
    ({"initial": 200}, {"batch_size": 32, "initial_epochs": 20.0}),
    ({"initial": 399}, {"batch_size": 32, "initial_epochs": 20.0}),
    ({"initial": 400}, {"batch_size": 64, "initial_epochs": 10.0}),
    ({"dataset": "digits", "initial": 7}, {"initial": 7, "query_size": 10}),
    ({"model": "lenet-5-caffe"}, {"lr": 0.01, "after_pruning": "reinit"}),
    ({"model": "lenet-5-caffe", "lr": 0.3}, {"lr": 0.3}),
    ({"model": "own:network"}, {"after_pruning": "inherit", "flops_reduction": None}),
    ({"model": "torchvision:vgg11"}, {"after_pruning": "reinit", "smoothing": 0.05}),
    ({"model": "patches", "method": "dense"}, {"after_pruning": "inherit", "warmup_batches": 10}),
    ({"pretrained": "w.pt"}, {"after_pruning": "inherit", "lr": 0.01}),
    ({"imbalance": 5.0}, {"start": "random"}),
    ({"method": "snip"}, {"after_pruning": "inherit", "warmup_batches": 200}),
    ({"method": "dense"}, {"after_pruning": "reinit"}),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_open_options_are_filled_by_the_case_of_the_run(given, expected):
    whole = asdict(resolve(RunConfig(**given)))
    assert {name: whole[name] for name in expected} == expected


@pytest.mark.parametrize("method", METHODS)
def test_resolving_again_changes_nothing(method):
    once = resolve(RunConfig(method=method, dataset="digits"))
    assert resolve(once) == once
    assert resolve(RunConfig.from_mapping({k: v for k, v in asdict(once).items() if v})) == once


def test_labelling_has_defaults_of_its_own():
    asked = resolve_labelling(RunConfig(dataset="folder:photos", out="x"))
    found = (asked.budget, asked.start, asked.initial_epochs, asked.epochs, asked.warmup_batches)
    assert found == (60.0, "typiclust", 200.0, 200.0, 10)
    assert asked.initial is None and asked.query_size == DEFAULTS["query_size"]
    pruned = resolve_labelling(RunConfig(method="3sp-ca", model="vgg19", out="x"))
    assert pruned.flops_reduction == 0.9
    dense = resolve_labelling(RunConfig(method="dense", out="x", epochs=3.0))
    assert (dense.warmup_batches, dense.epochs) == (200, 3.0)


def test_what_is_always_known_cannot_be_missing():
    whole, seen = asdict(resolve(RunConfig())), set()
    for kind in (Resolved, ResolvedRun, ResolvedLabelling):
        for entry in fields(kind):
            narrowed = entry.type != OPTIONS[entry.name].type
            if narrowed:
                with pytest.raises(ConfigError, match=f"{entry.name} must be"):
                    kind(**whole | {entry.name: None})
                seen.add(entry.name)
    assert {"lr", "epochs"} <= seen


def test_help_names_each_default_and_when_it_holds():
    assert default_text("momentum") == "0.9" and default_text("skip_unreadable") == ""
    assert default_text("lr") == "0.05; 0.01 with --pretrained; 0.01 for lenet-5-caffe"
    assert default_text("budget") == "1h; none with --steps"
    assert default_text("budget", labelling=True) == "1m"
    assert default_text("epochs", labelling=True) == "200; 60 for patches"
    assert default_text("warmup_batches", labelling=True).startswith("10; 10 for patches; 200")
    assert default_text("model") == "vgg19"
    text = default_text("model", labelling=True)
    assert text.startswith("patches; vgg19 where another option chooses or prunes the network; eff")
    text = default_text("flops_reduction", labelling=True)
    assert text.count("3sp-ca") == 1 and "there" not in text
    assert default_text("flops_reduction").endswith("; 0.9 there without a budget")
    assert default_text("stop_labels") == ""


def test_every_option_is_of_a_group_and_labelling_takes_those_that_apply():
    assert {entry.metadata["group"] for entry in OPTIONS.values()} == set(GROUPS)
    assert list(OPTIONS) == sorted(
        OPTIONS, key=lambda name: GROUPS.index(OPTIONS[name].metadata["group"])
    )
    assert set(LABELLING_OPTIONS) | set(NOT_FOR_LABELLING) == set(OPTIONS)


def test_an_option_s_default_is_that_of_the_function_that_takes_it():
    config = RunConfig()
    options = ScoreOptions()
    assert (options.temperature, options.smoothing, options.channel_cost) == (
        config.temperature,
        DEFAULTS["smoothing"],
        DEFAULTS["channel_cost"],
    )
    assert (options.score_mode, options.redraw_linear) == (config.score_mode, config.redraw_linear)
    assert CHOICES["score_mode"] == tuple(SCORE_MODES)
    assert Latency().batch == config.latency_batch
    assert BENCH["model"] == config.model in MODELS
    assert resolve(RunConfig(method="dense")).min_channels == Limits().min_channels
