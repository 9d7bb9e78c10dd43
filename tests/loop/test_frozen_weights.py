"""A frozen learner's file of weights: found from any folder, moved, missing, or another one."""

import os

import pytest
from photos import make, truth
from photos import options as asking_options
from safetensors.torch import save_file
from tiny_run import options

import alprune
from alprune.errors import ConfigError, ModelError, StoreError
from alprune.loop import frozen
from alprune.loop.config import RunConfig
from alprune.loop.run_folder import CONFIG
from alprune.models import build

pytestmark = pytest.mark.filterwarnings("ignore:.*weights to start from", "ignore:.*was killed")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(frozen, "_latest", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)


def write(name, shape=(1, 8, 8), seed=9):
    save_file(build("tiny_learner:build", 10, shape, seed).state_dict(), name)


def start(**changes):
    base = {
        **dict.fromkeys(["min_channels", "initial_epochs", "epochs"]),
        "learner": "frozen",
        "method": "dense",
        "pretrained": "w.safetensors",
        "initial": 40,
        "query_size": 10,
        "steps": 1,
        "start": "random",
    }
    return options("run", **(base | changes))


def kill(path):
    """Leave of a run what is there when it is killed after its last step."""
    (path / "model.safetensors").unlink()
    events = path / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    frozen._latest = None


def test_a_run_is_resumed_from_another_folder_without_naming_its_weights(tmp_path):
    write("w.safetensors")
    run = alprune.run(start())
    kill(run.path)
    os.chdir("elsewhere")
    assert alprune.resume(tmp_path / "run", steps=2).steps == 2


def test_weights_that_have_moved_are_named_and_found_at_their_new_place(tmp_path):
    write("w.safetensors")
    kill(alprune.run(start()).path)
    os.rename("w.safetensors", "elsewhere/w.safetensors")
    for use in (alprune.resume, alprune.load_learner):
        with pytest.raises(
            ModelError, match=r"no longer at '.*w\.safetensors'.*`pretrained` in con"
        ):
            use(tmp_path / "run")
    config = RunConfig.from_toml("run/config.toml").pretrained
    text = (tmp_path / "run" / CONFIG).read_text()
    moved = text.replace(str(config), str(tmp_path / "elsewhere" / "w.safetensors"))
    (tmp_path / "run" / CONFIG).write_text(moved)
    assert alprune.resume(tmp_path / "run", steps=2).steps == 2


def test_other_weights_at_the_same_place_are_refused(tmp_path):
    write("w.safetensors")
    kill(alprune.run(start()).path)
    write("w.safetensors", seed=10)
    with pytest.raises(ModelError, match="are not those that were used at first"):
        alprune.resume(tmp_path / "run", steps=2)


def test_options_other_than_the_place_of_the_weights_stay_fixed(tmp_path):
    write("w.safetensors")
    kill(alprune.run(start()).path)
    text = (tmp_path / "run" / CONFIG).read_text()
    digest = RunConfig.from_toml("run/config.toml").pretrained_digest
    (tmp_path / "run" / CONFIG).write_text(text.replace(digest, "0" * 32))
    with pytest.raises(StoreError, match="pretrained_digest was"):
        alprune.resume(tmp_path / "run", steps=2)


def test_labelling_takes_its_weights_from_where_they_are_now(tmp_path):
    write("w.safetensors", (3, 12, 12))
    root = make(tmp_path / "photos")
    chosen = asking_options(root, learner="frozen", method="dense", pretrained="w.safetensors")
    for name in ("min_channels", "initial_epochs", "epochs", "batch_size", "pad"):
        del chosen[name]  # of networks that are trained
    with alprune.open_asking("asked", **chosen) as asking:
        asking.tell({q.path: truth(q.path) for q in asking.ask()}, new_classes=True)
    frozen._latest = None
    os.rename("w.safetensors", "elsewhere/new.safetensors")
    with alprune.open_asking("asked") as asking:
        with pytest.raises(ModelError, match="give --pretrained FILE"):
            asking.ask()
    write("elsewhere/other.safetensors", (3, 12, 12), seed=10)
    with pytest.raises(ConfigError, match="pretrained cannot be changed"):
        alprune.open_asking("asked", pretrained="elsewhere/other.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        alprune.open_asking("asked", pretrained="elsewhere/none.safetensors")
    with alprune.open_asking("asked", pretrained="elsewhere/new.safetensors") as asking:
        assert asking.ask().queries
    os.chdir("elsewhere")
    frozen._latest = None
    with alprune.open_asking("../asked") as asking:
        asking.tell({q.path: truth(q.path) for q in asking.left()}, new_classes=True)
        assert asking.ask().queries
