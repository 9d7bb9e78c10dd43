"""The images that people are asked about, their answers, and their classes."""

import threading
from dataclasses import asdict, replace

import photos
import pytest

from alprune.errors import ConfigError, DataError, StoreError
from alprune.labelling import open_asking
from alprune.labelling.classes import rename_class
from alprune.labelling.learning_curve import Measured, expected_gain
from alprune.labelling.web.background_fit import BackgroundFit
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    options = photos.options(root)
    with open_asking(tmp_path / "run", classes=photos.NAMES, **options) as asking:
        yield asking


@pytest.fixture
def queue(asking):
    queue = LabelQueue(asking)
    prepared = asking.prepare()
    queue.put(asking.open_round(prepared))
    queue.stock(prepared)
    return queue


def in_front(queue):
    image = queue.state()["image"]
    return None if image is None else image["number"]


def truth(queue, number):
    return photos.truth(queue.query(number).path)


def label_all(queue, count):
    for _ in range(count):
        number = in_front(queue)
        queue.answer({number: truth(queue, number)})


def test_images_come_one_after_the_other_and_answers_are_in_the_record(queue, asking, tmp_path):
    first = in_front(queue)
    queue.answer({first: "dark"})
    second = in_front(queue)
    assert second != first
    queue.answer({second: None})
    assert asking.labels == {queue.query(first).path: "dark"}
    state = queue.state()
    assert (state["labelled"], state["skipped"], state["here"], state["pool"]) == (1, 1, 2, 36)
    assert state["round"] == {"number": 1, "done": 2, "of": 6}
    assert [entry["count"] for entry in state["classes"]] == [1, 0, 0]
    written = (tmp_path / "run" / "events.jsonl").read_text()
    assert queue.query(first).content in written.splitlines()[-2]


def test_undo_goes_back_answer_by_answer(queue, asking):
    first, before = in_front(queue), queue.state()
    queue.answer({first: "dark"})
    second = in_front(queue)
    queue.answer({second: None})
    queue.undo()
    assert in_front(queue) == second
    queue.undo()
    assert in_front(queue) == first
    assert asking.labels == {}
    queue.undo()  # there is nothing more
    assert queue.state() == before


def test_an_undone_correction_brings_the_answer_before_it_back(queue, asking):
    first = in_front(queue)
    queue.answer({first: "dark"})
    queue.answer({first: "light"})
    assert set(asking.labels.values()) == {"light"}
    queue.undo()
    assert set(asking.labels.values()) == {"dark"}


def test_whoever_is_faster_than_the_learner_gets_images_meanwhile(queue, asking):
    label_all(queue, 6)
    image = queue.state()["image"]
    assert image["why"] == "meanwhile"
    label_all(queue, 3)
    assert len(asking.labels) == 9 and in_front(queue) is not None
    assert not any(answer.held for answer in asking.journal.answers.values())


def test_the_image_looked_at_stays_when_a_new_round_comes(queue, asking):
    label_all(queue, 3)
    looked_at = in_front(queue)
    queue.begin()
    prepared = asking.prepare()
    queue.answer({looked_at: truth(queue, looked_at)})  # while the learner learns
    looked_at = in_front(queue)
    queue.put(asking.open_round(prepared))
    assert in_front(queue) == looked_at
    assert queue.state()["round"]["number"] == 2
    known = {answer.content for answer in asking.journal.answers.values()}
    assert not known & {query.content for query in asking.journal.open}


def test_the_learner_is_due_when_half_a_round_is_answered(queue):
    assert not queue.due
    label_all(queue, 3)
    assert queue.due
    queue.begin()
    assert not queue.due
    label_all(queue, 3)
    assert queue.due


