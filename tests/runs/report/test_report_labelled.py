"""The report of folders in which people labelled."""

import shutil

import pytest
from made_runs import write_comparison
from photos import NAMES, make, truth
from photos import options as asking_options

from alprune.errors import StoreError
from alprune.labelling import open_asking
from alprune.labelling.journal import Answer
from alprune.runs.report import write_report


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Two rounds of labels; ben answers four images after anna, one of them otherwise."""
    place = tmp_path_factory.mktemp("labelled")
    chosen = asking_options(make(place / "photos"), hold_out=4, query_size=10)
    with open_asking(place / "birds", classes=NAMES, **chosen) as asking:
        queries = asking.ask().queries
        journal = asking.journal
        answers = [
            Answer(q.path, q.content, truth(q.path), 1, q.why == "random", "anna") for q in queries
        ]
        skipped = Answer(queries[9].path, queries[9].content, None, 1, False, "anna")
        journal.tell([*answers[:9], skipped], by="page")
        other = next(name for name in NAMES if name != answers[0].label)
        labels = [other, *(answer.label for answer in answers[1:4])]
        seconds = [
            Answer(a.path, a.content, label, 1, a.held, "ben")
            for a, label in zip(answers, labels, strict=False)
        ]
        journal.tell([], by="page", seconds=seconds)
        asking.ask()
    return place / "birds"


def cells(folder, heading):
    """Return `{column: cell}` of the first row of a table of report.md."""
    text = (folder / "report.md").read_text().split(f"### {heading}")[1]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    names, row = ([c.strip() for c in line.strip("|").split("|")] for line in (lines[0], lines[2]))
    return dict(zip(names, row, strict=True))


def test_labels_accuracy_and_agreement_are_reported(birds, tmp_path):
    page = write_report([birds], tmp_path / "report").read_text()
    found = cells(tmp_path / "report", "What people labelled")
    assert (found["Labels"], found["Skipped"], found["Rounds"]) == ("9", "1", "2")
    assert found["People with a name"] == "2"
    assert found["Agreement"].startswith("75% of 4 images that two people answered")
    assert "95% interval" in found["Right on images drawn at random"]
    assert "75% of 4 images" in page and "Labelling: birds" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "no run of it has ended" not in text and "birds, round 2" in text


def test_labelling_and_runs_stand_in_one_report(birds, tmp_path):
    write_comparison(tmp_path / "cmp")
    write_report([birds, tmp_path / "cmp"], tmp_path / "report", images=False)
    assert cells(tmp_path / "report", "What people labelled")["Labels"] == "9"
    assert "### What each group ended with" in (tmp_path / "report" / "report.md").read_text()


def test_a_damaged_folder_is_left_out_of_the_report_of_the_others(birds, tmp_path):
    broken = shutil.copytree(birds, tmp_path / "broken")
    with open(broken / "events.jsonl", "a") as file:
        file.write('{"event": "rename_class", "elapsed_s": 9.0, "of": "unknown", "to": "other"}\n')
    write_report([broken, birds], tmp_path / "report")
    assert cells(tmp_path / "report", "What people labelled")["Folder"].endswith("birds")
    left_out = (tmp_path / "report" / "report.md").read_text().split("## Left out")[1]
    assert "there is no class 'unknown'" in left_out
    with pytest.raises(StoreError, match="no run to report on. .*broken"):
        write_report([broken], tmp_path / "none")
