"""The state file: what goes in comes out, and what was damaged does not."""

import json
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from alprune.data import atomic_io
from alprune.errors import StoreError
from alprune.loop.checkpoint import (
    LAYOUT,
    SLOTS,
    CheckpointWriter,
    decode,
    encode,
    load_checkpoint,
    save_checkpoint,
)
from alprune.loop.run_folder import RunFolder

STATE = {
    "step": 3,
    "elapsed_s": 0.1 + 0.2,
    "asked": torch.tensor([5, 2, 9]),
    "none": None,
    "flags": [True, False, {"deep": torch.zeros(2, 0), "text": "ä"}],
    "learner": {
        "model": {"0.weight": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    },
    "bits": torch.tensor([True, False]),
    "half": torch.tensor(1.5, dtype=torch.bfloat16),
    "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "wide": torch.tensor(1 / 3, dtype=torch.float64),
}


def assert_equal(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert type(ours) is type(theirs) and ours == theirs


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    yield folder
    folder.close()


def test_a_state_comes_back_as_it_was(folder):
    save_checkpoint(folder, 0, STATE)
    assert_equal(load_checkpoint(folder.path), STATE)


def test_tensors_that_share_memory_come_back_each_for_itself(folder):
    shared = torch.arange(4.0)
    save_checkpoint(folder, 0, {"a": shared, "b": shared, "c": shared[1:3]})
    state = load_checkpoint(folder.path)
    state["a"][1] = 99
    assert torch.equal(state["b"], shared) and torch.equal(state["c"], shared[1:3])


def test_names_that_fall_together_are_kept_apart(folder):
    tree = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), "c": [torch.tensor(3)]}
    save_checkpoint(folder, 0, tree)
    assert_equal(load_checkpoint(folder.path), tree)


def test_the_newest_of_two_is_loaded_and_a_third_replaces_the_first(folder):
    assert load_checkpoint(folder.path) is None
    for number in range(3):
        save_checkpoint(folder, number, {"step": number})
        assert load_checkpoint(folder.path) == {"step": number}
    assert sorted(p.name for p in folder.path.glob("checkpoint*")) == list(SLOTS)
    assert [decode(folder.path / slot)["number"] for slot in SLOTS] == [2, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"own": {3: 1}}, "own: its key 3"),
        ({"own": {"$tensor": "x"}}, "its key '\\$tensor'"),
        ({"own": [object()]}, "own/0 .*of type object"),
        ({"own": {1, 2}}, "of type set"),
        ({"own": torch.zeros(1, dtype=torch.complex64)}, "own: it is a tensor of torch.complex64"),
    ],
)
def test_what_cannot_be_kept_is_named(folder, value, message):
    save_checkpoint(folder, 0, {"step": 1})
    with pytest.raises(StoreError, match=message):
        save_checkpoint(folder, 2, value)
    assert load_checkpoint(folder.path) == {"step": 1}


def test_every_damaged_byte_is_noticed(folder):
    state = {"step": 1, "x": torch.arange(8), "y": "text"}
    save_checkpoint(folder, 0, state)
    path = folder.path / SLOTS[0]
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        try:
            found = decode(path)
        except StoreError:
            continue
        # Blanks and the names' escapes in the header may change without changing anything.
        assert_equal(found, {"number": 0, "state": state})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"alprune": "{}"},
        {"alprune": "[]", "crc32": ""},
        {"alprune": json.dumps({"number": 1, "state": {}}), "crc32": "0" * 8},
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, metadata):
    save_file({"x": torch.zeros(2)}, tmp_path / "file", metadata)
    with pytest.raises(StoreError, match="is damaged"):
        decode(tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"number": 1, "state": {"x": {"$tensor": "missing"}}}',
        '{"number": 1, "state": {"x": {"$tensor": ["x"]}}}',
        '{"number": "many", "state": {}}',
        '{"number": 1, "state": 7}',
        '{"number": 1}',
        "7",
    ],
)
def test_a_crafted_file_with_a_right_checksum_is_refused(tmp_path, text):
    from alprune.loop.checkpoint import _checksum

    tensors = {"x": torch.zeros(2)}
    metadata = {"alprune": text, "crc32": _checksum(text, tensors)}
    save_file(tensors, tmp_path / "file", metadata)
    with pytest.raises(StoreError, match="is damaged"):
        decode(tmp_path / "file")