def test_classes_are_added_and_unknown_ones_refused(queue):
    queue.add_class("  new one ")
    queue.answer({in_front(queue): "new one"})
    with pytest.raises(DataError, match="no class 'other'"):
        queue.answer({in_front(queue): "other"})
    queue.add_class("cafe\u0301\u200b")  # as it is pasted; an answer of any spelling means it
    for spelt in ("cafe\u0301\u200b", "caf\u00e9", "CAF\u00c9 "):
        number = in_front(queue)
        queue.answer({number: spelt})
        assert queue.described(number)["answer"]["label"] == "caf\u00e9"
    with pytest.raises(ConfigError, match="cannot name a class"):
        queue.add_class(" \u200b")
    with pytest.raises(DataError, match="no image 99"):
        queue.answer({99: "dark"})


def test_an_answer_that_cannot_be_written_changes_nothing(queue, asking, monkeypatch):
    def full(*args, **options):
        raise StoreError("no space left")

    number, before = in_front(queue), queue.state()
    monkeypatch.setattr(asking.journal.folder, "event", full)
    with pytest.raises(StoreError):
        queue.answer({number: "dark"})
    assert queue.state() == before and not asking.labels


def test_a_queue_of_a_later_day_resumes_where_the_first_stopped(queue, asking):
    label_all(queue, 2)
    left = [query.content for query in asking.journal.open]
    again = LabelQueue(asking)
    again.put(asking.left())
    assert [again.query(n).content for n in range(4)] == left
    assert again.state()["labelled"] == 2


def test_several_answers_are_taken_at_once_and_taken_back_at_once(queue, asking, tmp_path):
    numbers = list(range(3))
    before = len((tmp_path / "run" / "events.jsonl").read_text().splitlines())
    queue.answer({number: truth(queue, number) for number in numbers})
    assert len(asking.labels) == 3
    assert len((tmp_path / "run" / "events.jsonl").read_text().splitlines()) == before + 1
    queue.undo()
    assert asking.labels == {}
    assert in_front(queue) == 0


def test_of_several_answers_one_of_which_is_wrong_none_is_taken(queue, asking):
    with pytest.raises(DataError, match="no class 'cow'"):
        queue.answer({0: "dark", 1: "cow"})
    assert asking.labels == {}


def test_past_answers_are_listed_newest_first_also_on_a_later_day(queue, asking):
    queue.answer({2: "dark"})
    queue.answer({0: None})
    queue.answer({1: "light"})
    assert queue.state()["past"] == [1, 0, 2]
    queue.answer({2: "striped"})
    assert queue.state()["past"] == [2, 1, 0]
    contents = [queue.query(number).content for number in (2, 1, 0)]
    later = LabelQueue(asking)
    assert [later.query(number).content for number in later.state()["past"]] == contents
    assert later.described(later.state()["past"][0])["answer"]["label"] == "striped"


def test_a_corrected_hold_out_image_stays_held_out(queue, asking):
    asking.journal.more([replace(queue.query(0), why="random")])
    queue.put(asking.left(hand_out=False))
    queue.answer({0: "dark"})
    later = LabelQueue(asking)
    later.answer({later.state()["past"][0]: "light"})
    [answer] = asking.journal.answers.values()
    assert (answer.label, answer.held) == ("light", True)


def test_a_mistyped_class_disappears_with_undo(queue, asking):
    queue.add_class("drak")
    queue.answer({in_front(queue): "drak"})
    assert "drak" in asking.journal.offered
    queue.undo()
    assert asking.journal.offered == list(photos.NAMES)


def test_undo_takes_no_class_away_that_the_answer_does_not_have(queue, asking):
    queue.add_class("spotted")
    queue.answer({in_front(queue): "dark"})
    queue.undo()
    assert asking.labels == {} and "spotted" in asking.journal.offered


def test_a_renamed_class_keeps_its_place_and_key(queue, asking):
    queue.answer({0: "light"})
    before = [(entry["name"], entry["key"]) for entry in queue.state()["classes"]]
    queue.rename_class("light", "bright")
    after = [(entry["name"], entry["key"]) for entry in queue.state()["classes"]]
    assert after == [("bright" if name == "light" else name, key) for name, key in before]
    assert set(asking.labels.values()) == {"bright"}


