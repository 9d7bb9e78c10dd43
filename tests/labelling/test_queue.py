import photos
import pytest

from alprune.errors import ConfigError, DataError, StoreError
from alprune.labelling import open_asking
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
        queue.answer(number, truth(queue, number))


def test_images_come_one_after_the_other_and_answers_are_in_the_record(queue, asking, tmp_path):
    first = in_front(queue)
    queue.answer(first, "dark")
    second = in_front(queue)
    assert second != first
    queue.answer(second, None)
    assert asking.labels == {queue.query(first).path: "dark"}
    state = queue.state()
    assert (state["labelled"], state["skipped"], state["here"], state["pool"]) == (1, 1, 2, 36)
    assert (state["done"], state["left"]) == (2, 4)
    assert [entry["count"] for entry in state["classes"]] == [1, 0, 0]
    written = (tmp_path / "run" / "events.jsonl").read_text()
    assert queue.query(first).content in written.splitlines()[-2]


def test_undo_goes_back_answer_by_answer(queue, asking):
    first, before = in_front(queue), queue.state()
    queue.answer(first, "dark")
    second = in_front(queue)
    queue.answer(second, None)
    assert queue.undo() == second and in_front(queue) == second
    assert queue.undo() == first and in_front(queue) == first
    assert asking.labels == {} and queue.undo() is None
    after = queue.state()
    assert {k: after[k] for k in ("labelled", "skipped", "left")} == {
        k: before[k] for k in ("labelled", "skipped", "left")
    }


def test_an_undone_correction_brings_the_answer_before_it_back(queue, asking):
    first = in_front(queue)
    queue.answer(first, "dark")
    queue.answer(first, "light")
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
    queue.answer(looked_at, truth(queue, looked_at))  # while the learner learns
    looked_at = in_front(queue)
    queue.put(asking.open_round(prepared))
    assert in_front(queue) == looked_at
    assert queue.state()["left"] in (6, 7) and queue.state()["round"] == 2
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
    assert queue.add_class("  new one ") == "new one"
    queue.answer(in_front(queue), "new one")
    with pytest.raises(DataError, match="no class 'other'"):
        queue.answer(in_front(queue), "other")
    with pytest.raises(ConfigError, match="cannot name a class"):
        queue.add_class("  ")
    with pytest.raises(DataError, match="no image 99"):
        queue.answer(99, "dark")


def test_an_answer_that_cannot_be_written_changes_nothing(queue, asking, monkeypatch):
    def full(*args, **options):
        raise StoreError("no space left")

    number, before = in_front(queue), queue.state()
    monkeypatch.setattr(asking.journal.folder, "event", full)
    with pytest.raises(StoreError):
        queue.answer(number, "dark")
    assert queue.state() == before


def test_a_desk_of_a_later_day_goes_on_where_the_first_was(queue, asking, tmp_path):
    label_all(queue, 2)
    left = [query.content for query in asking.journal.open]
    again = LabelQueue(asking)
    again.put(asking.left())
    assert [again.query(n).content for n in range(4)] == left
    assert again.state()["labelled"] == 2
