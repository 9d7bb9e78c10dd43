from pathlib import Path

import pytest

from alprune.errors import DataError, StoreError
from alprune.labelling.check_answers import Rules, Teller
from alprune.labelling.journal import Journal, Query
from alprune.labelling.read_answers import Given
from alprune.loop.run_folder import EVENTS, RunFolder

PATHS = ("unlabelled/a.png", "unlabelled/b.png", "unlabelled/c.png")


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
    queries = [Query(path, f"{n:032x}", "uncertain", "cat", 0.5) for n, path in enumerate(PATHS)]
    queries[2] = Query(PATHS[2], f"{2:032x}", "random", "dog", 0.5)
    journal.ask(queries, labelled=0, in_folders=0, pool=9, learnt={})
    return journal


def tell(journal, *pairs, identify=lambda path: None, **rules):
    given = [Given(f"line {n}", path, label) for n, (path, label) in enumerate(pairs, start=2)]
    return Teller(journal, Path("/photos"), identify).take(given, Rules(**rules), "test")


def labels(journal):
    return {answer.path: answer.label for answer in journal.answers.values()}


def test_answers_are_taken_and_counted(journal):
    told = tell(journal, (PATHS[0], "cat"), (PATHS[1], " DOG "), (PATHS[2], "skip"))
    assert labels(journal) == {PATHS[0]: "cat", PATHS[1]: "dog", PATHS[2]: None}
    assert dict(told.labels) == {"cat": 1, "dog": 1} and told.skipped == 1 and told.left == 0
    assert (told.right, told.guessed) == (1, 2)


def test_what_is_left_empty_stays_open(journal):
    told = tell(journal, (PATHS[0], "cat"), (PATHS[1], ""))
    assert told.left == 2 and [query.path for query in journal.open] == list(PATHS[1:])


def test_an_image_drawn_at_random_is_held_out(journal):
    tell(journal, (PATHS[0], "cat"), (PATHS[2], "dog"))
    assert {a.path for a in journal.answers.values() if a.held} == {PATHS[2]}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("other.png", "cat")], r"1 image\(s\) were never asked for: 'other.png' \(line 3\)"),
        ([(PATHS[0], "cta")], r"'cta' \(1, did you mean 'cat'\?\); known: cat, dog.*--new-classes"),
        ([(PATHS[0], "cat"), (PATHS[0], "dog")], "have two answers: .*'cat' and 'dog'"),
        ([(PATHS[0], "x\ny")], "cannot name a class"),
    ],
)
def test_one_wrong_line_and_nothing_is_taken(journal, pairs, message):
    with pytest.raises(DataError, match=message):
        tell(journal, (PATHS[1], "dog"), *pairs)
    assert labels(journal) == {}


def test_all_that_is_wrong_is_said_at_once(journal):
    with pytest.raises(DataError) as error:
        tell(journal, (PATHS[0], "cow"), ("x.png", "cat"))
    assert "never asked" in str(error.value) and "'cow'" in str(error.value)


def test_new_classes_are_taken_when_asked_for(journal):
    told = tell(journal, (PATHS[0], "cow"), new_classes=True)
    assert told.new_classes == ("cow",) and journal.offered == ["cat", "dog", "cow"]


def test_a_new_class_whose_last_label_is_replaced_is_offered_no_more(journal):
    tell(journal, (PATHS[0], "cta"), new_classes=True)
    tell(journal, (PATHS[0], "cat"), replace=True)
    assert journal.offered == ["cat", "dog"]
    assert journal.classes == ["cat", "dog", "cta"]  # the learner may have an output for it


def test_another_answer_than_before_needs_replace(journal):
    tell(journal, (PATHS[0], "cat"))
    with pytest.raises(DataError, match="'cat' before, 'dog' now. Pass --replace"):
        tell(journal, (PATHS[0], "dog"))
    assert tell(journal, (PATHS[0], "cat")).known == 1
    assert tell(journal, (PATHS[0], "dog"), replace=True).replaced == 1
    assert labels(journal)[PATHS[0]] == "dog"


def test_a_skipped_image_may_be_labelled_later(journal):
    tell(journal, (PATHS[0], "unsure"))
    tell(journal, (PATHS[0], "cat"))
    assert labels(journal)[PATHS[0]] == "cat"


def test_a_class_may_be_called_like_a_skip(journal):
    journal.declare(["unsure"])
    tell(journal, (PATHS[0], "Unsure"))
    assert labels(journal)[PATHS[0]] == "unsure"


def test_images_never_asked_for_are_taken_when_that_is_wanted(journal):
    def identify(path):
        return "f" * 32 if path == "unlabelled/z.png" else None

    tell(journal, ("unlabelled\\z.png", "cat"), identify=identify, unasked=True)
    assert labels(journal) == {"unlabelled/z.png": "cat"}
    with pytest.raises(DataError, match="never asked"):
        tell(journal, ("../z.png", "cat"), identify=identify, unasked=True)


def test_what_was_told_stands_in_the_record_when_it_is_opened_again(journal, folder):
    tell(journal, (PATHS[0], "cow"), (PATHS[1], "skip"), new_classes=True)
    again = Journal(folder)
    for name in ("answers", "classes", "offered", "pending", "queries", "round", "asked"):
        assert getattr(again, name) == getattr(journal, name)
    assert again.told_in_round


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_that_was_not_finished_is_cut_off(journal, folder, cut):
    tell(journal, (PATHS[0], "cat"))
    path = folder.path / EVENTS
    whole = path.read_bytes()
    tell(journal, (PATHS[1], "dog"))
    path.write_bytes(path.read_bytes()[: len(whole) + cut])  # killed while it wrote the second
    again = Journal(folder)
    assert labels(again) == {PATHS[0]: "cat"}
    tell(again, (PATHS[1], "dog"))
    assert labels(Journal(folder)) == {PATHS[0]: "cat", PATHS[1]: "dog"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ('{"event": "tell", "elapsed_s": 1, "answers": [{}], "withdrawn": [], "by": ""}', "lacks"),
        ('{"event": "ask", "elapsed_s": 1, "round": -1}', "is not a whole number"),
        ('{"event": "ask", "elapsed_s": 1, "round": 1, "images": 3}', "no record of asking"),
        ('{"event": "classes", "elapsed_s": 1, "added": [5]}', "5 is not text"),
    ],
)
def test_a_damaged_record_is_named_with_its_line(journal, folder, event, message):
    with open(folder.path / EVENTS, "a") as file:
        file.write(event + "\n")
    with pytest.raises(StoreError, match=message):
        Journal(folder)


def test_skipped_images_rest_for_ten_rounds(journal):
    tell(journal, (PATHS[0], "?"))
    for _ in range(9):
        journal.ask([], labelled=0, in_folders=0, pool=9, learnt={})
    assert journal.resting() == {f"{0:032x}"}
    journal.ask([], labelled=0, in_folders=0, pool=9, learnt={})
    assert journal.resting() == set()