def test_an_answer_taken_back_has_the_class_by_the_name_of_now(queue, asking):
    first = queue.query(0)
    queue.answer({0: "light"})
    queue.answer({0: "dark"})
    queue.rename_class("light", "bright")
    queue.rename_class("bright", "white")
    queue.add_class("light")
    queue.undo()  # of the class
    queue.undo()
    assert asking.labels == {first.path: "white"}


def test_an_answer_of_a_class_named_like_an_earlier_one_is_taken_back_to_it(queue, asking):
    first = queue.query(0)
    queue.answer({1: "light"})
    queue.rename_class("light", "bright")
    queue.add_class("light")
    queue.answer({0: "light"})
    queue.answer({0: "dark"})
    queue.undo()
    assert asking.labels[first.path] == "light"


def test_a_class_renamed_to_another_is_merged_into_it(queue, asking):
    queue.answer({0: "light", 1: "dark"})
    queue.rename_class("light", "dark")
    assert asking.journal.offered == ["dark", "striped"]
    assert asking.journal.counts["dark"] == 2


def test_the_record_gives_the_same_classes_again(queue, asking, tmp_path):
    queue.answer({0: "light", 1: "dark"})
    queue.rename_class("light", "bright")
    queue.assign_key("bright", "x")
    queue.remove_class("striped")
    queue.answer({2: "bright"})
    journal = asking.journal
    known = journal.classes, journal.counts, journal.keys, journal.answers, journal.renames
    asking.close()
    with open_asking(tmp_path / "run") as again:
        journal = again.journal
        assert (
            journal.classes, journal.counts, journal.keys, journal.answers, journal.renames
        ) == known  # fmt: skip


def test_classes_that_have_labels_or_a_folder_are_not_removed(queue, asking):
    queue.answer({0: "light"})
    with pytest.raises(ConfigError, match="has 1 label"):
        queue.remove_class("light")
    (asking.root / "Dark").mkdir()  # one class, as names are compared
    for change in (lambda: queue.remove_class("dark"), lambda: queue.rename_class("dark", "x")):
        with pytest.raises(ConfigError, match="folder.*--rename OLD NEW"):
            change()
    for name in ("dark", "Dark", "dark\u200b"):  # as an answer of that spelling means dark
        with pytest.raises(ConfigError, match="there is a class 'dark' already"):
            rename_class(asking, " LIGHT", name)
    for name in ("", "unlabelled", "a\nb", "x" * 101):
        with pytest.raises(ConfigError, match="cannot name a class"):
            queue.rename_class("light", name)
    with pytest.raises(ConfigError, match="unknown class 'cow'"):
        queue.rename_class("cow", "x")


def test_a_key_is_that_of_one_class_and_survives_a_merge(queue):
    def keys():
        return {entry["name"]: entry["key"] for entry in queue.state()["classes"]}

    queue.assign_key("striped", "x")
    queue.assign_key("dark", "x")
    assert keys()["dark"] == "x" and keys()["striped"] != "x"
    queue.assign_key("light", "y")
    queue.answer({0: "dark", 1: "light"})
    queue.rename_class("dark", "light")
    assert keys()["light"] == "y"
    queue.rename_class("light", "striped")  # which has no key of its own
    assert keys() == {"striped": "y"}


def test_a_key_stays_with_its_class(queue):
    keys = {entry["name"]: entry["key"] for entry in queue.state()["classes"]}
    assert keys == {"dark": "1", "light": "2", "striped": "3"}
    queue.assign_key("striped", "1")
    keys = {entry["name"]: entry["key"] for entry in queue.state()["classes"]}
    assert keys == {"dark": "3", "light": "2", "striped": "1"}
    for key in ("s", "ä", "12", "Enter"):
        with pytest.raises(ConfigError, match="cannot be assigned"):
            queue.assign_key("dark", key)


def test_keys_stay_when_a_class_goes_and_a_class_that_is_called_like_a_key_has_that(queue):
    def keys():
        return {entry["name"]: entry["key"] for entry in queue.state()["classes"]}

    queue.remove_class("dark")
    assert keys() == {"light": "2", "striped": "3"}
    for name in ("7", "spotted", "2"):  # 2 is taken
        queue.add_class(name)
    assert keys() == {"light": "2", "striped": "3", "7": "7", "spotted": "1", "2": "4"}


