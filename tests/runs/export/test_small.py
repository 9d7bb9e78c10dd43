"""A frozen learner made small: cheaper, taught without labels, in all formats, resumable."""

import json
from dataclasses import replace

import pytest
import torch
from frozen_run import call, frozen_run, weights_of
from photos import NAMES, make, truth
from photos import options as asking_options
from safetensors.torch import save_file
from tiny_run import options

import alprune
from alprune.data import Dataset
from alprune.errors import ConfigError, DataError, PruneError
from alprune.loop import frozen
from alprune.models import build
from alprune.models.cost import cost
from alprune.runs.export import SmallOptions, resumable, small
from alprune.training.distil import Distillation, DistilSettings
from alprune.training.embeddings import split

pytestmark = pytest.mark.filterwarnings("ignore:.*weights to start from")
QUICK = SmallOptions(settings=DistilSettings(lr=0.01, passes=5, warmup_batches=5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("small")


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(frozen, "_latest", None)


@pytest.fixture
def run(folder):
    path = frozen_run(folder, "run")
    (path / small.STATE).unlink(missing_ok=True)
    return path


@pytest.mark.parametrize(
    "name", ["onnx", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pt2", "safetensors"))]
)
def test_a_small_file_costs_half_and_agrees_with_the_full_learner(run, tmp_path, name):
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    [made] = alprune.export(run, name, tmp_path / f"s.{name}", small=QUICK)
    found = made.small
    assert found.macs_after <= 0.5 * found.macs_before
    assert found.compared == 129 and found.images == 1297 - 129 and found.passes == 4.93
    assert found.agreement > 0.7  # of 10 classes
    assert found.tested == 500 and found.accuracy_after > found.accuracy_before - 0.1
    assert made.difference.largest < 1e-4
    labels = json.loads(made.labels.read_text())
    assert labels["learner"] == "the end of the run, made small"
    assert len(labels["classes"]) == 10 and labels["resize"]
    assert not (run / small.STATE).exists()


@pytest.mark.parametrize("name", [pytest.param("onnx", marks=pytest.mark.slow), "safetensors"])
def test_a_small_learner_may_see_smaller_images(run, tmp_path, name):
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    smaller = replace(QUICK, image_size=6, budget_s=20.0)
    [made] = alprune.export(run, name, tmp_path / f"s.{name}", small=smaller)
    found = made.small
    assert (found.size_before, found.size_after) == ((8, 8), (6, 6))
    assert found.macs_after <= 0.5 * found.macs_before
    assert found.agreement > 0.6 and found.accuracy_after > found.accuracy_before - 0.15
    labels = json.loads(made.labels.read_text())
    assert labels["input"]["shape"] == ["batch", 6, 6, 1]
    assert labels["small"]["size_after"] == [6, 6]
    assert made.difference.largest < 1e-4 and "digits" in made.difference.source
    if name == "safetensors":
        fresh = build("tiny_learner:build", 10, (1, 6, 6))
        assert alprune.load_learner(made.path, fresh).inputs.image_shape == (1, 6, 6)


def test_images_are_made_smaller_as_long_as_there_is_something_left_to_prune():
    body, head = split(
        build("tiny_learner:build", 10, (3, 64, 64)).eval(), torch.zeros(2, 3, 64, 64)
    )
    macs = cost(body, torch.zeros(1, 3, 64, 64)).macs

    def size(share, h=64, w=64, dtype=torch.uint8, **options):
        x = torch.zeros(2, h, w, 3, dtype=dtype)
        images = Dataset(x, torch.zeros(2).long(), ("a",), (0.5,) * 3, (0.5,) * 3, False, "")
        return small._size(body, head, images, share * macs, SmallOptions(**options))

    assert size(0.24) == (32, 32)  # a quarter of the work
    assert size(0.26) == (64, 64)
    assert size(0.24, w=60) == (64, 60) and size(0.24, dtype=torch.float32) == (64, 64)
    assert size(0.5, image_size=50) == (50, 50)
    for wrong in (65, 0):
        with pytest.raises(ConfigError, match=f"images of {wrong} pixels"):
            size(0.5, image_size=wrong)


def test_teaching_brings_back_what_the_cut_took(run, tmp_path):
    untaught = replace(QUICK, budget_s=1e-9)
    agreement = [
        alprune.export(run, "safetensors", tmp_path / f"{i}.safetensors", small=chosen)[0].small
        for i, chosen in enumerate([untaught, QUICK])
    ]
    assert agreement[0].passes == 0 and agreement[1].passes > 4
    assert agreement[1].agreement > agreement[0].agreement


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(run, tmp_path):
    files = []
    for name in ("a", "b"):
        [made] = alprune.export(run, "safetensors", tmp_path / f"{name}.safetensors", small=QUICK)
        files.append(weights_of(made))
    assert files[0] == files[1]
    other = replace(QUICK, seed=1)
    [made] = alprune.export(run, "safetensors", tmp_path / "c.safetensors", small=other)
    assert weights_of(made) != files[0]


def test_an_interrupted_teaching_resumes_and_ends_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    brief = replace(QUICK, settings=replace(QUICK.settings, passes=2))
    [whole] = alprune.export(run, "safetensors", tmp_path / "whole.safetensors", small=brief)
    monkeypatch.setattr(resumable, "_SAVED_EVERY_S", 0.0)
    real, steps = Distillation.loss, []

    def interrupted(self, rows):
        steps.append(len(rows))
        if len(steps) == 30:
            raise KeyboardInterrupt
        return real(self, rows)

    monkeypatch.setattr(Distillation, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt, match="The same command resumes"):
        alprune.export(run, "safetensors", tmp_path / "resumed.safetensors", small=brief)
    assert not (tmp_path / "resumed.safetensors").exists()
    [resumed] = alprune.export(run, "safetensors", tmp_path / "resumed.safetensors", small=brief)
    assert len(steps) == 2 * 36 + 1  # of 2 passes over 1,168 images; one was interrupted
    assert weights_of(resumed) == weights_of(whole)
    assert resumed.small == whole.small


@pytest.mark.slow
def test_what_another_teaching_left_is_not_resumed(run, tmp_path):
    [one] = alprune.export(run, "safetensors", tmp_path / "1.safetensors", small=QUICK)
    (run / small.STATE).write_bytes(b"torn")
    [two] = alprune.export(run, "safetensors", tmp_path / "2.safetensors", small=QUICK)
    assert weights_of(one) == weights_of(two)


def test_the_command_says_what_the_small_learner_is_worth(run, tmp_path):
    out = tmp_path / "s.safetensors"
    result = call("export", run, "--format", "safetensors", "--out", out, "--small", "--budget", 2)
    assert result.exit_code == 0, result.output
    assert "fewer FLOPs per image" in result.output and "of 8 x 8 before" in result.output
    assert "images that it was not taught on" in result.output
    assert "before," in result.output and "of 500 test images" in result.output


def test_what_cannot_be_made_small_is_refused_with_advice(run, tmp_path):
    with pytest.raises(PruneError, match="out of reach"):
        alprune.export(run, small=replace(QUICK, flops_reduction=0.9999))
    with pytest.raises(ConfigError, match="more than 0 and less than 1, got 1"):
        SmallOptions(flops_reduction=1)
    for budget_s in (0.0, -5.0, float("nan")):
        with pytest.raises(ConfigError, match="budget_s must be more than 0, got"):
            SmallOptions(budget_s=budget_s)
    trained = alprune.run(options(tmp_path / "trained", steps=0))
    with pytest.raises(ConfigError, match="this learner was trained whole"):
        alprune.export(trained.path, small=QUICK)
    [made] = alprune.export(trained.path, "safetensors")
    with pytest.raises(ConfigError, match="--small is for run folders"):
        small.shrink(tmp_path, replace(small_free(trained.path), config=None), QUICK)
    assert made.small is None
    refused = call("export", run, "--flops-reduction", "0.5")
    assert refused.exit_code == 1 and "--flops-reduction is for --small" in refused.output


def small_free(path):
    from alprune.runs.load import find_learner

    return find_learner(path)


def test_a_learner_of_labelled_photos_is_taught_on_those_without_a_label(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (3, 12, 12), 9).state_dict(), path)
    root = make(tmp_path / "photos", each=24)
    chosen = asking_options(root, learner="frozen", method="dense", pretrained=str(path))
    for name in ("min_channels", "initial_epochs", "epochs", "batch_size", "pad"):
        del chosen[name]  # of networks that are trained
    with alprune.open_asking(tmp_path / "asked", **chosen) as asking:
        for _ in range(3):
            asking.tell({q.path: truth(q.path) for q in asking.ask()}, new_classes=True)
        asking.ask()
    [made] = alprune.export(tmp_path / "asked", "safetensors", small=QUICK)
    assert made.path.name == "learner-small.safetensors"
    assert made.small.compared == 7 and made.small.tested == 0
    assert made.small.images == 65  # one more than two batches to prune on
    loaded = alprune.load_learner(made.path, build("tiny_learner:build", 3, (3, 12, 12)))
    assert set(loaded.classes) == set(NAMES)
    assert loaded.predict(torch.zeros(2, 12, 12, 3, dtype=torch.uint8)).shape == (2, 3)
    for photo in sorted(root.rglob("*.png"))[10:]:
        photo.unlink()
    with pytest.raises(DataError, match="at least 20"):
        alprune.export(tmp_path / "asked", "safetensors", small=QUICK)
