import csv
import io
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from PIL import Image

from alprune.errors import ConfigError, DataError, StoreError
from alprune.labelling import open_asking
from alprune.labelling.classes import merge_classes, rename_class
from alprune.labelling.journal import Answer
from alprune.labelling.question_files import write_labels
from alprune.labelling.web.queue import LabelQueue
from alprune.loop.event_log import read_events
from alprune.loop.resume import resume
from alprune.loop.run_folder import RunFolder
from alprune.runs.load import load_learner
from alprune.training import Learner


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return photos.make(tmp_path / "photos")


def begin(tmp_path, root, **changes):
    classes = changes.pop("classes", ())
    return open_asking(tmp_path / "run", classes=classes, **photos.options(root, **changes))


def answer(asking, queries, **rules):
    return asking.tell({query.path: photos.truth(query.path) for query in queries}, **rules)


def rounds(asking, count, **rules):
    for _ in range(count):
        asked = asking.ask()
        answer(asking, asked, **rules)
    return asked


def test_without_labels_typical_images_are_asked_for_and_nothing_is_trained(tmp_path, root):
    with begin(tmp_path, root) as asking:
        asked = asking.ask()
        assert len(asked) == 6 and {query.why for query in asked} == {"typical"}
        assert asked.pool == 36 and asked.labelled == 0 and asked.classes == ()
        assert asking.journal.elapsed_s == 0
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_asked_again_before_anything_is_told_it_asks_the_same(tmp_path, root):
    with begin(tmp_path, root) as asking:
        first = asking.ask()
    table = (tmp_path / "run" / "queries.csv").read_bytes()
    with open_asking(tmp_path / "run") as asking:
        second = asking.ask()
        assert second.again and second.queries == first.queries
        assert (second.number, second.pool, second.labelled) == (1, 36, 0)
    assert (tmp_path / "run" / "queries.csv").read_bytes() == table


