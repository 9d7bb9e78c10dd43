"""A frozen learner fine-tuned: decided by cross-validation, recorded, resumable, in all formats."""

import json
from dataclasses import replace

import pytest
import torch
from frozen_run import call, frozen_run, weights_of
from photos import make, truth
from photos import options as asking_options
from safetensors.torch import load_file, save_file
from tiny_run import options

import alprune
from alprune import data
from alprune.errors import ConfigError, DataError
from alprune.labelling.classes import merge_classes, rename_class
from alprune.loop import frozen
from alprune.models import build
from alprune.runs.export import FineTuneOptions, SmallOptions, fine_tuned, resumable
from alprune.runs.export.run_images import images_of, labels_of
from alprune.runs.load import find_learner
from alprune.training.distil import DistilSettings
from alprune.training.fine_tune import FineTuneSettings, FineTuning

pytestmark = pytest.mark.filterwarnings("ignore:.*weights to start from")
QUICK = FineTuneOptions(
    settings=FineTuneSettings(
        lr=0.003, head_lr=0.01, batch_size=16, passes=10, warmup_batches=5, pad=0.0
    )
)
IDLE = FineTuneOptions(settings=FineTuneSettings(lr=1e-9, head_lr=1e-9, passes=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(frozen, "_latest", None)


@pytest.fixture
def run(folder):
    return without_state(frozen_run(folder, "run", hold_out=60))


def without_state(path):
    (path / fine_tuned.STATE).unlink(missing_ok=True)
    return path


def tiny():
    return build("tiny_learner:build", 10, (1, 8, 8))


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pt2", "safetensors")]


@pytest.mark.parametrize("name", ["onnx", *_SLOW])
def test_fine_tuning_an_untrained_backbone_is_chosen_and_helps(run, tmp_path, name):
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    [made] = alprune.export(run, name, tmp_path / f"t.{name}", tune=QUICK)
    found = made.tuned
    assert found.chosen == "fine-tuned" and found.labels == 240
    assert found.tuned_accuracy - found.frozen_accuracy > found.standard_error > 0
    assert found.accuracy_after > found.accuracy_before + 0.05 and found.tested == 500
    assert made.difference.largest < 1e-4 and made.calibrated
    labels = json.loads(made.labels.read_text())
    assert labels["fine_tuning"]["reason"] == found.reason
    assert labels["learner"] == "the end of the run, fine-tuned"
    assert labels["temperature"] != alprune.load_learner(run).temperature
    assert not (run / fine_tuned.STATE).exists()
    if name == "safetensors":
        loaded, test = alprune.load_learner(made.path, tiny()), data.load("digits").test
        right = (loaded.predict(test.x).argmax(1) == test.y).float().mean()
        assert float(right) == pytest.approx(found.accuracy_after, abs=1e-5)


def test_without_a_clear_gain_the_learner_stays_as_it_is(run, tmp_path):
    [plain] = alprune.export(run, "safetensors", tmp_path / "p.safetensors")
    [made] = alprune.export(run, "safetensors", tmp_path / "t.safetensors", tune=IDLE)
    found = made.tuned
    assert found.chosen == "frozen head" and found.tuned_accuracy == found.frozen_accuracy
    assert found.passes == 0 and found.accuracy_after == found.accuracy_before
    assert "not better by a standard error in one of the two" in found.reason
    assert weights_of(made) == weights_of(plain)
    assert json.loads(made.labels.read_text())["learner"] == "the end of the run"


def decided(gained, lost, labels):
    """Decide where, of all labels, only the one or only the other gets the first ones right."""
    frozen = [True] * lost + [False] * (len(labels) - lost)
    tuned = [False] * lost + [True] * gained + [False] * (len(labels) - lost - gained)
    return fine_tuned._decided([(frozen, tuned, 1.0)], labels, FineTuneOptions())


def test_the_decision_asks_for_more_than_one_standard_error():
    each_its_own = torch.arange(100)
    assert decided(0, 0, each_its_own).chosen == "frozen head"
    # The mean is 0.04, the standard error sqrt((0.2 - 0.04^2) / 99) = 0.0448.
    found = decided(12, 8, each_its_own)
    assert found.chosen == "frozen head"
    assert found.standard_error == pytest.approx(0.044767, abs=1e-5) == found.recall_error
    # The mean is 0.06, the standard error sqrt((0.2 - 0.06^2) / 99) = 0.0445.
    assert decided(13, 7, each_its_own).chosen == "fine-tuned"


def test_rare_classes_count_as_much_as_frequent_ones():
    # Three right of ten of the rare class: 3 of 100 labels, 15 points of the mean class.
    rare_first = torch.tensor([1] * 10 + [0] * 90)
    found = decided(3, 0, rare_first)
    assert found.chosen == "fine-tuned" and found.tuned_recall == pytest.approx(0.15)
    # Right on 17 labels more, and on none of the rare class: not taken.
    found = decided(20, 3, torch.tensor([1] * 3 + [0] * 97))
    assert found.tuned_accuracy > found.frozen_accuracy
    assert found.tuned_recall < found.frozen_recall and found.chosen == "frozen head"
    # The error is that of a weighted mean of independent differences of equal variance.
    spread = torch.tensor([1.0] * 3 + [0.0] * 97).std()
    expected = float(spread) * (10 * (1 / 20) ** 2 + 90 * (1 / 180) ** 2) ** 0.5
    assert decided(3, 0, rare_first).recall_error == pytest.approx(expected, abs=1e-6)


def test_each_label_is_predicted_once_by_networks_that_did_not_learn_it():
    labels = torch.tensor([0] * 30 + [1] * 7 + [2] * 2)
    asked = []
    for learnt, fold in fine_tuned._folds(labels, FineTuneOptions()):
        assert not set(learnt.tolist()) & set(fold.tolist())
        assert len(learnt) + len(fold) == 39
        assert torch.bincount(labels[fold], minlength=3)[0] == 10
        asked += fold.tolist()
    assert sorted(asked) == list(range(39))


def test_an_interrupted_fine_tuning_resumes_where_it_was(run, tmp_path, monkeypatch):
    quick = replace(QUICK, settings=replace(QUICK.settings, passes=6))
    [whole] = alprune.export(run, "safetensors", tmp_path / "whole.safetensors", tune=quick)
    monkeypatch.setattr(resumable, "_SAVED_EVERY_S", 0.0)
    real, steps = FineTuning.loss, []

    def interrupted(self, places):
        steps.append(self.done)
        if len(steps) == 70:  # in the second fold, of 60 batches each
            raise KeyboardInterrupt
        return real(self, places)

    monkeypatch.setattr(FineTuning, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt, match="The same command resumes"):
        alprune.export(run, "safetensors", tmp_path / "resumed.safetensors", tune=quick)
    assert not (tmp_path / "resumed.safetensors").exists()
    [resumed] = alprune.export(run, "safetensors", tmp_path / "resumed.safetensors", tune=quick)
    assert steps[69] == steps[70] == 9 and steps.count(0) == 4
    # What is kept of the views is computed again, in other batches, and rounded to float16.
    ends = [load_file(made.path) for made in (whole, resumed)]
    for name, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][name], atol=0.02), name
    assert resumed.tuned.tuned_accuracy == pytest.approx(whole.tuned.tuned_accuracy, abs=0.02)


