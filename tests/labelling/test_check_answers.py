import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alprune.data.doubtful import why_doubtful
from alprune.errors import DataError, StoreError
from alprune.labelling.asked_paths import AskedPaths
from alprune.labelling.check_answers import AnswerChecker, Rules
from alprune.labelling.journal import Journal, Query
from alprune.labelling.read_answers import Given
from alprune.loop.event_log import EVENTS
from alprune.loop.run_folder import RunFolder

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
    return AnswerChecker(journal, Path("/photos"), identify).take(given, Rules(**rules), "test")


def labels(journal):
    return {answer.path: answer.label for answer in journal.answers.values()}


def test_answers_are_taken_and_counted(journal):
    told = tell(journal, (PATHS[0], "cat"), (PATHS[1], " DOG "), (PATHS[2], "skip"))
    assert labels(journal) == {PATHS[0]: "cat", PATHS[1]: "dog", PATHS[2]: None}
    assert dict(told.labels) == {"cat": 1, "dog": 1} and told.skipped == 1 and told.left == 0
    assert (told.right, told.guessed) == (1, 2)


def test_the_first_answers_may_name_all_classes(folder):
    journal = Journal(folder)
    journal.start({}, {})
    queries = [Query(path, f"{n:032x}", "typical", "cat") for n, path in enumerate(PATHS)]
    journal.ask(queries, labelled=0, in_folders=0, pool=9, learnt={})
    told = tell(journal, *((path, "cat") for path in PATHS))
    assert told.new_classes == ("cat",) and (told.right, told.guessed) == (3, 3)
    with pytest.raises(DataError, match="1 label is not a class: 'dog'"):
        tell(journal, (PATHS[0], "dog"), replace=True)


def test_what_is_left_empty_stays_open(journal):
    told = tell(journal, (PATHS[0], "cat"), (PATHS[1], ""))
    assert told.left == 2 and [query.path for query in journal.open] == list(PATHS[1:])


def test_an_image_drawn_at_random_is_held_out(journal):
    tell(journal, (PATHS[0], "cat"), (PATHS[2], "dog"))
    assert {a.path for a in journal.answers.values() if a.held} == {PATHS[2]}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("other.png", "cat")], r"1 image was never asked for: 'other.png' \(line 3\)"),
        ([(PATHS[0], "cta")], r"'cta' \(1, did you mean 'cat'\?\); known: cat, dog.*--new-classes"),
        ([(PATHS[0], "cat"), (PATHS[0], "dog")], "1 image has two answers: .*'cat' and 'dog'"),
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
    with pytest.raises(DataError, match="not among those to learn from in '/photos'"):
        tell(journal, ("../z.png", "cat"), identify=identify, unasked=True)


def test_a_table_of_today_is_about_the_image_that_is_at_its_path_today(journal):
    tell(journal, (PATHS[0], "cat"))
    now = {PATHS[0]: "e" * 32}
    told = tell(journal, (PATHS[0], "dog"), identify=now.get, unasked=True)
    assert (sum(told.labels.values()), told.replaced) == (1, 0)
    assert journal.answers[f"{0:032x}"].label == "cat"
    assert journal.answers["e" * 32].label == "dog"


def of_ours(*rows, **more):
    return [Given(f"line {n}", path, label, content=c) for n, (path, label, c) in enumerate(rows)]


def test_a_table_of_labels_goes_by_content_wherever_the_images_are_today(journal):
    places = {"a" * 32: "moved/z.png", "b" * 32: "dog/y.png"}
    checker = AnswerChecker(
        journal,
        Path("/photos"),
        {PATHS[0]: "c" * 32}.get,  # another image has its path now
        own_label=lambda path: "dog" if path.startswith("dog/") else None,
        locate=lambda path, content: places.get(content),
    )
    rows = [(PATHS[0], "cat", "a" * 32), ("y.png", "dog", "b" * 32), (PATHS[0], "dog", "d" * 32)]
    told = checker.take(of_ours(*rows), Rules(unasked=True), "test")
    assert (told.known, told.absent) == (1, 1)
    assert labels(journal) == {"moved/z.png": "cat"}
    told = checker.take(of_ours(("gone.png", "cat", "a" * 32)), Rules(), "test")
    assert told.known == 1  # without --unasked, what was answered is known as well
    with pytest.raises(DataError, match="was never asked for"):
        checker.take(of_ours((PATHS[1], "cat", "e" * 32)), Rules(), "test")


def test_a_table_of_predictions_names_whole_paths(journal):
    given = [Given("line 2", "a.png", "cat", predicted=True)]
    for rules in (Rules(), Rules(unasked=True)):
        with pytest.raises(DataError, match="never asked for|as they are below that folder"):
            checker(journal, *PATHS).take(given, rules, "test")
    whole = [Given("line 2", f"/mnt/photos/{PATHS[0]}", "cat", predicted=True)]
    checker(journal, *PATHS).take(whole, Rules(), "test")
    assert labels(journal) == {PATHS[0]: "cat"}


