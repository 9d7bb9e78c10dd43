"""The store of vectors: kept by content, filled by several processes, sound after a kill."""

import gc
import warnings

import numpy as np
import pytest

from alprune.data.image_cache.vectors import VectorStore, VectorTable, remove_store
from alprune.errors import DataError


def keys(*numbers):
    rows = [int(n).to_bytes(8, "little") + bytes(7) + b"x" for n in numbers]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)


def values(*numbers):
    return np.array([[n, n + 0.5, -n] for n in numbers], np.float16)


def table(folder, *numbers):
    return VectorTable(keys(*numbers), VectorStore(folder, 3))


def test_what_one_process_wrote_the_next_one_knows(tmp_path):
    first = table(tmp_path, 5, 3, 9)
    assert len(first.missing()) == 3
    first.fill(np.array([0, 2]), values(5, 9))
    again = table(tmp_path, 9, 5, 3, 7)
    assert sorted(again.missing().tolist()) == [2, 3]
    assert (again.of(np.array([0, 1])) == values(9, 5)).all()


def test_equal_images_share_a_row(tmp_path):
    same = table(tmp_path, 4, 4, 8, 4)
    assert len(same) == 2
    [first, second] = sorted(same.missing())
    assert (first, second) == (0, 2)
    same.fill(np.array([0]), values(4))
    assert same.missing().tolist() == [2]
    assert (same.of(np.array([0, 1, 3])) == values(4, 4, 4)).all()


def test_two_tables_at_once_see_what_the_other_writes(tmp_path):
    one, other = table(tmp_path, 1, 2, 3), table(tmp_path, 1, 2, 3)
    one.fill(np.array([0]), values(1))
    other.fill(np.array([1]), values(2))
    one.refresh(), other.refresh()
    assert one.missing().tolist() == other.missing().tolist() == [2]
    one.fill(np.array([2]), values(3))
    other.refresh()
    assert not len(other.missing())


def test_a_store_that_is_left_closes_its_files_and_lets_its_folder_go(tmp_path):
    left = table(tmp_path, 1, 2)
    left.fill(np.array([0]), values(1))
    assert (left.of(np.array([0])) == values(1)).all()
    assert list(tmp_path.glob("*.lock"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        del left
        gc.collect()
    assert not [w for w in caught if str(tmp_path) in str(w.message)]
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_file_cut_by_a_power_failure_keeps_what_is_whole(tmp_path, cut):
    first = table(tmp_path, 1, 2, 3)
    first.fill(np.array([0]), values(1))
    first.fill(np.array([1, 2]), values(2, 3))
    first.close()
    [file] = tmp_path.glob("*.vectors")
    file.write_bytes(file.read_bytes()[:-cut])
    again = table(tmp_path, 1, 2, 3)
    assert again.missing().tolist() == [1, 2]
    assert (again.of(np.array([0])) == values(1)).all()


def test_damage_in_the_middle_is_noticed(tmp_path):
    first = table(tmp_path, 1, 2)
    first.fill(np.array([0]), values(1))
    first.fill(np.array([1]), values(2))
    [file] = tmp_path.glob("*.vectors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert table(tmp_path, 1, 2).missing().tolist() == [1]


def test_vectors_of_other_dimensions_are_not_taken(tmp_path):
    table(tmp_path, 1).fill(np.array([0]), values(1))
    assert len(VectorTable(keys(1), VectorStore(tmp_path, 4)).missing()) == 1


def test_a_folder_that_cannot_be_written_only_warns(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    made = table(blocked / "store", 1)
    with pytest.warns(UserWarning, match="--cache, or ALPRUNE_CACHE"):
        made.fill(np.array([0]), values(1))
    assert not len(made.missing())


def test_a_store_without_a_folder_keeps_nothing():
    made = VectorTable(keys(1, 2), VectorStore(None, 3))
    made.fill(np.array([0, 1]), values(1, 2))
    assert not len(made.missing())


def test_few_of_many_vectors_are_read_as_all_are(tmp_path):
    rows = np.arange(300)
    made = table(tmp_path, *rows)
    made.fill(rows[:200], values(*range(200)))
    made.fill(rows[200:], values(*range(200, 300)))
    for some in ([0, 299, 3, 3], [150], list(rows[::-1]), []):
        assert (made.of(np.array(some, int)) == values(*some).reshape(-1, 3)).all()
    made.close()
    assert (made.of(rows[5:6]) == values(5)).all()


def test_vectors_whose_file_was_removed_are_said_to_be(tmp_path):
    made = table(tmp_path, 1, 2)
    made.fill(np.array([0, 1]), values(1, 2))
    made.close()
    [file] = tmp_path.glob("*.vectors")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="removed or changed while they were in use"):
        made.of(np.array([0, 1]))
    made.close()
    file.unlink()
    with pytest.raises(DataError, match="embedded again"):
        made.of(np.array([0]))


def test_no_images_make_an_empty_table(tmp_path):
    empty = VectorTable(np.empty((0, 16), np.uint8), VectorStore(tmp_path, 3))
    table(tmp_path, 1).fill(np.array([0]), values(1))
    empty.refresh()
    assert not len(empty.missing())


def test_all_vectors_of_a_store_are_found_by_their_keys(tmp_path):
    table(tmp_path, 1, 2, 3).fill(np.array([0, 2]), values(1, 3))
    table(tmp_path, 3, 4).fill(np.array([0, 1]), values(3, 4))
    whole = VectorTable.whole(VectorStore(tmp_path, 3))
    assert len(whole) == 3 and not len(whole.missing())
    places = whole.find(keys(4, 2, 1, 3, 9))
    assert (places >= 0).tolist() == [True, False, True, True, False]
    assert (whole.of(places[[0, 2, 3]]) == values(4, 1, 3)).all()
    empty = VectorTable.whole(VectorStore(tmp_path / "none", 3))
    assert empty.find(keys(1, 2)).tolist() == [-1, -1]


def test_a_store_whose_file_system_has_no_locks_is_not_removed(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("there is no flock here")

    made = table(tmp_path, 1)
    made.fill(np.array([0]), values(1))
    made.close()
    [file] = tmp_path.glob("*.vectors")
    file.with_suffix(".lock").touch()  # as one leaves it that is killed
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(DataError, match="cannot be removed: there is no flock here"):
        remove_store(tmp_path)