def test_images_that_look_the_same_are_offered_with_one_another(queue, asking):
    prepared = asking.prepare()
    first, other = queue.query(0), queue.query(5)
    queue.stock(prepared, {first.content: [other]})
    assert queue.described(0)["also"] == [5]
    queue.answer({5: "dark"})
    assert queue.described(0)["also"] == []


def test_an_image_that_was_moved_has_the_path_of_today_in_grid_and_map(queue):
    before = queue.query(0)
    queue.number(replace(before, path="unlabelled/x.png", why=""))  # of an earlier answer
    assert queue.query(0) == before
    queue.number(replace(before, path="unlabelled/x.png", why="guess", guess="dark"))
    assert queue.query(0) == replace(before, path="unlabelled/x.png")


def test_a_guess_that_was_wrong_is_asked_about_next(queue):
    queue.set_aside([4, 3])
    state = queue.state()
    assert [state["image"]["number"], *(image["number"] for image in state["ahead"][:2])] == [
        0,
        4,
        3,
    ]


def measured(learnt_from, right):
    found = {"right": right, "of": 1000, "accuracy": right / 1000, "low": 0.0, "high": 1.0}
    return {"labelled": learnt_from + 1000, "learnt": {"held_out_accuracy": found}}


def test_accuracy_so_far_and_what_more_labels_bring_are_shown(queue, asking):
    assert queue.state()["accuracy"] is None and queue.state()["expected"] is None
    asking.journal.measured[:] = [measured(50, 500), measured(100, 600), measured(200, 700)]
    state = queue.state()
    assert [point["labels"] for point in state["curve"]] == [1050, 1100, 1200]
    assert state["accuracy"]["value"] == 0.7 and state["stop"] == ""
    rounds = [Measured(50, 500, 1000), Measured(100, 600, 1000), Measured(200, 700, 1000)]
    assert state["expected"] == asdict(expected_gain(rounds, 50))  # by labels learnt from


def test_a_flat_curve_says_that_it_may_be_time_to_stop(queue, asking):
    asking.journal.measured[:] = [measured(n, 700) for n in (500, 1000, 2000)]
    assert "time to stop" in queue.state()["stop"]


def test_labels_are_not_read_while_somebody_answers(queue, asking):
    found = []
    reading = threading.Thread(target=lambda: found.append(asking.labels))
    with asking.lock:
        reading.start()
        reading.join(0.2)
        assert not found
        queue.answer({0: "dark"})
    reading.join()
    assert found == [asking.labels]


def test_a_round_that_failed_is_tried_again(queue, asking, monkeypatch):
    def full():
        raise StoreError("no space left")

    background = BackgroundFit(asking, queue, Overview(asking, queue))
    label_all(queue, 3)
    with monkeypatch.context() as patch:
        patch.setattr(asking, "prepare", full)
        background._round()
    assert queue.message == "no space left" and queue.due
    background._round()
    assert queue.message == "" and not queue.due and asking.journal.round == 2


def test_what_goes_wrong_before_a_round_is_said(queue, asking, monkeypatch):
    def torn(self):
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(type(asking), "labels", property(torn))
    BackgroundFit(asking, queue, Overview(asking, queue))._round()
    assert "changed size" in queue.message and queue.working == ""


def test_a_class_whose_name_is_too_long_for_a_folder_is_renamed(queue, asking):
    queue.add_class("鳥" * 90)
    queue.rename_class("鳥" * 90, "bird")
    assert "bird" in asking.journal.offered


def test_labels_of_images_that_are_gone_do_not_count(queue, asking):
    label_all(queue, 3)
    (asking.root / queue.query(0).path).unlink()
    with pytest.warns(UserWarning, match="no longer in"):
        asked = asking.open_round(asking.prepare())
    for day in (queue, LabelQueue(asking)):
        day.put(asked if day is queue else asking.left())
        assert day.state()["labelled"] == asked.labelled == 2