def test_a_second_persons_table_is_compared_and_the_first_answers_hold(journal):
    tell(journal, (PATHS[0], "cat"), (PATHS[1], "cat"), (PATHS[2], "skip"), user="anna")
    pairs = [(PATHS[0], "cat"), (PATHS[1], "dog"), (PATHS[2], "?")]
    told = tell(journal, *pairs, user="ben")
    assert (told.seconds, told.known, dict(told.labels)) == (3, 0, {})
    assert labels(journal) == dict(zip(PATHS, ("cat", "cat", None), strict=True))
    found = journal.opinions.agreement()
    assert (found.images, found.agreed, found.unsettled) == (3, 2, 1)
    told = tell(journal, *pairs, user="ben")
    assert (told.seconds, told.known) == (0, 3)
    told = tell(journal, (PATHS[1], "dog"), user="ben", replace=True)
    assert told.replaced == 1 and labels(journal)[PATHS[1]] == "dog"
    assert journal.opinions.agreement() == found
    told = tell(journal, (PATHS[0], "egret"), user="dora", new_classes=True)
    assert told.new_classes == ("egret",) and "egret" in journal.offered  # to settle for
    again = of_ours((PATHS[0], "cat", f"{0:032x}"))  # labels.csv is nobody's second answer
    assert AnswerChecker(journal, Path("/"), str).take(again, Rules(user="carl"), "").known == 1


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
        ('{"event": "ask", "elapsed_s": 1, "round": 1, "images": 3}', "not a record of asking"),
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


# --- names and paths as other programs write them ---


def checker(journal, *everything):
    return AnswerChecker(journal, Path("/photos"), lambda path: None, lambda: everything)


def take(journal, *pairs, everything=(), guess=None, **rules):
    given = [Given(f"line {n}", p, label, guess=guess) for n, (p, label) in enumerate(pairs, 2)]
    return checker(journal, *everything).take(given, Rules(**rules), "test")


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("known", [NFC, NFD, "Café ", "CAFÉ"])
@pytest.mark.parametrize("written", [NFC, NFD, " café", "Café"])
def test_a_class_is_one_however_its_name_is_spelt(journal, known, written):
    journal.declare([known])
    tell(journal, (PATHS[0], written))
    assert labels(journal)[PATHS[0]] == known


def test_a_name_that_may_mean_two_classes_is_listed(journal):
    journal.declare(["Bird", "bird"])
    tell(journal, (PATHS[0], "bird"), (PATHS[1], "Bird"))
    with pytest.raises(DataError, match="may mean several: 'BIRD' .*'Bird', 'bird'"):
        tell(journal, (PATHS[2], "BIRD"), new_classes=True)


@pytest.mark.parametrize("name", ["گربه\u200cها", "ශ්\u200dරී", "👨\u200d👧", "三毛\u3000猫"])
def test_names_of_any_script_become_classes(journal, name):
    tell(journal, (PATHS[0], name), new_classes=True)
    assert labels(journal)[PATHS[0]] == name


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "a\u2028b", "x" * 101])
def test_control_characters_make_no_class(journal, name):
    with pytest.raises(DataError, match="cannot name a class"):
        tell(journal, (PATHS[0], name), new_classes=True)


@pytest.mark.parametrize(
    ("label", "why"),
    [
        *((mark, "missing value") for mark in ("NA", "nan", "NaN", "#N/A", "N/A", "None", "null")),
        ("#NAME?", "missing value"),
        ("3.0", "the number 3"),
        ("-2,00", "the number -2"),
        ("1.00E+05", "spreadsheet"),
        *((date, "a date") for date in ("03-Apr", "4. Mrz", "02. Sep.", "Sep-02", "1 MÄR")),
        ("_Unlabeled", "there is no label"),
        ("????", "letters were lost"),
        ("caf\ufffd", "letters were lost"),
        ("cafÃ©", "'café' in UTF-8"),
        ("РєРѕС€РєР°", "'кошка' in UTF-8"),
    ],
)
def test_what_is_hardly_a_name_becomes_a_class_only_when_declared(journal, label, why):
    with pytest.raises(DataError, match=f"hardly the name of a class: .*{why}.*--classes"):
        tell(journal, (PATHS[0], label), new_classes=True)
    assert labels(journal) == {}
    journal.declare([label])
    tell(journal, (PATHS[0], label))
    assert labels(journal) == {PATHS[0]: label}


@pytest.mark.parametrize(
    "label",
    [
        "3",
        "007",
        "none of these",
        "Nanday",
        "E5",
        "é",
        "-",
        "+",
        "v1.1",
        "12 cats",
        "march 3",
        "may",
        "set 1",
        "mag 40",
        "gen-2",
    ],
)
def test_what_looks_like_a_name_is_one(label):
    assert why_doubtful(label) is None


