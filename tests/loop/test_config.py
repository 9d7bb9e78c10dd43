from dataclasses import fields

import numpy as np
import pytest

from alprune.errors import ConfigError
from alprune.loop.config import RunConfig


def test_a_recipe_round_trips(tmp_path):
    config = RunConfig(budget=60, method="3sp", lr=0.1, flip=False, epochs=1.5, out='a\\b"c')
    path = tmp_path / "r.toml"
    path.write_text(config.to_toml())
    assert RunConfig.from_toml(path) == config


def test_overrides_win_over_a_recipe(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('method = "uniform"\nseed = 3\n')
    config = RunConfig.from_toml(path, seed=4)
    assert (config.method, config.seed) == ("uniform", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quary_size = 3", "unknown option 'quary_size'.*Did you mean 'query_size'"),
        ('seed = "one"', "seed must be a whole number, got 'one'"),
        ("seed = true", "seed must be a whole number, got True"),
        ("lr = -1.0", "lr must be more than 0"),
        ("lr = nan", "lr must be more than 0"),
        ("query_size = 0", "query_size must be at least 1"),
        ("seed = ", "not valid TOML"),
        ("[a]\nb = 1", "unknown option 'a'"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig.from_toml(path)
    assert str(path) in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read recipe"):
        RunConfig.from_toml(tmp_path / "none.toml")


def test_open_options_are_filled_and_set_ones_kept():
    config = RunConfig(initial=7).resolved({"initial": 5, "query_size": 3, "stranger": 1})
    assert (config.initial, config.query_size) == (7, 3)


def test_every_option_has_a_help_text():
    assert all(entry.metadata["help"].endswith((".", ")", ").")) for entry in fields(RunConfig))


def test_numbers_of_numpy_are_numbers():
    config = RunConfig(seed=np.arange(5)[3], lr=np.float32(0.5), flip=np.bool_(True))
    assert config == RunConfig(seed=3, lr=0.5, flip=True)
    assert type(config.seed) is int and "seed = 3" in config.to_toml()


def test_code_in_place_of_its_name_is_refused_with_how_to_name_it():
    with pytest.raises(ConfigError, match="acquisition must be text, .*:function.*alprune.run"):
        RunConfig(acquisition=lambda evidence, count, generator: evidence.candidates)
    with pytest.raises(ConfigError, match="model must be text, got .*package.module:function"):
        RunConfig(model=RunConfig())
    with pytest.raises(ConfigError, match=r"method must be text, got 3 \(int\)\.$"):
        RunConfig(method=3)
