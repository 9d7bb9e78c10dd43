import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import events_of, options
from torch import Tensor, nn

import alprune
from alprune import build
from alprune.errors import ConfigError, ModelError
from alprune.loop.config import RunConfig
from alprune.loop.learner import prune_learner
from alprune.loop.setup import complete, first_labels, load_splits
from alprune.models.pretrained import digest_of, load_pretrained
from alprune.runs.rerun import again

MODEL = "mobilenet-v3-small"
HEAD = "classifier.3"


def state(classes: int = 10, seed: int = 1, name: str = MODEL) -> dict[str, Tensor]:
    return build(name, classes, (3, 16, 16), seed).state_dict()


def fresh(classes: int = 10, shape: tuple[int, int, int] = (3, 16, 16)) -> nn.Module:
    return build(MODEL, classes, shape, seed=2)


def assert_taken(model: nn.Module, expected: dict[str, Tensor], but: str = "nothing") -> None:
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] != but:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_all_weights_of_a_file_are_taken(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    path, model, expected = tmp_path / f"w.{suffix}", fresh(), state()
    tensors = {f"module._orig_mod.{k}" if wrapped else k: v for k, v in expected.items()}
    if suffix == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"epoch": 3, "model": tensors} if wrapped else tensors, path)
    loaded = load_pretrained(model, path, 10)
    assert_taken(model, expected)
    assert (loaded.head, loaded.summed, loaded.unused) == (None, None, ())
    assert set(loaded.used) == expected.keys()


@pytest.mark.parametrize("around", ["", "module.", "model.module."])
@pytest.mark.parametrize("own", ["net", "model", "module"])
def test_names_that_the_network_itself_begins_so_are_left_alone(
    tmp_path: Path, own: str, around: str
) -> None:
    model, other = (nn.ModuleDict({own: nn.Sequential(nn.Linear(2, 10))}) for _ in "ab")
    path, expected = tmp_path / "w.safetensors", other.state_dict()
    save_file({around + name: value for name, value in expected.items()}, path)
    load_pretrained(model, path, 10)
    assert_taken(model, expected)


def test_a_classifier_of_other_classes_stays_as_it_was_drawn(tmp_path: Path) -> None:
    torch.save(state(classes=1000), tmp_path / "w.pt")
    model = fresh()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = load_pretrained(model, tmp_path / "w.pt", 10)
    assert_taken(model, state(classes=1000), but=HEAD)
    for name in ("weight", "bias"):
        assert torch.equal(model.state_dict()[f"{HEAD}.{name}"], before[f"{HEAD}.{name}"])
    assert (loaded.head, loaded.head_classes) == (HEAD, 1000)
    assert f"{HEAD!r} starts anew (the file's is for 1000 classes)" in loaded.sentence("w.pt")


def test_a_file_may_lack_the_classifier_and_have_more_than_is_needed(tmp_path: Path) -> None:
    tensors = {k: v for k, v in state().items() if not k.startswith(HEAD)}
    torch.save(tensors | {"optimiser.step": torch.ones(1)}, tmp_path / "w.pt")
    model = fresh()
    loaded = load_pretrained(model, tmp_path / "w.pt", 10)
    assert_taken(model, tensors, but=HEAD)
    assert (loaded.head, loaded.head_classes, loaded.unused) == (HEAD, None, ("optimiser.step",))


def test_weights_for_colours_are_added_up_for_grey_images(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    colour, grey = fresh().eval(), fresh(shape=(1, 16, 16)).eval()
    load_pretrained(colour, tmp_path / "w.pt", 10)
    loaded = load_pretrained(grey, tmp_path / "w.pt", 10)
    assert loaded.summed == "features.0.0"
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"features.1.block.0.0.weight": torch.ones(3, 3)},
            r"another shape: features.1.block.0.0.weight is \(3, 3\) and must be \(16, 1, 3, 3\)",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "features.0.0.weight"}, "missing: features"),
        (lambda s: {f"x.{k}": v for k, v in s.items()}, "unknown to the network: x.classifier"),
        (lambda s: state(name="resnet20"), "not of this MobileNetV3.*missing: .* and 2.. more"),
        (lambda s: s | {"features.0.0.weight": torch.nan}, "missing|another shape"),
        (
            lambda s: s | {"features.0.0.weight": s["features.0.0.weight"] * torch.nan},
            "features.0.0.weight.*not finite",
        ),
        (lambda s: {"lr": 0.1}, "no tensors by name; it has lr"),
        (lambda s: [1, 2], "holds a list; expected a state dict"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_taken(
    tmp_path: Path, change: Any, message: str
) -> None:
    torch.save(change(state()), tmp_path / "w.pt")
    model = fresh()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_pretrained(model, tmp_path / "w.pt", 10)
    assert_taken(model, before)


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_no_pickled_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state() | {"evil": Payload()}, "w.pt")
    with pytest.raises(ModelError, match="what would run code is not loaded.*state_dict"):
        load_pretrained(fresh(), "w.pt", 10)
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="not a whole file of weights|not a file of weights"):
        load_pretrained(fresh(), tmp_path / name, 10)
    with pytest.raises(ModelError, match="cannot be read"):
        load_pretrained(fresh(), tmp_path / f"none-{name}", 10)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    assert zipfile.is_zipfile(tmp_path / "w.pt")
    save_file(state(), tmp_path / "w.safetensors")
    for path in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ModelError, match="not a whole file|not a file of weights"):
            load_pretrained(fresh(), path, 10)


