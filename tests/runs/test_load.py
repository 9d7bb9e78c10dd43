import json
import shutil
from dataclasses import replace

import photos
import pytest
import tiny_run
import torch
from made_photos import write_photos
from safetensors.torch import load

import alprune
from alprune.errors import DataError, StoreError
from alprune.labelling import open_asking
from alprune.labelling.classes import merge_classes, rename_class
from alprune.loop.checkpoint import load_checkpoint
from alprune.loop.setup import complete, load_splits, open_session
from alprune.runs.load import _changes, _renamed, find_learner, load_learner
from alprune.training.classifier import Classifier


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    path = tmp_path_factory.mktemp("ended") / "run"
    return alprune.run(tiny_run.options(path, steps=2, hold_out=20)).path


def copy_of(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy")


def cut_off(path, events):
    """Let a run look as if it had been killed after so many of its events."""
    lines = (path / "events.jsonl").read_bytes().splitlines(keepends=True)
    (path / "events.jsonl").write_bytes(b"".join(lines[:events]))


def test_a_runs_learner_classifies_as_well_as_the_run_said(ended):
    test = load_splits(complete(tiny_run.options("x"))).test
    learner = load_learner(ended)
    probabilities = learner.predict(test.x)
    summary = json.loads((ended / "summary.json").read_text())
    right = (probabilities.argmax(1) == test.y).double().mean()
    assert float(right) == pytest.approx(summary["test_accuracy"])
    assert learner.classes == test.classes and learner.temperature == summary["temperature"]
    assert torch.allclose(probabilities.sum(1), torch.ones(len(test)))


def test_the_temperature_divides_the_logits(ended):
    learner = load_learner(ended)
    images = torch.randint(17, (5, 8, 8, 1), dtype=torch.float32)
    with torch.inference_mode():
        wanted = (learner.logits(images.to(torch.uint8)) / learner.temperature).softmax(1)
    assert torch.equal(learner.predict(images.to(torch.uint8)), wanted)


def test_a_learner_without_temperature_gives_the_plain_softmax(tmp_path):
    path = alprune.run(tiny_run.options(tmp_path / "run", steps=1)).path
    learner = load_learner(path)
    images = torch.randint(17, (5, 8, 8, 1), dtype=torch.uint8)
    assert learner.temperature is None
    with torch.inference_mode():
        assert torch.equal(learner.predict(images), learner.logits(images).softmax(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dense"},
        {"method": "snip"},
        {"method": "precrop-flops"},
        {"method": "epi", "prune_at": "2"},
        {"averaging": 0.0},
        {"model": "lstm-s", "method": "3sp"},
        {"model": "gru-s", "method": "snip"},
        {"model": "tiny_learner:tied"},
    ],
    ids=str,
)
def test_whatever_was_pruned_comes_back_from_the_end_and_from_a_checkpoint(tmp_path, changes):
    path = alprune.run(tiny_run.options(tmp_path / "run", steps=1, **changes)).path
    images = load_splits(complete(tiny_run.options("x", **changes))).test.x[:50]
    at_end = find_learner(path)
    assert at_end.state == "the end of the run" and not at_end.notes
    summary = json.loads((path / "summary.json").read_text())
    test = load_splits(complete(tiny_run.options("x", **changes))).test
    right = (at_end.classifier.predict(test.x).argmax(1) == test.y).double().mean()
    assert float(right) == pytest.approx(summary["test_accuracy"], abs=0.003)
    plain = at_end.classifier.plain()
    assert torch.allclose(plain.predict(images), at_end.classifier.predict(images), atol=1e-5)

    cut_off(path, -1)
    checkpoint = find_learner(path)
    assert "last checkpoint, trained in step 0" in checkpoint.state
    assert "has not ended, or was killed" in checkpoint.notes[0]
    state = load_checkpoint(path)["learner"]
    wanted = state["averaged"] or state["model"]
    got = checkpoint.classifier.network.state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_a_learner_of_a_checkpoint_is_told_of_in_a_warning(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    cut_off(path, -1)
    with pytest.warns(UserWarning, match="learner of the last checkpoint, trained in step 1"):
        learner = load_learner(path)
    assert learner.temperature is None  # which is fitted at the end


def test_a_run_that_ended_with_an_error_gives_its_checkpoint(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    lines = (path / "events.jsonl").read_text().splitlines()
    end = json.loads(lines[-1]) | {"reason": "error: the disk"}
    (path / "events.jsonl").write_text("\n".join([*lines[:-1], json.dumps(end)]) + "\n")
    assert "has ended with an error" in find_learner(path).notes[0]


def test_an_ended_run_without_its_weights_gives_its_checkpoint(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    (path / "model.safetensors").unlink()
    assert "has ended (steps), but without its weights" in find_learner(path).notes[0]


def test_an_interrupted_run_gives_its_learner_and_says_so(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    lines = (path / "events.jsonl").read_text().splitlines()
    end = json.loads(lines[-1]) | {"reason": "interrupted"}
    (path / "events.jsonl").write_text("\n".join([*lines[:-1], json.dumps(end)]) + "\n")
    with pytest.warns(UserWarning, match="was interrupted.*alprune run --resume"):
        load_learner(path)


def test_a_learner_that_was_never_trained_is_refused(tmp_path):
    config = complete(tiny_run.options(tmp_path / "run"))
    open_session(config, load_splits(config)).record.folder.close()
    with pytest.raises(StoreError, match="no learner that was trained.*alprune run --resume"):
        load_learner(tmp_path / "run")


def test_the_data_are_not_needed(tmp_path):
    photos = write_photos(tmp_path / "photos")
    config = tiny_run.options(
        tmp_path / "run", dataset=f"folder:{photos}", initial=20, query_size=5, steps=1
    )
    path = alprune.run(config).path
    shutil.rmtree(photos)
    assert load_learner(path).classes == ("blue", "red")


def test_people_who_are_asked_get_the_learner_of_the_last_round(tmp_path):
    root = photos.make(tmp_path / "photos")
    path, options = tmp_path / "asked", photos.options(root, hold_out=6)
    with open_asking(path, **options) as asking:
        for _ in range(3):
            answers = {query.path: photos.truth(query.path) for query in asking.ask()}
            asking.tell(answers, new_classes=True)
            if not (path / "model.safetensors").exists():
                with pytest.raises(StoreError, match="no learner that was trained.* alprune ask"):
                    load_learner(path)
        wanted = (path / "model.safetensors").read_bytes()
    found = find_learner(path)
    assert found.state == "round 3" and not found.notes
    assert set(found.classifier.classes) == set(photos.NAMES)
    state = found.classifier.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load(wanted).items())
    predicted = alprune.predict(path, root)
    right = [
        name == photos.truth(file)
        for file, name in zip(predicted.paths, predicted.predicted, strict=True)
    ]
    assert len(right) == 36 and sum(right) > 24
    first, second, *others = found.classifier.classes
    with open_asking(path) as asking:
        rename_class(asking, first, "new name")
        rename_class(asking, "new name", "newest")
        merge_classes(asking, second, others[0])
    since = find_learner(path)  # of the same round, by the names of now
    assert since.classifier.classes == ("newest", second, *others)
    assert [note.split(" after")[0] for note in since.notes] == [
        f"class {second!r} was merged into {others[0]!r}"
    ]
    with open_asking(path) as asking:
        rename_class(asking, others[0], second)  # whose name the merge has freed
    since = find_learner(path)
    assert since.classifier.classes == ("newest", others[0], second)
    lines = (path / "events.jsonl").read_text().splitlines(keepends=True)
    fit = max(place for place, line in enumerate(lines) if json.loads(line)["event"] == "fit")
    renames = [line for line in lines if json.loads(line)["event"] == "rename_class"]
    earlier = [line for line in lines[:fit] if line not in renames]
    later = [line for line in lines[fit:] if line not in renames]
    (path / "events.jsonl").write_text("".join([*earlier, *renames, *later]))
    meanwhile = find_learner(path)  # renamed while that round's learner was trained
    assert meanwhile.classifier.classes == since.classifier.classes
    assert meanwhile.notes == since.notes
    with open(path / "events.jsonl", "a") as file:
        file.write(json.dumps({"event": "tell", "answers": 3}) + "\n")
    with pytest.raises(StoreError, match="does not fit"):
        find_learner(path)


def test_a_class_that_takes_the_name_of_a_removed_one_is_not_merged_into_it(ended):
    inputs = replace(load_learner(ended).inputs, classes=("wren", "wrens", "owl"))
    changes = [("remove_class", "wren", ""), ("rename_class", "wrens", "wren")]
    events = [{"event": event, "of": of, "to": to} for event, of, to in changes]
    found, merged = _renamed(inputs, _changes(events, 0))
    assert found.classes == ("wrens", "wren", "owl") and not merged


@pytest.mark.parametrize(
    "back",
    [{"event": "classes", "added": ["wren"]}, {"event": "tell", "answers": [{"label": "wren"}]}],
)
def test_a_removed_class_that_was_added_again_is_a_class(ended, back):
    inputs = replace(load_learner(ended).inputs, classes=("wren", "wrens"))
    removal = {"event": "remove_class", "of": "wren"}
    events = [removal, back, {"event": "rename_class", "of": "wrens", "to": "wren"}]
    found, merged = _renamed(inputs, _changes(events, 0))
    assert found.classes == ("wren", "wrens") and merged == {"wrens": "wren"}


def test_an_ended_run_without_its_inputs_is_refused(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    (path / "inputs.json").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*inputs.json: .*No such file"):
        load_learner(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inputs.json", b"{"),
        ("inputs.json", b"\xff"),
        ("plan.json", b"[]"),
        ("model.safetensors", b"\x80\x02]."),  # a pickle
        ("model.safetensors", b""),
        ("config.toml", b"model = 7"),
    ],
)
def test_damage_is_one_message(ended, tmp_path, name, content):
    path = copy_of(ended, tmp_path)
    (path / name).write_bytes(content)
    with pytest.raises(alprune.AlpruneError) as raised:
        load_learner(path)
    assert str(path) in str(raised.value)


def test_what_does_not_belong_together_is_refused_before_anything_is_built(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    record = json.loads((path / "inputs.json").read_text())
    many = record | {"classes": [str(number) for number in range(10**6)]}
    (path / "inputs.json").write_text(json.dumps(many))
    with pytest.raises(StoreError, match="no layer has an output for each of the 1,000,000"):
        load_learner(path)
    (path / "inputs.json").write_text(json.dumps(record | {"image_shape": [1, 4096, 4096]}))
    with pytest.raises(StoreError, match=r"takes \(1, 4096, 4096\)"):
        load_learner(path)


def test_a_learner_of_another_network_is_refused(ended, tmp_path):
    path = copy_of(ended, tmp_path)
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("tiny_learner:build", "lenet-300-100"))
    with pytest.raises(alprune.AlpruneError, match="another network"):
        load_learner(path)


def test_where_nothing_is_nothing_is_loaded(tmp_path):
    with pytest.raises(StoreError, match="no run folder or file"):
        load_learner(tmp_path / "none")
    with pytest.raises(StoreError, match="holds no run"):
        load_learner(tmp_path)


def test_images_of_another_size_or_type_are_refused(ended):
    learner = load_learner(ended)
    assert isinstance(learner, Classifier)
    with pytest.raises(DataError, match=r"takes images \(n, 8, 8, 1\)"):
        learner.predict(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="takes uint8 images, got torch.float32"):
        learner.predict(torch.zeros(3, 8, 8, 1))
