"""The record of questions and answers on its own: what it adds up to, and what it refuses."""

import json

import pytest

from alprune.errors import StoreError
from alprune.labelling.accuracy import guesses
from alprune.labelling.journal import Answer, Journal, Query
from alprune.loop.event_log import EVENTS
from alprune.loop.run_folder import RunFolder

ROUND = {"labelled": 0, "in_folders": 0, "pool": 9, "learnt": {}}


def query(number, **fields):
    return Query(f"{number}.png", f"{number:032x}", "uncertain", **fields)


def answer(number, label, **fields):
    return Answer(f"{number}.png", f"{number:032x}", label, 1, **fields)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write("config.toml", "")
    yield folder
    folder.close()


@pytest.fixture
def journal(folder):
    journal = Journal(folder)
    journal.start({}, {})
    journal.declare(["cat", "dog"])
    journal.ask([query(0, guess="cat", probability=0.5), query(1)], **ROUND)
    return journal


def test_what_was_asked_meanwhile_belongs_to_the_round(journal):
    journal.more([query(2), query(3)])
    journal.tell([answer(0, "cat"), answer(2, None)])
    assert [entry.path for entry in journal.open] == ["1.png", "3.png"]
    assert (journal.asked_now, journal.left_now) == (4, 2)
    found = guesses(journal)
    assert found is not None and (found.right, found.of) == (1, 1)


def test_a_renamed_class_is_offered_without_an_answer(journal):
    journal.rename("dog", "hound")
    assert journal.offered == ["cat", "hound"]
    journal.rename("hound", "cat")
    assert journal.offered == journal.classes == ["cat"]


def test_guesses_are_called_like_their_class_now(journal, folder):
    journal.tell([answer(0, "cat")])
    journal.rename("cat", "kitten")
    assert [entry.guess for entry in journal.pending] == ["kitten", None]
    found = guesses(journal)
    assert found is not None and (found.right, found.of) == (1, 1)
    again = Journal(folder)
    assert (again.pending, again.queries) == (journal.pending, journal.queries)


def test_a_class_that_lost_its_last_answer_can_be_declared(journal):
    journal.tell([answer(0, "cow")])
    journal.tell([answer(0, "cat")])
    assert journal.offered == ["cat", "dog"] and journal.classes == ["cat", "dog", "cow"]
    assert journal.declare(["cow", "cat"]) == ["cow"]
    assert journal.offered == journal.classes
    assert journal.declare(["cow"]) == []


def test_answers_keep_their_class_under_its_present_name(journal, folder):
    journal.tell([answer(0, "cat"), answer(1, "dog")])
    journal.assign("cat", "c")
    journal.rename("cat", "kitten")
    journal.declare(["cat"])
    journal.tell([answer(1, "cat")])
    assert [entry.label for entry in journal.answers.values()] == ["kitten", "cat"]
    assert +journal.counts == {"kitten": 1, "cat": 1} and journal.keys == {"kitten": "c"}
    again = Journal(folder)
    assert vars(again).keys() == vars(journal).keys()
    for name in ("classes", "answers", "counts", "keys", "renames", "ever", "measured"):
        assert getattr(again, name) == getattr(journal, name)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"event": "ask", "round": True, "images": [], **ROUND}, "True is not a whole number"),
        ({"event": "ask", "round": -1, "images": [], **ROUND}, "-1 is not a whole number"),
        ({"event": "overlap", "percent": True}, "True is not a number"),
        ({"event": "overlap", "percent": "a"}, "'a' is not a number"),
        ({"event": "overlap", "percent": float("inf")}, "is not a number"),
        ({"event": "key", "of": "", "key": "x"}, "'' is not text"),
        ({"event": "rename_class", "of": 1, "to": "x"}, "1 is not text"),
        ({"event": "rename_class", "of": "cow", "to": "x"}, "cow"),
    ],
)
def test_an_event_that_is_none_is_refused_by_its_line(journal, folder, event, message):
    record = folder.path / EVENTS
    text = record.read_text()
    line = json.dumps({"elapsed_s": 0.0, **event}).replace("Infinity", "1e999")
    record.write_text(f"{text}{line}\n")
    with pytest.raises(StoreError, match=rf"line {text.count(chr(10)) + 1} .*{message}"):
        Journal(folder)
