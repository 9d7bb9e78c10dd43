import csv
import io
import json

import photos
import pytest
from click.testing import CliRunner

from alprune.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def options(root, **changes):
    pairs = photos.options(root, **changes).items()
    return [word for k, v in pairs for word in (f"--{k.replace('_', '-')}", v)]


def fill_in(path, delimiter=";"):
    """Fill in a round's table as a spreadsheet with semicolons would save it."""
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows(
        [
            ["path", "label"],
            *([r["path"].replace("/", "\\"), photos.truth(r["path"])] for r in rows),
        ]
    )
    path.write_bytes(text.getvalue().encode("utf-16"))


def test_asking_and_telling_in_turn_from_the_command_line(tmp_path):
    root, run = photos.make(tmp_path / "photos"), tmp_path / "run"
    first = call("ask", run, *options(root), "--classes", "dark, light,striped")
    assert first.exit_code == 0, first.output
    assert "6 images" in first.stdout and f"alprune tell {run}" in first.stdout
    assert "dark, light, striped" in first.stdout
    again = call("ask", run)
    assert "repeated: no answers were read since" in again.stdout
    fill_in(run / "queries.csv")
    told = call("tell", run, run / "queries.csv")
    assert told.exit_code == 0, told.output
    assert "6 labels: " in told.stdout and f"Next: alprune ask {run}" in told.stdout
    second = json.loads(call("ask", run, "--json").stdout)
    assert second["round"] == 2 and second["labelled"] == 6 and len(second["queries"]) == 6
    assert {"path", "guess", "probability", "entropy"} <= set(second["queries"][0])
    fill_in(run / "queries.csv")
    told = json.loads(call("tell", run, run / "queries.csv", "--json").stdout)
    assert sum(told["labels"].values()) == 6 and told["guessed"] == 6 and told["left"] == 0


def test_a_trial_answers_itself(tmp_path):
    for name in photos.NAMES:
        photos.fill(tmp_path / "photos" / name, name, range(8))
    run = tmp_path / "run"
    assert call("ask", run, *options(tmp_path / "photos"), "--initial", 6).exit_code == 0
    told = call("tell", run, "--simulate")
    assert told.exit_code == 0 and "6 labels" in told.stdout
    assert "labels in all  12" in told.stdout


def test_ask_and_tell_count_the_labels_of_folders_and_those_that_were_given(tmp_path):
    root, run = photos.make(tmp_path / "photos"), tmp_path / "run"
    photos.fill(root / "dark", "dark", range(100, 103))
    photos.fill(root / "light", "light", range(100, 102))
    asked = call("ask", run, *options(root), "--query-size", 1)
    assert "asked          1 image\n" in asked.stdout
    assert "labelled       5 of 41, 5 of them by their folders\n" in asked.stdout
    fill_in(run / "queries.csv")
    told = call("tell", run, run / "queries.csv", "--new-classes").stdout
    assert "accepted       1 label: " in told
    assert f"labels in all  6: 1, in {run / 'labels.csv'}, 5 by folders\n" in told
    assert "1 label " in call("classes", run).stdout
    second = json.loads(call("ask", run, "--json").stdout)
    assert (second["labelled"], second["in_folders"]) == (6, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\nx.png,dark\n", "never asked for"),
        ("path\nx.png\n", "names no column 'label'"),
    ],
)
def test_what_cannot_be_taken_is_one_message_and_exit_code_1(tmp_path, content, message):
    root, run = photos.make(tmp_path / "photos", each=3), tmp_path / "run"
    assert call("ask", run, *options(root)).exit_code == 0
    (tmp_path / "labels.csv").write_text(content)
    done = call("tell", run, tmp_path / "labels.csv")
    assert done.exit_code == 1 and done.stderr.startswith("Error: ")
    assert message in done.stderr and "Traceback" not in done.output