def test_of_two_the_whole_one_is_loaded(folder):
    for number in (1, 2):
        save_checkpoint(folder, number, {"step": number})
    (folder.path / SLOTS[0]).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged: .* The one before it is used"):
        assert load_checkpoint(folder.path)["step"] == 1
    (folder.path / SLOTS[1]).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="There is no other"):
        load_checkpoint(folder.path)


def test_other_programs_can_read_the_tensors(tmp_path):
    (tmp_path / "file").write_bytes(encode({"number": 1, "state": STATE}))
    weights = load_file(tmp_path / "file")
    assert torch.equal(
        weights["state/learner/model/0.weight"], STATE["learner"]["model"]["0.weight"]
    )


def test_states_are_written_one_after_the_other(folder, monkeypatch):
    writer, written = CheckpointWriter(folder), []
    write = folder.write

    def slowly(name, *pieces):
        time.sleep(0.0 if written else 0.5)
        write(name, *pieces)
        written.append(name)

    monkeypatch.setattr(folder, "write", slowly)
    for number in range(3):
        writer.save(number, {"weights": torch.zeros(3)})
    writer.wait()
    assert written == [SLOTS[0], SLOTS[1], SLOTS[0]]


def test_a_state_that_is_written_meanwhile_is_that_of_the_call(folder, monkeypatch):
    writer, started, go = CheckpointWriter(folder), threading.Event(), threading.Event()
    write = folder.write

    def slowly(*args):
        started.set()
        assert go.wait(200)
        write(*args)

    monkeypatch.setattr(folder, "write", slowly)
    weights = torch.zeros(3)
    writer.save(0, {"weights": weights})
    assert started.wait(200)
    weights += 1
    assert load_checkpoint(folder.path) is None
    go.set()
    writer.save(1, {"weights": weights})  # after the one before
    writer.wait()
    found = [decode(folder.path / slot)["state"]["weights"].tolist() for slot in SLOTS]
    assert found == [[0.0] * 3, [1.0] * 3]


def test_a_state_that_cannot_be_written_is_an_error_where_one_waits(folder, monkeypatch):
    writer, write = CheckpointWriter(folder), folder.write
    writer.save(0, {"step": 1})
    writer.wait()

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(folder, "write", full)
    writer.save(1, {"step": 2})
    with pytest.raises(StoreError, match="the disk is full"):
        writer.wait()
    writer.wait()  # it was told
    monkeypatch.setattr(folder, "write", write)
    writer.save(1, {"step": 3})
    writer.wait()
    assert load_checkpoint(folder.path) == {"step": 3}


def test_a_folder_is_not_let_go_while_a_checkpoint_is_written(folder, monkeypatch):
    writer, begun, go_on = CheckpointWriter(folder), threading.Event(), threading.Event()
    replace = atomic_io.replace

    def slow(*args):
        begun.set()
        assert go_on.wait(200)
        replace(*args)

    folder.write("config.toml", "")  # what can be resumed
    monkeypatch.setattr(atomic_io, "replace", slow)
    writer.save(0, {"step": 1})
    assert begun.wait(200)
    closing = threading.Thread(target=folder.close)
    closing.start()
    with pytest.raises(StoreError, match="another process is writing"):
        RunFolder(folder.path, resume=True)
    go_on.set()
    closing.join(60)
    assert load_checkpoint(folder.path) == {"step": 1}
    RunFolder(folder.path, resume=True).close()


def test_a_closed_folder_is_not_written_to_by_a_thread_that_comes_late(folder):
    writer = CheckpointWriter(folder)
    folder.write("config.toml", "")
    folder.close()
    writer.save(0, {"step": 1})
    with pytest.raises(StoreError, match="the run is closed"):
        writer.wait()
    assert load_checkpoint(folder.path) is None
    RunFolder(folder.path, resume=True).close()


def test_a_layout_of_another_version_is_refused(folder):
    save_checkpoint(folder, 0, {"layout": LAYOUT + 1})
    with pytest.raises(StoreError, match=f"reads {LAYOUT}"):
        load_checkpoint(folder.path)
