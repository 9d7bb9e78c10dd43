"""Several people at once: different images, second answers, and what each may undo."""

import random
from dataclasses import replace

import photos
import pytest

from alprune.errors import DataError
from alprune.labelling import open_asking
from alprune.labelling.web import leases
from alprune.labelling.web.leases import Client, Leases
from alprune.labelling.web.queue import LabelQueue
from alprune.labelling.web.second_looks import is_chosen

ANNA = Client("s1", "anna", "w1")
BEN = Client("s2", "ben", "w2")
CARL = Client("s3", "carl", "w3")


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    options = photos.options(photos.make(tmp_path / "photos"))
    with open_asking(tmp_path / "run", classes=photos.NAMES, **options) as asking:
        yield asking


@pytest.fixture
def queue(asking):
    return opened(asking)


def opened(asking):
    queue = LabelQueue(asking)
    prepared = asking.prepare()
    queue.put(asking.left() or asking.open_round(prepared))
    queue.stock(prepared)
    return queue


def shown(queue, client):
    state = queue.state(client)
    return [image["number"] for image in (state["image"], *state["ahead"]) if image]


def front(queue, client):
    return shown(queue, client)[0]


def test_each_window_gets_images_of_its_own(queue):
    assert shown(queue, ANNA) == [0, 1, 2, 3, 4, 5]
    assert shown(queue, BEN) == [5]  # at once, of what anna has not come to yet
    assert shown(queue, ANNA) == [0, 1, 2]
    other = Client("s1", "anna", "w4")  # another window of the same person
    assert not set(shown(queue, other)) & set(shown(queue, ANNA))


def test_more_people_than_images_get_more_images(queue, asking):
    clients = [Client(f"s{n}", f"p{n}", f"w{n}") for n in range(10)]
    fronts = [front(queue, client) for client in clients]
    assert len(set(fronts)) == 10
    assert len(asking.journal.pending) > 6
    for client in clients:
        number = front(queue, client)
        assert number in fronts
        queue.answer({number: "dark"}, client, fresh=True)
    assert len(asking.labels) == 10 and not asking.journal.opinions.agreement()


def test_a_window_that_closes_gives_its_images_back(queue):
    first = shown(queue, ANNA)
    shown(queue, BEN)
    queue.leave(ANNA)
    assert shown(queue, BEN)[1:] == [n for n in first if n != 5]


def test_an_answer_that_is_served_after_its_window_closed_brings_no_ghost_of_it(queue, asking):
    first = front(queue, ANNA)
    queue.leave(ANNA)
    queue.answer({first: "dark"}, ANNA, fresh=True)
    assert shown(queue, ANNA) == [] and len(asking.labels) == 1
    assert shown(queue, BEN) == [n for n in range(6) if n != first]


def test_a_window_that_sleeps_loses_its_images_only_where_they_are_wanted(queue, monkeypatch):
    now = 0.0
    monkeypatch.setattr(queue, "_leases", Leases(lambda: now))
    held = shown(queue, ANNA)
    now = 3600.0 * 12
    assert shown(queue, ANNA) == held  # nobody else was there
    now += leases.LEASE_S + 1
    assert set(shown(queue, BEN)) == set(held)
    assert front(queue, ANNA) != front(queue, BEN)
    # What anna still sees may be answered all the same: it is kept as a second answer.
    queue.answer({0: "dark"}, BEN, fresh=True)
    queue.answer({0: "light"}, ANNA, fresh=True)
    assert set(queue._asking.labels.values()) == {"dark"}
    assert queue._asking.journal.opinions.unsettled


def test_who_answered_is_recorded(queue, asking, tmp_path):
    queue.answer({0: "dark"}, ANNA)
    queue.answer({1: "light"}, BEN)
    assert [answer.user for answer in asking.journal.answers.values()] == ["anna", "ben"]
    assert queue.state(ANNA)["people"] == {"anna": 1, "ben": 1}
    asking.write_labels()
    rows = (tmp_path / "run" / "labels.csv").read_text("utf-8-sig").splitlines()
    assert {row.rsplit(",", 1)[1] for row in rows} == {"user", "anna", "ben"}


def test_one_person_goes_back_through_their_own_answers_only(queue):
    queue.answer({0: "dark"}, ANNA)
    queue.answer({1: "dark"}, BEN)
    assert queue.state(ANNA)["past"] == [0] and queue.state(BEN)["past"] == [1]


def test_undo_takes_back_ones_own_answer(queue, asking):
    queue.answer({0: "dark"}, ANNA)
    queue.answer({1: "light"}, BEN)
    queue.undo(ANNA)
    assert list(asking.labels.values()) == ["light"]
    assert front(queue, ANNA) == 0
    queue.undo(CARL)
    assert list(asking.labels.values()) == ["light"]


