"""A run folder that somebody else made or changed: refused with a message, nothing of it is run."""

import csv
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import events_of, options

import alprune
from alprune.errors import AlpruneError, StoreError
from alprune.loop.checkpoint import SLOTS, decode, encode, load_checkpoint
from alprune.loop.csv_tables import from_cell, read_labels, to_cell
from alprune.loop.event_log import read_events
from alprune.loop.run_folder import RunFolder
from alprune.runs.rerun import compare

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened would be waited for, for ever


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    alprune.run(options(path, steps=1, initial_epochs=1.0))
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(whole), str(tmp_path / "run")))
    return tmp_path / "run"


# --- events.jsonl ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"event": "' + b"x" * 2**24 + b'"}\n', "line of more than"),
        (b"\0" * 2**25, "line of more than"),
        (b"\xff\xfe\n", "line 1 is damaged"),
        (b'{"event": ' + b"[" * 100_000 + b"\n", "line 1 is damaged"),
        (b'{"event": ' + b'{"a":' * 100_000 + b"\n", "line 1 is damaged"),
        (b"[]\n", "line 1 is damaged: it is no JSON object with an 'event'"),
        (b'{"elapsed_s": 1}\n', "no JSON object with an 'event'"),
        (b'{"event": 3}\n', "no JSON object with an 'event'"),
        (b'{"event": "step", "elapsed_s": NaN}\n', "'elapsed_s' is nan, not a number"),
        (b'{"event": "step", "elapsed_s": 1e999}\n', "'elapsed_s' is inf, not a number"),
        (b'{"event": "step", "elapsed_s": "1"}\n', "'elapsed_s' is '1', not a number"),
        (b'{"event": "step", "labelled": true}\n', "'labelled' is True, not a whole number"),
        (b'{"event": "end", "labelled": ' + b"9" * 5000 + b"}\n", "line 1 is damaged.*digits"),
    ],
)
def test_a_line_that_no_run_writes_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read_events(tmp_path)


def test_a_record_larger_than_any_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    line = b'{"event": "step", "acquired": [' + b"1," * 2**22 + b"1]}\n"
    with open(tmp_path / "events.jsonl", "wb") as file:
        for _ in range(3):
            file.write(line)
        file.truncate(2**40)
    with pytest.raises(StoreError, match="not a record of a run"):
        read_events(tmp_path)


READERS: dict[str, Callable[[Path], object]] = {
    "history": alprune.load_run,
    "comparison": lambda path: compare(path, path),
    "resume": alprune.resume,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore:the run in")
def test_an_event_without_a_field_is_read_or_refused(run: Path, reader: str) -> None:
    events = [dict(event) for event in events_of(run)]
    kept = (run / "events.jsonl").read_bytes()
    refused = 0
    for number, event in enumerate(events):
        for name in event:
            fewer = {k: v for k, v in event.items() if k != name}
            lines = [json.dumps(e) for e in [*events[:number], fewer, *events[number + 1 :]]]
            (run / "events.jsonl").write_text("\n".join([*lines, ""]))
            try:
                READERS[reader](run)
            except AlpruneError:
                refused += 1
    (run / "events.jsonl").write_bytes(kept)
    READERS[reader](run)
    assert refused > 3


@pytest.mark.parametrize("content", [b"", b'{"event": "start", "config": {"method": "3sp"}}\n'])
def test_a_record_without_what_a_reader_needs_is_refused(run: Path, content: bytes) -> None:
    (run / "events.jsonl").write_bytes(content)
    with pytest.raises(StoreError, match="an event lacks"):
        compare(run, run)


# --- what lies in place of a file ---


@pytest.mark.parametrize("name", ["events.jsonl", "labels.csv", ".lock"])
def test_links_in_a_run_folder_are_not_written_through(
    run: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "precious").write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match=f"{name} is a link"):
        alprune.resume(run, steps=2)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["events.jsonl", "labels.csv", ".lock"])
def test_links_in_a_folder_for_a_new_run_are_not_written_through(tmp_path: Path, name: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match=f"{name} is a link"):
        RunFolder(tmp_path / "new")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["events.jsonl", "config.toml", *SLOTS])
@pytest.mark.filterwarnings("ignore:the run in", "ignore:checkpoint")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    if name in SLOTS:  # the other one is good
        assert load_checkpoint(run) is not None
    else:
        with pytest.raises(AlpruneError, match="a pipe or a device|cannot write"):
            alprune.resume(run, steps=2)