def test_the_folder_must_be_begun_and_labels_must_be_named(tmp_path):
    done = call("tell", tmp_path / "none", tmp_path / "labels.csv")
    assert done.exit_code == 1 and "is not a folder of alprune ask or alprune label" in done.stderr
    assert "--dataset" not in done.stderr and not (tmp_path / "none").exists()
    assert call("tell", tmp_path / "none").exit_code == 2
    for command in ("ask", "label"):
        new = call(command, tmp_path / "none")
        assert (
            new.exit_code == 1 and f"alprune {command} {tmp_path / 'none'} --dataset" in new.stderr
        )
    assert call("ask", tmp_path / "none", "--steps", 3).exit_code == 2


def test_ask_says_that_a_stop_rule_is_met_and_how_to_continue(tmp_path):
    root, run = photos.make(tmp_path / "photos"), tmp_path / "run"
    call("ask", run, *options(root, initial_epochs=1.0), "--stop-labels", 6)
    fill_in(run / "queries.csv")
    call("tell", run, run / "queries.csv", "--new-classes", "--user", "anna")
    done = call("ask", run)
    assert done.exit_code == 0, done.output
    assert "stop rule      met: 6 images are labelled (--stop-labels 6)" in done.stdout
    assert f"To continue regardless: alprune ask {run} --regardless" in done.stdout
    assert "queries.csv" not in done.stdout
    more = json.loads(call("ask", run, "--regardless", "--json").stdout)
    assert len(more["queries"]) == 6 and more["stop"].startswith("6 images")
    rows = list(csv.DictReader(io.StringIO((run / "labels.csv").read_text("utf-8-sig"))))
    assert {row["user"] for row in rows} == {"anna"}


def test_classes_are_listed_renamed_merged_and_removed(tmp_path):
    root, run = photos.make(tmp_path / "photos"), tmp_path / "run"
    call("ask", run, *options(root), "--classes", "drak,dark,light,striped,unused")
    fill_in(run / "queries.csv")
    assert call("tell", run, run / "queries.csv").exit_code == 0
    before = json.loads(call("classes", run, "--json").stdout)
    assert [row["name"] for row in before] == ["drak", "dark", "light", "striped", "unused"]
    assert sum(row["labels"] for row in before) == 6
    changes = ["--rename", "striped", "stripes", "--merge", "dark", "light", "--remove", "drak"]
    after = json.loads(call("classes", run, *changes, "--json").stdout)
    assert [row["name"] for row in after] == ["light", "stripes", "unused"]
    assert sum(row["labels"] for row in after) == 6
    listed = call("classes", run)
    assert listed.exit_code == 0 and "stripes" in listed.stdout
    labels = (run / "labels.csv").read_text("utf-8-sig")
    assert "stripes" in labels and "striped" not in labels
    for change, message in (
        (["--rename", "ligth", "x"], "Did you mean 'light'?"),
        (["--rename", "light", "stripes"], "merge the two instead"),
        (["--rename", "light", ""], "cannot name a class"),
        (["--merge", "light", "x"], "unknown class 'x'"),
        (["--merge", "light", "light"], "into itself"),
        (["--remove", "light"], ". Rename it, merge it"),
    ):
        done = call("classes", run, *change)
        assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.output
    assert json.loads(call("classes", run, "--json").stdout) == after
    assert call("classes", tmp_path / "none").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overlap", 10], "nobody has a name here. Add --user NAME"),
        (["--origin", "labels.example.org"], "is not the address of a page"),
        (["--user", "x" * 101], "cannot name a person"),
        (["--host", "192.0.2.77"], "cannot listen on 192.0.2.77"),
        (["--host", "no such host"], "cannot listen on no such host"),
    ],
)
def test_a_page_that_cannot_be_served_as_asked_says_why(tmp_path, words, message):
    root = photos.make(tmp_path / "photos", each=2)
    done = call("label", tmp_path / "run", *options(root), "--no-browser", *words)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize("command", ["ask", "tell", "label", "classes"])
def test_help_says_nothing_of_labels_at_the_start(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "Points labelled at the start" not in done.stdout


@pytest.mark.parametrize(
    ("port", "message"), [("birds", "'birds' is not a port. Give DIR first"), ("70000", "65535")]
)
def test_what_follows_label_studio_is_a_port(port, message):
    done = call("label", "--label-studio", port)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