def test_an_answer_that_somebody_reviewed_since_is_not_taken_back(queue, asking):
    queue.answer({0: "dark"}, ANNA)
    queue.answer({0: "light"}, BEN, review=True)
    with pytest.raises(DataError, match="ben has changed that answer"):
        queue.undo(ANNA)
    assert list(asking.labels.values()) == ["light"]
    queue.undo(BEN)
    assert [(a.label, a.user) for a in asking.journal.answers.values()] == [("dark", "anna")]


def test_two_windows_of_one_person_say_that_the_later_answer_holds(queue, asking):
    second = Client("s1", "anna", "w4")
    assert queue.answer({0: "dark"}, ANNA, fresh=True) == ""
    assert queue.answer({0: "dark"}, second, fresh=True) == ""  # the same once more
    assert len(queue._steps["s1"]) == 1
    assert "labelled 'dark'" in queue.answer({0: "light"}, second, fresh=True)
    assert list(asking.labels.values()) == ["light"]
    assert queue.answer({0: "dark"}, second) == ""  # a correction says nothing
    assert not asking.journal.opinions.agreement()


def test_every_image_goes_to_two_people_where_all_are_to(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    assert 0 not in shown(queue, ANNA)
    assert front(queue, BEN) == 0
    assert queue.described(0, BEN)["answer"] is None  # which would bias the second person
    queue.answer({0: "light"}, BEN, fresh=True)
    assert list(asking.labels.values()) == ["dark"]
    assert 0 not in shown(queue, CARL)  # two are enough
    assert queue.state(ANNA)["agreement"]["unsettled"] == 1
    assert queue.described(0, BEN)["answer"]["label"] == "light"
    assert queue.described(0, ANNA)["answer"]["label"] == "dark"


def test_the_second_person_sees_no_guess(queue, asking):
    asking.set_overlap(100)
    queue._queries[0] = replace(queue.query(0), guess="dark", probability=0.9)
    assert queue.described(0, ANNA)["guess"]["class"] == "dark"
    queue.answer({0: "dark"}, ANNA, fresh=True)
    assert queue.described(0, BEN)["guess"] is None


def test_a_second_answer_is_taken_back_without_touching_the_first(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.undo(BEN)
    assert list(asking.labels.values()) == ["dark"] and not asking.journal.opinions.agreement()
    assert front(queue, BEN) == 0
    queue.answer({0: "dark"}, BEN, fresh=True)
    queue.answer({0: "light"}, BEN)  # corrected
    queue.undo(BEN)
    assert asking.journal.opinions.agreement().agreed == 1


def test_the_second_answer_becomes_the_label_if_the_first_is_taken_back(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.undo(ANNA)
    assert [(a.label, a.user) for a in asking.journal.answers.values()] == [("light", "ben")]
    assert 0 in shown(queue, ANNA)


@pytest.mark.parametrize("people", [(ANNA, BEN), (BEN, ANNA)])
def test_nothing_is_left_when_two_people_take_their_answers_back(queue, asking, people):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    for person in people:
        queue.undo(person)
    assert not asking.journal.answers and not any(asking.journal.opinions.of.values())
    assert 0 in {front(queue, ANNA), front(queue, BEN)}


def test_a_corrected_second_answer_is_taken_back_after_it_became_the_label(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({0: "striped"}, BEN)
    queue.undo(ANNA)
    assert list(asking.labels.values()) == ["striped"]
    queue.undo(BEN)
    assert list(asking.labels.values()) == ["light"]
    assert list(asking.journal.opinions.of.values()) == [{"ben": "light"}]
    queue.undo(BEN)
    assert not asking.labels


def test_a_second_answer_is_taken_back_where_the_first_is_gone(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({0: "striped"}, BEN)
    asking.journal.tell([], withdrawn=[queue.query(0).content])
    queue.undo(BEN)
    assert not asking.labels and not any(asking.journal.opinions.of.values())


def test_a_review_that_holds_again_is_no_first_hand_answer(queue, asking):
    queue.answer({0: "dark"}, ANNA)
    queue.answer({0: "light"}, CARL, review=True)
    queue.answer({0: "striped"}, CARL, review=True)
    queue.undo(CARL)
    assert list(asking.labels.values()) == ["light"]
    assert list(asking.journal.opinions.of.values()) == [{"anna": "dark"}]
    queue.undo(CARL)
    assert [(a.label, a.user) for a in asking.journal.answers.values()] == [("dark", "anna")]


def test_what_was_settled_is_so_again_after_an_undo(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({0: "light"}, CARL, review=True)
    queue.answer({0: "striped"}, CARL, review=True)
    opinions = asking.journal.opinions
    queue.undo(CARL)
    assert not opinions.unsettled
    queue.answer({0: "dark"}, BEN)  # a correction, which asks for another look at the image
    queue.answer({0: "striped"}, BEN)
    assert opinions.unsettled
    queue.undo(BEN)
    queue.undo(BEN)
    assert not opinions.unsettled and opinions.agreement().agreed == 0
    queue.undo(CARL)
    assert opinions.unsettled


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_undone_in_reverse_order_leaves_what_was_before(queue, asking, seed):
    journal, rng, done = asking.journal, random.Random(seed), []
    asking.set_overlap(100)

    def known():
        told = {c: (a.label, a.user, a.held) for c, a in journal.answers.items()}
        opinions = {content: dict(given) for content, given in journal.opinions.of.items() if given}
        return told, opinions, set(journal.opinions.unsettled), journal.opinions.agreement()

    for _ in range(60):
        client, number, before = rng.choice((ANNA, BEN, CARL, Client())), rng.randrange(2), known()
        how = rng.choice(({}, {"fresh": True}, {"review": True}))
        steps = len(queue._steps.get(client.session, ()))
        queue.answer({number: rng.choice((*photos.NAMES, None))}, client, **how)
        if len(queue._steps.get(client.session, ())) > steps:  # and not the same once more
            done.append((client, before))
        while done and rng.random() < 0.3:
            client, before = done.pop()
            queue.undo(client)
            assert known() == before


def test_the_review_settles_a_disagreement(queue, asking, tmp_path):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({0: "light"}, ANNA, review=True)
    assert list(asking.labels.values()) == ["light"]
    found = asking.journal.opinions.agreement()
    assert (found.images, found.agreed, found.unsettled) == (1, 0, 0)
    asking.write_labels()
    rows = (tmp_path / "run" / "disagreements.csv").read_text("utf-8-sig").splitlines()
    assert rows == [
        "path,label,answers,settled",
        f"{queue.query(0).path},light,anna: dark; ben: light,yes",
    ]


def test_the_record_gives_the_same_opinions_again(queue, asking, tmp_path):
    asking.set_overlap(100)
    for number in range(4):
        queue.answer({number: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({1: "dark"}, BEN, fresh=True)
    queue.answer({2: "striped"}, BEN, fresh=True)
    queue.undo(BEN)
    queue.answer({0: "dark"}, CARL, review=True)
    opinions = asking.journal.opinions
    known = opinions.of, opinions.by, opinions.agreement(), list(opinions.unsettled)
    waiting = [queue.query(number).content for number in queue._seconds.offered("ben")]
    asking.close()
    with open_asking(tmp_path / "run") as again:
        opinions = again.journal.opinions
        found = opinions.of, opinions.by, opinions.agreement(), list(opinions.unsettled)
        assert found == known
        later = LabelQueue(again)
        found = [later.query(number).content for number in later._seconds.offered("ben")]
        assert set(found) == set(waiting) and len(found) == 2


def test_the_share_that_goes_to_two_people_is_the_one_asked_for():
    contents = [f"{n * 2654435761 % 2**32:08x}" + "0" * 24 for n in range(10_000)]
    for percent in (0, 10, 100):
        assert sum(is_chosen(c, percent) for c in contents) == pytest.approx(100 * percent, abs=20)


def test_a_second_answer_sent_again_is_one_answer_to_take_back(queue, asking):
    asking.set_overlap(100)
    queue.answer({0: "dark"}, ANNA, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)
    queue.answer({0: "light"}, BEN, fresh=True)  # the page did not learn that it had arrived
    queue.undo(BEN)
    assert asking.journal.opinions.of[queue.query(0).content] == {"anna": "dark"}


def test_a_review_of_what_a_colleague_has_changed_meanwhile_says_so(queue, asking):
    queue.answer({0: "dark"}, ANNA)
    assert queue.answer({0: "light"}, BEN, review=True, shown=["dark"]) == ""
    said = queue.answer({0: "dark"}, ANNA, review=True, shown=["dark"])
    assert "was labelled 'light'" in said and list(asking.labels.values()) == ["dark"]


def test_a_class_that_others_use_does_not_stand_before_the_own_last_answer(queue, asking):
    queue.answer({0: "dark"}, ANNA)
    queue.add_class("owl", ANNA)
    queue.answer({1: "owl"}, BEN)
    queue.undo(ANNA)
    assert list(asking.labels.values()) == ["owl"]
