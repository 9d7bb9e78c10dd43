"""Which runs a grid has, what they are called, and what is refused before any of them."""

import pytest
from tiny_run import options

from alprune.errors import AlpruneError, ConfigError, StoreError
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete
from alprune.runs.compare import (
    merged,
    name_of,
    read_grid_recipe,
    read_manifest,
    seeds_of,
    values_of,
)
from alprune.runs.compare.grid import cells
from alprune.runs.compare.manifest import write_manifest


@pytest.mark.parametrize(
    ("text", "seeds"), [("5", [0, 1, 2, 3, 4]), ("3,7", [3, 7]), ("3,", [3]), ("1", [0])]
)
def test_seeds_are_a_count_or_a_list(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "how many"),
        ("-2", "how many"),
        ("1001", "how many"),
        ("two", "seed takes a whole number, got 'two'"),
        ("1,,2", "empty value"),
        (",", "empty value"),
    ],
)
def test_other_seeds_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        seeds_of(text)


def test_values_are_read_as_the_type_of_their_option():
    assert values_of("lr", "0.1, 2e-2") == [0.1, 0.02]
    assert values_of("query-size", "5,50") == [5, 50]
    assert values_of("flip", "true,No") == [True, False]
    assert values_of("method", "dense,3sp") == ["dense", "3sp"]
    with pytest.raises(ConfigError, match="unknown option 'learning_rate'"):
        values_of("learning-rate", "1")
    with pytest.raises(ConfigError, match="flip takes true or false, got 'maybe'"):
        values_of("flip", "maybe")


def test_names_are_made_of_the_values_with_the_seed_last():
    assert name_of({"seed": 0, "method": "3sp-ca"}) == "3sp-ca-seed0"
    assert name_of({"lr": 0.1, "method": "dense", "seed": 12}) == "dense-lr0.1-seed12"
    assert name_of({"query_size": 5, "acquisition": "balanced:bald"}) == (
        "balanced-bald-query-size5"
    )
    assert name_of({"flip": False}) == "flipfalse"
    assert name_of({"dataset": "npz:/a/../b.npz"}) == "npz-a-..-b.npz"
    assert name_of({"dataset": "../.."}) == "_"


def test_runs_that_share_data_follow_one_another_and_seeds_go_round(tmp_path):
    grid = {"dataset": ["digits", "mnist"], "seed": [1, 0], "method": ["dense", "3sp"]}
    names = [cell.name for cell in cells(options("x"), grid, tmp_path)]
    assert names == [
        *("digits-dense-seed1", "digits-3sp-seed1", "digits-dense-seed0", "digits-3sp-seed0"),
        *("mnist-dense-seed1", "mnist-3sp-seed1", "mnist-dense-seed0", "mnist-3sp-seed0"),
    ]


def test_open_options_are_filled_for_each_run_by_itself(tmp_path):
    config = RunConfig(dataset="digits", steps=1)
    for cell in cells(config, {"method": ["dense", "3sp-ca", "epi"]}, tmp_path):
        out = str(tmp_path / cell.name)
        alone = RunConfig(dataset="digits", steps=1, method=cell.name, out=out)
        assert cell.config == complete(alone)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "nothing is varied"),
        ({"out": ["a", "b"]}, "out cannot be varied"),
        ({"metod": ["dense"]}, "unknown option 'metod'.*'method'"),
        ({"method": "dense"}, "takes a list"),
        ({"method": []}, "takes a list"),
        ({"flops_reduction": [None, 0.5]}, "lists None, which cannot be recorded"),
        ({"seed": [1, 2, 1]}, "lists 1 twice"),
        ({"seed": range(40), "query_size": list(range(1, 31))}, "1,200 runs; at most 1,000"),
        ({"method": ["dense", "3sp-c"]}, "run 3sp-c: unknown method '3sp-c'.*'3sp-ca'"),
        ({"model": ["vgg9"]}, "run vgg9: unknown model"),
        ({"model": ["torchvision:resnet19"]}, "unknown torchvision model 'resnet19'"),
        ({"acquisition": ["entropy", "entrop"]}, "run entrop: unknown acquisition"),
        ({"dataset": ["digits", "npz:"]}, "run npz: data set 'npz:' needs a path"),
        ({"lr": [0.1, "x"]}, "run lrx: lr must be a number"),
        ({"prune_at": ["2"]}, "prune_at .*only epi prunes during training"),
        ({"model": ["tiny_learner:build", "tiny_learner-build"]}, "unknown model"),
        ({"dataset": ["npz:a/b", "npz:a-b"]}, "two runs would be called 'npz-a-b'"),
    ],
)
def test_what_no_run_could_do_is_refused_with_its_name(tmp_path, grid, message):
    with pytest.raises(AlpruneError, match=message):
        cells(options("x"), grid, tmp_path)


def test_the_command_line_wins_over_a_recipe():
    recipe = ({"lr": 0.1, "seed": 3}, {"method": ["dense", "3sp"], "epochs": [1.0]})
    assert merged(recipe, {"method": "epi"}, {"seed": [0, 1]}) == (
        {"lr": 0.1, "method": "epi"},
        {"epochs": [1.0], "seed": [0, 1]},
    )
    with pytest.raises(ConfigError, match="seed is both fixed and varied"):
        merged(recipe, {"seed": 1}, {"seed": [0, 1]})


def test_a_manifest_is_read_back_and_is_a_recipe_for_a_comparison_only(tmp_path):
    config, grid = options(tmp_path, lr=0.1), {"method": ["dense", "3sp"], "seed": range(3)}
    write_manifest(tmp_path, config, grid)
    again, axes = read_manifest(tmp_path)
    assert axes == {"method": ["dense", "3sp"], "seed": [0, 1, 2]}
    assert cells(again, axes, tmp_path) == cells(config, grid, tmp_path)
    with pytest.raises(ConfigError, match=r"holds a \[grid\].*alprune compare --recipe"):
        RunConfig.from_toml(tmp_path / "compare.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid = 3", "it must be a table"),
        ('method = "3sp"\n[grid]\nmethod = ["dense"]', "fixes 'method' and varies it"),
        ("[grid", "not valid TOML"),
    ],
)
def test_a_recipe_with_an_unusable_grid_is_refused(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_grid_recipe(tmp_path / "r.toml")


def test_a_folder_without_a_comparison_cannot_go_on(tmp_path):
    with pytest.raises(StoreError, match="no comparison to resume"):
        read_manifest(tmp_path)