def test_a_pipe_in_place_of_the_labels_holds_none(run: Path) -> None:
    (run / "labels.csv").unlink()
    os.mkfifo(run / "labels.csv")
    assert read_labels(run) == {}


# --- checkpoints ---


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def header(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


ENTRY = '{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [%s]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        header(b"{}", 2**63),
        header(b"{}", 2**40),
        header(b"[" * 100_000),
        header((ENTRY % ("1000000, 1000000", "0, 4000000000000")).encode()),
        header((ENTRY % ("2", "0, 8")).encode()),
        header((ENTRY % ("2", "8, 0")).encode()) + bytes(8),
        header((ENTRY % ("-1", "0, 8")).encode()) + bytes(8),
        header(
            b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
            b' "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}'
        )
        + bytes(12),
        header(b'{"__metadata__": {"alprune": "{}"}}'),
    ],
)
def test_a_crafted_safetensors_file_is_a_damaged_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SLOTS[0]).write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        decode(tmp_path / SLOTS[0])


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_in_place_of_a_checkpoint_is_not_loaded(
    run: Path, tmp_path: Path, dump: Callable[..., None]
) -> None:
    for slot in SLOTS:
        with open(run / slot, "wb") as file:
            dump(Trap(tmp_path / "sprung"), file)
    with pytest.raises(StoreError, match="is damaged"):
        alprune.resume(run, steps=2)
    assert not (tmp_path / "sprung").exists()


def test_a_state_with_more_text_than_any_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alprune.loop.checkpoint._TEXT_MOST", 1000)
    (tmp_path / SLOTS[0]).write_bytes(encode({"number": 0, "state": {"a": "x" * 1000}}))
    with pytest.raises(StoreError, match="characters of text; allowed: 1,000"):
        decode(tmp_path / SLOTS[0])


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("step", "3"),
        ("step", -1),
        ("step", True),
        ("elapsed_s", float("nan")),
        ("elapsed_s", float("inf")),
        ("scoring_speed", "fast"),
        ("constant_steps", None),
        ("events_bytes", "all"),
        ("events_bytes", 10**15),
        ("events_bytes", -5),
        ("events_bytes", True),
        ("events_digest", ""),
        ("events_digest", None),
        ("asked", [1, 2]),
        ("asked", torch.tensor([10**9])),
        ("asked", torch.tensor([0.5])),
        ("labels", torch.tensor([99])),
        ("labelled", torch.arange(5000)),
        ("draws", torch.zeros(3, dtype=torch.uint8)),
        ("training", None),
        ("plan", "{}"),
        ("learner", {}),
        ("learner/lr", "x"),
        ("learner/batches", float("nan")),
        ("learner/model", {"a": torch.ones(1)}),
        ("learner/averaged", []),
        ("learner/optimiser", {"nobody": {}}),
    ],
)
def test_a_state_that_no_run_writes_is_refused_though_its_checksum_fits(
    run: Path, where: str, value: Any
) -> None:
    newest = max((run / s for s in SLOTS if (run / s).exists()), key=lambda p: decode(p)["number"])
    tree = decode(newest)
    *parents, name = where.split("/")
    place = tree["state"]
    for parent in parents:
        place = place[parent]
    assert name in place
    place[name] = value
    newest.write_bytes(encode(tree))
    before = (run / "labels.csv").read_bytes()
    with pytest.raises(AlpruneError):
        alprune.resume(run, steps=2)
    assert (run / "labels.csv").read_bytes() == before


# --- labels.csv ---

NAMES = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'", "'=1", "＝1", "cat", "a,\"b'"]


def test_no_class_name_is_a_formula_in_a_spreadsheet_and_all_can_be_read_back(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_labels([(i, i, name, 0) for i, name in enumerate(NAMES[:6])])
    folder.append_labels([(i + 6, i + 6, name, 1) for i, name in enumerate(NAMES[6:])])
    with open(tmp_path / "run" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert not any(row[2].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for row in rows)
    assert [from_cell(row[2]) for row in rows] == NAMES
    assert rows[NAMES.index("cat")] == ["10", "10", "cat", "1"]
    assert read_labels(tmp_path / "run") == {i: (i, int(i > 5)) for i in range(len(NAMES))}


@settings(max_examples=50, derandomize=True, database=None)
@given(st.text(st.sampled_from("=+-@\t\r\n'＝ab")))
def test_a_cell_gives_back_its_text(text: str) -> None:
    assert from_cell(to_cell(text)) == text