# --- in a run ----------------------------------------------------------------------------------


def weights(path: Path, classes: int = 10, seed: int = 9) -> Path:
    """Write weights of the tiny learner, for the digits."""
    save_file(build("tiny_learner:build", classes, (1, 8, 8), seed).state_dict(), path)
    return path


def start(path: Path, **changes: Any) -> RunConfig:
    return options(path.parent / "run", pretrained=str(path), initial=40, steps=1, **changes)


@pytest.mark.parametrize("method", ["3sp", "taylor", "magnitude"])
@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_what_is_left_after_pruning_are_the_weights_of_the_file(
    tmp_path: Path, method: str
) -> None:
    config = complete(start(weights(tmp_path / "w.safetensors"), method=method))
    assert config.after_pruning == "inherit" and config.lr == 0.01
    splits = load_splits(config)
    pool, first = first_labels(config, splits.train)
    pruned = prune_learner(config, splits.train, first, pool.label_of(first))
    assert pruned.flops_reduction > 0.3
    given = build("tiny_learner:build", 10, (1, 8, 8), 9)
    expected = alprune.rebuild(given, pruned.plan).state_dict()
    for name, value in pruned.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_run_says_what_it_starts_from_and_is_repeated_from_the_same_file(tmp_path: Path) -> None:
    path = weights(tmp_path / "w.safetensors", classes=7)
    with pytest.warns(UserWarning, match="weights to start from; the classifier .* starts anew"):
        alprune.run(start(path))
    run = tmp_path / "run"
    [begin] = events_of(run, "start")
    assert begin["config"]["pretrained_digest"] == digest_of(path)
    assert again(run).pretrained_digest == digest_of(path)
    weights(path, seed=10)
    with pytest.raises(ModelError, match="not those that were used at first.*digest is"):
        alprune.run(again(run))


@pytest.mark.filterwarnings("ignore:.*weights to start from")
def test_a_resumed_run_needs_the_file_no_more_and_ends_as_it_would_have(tmp_path: Path) -> None:
    path = weights(tmp_path / "w.safetensors")
    whole = alprune.run(replace(start(path), steps=2, out=str(tmp_path / "whole")))
    alprune.run(start(path))
    path.unlink()
    resumed = alprune.resume(tmp_path / "run", steps=2)
    assert resumed.test_accuracy == whole.test_accuracy
    told = [[e["acquired"] for e in events_of(p, "step")] for p in (tmp_path / "run", whole.path)]
    assert told[0] == told[1]


@pytest.mark.parametrize("changes", [{"after_pruning": "reinit"}, {"method": "precrop"}])
def test_what_would_draw_the_weights_anew_is_refused(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="re-initialises all weights.*taylor or 3sp"):
        complete(start(weights(tmp_path / "w.safetensors"), **changes))


def test_a_file_that_is_missing_is_said_before_the_data_are_loaded(tmp_path: Path) -> None:
    config = RunConfig(dataset="npz:/nowhere", pretrained=str(tmp_path / "none.pt"))
    with pytest.raises(ModelError, match="none.pt' cannot be read"):
        complete(config)
    with pytest.raises(ConfigError, match="pretrained, which is not given"):
        complete(RunConfig(dataset="digits", pretrained_digest="00"))


def test_a_file_may_be_moved_between_run_and_repetition_if_it_stays_the_same(
    tmp_path: Path,
) -> None:
    path = weights(tmp_path / "w.safetensors")
    config = complete(start(path))
    shutil.move(path, tmp_path / "moved.safetensors")
    moved = replace(config, pretrained=str(tmp_path / "moved.safetensors"))
    model = build("tiny_learner:build", 10, (1, 8, 8))
    loaded = load_pretrained(model, str(moved.pretrained), 10, moved.pretrained_digest)
    assert loaded.head is None
