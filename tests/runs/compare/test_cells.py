"""Every option that a grid varies or holds fixed is the one that its runs are made with."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny_run import options

import alprune
from alprune.errors import PruneError, StoreError
from alprune.loop.config import OPTIONS
from alprune.models import build
from alprune.runs.compare import choices, runs

VALUES = {
    "dataset": ["digits", "mnist"],
    "image_size": [8, 16],
    "data_root": ["here", "there"],
    "cache": ["here", "there"],
    "skip_unreadable": [False, True],
    "follow_links": [False, True],
    "imbalance": [1.0, 5.0],
    "label_noise": [0.0, 0.2],
    "model": ["tiny_learner:build", "tiny_learner:dropout"],
    "learner": ["trained", "frozen"],
    "pretrained": ["first.safetensors", "second.safetensors"],
    "pretrained_digest": ["0" * 32, "1" * 32],
    "init": ["he", "vs-x"],
    "method": ["3sp", "3sp-ca"],
    "flops_reduction": [0.3, 0.4],
    "params_reduction": [0.3, 0.4],
    "channels_reduction": [0.3, 0.4],
    "latency_reduction": [0.3, 0.4],
    "time_reduction": [0.3, 0.4],
    "latency_batch": [2, 3],
    "latency_aware": [False, True],
    "prune_at": ["3", "random"],
    "epi_criterion": ["taylor", "magnitude"],
    "epi_tau": [0.8, 0.9],
    "epi_window": [3, 4],
    "prune_batch": [16, 17],
    "prune_batches": [1, 2],
    "smoothing": [0.1, 0.2],
    "channel_cost": ["made", "step"],
    "temperature": [100.0, 200.0],
    "score_mode": ["train", "eval"],
    "redraw_linear": [False, True],
    "rounds": [2, 3],
    "min_channels": [2, 3],
    "round_to": [2, 3],
    "ignore": ["0", "4"],
    "local": [False, True],
    "normalised": ["pinned", "follow"],
    "after_pruning": ["inherit", "reinit"],
    "epochs": [1.0, 2.0],
    "initial_epochs": [1.0, 2.0],
    "batch_size": [16, 17],
    "lr": [0.1, 0.2],
    "momentum": [0.8, 0.9],
    "weight_decay": [0.1, 0.2],
    "label_smoothing": [0.1, 0.2],
    "warmup_batches": [5, 6],
    "schedule": ["linear", "cosine"],
    "averaging": [0.8, 0.9],
    "flip": [False, True],
    "pad": [1, 2],
    "sync_batchnorm": [False, True],
    "acquisition": ["entropy", "random"],
    "start": ["balanced", "random"],
    "initial": [110, 120],
    "query_size": [5, 6],
    "hold_out": [5, 6],
    "score_subset": [50, 60],
    "score_share": [0.1, 0.2],
    "budget": [30.0, 60.0],
    "steps": [1, 2],
    "stop_labels": [200, 300],
    "stop_accuracy": [0.8, 0.9],
    "stop_uncertainty": [0.1, 0.2],
    "stop_plateau": [2, 3],
    "seed": [0, 1],
    "device": ["cpu", "auto"],
    "precision": ["fp32", "bf16"],
    "cuda_graphs": [False, True],
    "eval_every": [1, 2],
}
NEEDED = {  # options that have no effect without others
    "learner": {"method": "dense", "pretrained": "first.safetensors"}
    | dict.fromkeys(("min_channels", "initial_epochs", "epochs")),
    "pretrained": {"after_pruning": "inherit"},
    "pretrained_digest": {"pretrained": "first.safetensors"},
    "latency_batch": {"latency_aware": True},
    **dict.fromkeys(("prune_at", "epi_criterion", "epi_tau", "epi_window"), {"method": "epi"}),
    **dict.fromkeys(("smoothing", "channel_cost"), {"method": "3sp-ca"}),
    "temperature": {"method": "structured-grasp"},
    "redraw_linear": {"method": "grasp"},
    "rounds": {"method": "3sp-iterative"},
}
PLACES = ("data_root", "cache")  # where a run finds the same data, from wherever it is resumed
AUTOMATIC = [n for n in VALUES if "_reduction" not in n and "method" not in NEEDED.get(n, ())]


@pytest.fixture(autouse=True)
def no_work(monkeypatch, tmp_path):
    """Let runs end once their config.toml is written."""

    def begun(config, *args, **kwargs):
        Path(config.out).mkdir(parents=True)
        (Path(config.out) / "config.toml").write_text(config.to_toml())
        raise PruneError("that is all")

    def chosen(cell, *args):
        return replace(cell.config, flops_reduction=0.5), "so it is"

    monkeypatch.setattr(runs, "open_session", begun)
    monkeypatch.setattr(runs.SharedData, "__call__", lambda self, config: None)
    monkeypatch.setattr(choices, "_measured", chosen)
    monkeypatch.setattr("alprune.runs.compare.rehearse", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(VALUES["pretrained"]):
        save_file(build("tiny_learner:build", 10, (1, 8, 8), seed).state_dict(), name)


def made(grid, **fixed):
    """Compare; return the options in the folder of each run, in the order of the grid."""
    outcomes = alprune.compare(options("unused", **fixed), grid, "cmp")
    assert {o.error for o in outcomes} == {"PruneError: that is all"}
    return [tomllib.loads((o.path / "config.toml").read_text()) for o in outcomes]


def test_every_option_is_looked_at_here():
    assert set(VALUES) == set(OPTIONS) - {"out"}


def values_of(name):
    return [str(Path(v).absolute()) for v in VALUES[name]] if name == "pretrained" else VALUES[name]


@pytest.mark.parametrize("name", VALUES)
def test_each_value_of_a_grid_reaches_its_run(name):
    found = made({name: values_of(name)}, **NEEDED.get(name, {}))
    assert [run[name] for run in found] == values_of(name)


@pytest.mark.parametrize("name", AUTOMATIC)
def test_each_value_reaches_its_run_where_the_reduction_is_measured(name):
    base = {"flops_reduction": "auto", "budget": 90.0} | NEEDED.get(name, {})
    found = made({name: values_of(name)}, **base)
    assert [run[name] for run in found] == values_of(name)
    assert {run["flops_reduction"] for run in found} == {0.5}


@pytest.mark.parametrize("name", VALUES)
def test_a_run_with_another_value_is_not_kept_in_its_place(name):
    first, second = values_of(name)
    grid = {"lr": [0.5]} if name == "seed" else {"seed": [7]}
    fixed = NEEDED.get(name, {})
    [before] = made(grid, **fixed | {name: first})
    assert before[name] == first
    config = options("unused", **fixed | {name: second})
    if name in PLACES:
        [outcome] = alprune.compare(config, grid, "cmp")
        assert outcome.state == "failed"  # it is the same run, resumed
        return
    with pytest.raises(StoreError, match=rf"begun with other options: .*{name}"):
        alprune.compare(config, grid, "cmp")