def test_a_number_that_a_program_made_decimal_is_the_class_of_that_number(journal):
    journal.declare(["3", "4.0"])
    tell(journal, (PATHS[0], "3.0"), (PATHS[1], "4.0"))
    assert labels(journal) == {PATHS[0]: "3", PATHS[1]: "4.0"}


def test_letters_of_a_guessed_encoding_name_only_known_classes(journal):
    journal.declare(["Käse"])
    take(journal, (PATHS[0], "Käse"), (PATHS[1], "dog"), guess="cp1252")
    garbled = "кошка".encode("cp1251").decode("cp1252")
    with pytest.raises(DataError, match=r"not state: (\S+) .*cp1251 'кошка'.*--encoding \1\)"):
        take(journal, (PATHS[2], garbled), guess="cp1252", new_classes=True)


@pytest.mark.parametrize(
    "text",
    [
        PATHS[0],
        "UNLABELLED/A.PNG",
        " unlabelled/a.png ",
        "/mnt/other/photos/unlabelled/a.png",
        "C:\\Users\\me\\photos\\unlabelled\\a.png",
        "/data/local-files/?d=other/root/unlabelled/a.png",
        "https://bucket.host/some/unlabelled/a.png?X-Amz-Signature=1",
        "a.png",
        "/data/upload/1/3f2a8b10-a.png",
    ],
)
def test_the_only_image_whose_path_ends_alike_is_meant(journal, text):
    take(journal, (text, "cat"), everything=PATHS)
    assert labels(journal) == {PATHS[0]: "cat"}


@pytest.mark.parametrize("text", ["a.png", "/data/upload/1/3f2a8b10-a.png"])
def test_a_path_that_may_mean_an_image_that_was_not_asked_for_is_listed(journal, text):
    with pytest.raises(DataError, match="may mean several: .*'unlabelled/a.png', 'cats/a.png'"):
        take(journal, (text, "cat"), everything=(*PATHS, "cats/a.png"))


@pytest.mark.parametrize(
    "text",
    [
        "foreign/a.png",
        "/data/local-files/?d=other/a.png",
        "/data/upload/1/3f2a8b10-x.png",
        "aa.png",
    ],
)
def test_an_image_of_another_folder_is_not_known_by_its_name_alone(journal, text):
    with pytest.raises(DataError, match=r"1 image was never asked for"):
        take(journal, (text, "cat"), everything=PATHS)


def test_an_image_that_is_there_and_was_not_asked_for_is_no_other(journal):
    with pytest.raises(DataError, match="never asked for"):
        take(journal, ("x/unlabelled/a.png", "cat"), everything=(*PATHS, "x/unlabelled/a.png"))


def test_paths_below_several_other_roots_are_refused(journal):
    pairs = [(f"/mnt/{root}/{PATHS[n]}", "cat") for n, root in enumerate(("one", "two"))]
    with pytest.raises(DataError, match="lie in 2 different folders"):
        take(journal, *pairs, everything=PATHS)
    take(journal, *((path.replace("two", "one"), label) for path, label in pairs), everything=PATHS)
    assert len(labels(journal)) == 2


def test_names_that_uploading_changes_are_found(folder):
    journal = Journal(folder)
    journal.start({}, {})
    journal.declare(["cat"])
    names = ("b/my photo (1).png", "b/x.png")
    queries = [Query(path, f"{n:032x}", "typical") for n, path in enumerate(names)]
    journal.ask(queries, labelled=0, in_folders=0, pool=9, learnt={})
    take(journal, ("/data/upload/3/0a1b2c3d-my_photo_1.png", "cat"), everything=names)
    assert labels(journal) == {names[0]: "cat"}


written = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=10)


@settings(max_examples=60)
@given(st.lists(written.filter(lambda name: "/" not in name), min_size=1, max_size=5, unique=True))
def test_a_path_as_it_was_asked_is_always_found(names):
    queries = {name: Query(name, "0" * 32, "typical") for name in names}
    paths = AskedPaths(queries, Path("/photos"), lambda: names)
    for name in names:
        found = paths.find(name, "line 1")
        assert found is not None and found[0] == name


@pytest.mark.parametrize(
    "text", ["unlabelled/Z.png", "/mnt/photos/unlabelled/z.png", "/data/upload/1/3f2a8b10-z.png"]
)
def test_an_image_that_was_not_asked_for_is_known_by_the_end_of_its_path_too(journal, text):
    everything = (*PATHS, "unlabelled/z.png")
    checker = AnswerChecker(
        journal, Path("/photos"), {"unlabelled/z.png": "f" * 32}.get, lambda: everything
    )
    checker.take([Given("line 2", text, "cat")], Rules(unasked=True), "test")
    assert labels(journal) == {"unlabelled/z.png": "cat"}
