"""Which rows of labels.csv are taken, and which are an edit that a run does not resume with."""

from pathlib import Path

import pytest
import torch

from alprune.errors import StoreError
from alprune.loop.csv_tables import LABELS, read_labels
from alprune.loop.events import Record
from alprune.loop.observers import Observer
from alprune.loop.oracle import KnownAnswers
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import RunFolder
from alprune.training.budget import Budget

CLASSES = ("cat", "=dog", "'cow")


@pytest.fixture
def pool() -> LabelPool:
    pool = LabelPool(10, len(CLASSES))
    pool.label(torch.tensor([2, 5]), torch.tensor([0, 1]), 0)
    return pool


def read(folder: Path, pool: LabelPool, *rows: str) -> KnownAnswers:
    text = "".join(f"{row}\r\n" for row in ("index,label,class,step", *rows))
    (folder / LABELS).write_text(text, newline="")
    answers = KnownAnswers(pool)
    answers.read(folder, CLASSES)
    return answers


def test_labels_that_the_pool_lacks_are_spare_and_answer_when_all_are_known(
    tmp_path: Path, pool: LabelPool
) -> None:
    answers = read(tmp_path, pool, "2,0,cat,0", "5,1,'=dog,0", "0,2,''cow,1", "9,0,cat,1")
    assert answers.spare == {0: (2, 1), 9: (0, 1)}
    found = answers.to(torch.tensor([9, 0]))
    assert found is not None and found.tolist() == [0, 2]
    assert answers.to(torch.tensor([9, 1])) is None
    pool.label(torch.tensor([9]), torch.tensor([0]), 1)
    assert answers.spare == {0: (2, 1)}


def test_answers_that_are_not_in_use_yet_are_written_again(tmp_path: Path, pool: LabelPool) -> None:
    folder = RunFolder(tmp_path)
    Record(folder, Observer(), Budget(None)).labels(pool, CLASSES, {0: (2, 1)})
    assert read_labels(tmp_path) == {2: (0, 0), 5: (1, 0), 0: (2, 1)}


def test_a_name_is_taken_as_it_is_and_as_a_spreadsheet_shows_it(
    tmp_path: Path, pool: LabelPool
) -> None:
    assert read(tmp_path, pool, "0,1,=dog,1", "1,1,'=dog,1").spare == {0: (1, 1), 1: (1, 1)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2,1,'=dog,0", "line 2 gives point 2 the label 1; the run was trained with 0"),
        ("5,0,cat,0", "gives point 5 the label 0; the run was trained with 1"),
        ("5,1,'=dog,1", "gives point 5 the step 1; it was labelled in step 0"),
        ("10,0,cat,0", "names point 10; the data set has 10 points"),
        ("-1,0,cat,0", "names point -1"),
        ("0,3,cat,0", r"has the label 3; the classes are 0\.\.2"),
        ("0,-1,cat,0", "has the label -1"),
        ("0,1,cat,0", "calls class 1 'cat', not '=dog'"),
        ("0,0,cat", "is not index,label,class,step: '0,0,cat'"),
        ("zero,0,cat,0", "is not index,label,class,step"),
    ],
)
def test_an_edited_row_is_named(tmp_path: Path, pool: LabelPool, row: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read(tmp_path, pool, row)


def test_a_file_that_was_saved_in_another_encoding_is_an_edit(
    tmp_path: Path, pool: LabelPool
) -> None:
    (tmp_path / LABELS).write_bytes("index,label,class,step\r\n0,0,cat,1\r\n".encode("utf-16"))
    with pytest.raises(StoreError, match="line 1 is not index,label,class,step"):
        KnownAnswers(pool).read(tmp_path, CLASSES)


def test_an_edit_of_a_last_row_without_its_end_is_an_edit(tmp_path: Path, pool: LabelPool) -> None:
    (tmp_path / LABELS).write_text("2,0,cat,0\n5,0,cat,0")
    with pytest.raises(StoreError, match="line 2 gives point 5 the label 0; .* trained with 1"):
        KnownAnswers(pool).read(tmp_path, CLASSES)


def test_two_labels_of_one_point_are_an_edit(tmp_path: Path, pool: LabelPool) -> None:
    assert read(tmp_path, pool, "0,0,cat,1", "0,0,cat,1").spare == {0: (0, 1)}
    with pytest.raises(StoreError, match="line 3 gives point 0 another label or step"):
        read(tmp_path, pool, "0,0,cat,1", "0,1,=dog,1")


def test_many_edits_are_counted(tmp_path: Path, pool: LabelPool) -> None:
    with pytest.raises(StoreError, match="line 4 names point 12; .* points; and 2 more. A run"):
        read(tmp_path, pool, *(f"{10 + n},0,cat,0" for n in range(5)))
