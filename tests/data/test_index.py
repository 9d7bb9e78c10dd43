from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alprune.data.image_cache.index import IndexWriter, read_header, read_index
from alprune.data.image_cache.worker import Outcome, failed

HEADER = {"format": "a", "size": [2, 3]}
BATCHES = [["a/1.png", "b/ü 2.png"], ["c.png"], ["a/1.png", "d.png", "e.png"]]


def outcome(number: int) -> Outcome:
    if number % 4 == 3:
        return failed(f"broken {number}", lasting=True)
    return Outcome(
        number, number % 2 == 0, 0, 10 + number, 7, f"{number:032x}", "ab" * 16, "", True
    )


def write(path: Path) -> None:
    writer, number = IndexWriter(path, None, HEADER), 0
    for paths in BATCHES:
        writer.append(paths, [outcome(number + i) for i in range(len(paths))])
        number += len(paths)
    writer.close()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write(tmp_path / "index")
    return tmp_path / "index"


def test_an_index_says_what_was_written_and_the_last_record_of_a_path_counts(index: Path) -> None:
    known = read_index(index)
    assert known is not None
    assert known.header == HEADER == read_header(index)
    assert known.paths == [path for paths in BATCHES for path in paths]
    assert known.records["row"].tolist() == [0, 1, 2, -1, 4, 5]
    assert known.reasons == {3: "broken 3"}
    assert known.place == {"a/1.png": 3, "b/ü 2.png": 1, "c.png": 2, "d.png": 4, "e.png": 5}
    assert known.records["content"][4].tobytes().hex() == f"{4:032x}"
    assert known.last.end == index.stat().st_size


def test_an_index_can_be_continued_after_its_sound_part(index: Path) -> None:
    with open(index, "ab") as file:
        file.write(b"half a block")
    known = read_index(index)
    writer = IndexWriter(index, known, {})
    writer.append(["f.png"], [outcome(6)])
    writer.close()
    again = read_index(index)
    assert again is not None and known is not None
    assert again.paths == [*known.paths, "f.png"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_of_a_damaged_index_only_whole_blocks_before_the_damage_are_believed(
    index: Path, data: st.DataObject
) -> None:
    write(index)
    whole = index.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=80))
    keep_rest = data.draw(st.booleans())
    damaged = whole[:at] + junk + (whole[at + len(junk) :] if keep_rest else b"")
    index.write_bytes(damaged)
    known = read_index(index)
    if known is None:
        return
    complete = [path for paths in BATCHES for path in paths]
    assert known.header == HEADER
    assert known.paths == complete[: len(known.paths)]
    assert whole[: known.last.end] == damaged[: known.last.end]


def test_blocks_of_another_index_are_not_believed(index: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    writer = IndexWriter(other, None, HEADER | {"root": "elsewhere"})
    start = other.stat().st_size
    writer.append(["evil.png"], [outcome(0)])
    writer.close()
    known = read_index(index)
    assert known is not None
    with open(index, "ab") as file:
        file.write(other.read_bytes()[start:])
    spliced = read_index(index)
    assert spliced is not None and spliced.paths == known.paths


def test_what_is_no_file_or_missing_is_no_index(tmp_path: Path) -> None:
    assert read_index(tmp_path) is None
    assert read_index(tmp_path / "none") is None
    assert read_header(tmp_path / "none") is None
