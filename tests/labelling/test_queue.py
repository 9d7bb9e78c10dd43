import photos
import pytest

from alprune.errors import ConfigError, DataError, StoreError
from alprune.labelling import open_asking
from alprune.labelling.web.queue import Desk


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    options = photos.options(root)
    with open_asking(tmp_path / "run", classes=photos.NAMES, **options) as asking:
        yield asking


@pytest.fixture
def desk(asking):
    desk = Desk(asking)
    prepared = asking.prepare()
    desk.put(asking.open_round(prepared))
    desk.stock(prepared)
    return desk


def in_front(desk):
    image = desk.state()["image"]
    return None if image is None else image["number"]


def truth(desk, number):
    return photos.truth(desk.query(number).path)


def label_all(desk, count):
    for _ in range(count):
        number = in_front(desk)
        desk.answer(number, truth(desk, number))


def test_images_come_one_after_the_other_and_answers_are_in_the_record(desk, asking, tmp_path):
    first = in_front(desk)
    desk.answer(first, "dark")
    second = in_front(desk)
    assert second != first
    desk.answer(second, None)
    assert asking.labels == {desk.query(first).path: "dark"}
    state = desk.state()
    assert (state["labelled"], state["skipped"], state["here"], state["pool"]) == (1, 1, 2, 36)
    assert (state["done"], state["left"]) == (2, 4)
    assert [entry["count"] for entry in state["classes"]] == [1, 0, 0]
    written = (tmp_path / "run" / "events.jsonl").read_text()
    assert desk.query(first).content in written.splitlines()[-2]


def test_undo_goes_back_answer_by_answer(desk, asking):
    first, before = in_front(desk), desk.state()
    desk.answer(first, "dark")
    second = in_front(desk)
    desk.answer(second, None)
    assert desk.undo() == second and in_front(desk) == second
    assert desk.undo() == first and in_front(desk) == first
    assert asking.labels == {} and desk.undo() is None
    after = desk.state()
    assert {k: after[k] for k in ("labelled", "skipped", "left")} == {
        k: before[k] for k in ("labelled", "skipped", "left")
    }


def test_an_undone_correction_brings_the_answer_before_it_back(desk, asking):
    first = in_front(desk)
    desk.answer(first, "dark")
    desk.answer(first, "light")
    assert set(asking.labels.values()) == {"light"}
    desk.undo()
    assert set(asking.labels.values()) == {"dark"}


def test_whoever_is_faster_than_the_learner_gets_images_meanwhile(desk, asking):
    label_all(desk, 6)
    image = desk.state()["image"]
    assert image["why"] == "meanwhile"
    label_all(desk, 3)
    assert len(asking.labels) == 9 and in_front(desk) is not None
    assert not any(answer.held for answer in asking.journal.answers.values())


def test_the_image_looked_at_stays_when_a_new_round_comes(desk, asking):
    label_all(desk, 3)
    looked_at = in_front(desk)
    desk.begin()
    prepared = asking.prepare()
    desk.answer(looked_at, truth(desk, looked_at))  # while the learner learns
    looked_at = in_front(desk)
    desk.put(asking.open_round(prepared))
    assert in_front(desk) == looked_at
    assert desk.state()["left"] in (6, 7) and desk.state()["round"] == 2
    known = {answer.content for answer in asking.journal.answers.values()}
    assert not known & {query.content for query in asking.journal.open}


def test_the_learner_is_due_when_half_a_round_is_answered(desk):
    assert not desk.due
    label_all(desk, 3)
    assert desk.due
    desk.begin()
    assert not desk.due
    label_all(desk, 3)
    assert desk.due


def test_classes_are_added_and_unknown_ones_refused(desk):
    assert desk.add_class("  new one ") == "new one"
    desk.answer(in_front(desk), "new one")
    with pytest.raises(DataError, match="no class 'other'"):
        desk.answer(in_front(desk), "other")
    with pytest.raises(ConfigError, match="cannot name a class"):
        desk.add_class("  ")
    with pytest.raises(DataError, match="no image 99"):
        desk.answer(99, "dark")


def test_an_answer_that_cannot_be_written_changes_nothing(desk, asking, monkeypatch):
    def full(*args, **options):
        raise StoreError("no space left")

    number, before = in_front(desk), desk.state()
    monkeypatch.setattr(asking.journal.folder, "event", full)
    with pytest.raises(StoreError):
        desk.answer(number, "dark")
    assert desk.state() == before


def test_a_desk_of_a_later_day_goes_on_where_the_first_was(desk, asking, tmp_path):
    label_all(desk, 2)
    left = [query.content for query in asking.journal.open]
    again = Desk(asking)
    again.put(asking.left())
    assert [again.query(n).content for n in range(4)] == left
    assert again.state()["labelled"] == 2