@pytest.mark.slow
def test_a_small_learner_can_be_fine_tuned(run):
    settings = DistilSettings(lr=0.01, passes=3, warmup_batches=5)
    small = SmallOptions(image_size=7, settings=settings)
    [made] = alprune.export(run, "safetensors", small=small, tune=QUICK)
    assert made.path.name == "learner-small-tuned.safetensors"
    assert made.small.macs_after <= 0.5 * made.small.macs_before
    assert made.tuned.accuracy_after > made.small.accuracy_after
    labels = json.loads(made.labels.read_text())
    assert labels["small"]["agreement"] == made.small.agreement
    assert labels["learner"] == "the end of the run, made small, fine-tuned"
    loaded = alprune.load_learner(made.path, build("tiny_learner:build", 10, (1, 7, 7)))
    assert loaded.temperature == labels["temperature"]
    test = data.load("digits", size=(7, 7)).test
    right = (loaded.predict(test.x).argmax(1) == test.y).float().mean()
    assert float(right) == pytest.approx(made.tuned.accuracy_after, abs=0.02)


def test_what_cannot_be_fine_tuned_is_refused_with_advice(folder, run, tmp_path):
    few = without_state(frozen_run(folder, "few", initial=20))
    with pytest.raises(DataError, match=r"has 20 labels.* needs at least 30"):
        alprune.export(few, tune=QUICK)
    trained = alprune.run(options(tmp_path / "trained", steps=0))
    with pytest.raises(ConfigError, match="--fine-tune is for run folders of learners on a frozen"):
        alprune.export(trained.path, tune=QUICK)
    with pytest.raises(ConfigError, match="folds >= 2"):
        FineTuneOptions(folds=1)
    with pytest.raises(ConfigError, match="rates > 0"):
        FineTuneSettings(lr=0)