def test_a_question_left_open_is_not_asked_about_another_photo_at_its_path(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asked = asking.ask()
    first, second, third, fourth, *_ = (root / query.path for query in asked)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    third.unlink()
    fourth.write_bytes(b"no image")  # which people see, and skip
    with open_asking(tmp_path / "run") as asking:
        assert asking.left().queries == asked.queries[3:]


def test_rounds_learn_the_classes_that_come_with_the_labels(tmp_path, root):
    photos.fill(root / "test" / "dark", "dark", range(100, 110))
    photos.fill(root / "test" / "light", "light", range(100, 110))
    with begin(tmp_path, root) as asking:
        rounds(asking, 2, new_classes=True)
        asked = asking.ask()
        assert {query.why for query in asked} == {"uncertain"}
        assert all(query.guess in photos.NAMES for query in asked)
        assert all(0 <= query.probability <= 1 and query.entropy >= 0 for query in asked)
        assert asked.labelled == 12 and not {q.path for q in asked} & set(asking.labels)
        assert asked.learnt["test_accuracy"] > 0.9
    for name in ("model.safetensors", "plan.json", "inputs.json", "summary.json"):
        assert (tmp_path / "run" / name).exists()


def test_an_answered_image_that_is_moved_into_a_class_folder_counts_once(tmp_path, root):
    photos.fill(root / "dark", "dark", range(100, 103))
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        answer(asking, first := asking.ask())
    for query in first:
        (root / photos.truth(query.path)).mkdir(exist_ok=True)
        (root / query.path).rename(root / photos.truth(query.path) / Path(query.path).name)
    with open_asking(tmp_path / "run") as asking:
        asked, queue = asking.ask(), LabelQueue(asking)
        queue.put(asked)
        assert (asked.labelled, asked.in_folders) == (9, 3)
        assert queue.state()["labelled"] == 9


def test_the_network_is_pruned_once_and_its_weights_go_on(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        rounds(asking, 2)
        asking.ask()
        first = asking.preparation.checkpoint()
    with open_asking(tmp_path / "run", epochs=0.01) as asking:  # a single batch
        answer(asking, asking.ask())
        asking.ask()
        second = asking.preparation.checkpoint()
    assert sum(e["event"] == "prune" for e in read_events(tmp_path / "run")) == 1
    assert first["plan"] == second["plan"]
    assert second["learner"]["batches"] == first["learner"]["batches"] + 1
    for name, weights in first["learner"]["model"].items():
        if weights.is_floating_point() and weights.ndim > 1:
            step = (second["learner"]["model"][name] - weights).norm() / weights.norm()
            assert step < 0.5


def test_a_fit_that_diverges_is_repeated_from_the_last_round_at_half_the_rate(
    tmp_path, root, monkeypatch
):
    with begin(tmp_path, root, classes=photos.NAMES, lr=0.05) as asking:
        rounds(asking, 2)
        asking.ask()
        answer(asking, asking.ask())
        batches = asking.preparation.checkpoint()["learner"]["batches"]
        train_on, left = Learner._train_on, {batches + 2}

        def poisoned(self, *args):
            loss = train_on(self, *args)
            if self.batches in left:
                left.discard(self.batches)
                loss = loss * float("nan")
            return loss

        monkeypatch.setattr(Learner, "_train_on", poisoned)
        with pytest.warns(UserWarning, match="is repeated from its beginning at half the rate"):
            asked = asking.ask()
        assert asked.number == 4 and len(asked) == 6
    [back] = [e for e in read_events(tmp_path / "run") if e["event"] == "step_back"]
    assert (back["round"], back["batch"], back["lr"]) == (4, batches + 2, 0.025)


def test_a_class_that_comes_later_is_learnt_too(tmp_path):
    root = photos.make(tmp_path / "photos", names=("dark", "light"))
    with begin(tmp_path, root) as asking:
        rounds(asking, 2)
        asking.ask()
        known = asking.preparation.checkpoint()
        paths = photos.fill(root / "unlabelled", "striped", range(8))
        told = asking.tell({f"unlabelled/{p.name}": "striped" for p in paths[:6]},
                           unasked=True, new_classes=True)  # fmt: skip
        assert told.new_classes == ("striped",)
        asked = asking.ask()
        assert asked.changes.arrived == 8
        grown = asking.preparation.checkpoint()
        assert (
            grown["inputs"]["classes"] == [*known["inputs"]["classes"], "striped"]
            and grown["plan"] == known["plan"]
        )
        [fit] = [e for e in read_events(tmp_path / "run") if e.get("new_outputs")]
        assert fit["new_outputs"] == ["striped"]
        answer(asking, asked)
        asking.ask()
        last = asking.preparation.checkpoint()
    before, after = (state["learner"]["averaged"]["9.weight"] for state in (grown, last))
    assert before.shape[0] == 3 and not torch.equal(before[2], after[2])


def test_a_class_renamed_while_a_round_is_prepared_is_guessed_by_its_name_of_now(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        answer(asking, asking.ask())
        prepared = asking.prepare()
        for name in photos.NAMES:
            rename_class(asking, name, f"{name} one")
        asked = asking.open_round(prepared)
        assert {query.guess for query in asked} <= {*asking.journal.offered}


def test_images_that_go_are_dropped_and_those_that_come_are_asked_for(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        first = asking.ask()
        answer(asking, first)
        asked = asking.ask()
        gone = asked.queries[0].path
        (root / gone).unlink()
        (root / first.queries[0].path).unlink()
        assert gone not in {query.path for query in asking.ask()}
        answer(asking, asking.ask().queries)
        photos.fill(root / "unlabelled", "dark", range(50, 53))
        with pytest.warns(UserWarning, match="1 image with a label is no longer"):
            asked = asking.ask()
        assert (asked.changes.arrived, asked.changes.gone, asked.changes.lost) == (3, 2, 1)
        assert asked.pool == 37


def test_a_label_follows_an_image_that_is_moved_or_renamed(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        first = asking.ask()
        answer(asking, first)
        (root / "unlabelled" / "sorted").mkdir()
        shutil.move(root / first.queries[0].path, root / "unlabelled" / "sorted" / "new name.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asked = asking.ask()
        assert asked.labelled == 6 and asked.changes.gone == 0
        assert "unlabelled/sorted/new name.png" not in {query.path for query in asked}


def test_a_changed_image_loses_its_label_until_it_is_back(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        first = asking.ask()
        answer(asking, first)
        path = root / first.queries[0].path
        before = path.read_bytes()
        photos.picture("light", 999).save(path)
        with pytest.warns(UserWarning, match="or changed"):
            assert asking.ask().labelled == 5
        path.write_bytes(before)
        answer(asking, asking.ask())
        assert asking.ask().labelled == 12


def test_what_was_skipped_is_not_asked_again_when_nothing_else_is_left(tmp_path, root):
    with begin(tmp_path, root, query_size=30) as asking:
        queries = asking.ask().queries
        skipped = {query.path: None for query in queries[:4]}
        asking.tell({q.path: photos.truth(q.path) for q in queries[4:]} | skipped, new_classes=True)
        rest = asking.ask().queries
        assert not skipped.keys() & {query.path for query in rest}
        answer(asking, rest)
        with pytest.raises(DataError, match=r"all 36 .* labels but 4 that were skipped"):
            asking.ask()
        asking.tell({path: photos.truth(path) for path in skipped})
        assert len(asking.labels) == 36


def test_equal_images_are_asked_for_once_and_share_their_label(tmp_path):
    root = photos.make(tmp_path / "photos", each=3)
    for path in list((root / "unlabelled").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}-copy.png"))
    with begin(tmp_path, root, classes=photos.NAMES, query_size=9) as asking:
        asked = asking.ask()
        assert len({query.content for query in asked}) == len(asked) == 9
        answer(asking, asked)
        with pytest.raises(DataError, match="all 18 images .* have labels"):
            asking.ask()


def test_class_folders_are_labels_and_their_names_classes(tmp_path, root):
    for name in ("dark", "light"):
        photos.fill(root / name, name, range(20, 26))
    with begin(tmp_path, root) as asking:
        asked = asking.ask()
        assert asked.classes == ("dark", "light") and asked.labelled == 12
        assert {query.why for query in asked} == {"uncertain"}
        assert all(query.path.startswith("unlabelled/") for query in asked)
        answer(asking, asked, new_classes=True)


def test_answers_of_a_class_whose_folder_was_renamed_are_named(tmp_path, root):
    for name in ("dark", "light"):
        photos.fill(root / name, name, range(20, 26))
    with begin(tmp_path, root) as asking:
        asking.ask()
        asking.tell({"unlabelled/p0-000.png": "dark"}, unasked=True)
        (root / "dark").rename(root / "black")
        with pytest.warns(UserWarning, match="but 1 answer names it.*--merge dark black"):
            asking.ask()
        merge_classes(asking, "dark", "black")
        assert asking.labels == {"unlabelled/p0-000.png": "black"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asking.ask().classes == ("light", "black")


def test_a_table_of_predictions_is_told_with_what_the_folders_say(tmp_path, root):
    for part, numbers in (("", range(20, 23)), ("test/", range(30, 32))):
        for name in ("dark", "light"):
            photos.fill(root / f"{part}{name}", name, numbers)
    known = [path.relative_to(root).as_posix() for path in root.rglob("*.png")]
    known = [path for path in known if not path.startswith("unlabelled/")]
    with begin(tmp_path, root) as asking:
        asked = {query.path for query in asking.ask()}
        other = next(path for path in asking.every_path() if path not in {*asked, *known})
        table = {path: photos.truth(path) for path in known} | {other: "light"}
        told = asking.tell(table, unasked=True)
        assert (told.known, asking.labels) == (10, {other: "light"})
        with pytest.raises(DataError, match="1 image is not among those to learn from"):
            asking.tell({"test/dark/p0-030.png": "light"}, unasked=True)
        with pytest.raises(DataError, match="1 image is not among those to learn from"):
            asking.tell({"dark/p0-099.png": "dark"}, unasked=True)
        with pytest.raises(DataError, match=r"came with another class: .*'light', .*'dark'.*move"):
            asking.tell({"dark/p0-020.png": "light"}, unasked=True)


def test_what_folders_say_is_known_before_the_first_round(tmp_path, root):
    photos.fill(root / "dark", "dark", [50])
    with begin(tmp_path, root) as asking:
        with pytest.raises(DataError, match="came with another class: .*'light', .*'dark'"):
            asking.tell({"dark/p0-050.png": "light"}, unasked=True)
        assert asking.tell({"dark/p0-050.png": "dark"}, unasked=True).known == 1
        photos.fill(root / "light", "light", [50])  # which nobody has read
        with pytest.raises(DataError, match="1 image"):
            asking.tell({"light/p1-050.png": "dark"}, unasked=True)


def test_a_class_may_be_called_like_a_part_of_the_folder(tmp_path):
    root = tmp_path / "photos"
    for folder, name in (("car", "light"), ("train", "dark"), ("unlabelled", "striped")):
        photos.fill(root / "train" / folder, name, range(8))
    (root / "train" / "train" / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="cannot be read"):
        with begin(tmp_path, root, skip_unreadable=True) as asking:
            first, second, *_ = asking.ask()
            asking.tell({first.path: "car"})
            asking.tell({second.path: "train", first.path: "car"}, unasked=True)
            assert asking.labels == {first.path: "car", second.path: "train"}
            table = {"train/car/p1-000.png": "car", "train/train/broken.png": "train"}
            assert asking.tell(table, unasked=True).known == 2


def test_a_table_of_predictions_of_a_csv_file_is_told_with_what_the_file_says(tmp_path, root):
    paths = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    ends = [*paths[:6], *paths[-6:]]
    label = {path: photos.truth(path) for path in ends}
    parts = dict.fromkeys(paths, "train") | dict.fromkeys([*ends[:2], *ends[-2:]], "test")
    rows = [f"{path},{label.get(path, '')},{parts[path]}" for path in paths]
    table = root / "photos.csv"
    table.write_text("\n".join(["path,label,split", *rows]) + "\n")
    with begin(tmp_path, root, dataset=f"csv:{table}") as asking:
        asked = {query.path for query in asking.ask()}
        other = next(path for path in paths if path not in {*asked, *ends})
        told = asking.tell(label | {other: "striped"}, unasked=True)
        assert (told.known, asking.labels) == (12, {other: "striped"})
        wrong = {"dark": "striped", "striped": "dark"}[label[paths[5]]]
        with pytest.raises(DataError, match="1 image came with another class.*correct the data"):
            asking.tell({paths[5]: wrong}, unasked=True)


def test_an_image_that_came_since_may_be_told_without_being_asked_for(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asking.tell({asking.every_path()[0]: "dark"}, unasked=True)
        photos.fill(root / "unlabelled", "light", [50])
        asking.ask()
        asking.tell({"unlabelled/p1-050.png": "light"}, unasked=True)
        assert asking.labels["unlabelled/p1-050.png"] == "light"


def test_in_a_trial_all_labels_but_the_first_are_hidden_and_told_when_asked(tmp_path):
    root = tmp_path / "photos"
    for name in photos.NAMES:
        photos.fill(root / name, name, range(12))
    with begin(tmp_path, root, initial=9) as asking:
        asked = asking.ask()
        assert asked.labelled == 9 and asked.pool == 36
        told = asking.tell_truth()
        assert sum(told.labels.values()) == 6 and told.guessed == 6
        assert all(asking.labels[q.path] == q.path.split("/")[0] for q in asked)
        assert asking.ask().labelled == 15
    with open_asking(tmp_path / "run") as asking:
        assert len(asking.labels) == 15  # no second first labels
    with pytest.raises(ConfigError, match="initial cannot be changed"):
        open_asking(tmp_path / "run", initial=20)


def test_a_wholly_labelled_folder_needs_a_trial(tmp_path):
    for name in photos.NAMES:
        photos.fill(tmp_path / "photos" / name, name, range(4))
    with begin(tmp_path, tmp_path / "photos") as asking:
        with pytest.raises(DataError, match="all 12 images .* --initial 50"):
            asking.ask()
    options = photos.options(tmp_path / "photos", initial=12)
    with pytest.raises(DataError, match="--initial 12 is for trying things out"):
        open_asking(tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()  # it may begin without


def test_the_last_labels_are_learnt_from_though_nothing_is_left_to_ask(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES, query_size=36) as asking:
        answer(asking, asking.ask())
        with pytest.raises(DataError, match="all 36 images .* learnt from all of them"):
            asking.ask()
        learnt = asking.preparation.checkpoint()
        with pytest.raises(DataError, match="all 36 images"):  # and only once
            asking.ask()
        assert asking.preparation.checkpoint() is learnt
    with open_asking(tmp_path / "run") as asking:
        photos.fill(root / "unlabelled", "dark", range(50, 52))
        assert len(asking.ask()) == 2
    assert load_learner(tmp_path / "run").classes == photos.NAMES


def test_an_image_in_two_class_folders_and_one_that_is_tested_on_are_named(tmp_path):
    for folder in ("a", "b", "test/a"):
        photos.fill(tmp_path / "photos" / folder, "dark", range(2))
    photos.fill(tmp_path / "photos" / "test" / "b", "light", range(2))
    photos.make(tmp_path / "photos")
    with begin(tmp_path, tmp_path / "photos") as asking, pytest.warns(UserWarning) as given:
        asking.ask()
    said = " ".join(str(warning.message) for warning in given)
    assert "2 labelled images repeat one that has another label ('b/p0-000.png' is 'a/p0-" in said
    assert "2 of 4 test images are labelled training images too" in said


def test_held_out_images_are_drawn_not_trained_on_and_measured(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES, hold_out=4) as asking:
        asked = asking.ask()
        assert sum(query.why == "random" for query in asked) == 2  # a fifth, rounded up
        answer(asking, asked)
        answer(asking, asking.ask())
        asked = asking.ask()
        assert all(query.why == "uncertain" for query in asked)
        held = asked.learnt["held_out_accuracy"]
        assert held["of"] == 4 and 0 <= held["low"] <= held["accuracy"] <= held["high"] <= 1
        assert asked.labelled == 12
        last = [e for e in read_events(tmp_path / "run") if e["event"] == "fit"][-1]
        assert last["batches"] == 10  # ten passes over eight images, not over twelve


def test_a_round_whose_files_cannot_be_written_is_not_opened(tmp_path, root, monkeypatch):
    def full():
        raise StoreError("no space left")

    with begin(tmp_path, root) as asking:
        asking.ask()
        prepared = asking.prepare()
        monkeypatch.setattr(asking, "write_labels", full)
        for _ in range(2):
            with pytest.raises(StoreError, match="no space left"):
                asking.open_round(prepared, hand_out=False)
        monkeypatch.undo()
        assert asking.journal.round == 1


def test_a_table_that_a_spreadsheet_has_open_holds_up_no_round(tmp_path, root, monkeypatch, capsys):
    replace = os.replace

    def denied(source, target):
        if Path(target).name == "labels.csv":
            raise PermissionError(13, "Access is denied", str(target))
        replace(source, target)

    with begin(tmp_path, root) as asking:
        answer(asking, asking.ask(), new_classes=True)
        (tmp_path / "run" / "labels.csv").unlink()
        prepared = asking.prepare()
        monkeypatch.setattr("alprune.data.atomic_io.os.replace", denied)
        monkeypatch.setattr("alprune.data.atomic_io.time.sleep", lambda seconds: None)
        with pytest.warns(UserWarning, match=r"labels\.csv: .*such as a spreadsheet.* close it"):
            assert asking.open_round(prepared, hand_out=False).number == 2
        monkeypatch.undo()
    assert len((tmp_path / "run" / "labels.csv").read_text().splitlines()) == 7


def test_the_files_of_a_round_say_what_is_asked(tmp_path, root):
    with begin(tmp_path, root, classes=("a&b", "dark", "light", "striped")) as asking:
        asked = asking.ask()
    path = tmp_path / "run"
    rows = list(csv.DictReader(io.StringIO((path / "queries.csv").read_text("utf-8-sig"))))
    assert [row["path"] for row in rows] == [query.path for query in asked]
    assert list(rows[0]) == ["path", "label", "predicted", "probability", "entropy"]
    tasks = json.loads((path / "label-studio.json").read_text())
    assert [task["data"]["path"] for task in tasks] == [query.path for query in asked]
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={asked.queries[0].path}"
    assert '<Choice value="a&amp;b"/>' in (path / "label-studio.xml").read_text()
    sheet = np.asarray(Image.open(path / "queries.png"))
    first = np.asarray(photos.picture(photos.truth(asked.queries[0].path),
                                      int(asked.queries[0].path[-7:-4])))  # fmt: skip
    scale = 160 // photos.SIDE
    edge = 4 + (160 - scale * photos.SIDE) // 2
    shown = sheet[
        edge : edge + scale * photos.SIDE : scale, edge : edge + scale * photos.SIDE : scale
    ]
    assert np.array_equal(shown, first)  # large, and no pixel blurred


def test_a_table_in_which_somebody_wrote_is_never_lost(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asked = asking.ask()
        path = tmp_path / "run" / "queries.csv"
        lines = path.read_text("utf-8-sig").splitlines()
        lines[1] = lines[1].replace(",", ",dark", 1)
        path.write_text("\n".join(lines))
        written = path.read_bytes()
        assert asking.ask().again
        assert path.read_bytes() == written
        answer(asking, asked.queries[1:])  # told in another way
        asking.ask()
    assert (tmp_path / "run" / "queries-before-1.csv").read_bytes() == written
    assert not (tmp_path / "run" / "queries-before-2.csv").exists()


def test_a_table_that_was_told_is_replaced(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asked = asking.ask()
        path = tmp_path / "run" / "queries.csv"
        answers = ["skip", "", *(photos.truth(query.path) for query in asked.queries[2:])]
        rows = [f"{q.path};{label}" for q, label in zip(asked, answers, strict=True)]
        path.write_text("path;label\r\n" + "\r\n".join(rows))
        told = asking.tell(path)
        assert (sum(told.labels.values()), told.skipped, told.left) == (4, 1, 1)
        asking.ask()
    assert not list((tmp_path / "run").glob("queries-before*"))


def test_labels_are_in_a_table_by_path(tmp_path):
    root = photos.make(tmp_path / "photos", each=3)
    (root / "unlabelled" / "p0-000.png").rename(root / "unlabelled" / "=p.png")
    with begin(tmp_path, root, query_size=9) as asking:
        asked = asking.ask()
        asking.tell({query.path: "-5" for query in asked.queries[:8]})
        asking.tell({asked.queries[8].path: None})
    rows = list(csv.reader(io.StringIO((tmp_path / "run/labels.csv").read_text("utf-8-sig"))))
    assert rows[0] == ["path", "label", "round", "held_out", "content", "user"]
    assert len(rows) == 9 and {row[1] for row in rows[1:]} == {"'-5"}  # text to a spreadsheet
    with open_asking(tmp_path / "run") as asking:
        assert asking.tell(tmp_path / "run" / "labels.csv").known == 8


def test_labels_are_taken_along_wherever_their_images_are_now(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        answer(asking, asked := asking.ask())
    changed, moved, *_ = (root / query.path for query in asked)
    photos.picture("light", 999).save(changed)
    moved.rename(root / "unlabelled" / "another name.png")
    with open_asking(tmp_path / "other", **photos.options(root)) as asking:
        told = asking.tell(tmp_path / "run" / "labels.csv", unasked=True, new_classes=True)
        assert (sum(told.labels.values()), told.absent) == (5, 1)
        paths = {query.path for query in asked.queries[2:]} | {"unlabelled/another name.png"}
        assert asking.labels.keys() == paths


def test_labels_edited_by_hand_are_kept_and_can_be_taken(tmp_path, root):
    path = tmp_path / "run"
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asked = asking.ask()
        answer(asking, asked)
    table = path / "labels.csv"
    first = min(asked.queries, key=lambda query: query.path).path
    right = photos.truth(first)
    wrong = next(name for name in photos.NAMES if name != right)
    edited = table.read_text("utf-8-sig").replace(f"{first},{right}", f"{first},{wrong}")
    table.write_text(edited)
    with pytest.warns(UserWarning, match="labels.csv was edited.*labels-before-1.csv --replace"):
        open_asking(path).close()
    assert (path / "labels-before-1.csv").read_text() == edited
    with open_asking(path) as asking:
        assert asking.labels[first] == right
        assert asking.tell(path / "labels-before-1.csv", replace=True).replaced == 1
        assert asking.labels[first] == wrong
    assert f"{first},{wrong}" in table.read_text("utf-8-sig")


def test_a_second_edited_table_is_kept_beside_the_first(tmp_path):
    folder = RunFolder(tmp_path / "run")
    told = [Answer("a.png", "content", "bird", 1), Answer("b.png", "other", None, 1)]
    for label in ("cat", "dog"):
        (folder.path / "labels.csv").write_text(f"path,label\na.png,{label}\n")
        with pytest.warns(UserWarning, match="labels.csv was edited"):
            write_labels(folder, told, {("a.png", "bird")})
    folder.close()
    for number, label in ((1, "cat"), (2, "dog")):
        kept = folder.path / f"labels-before-{number}.csv"
        assert kept.read_text() == f"path,label\na.png,{label}\n"
    rows = list(csv.DictReader(io.StringIO((folder.path / "labels.csv").read_text("utf-8-sig"))))
    assert [(row["path"], row["label"]) for row in rows] == [("a.png", "bird")]  # no skips


def test_labels_of_a_killed_process_are_not_taken_for_edited(tmp_path, root):
    path = tmp_path / "run"
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        asked = asking.ask()
        answer(asking, asked)
        asking.write_labels()
        before = (path / "labels.csv").read_bytes()
        right = photos.truth(asked.queries[0].path)
        other = next(name for name in photos.NAMES if name != right)
        asking.tell({asked.queries[0].path: other}, replace=True)
    (path / "labels.csv").write_bytes(before)  # as if it had been killed before it wrote
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_asking(path).close()
    assert not list(path.glob("labels-before*"))
    assert (path / "labels.csv").read_bytes() != before


def test_equal_seeds_ask_for_equal_images(tmp_path, root):
    asked = []
    for name in ("one", "two"):
        # The rate falls with the clock as well: so much time that the clock stands still.
        with open_asking(tmp_path / name, **photos.options(root, seed=3, budget=1e9)) as asking:
            rounds(asking, 2)
            asked.append([(q.path, q.why, q.guess) for q in asking.ask()])
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "method",
    ["dense", "3sp-ca", "snip", pytest.param("preconfig", marks=pytest.mark.slow)],
)
def test_outputs_grow_whatever_was_pruned(tmp_path, method):
    root = photos.make(tmp_path / "photos", names=("dark", "light"))
    with begin(tmp_path, root, method=method) as asking:
        rounds(asking, 1)
        asking.ask()
        before = asking.preparation.checkpoint()["learner"]["model"]
        asking.declare(["striped", "dotted"])
        answer(asking, asking.ask())
        asking.ask()
        after = asking.preparation.checkpoint()["learner"]["model"]
    [head] = [n for n in before if n.endswith("9.bias")]
    assert before[head].shape == (2,) and after[head].shape == (4,)
    assert torch.isfinite(after[head]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digits"}, "give --dataset folder:PATH"),
        ({"steps": 3}, "steps has no effect in labelling"),
        ({"method": "epi"}, "prunes during training"),
        ({"method": "3spp"}, "Did you mean '3sp'"),
        ({"budget": -1.0}, "budget must be more than 0"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(tmp_path, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        begin(tmp_path, root, **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_in_the_network_cannot_be_changed_and_the_rest_can(tmp_path, root):
    begin(tmp_path, root).close()
    with pytest.raises(ConfigError, match="method cannot be changed.*method is '3sp'"):
        open_asking(tmp_path / "run", method="uniform")
    with open_asking(tmp_path / "run", query_size=4, method="3sp") as asking:
        assert len(asking.ask()) == 4
    with open_asking(tmp_path / "run") as asking:
        assert asking.config.query_size == 4


def test_a_new_folder_needs_images_and_a_run_is_no_asking(tmp_path, root):
    with pytest.raises(ConfigError, match="--dataset folder:PATH"):
        open_asking(tmp_path / "run")
    begin(tmp_path, root).close()
    with pytest.raises(StoreError, match="alprune ask .*run"):
        resume(tmp_path / "run")


def test_one_process_at_a_time_works_in_a_folder(tmp_path, root):
    with begin(tmp_path, root):
        with pytest.raises(StoreError, match="another process"):
            open_asking(tmp_path / "run")


def test_a_person_is_one_however_the_name_is_spelt(tmp_path, root):
    with begin(tmp_path, root, classes=photos.NAMES) as asking:
        first, second, *_ = asking.ask()
        asking.tell({first.path: "dark"}, user="anna")
        asking.tell({second.path: "dark"}, user="Anna")
        assert asking.people() == ["anna"]