def test_the_command_says_what_was_chosen_and_why(run, tmp_path):
    out = tmp_path / "t.safetensors"
    result = call("export", run, "--format", "safetensors", "--out", out, "--fine-tune")
    assert result.exit_code == 0, result.output
    assert "chosen " in result.output and "3-fold cross-validation on 240 labels" in result.output
    result = call("export", run, "--budget", 5)
    assert result.exit_code == 1 and "--budget is for --small and --fine-tune" in result.output


def test_a_budget_that_cuts_the_comparison_short_is_named(run, tmp_path):
    out = tmp_path / "t.safetensors"
    said = call("export", run, "--format", "safetensors", "--out", out, "--fine-tune",
                "--budget", 0.0001).output  # fmt: skip
    assert "the budget ended the training of a fold after 0% of its batches" in said
    assert "Next: a larger --budget" in said


def test_labels_of_people_are_learnt_under_the_names_that_hold_today(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (3, 12, 12), 9).state_dict(), path)
    root = make(tmp_path / "photos", each=20)
    chosen = asking_options(root, learner="frozen", method="dense", pretrained=str(path))
    for name in ("min_channels", "initial_epochs", "epochs", "batch_size", "pad"):
        del chosen[name]  # of networks that are trained
    with alprune.open_asking(tmp_path / "asked", **chosen, hold_out=6) as asking:
        asking.tell({q.path: truth(q.path) for q in asking.ask()}, new_classes=True)
        rename_class(asking, "dark", "black")
        names = {"dark": "black"}
        for _ in range(6):
            told = {q.path: names.get(truth(q.path), truth(q.path)) for q in asking.ask()}
            asking.tell(told, new_classes=True)
        asking.ask()
        rename_class(asking, "light", "white")
        odd = next(p for p in asking.every_path() if p not in asking.labels)
        asking.tell({odd: "odd"}, new_classes=True, unasked=True)
    with pytest.warns(UserWarning, match="1 label.* left out: .* 'odd' yet"):
        [made] = alprune.export(tmp_path / "asked", "safetensors", tune=QUICK)
    found = made.tuned
    assert found.labels == 42 - 6 and found.tested == 6 and found.tested_on == "held-out images"
    assert found.frozen_accuracy > 0.8  # of classes that are easy to tell
    assert alprune.load_learner(made.path, build("tiny_learner:build", 3, (3, 12, 12)))


def test_labels_belong_to_the_outputs_that_learnt_them_after_a_merge_and_a_swap(tmp_path):
    root, path = make(tmp_path / "photos"), tmp_path / "asked"
    with alprune.open_asking(path, **asking_options(root, hold_out=6)) as asking:
        for _ in range(3):
            asking.tell({q.path: truth(q.path) for q in asking.ask()}, new_classes=True)
    learnt = first, second, third = find_learner(path).classifier.classes
    with alprune.open_asking(path) as asking:
        merge_classes(asking, first, second)
        for name, to in ((second, "between"), (third, second), ("between", third)):
            rename_class(asking, name, to)
    learned = find_learner(path)
    assert learned.classifier.classes == (first, third, second)
    splits = images_of(learned.config, learned, "--fine-tune")
    known = labels_of(path, learned.config, learned, splits)
    rows, labels = torch.cat([known.rows, known.held]), torch.cat([known.labels, known.held_labels])
    outputs = [learnt.index(truth(splits.train.files.paths[row])) for row in rows]
    assert len(outputs) == 18 and labels.tolist() == [{0: 1, 1: 1, 2: 2}[n] for n in outputs]


def test_only_what_is_kept_is_said_to_be_resumed(tmp_path):
    class Work:
        done, planned = 0, 3

        def run(self, budget, tick):
            raise KeyboardInterrupt

    (tmp_path / "state").write_bytes(b"of other work")
    with pytest.raises(KeyboardInterrupt, match=r"^Interrupted\.$"):
        resumable.Progress(tmp_path / "state", "key").run("work", Work(), 1.0)
