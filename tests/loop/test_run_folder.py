import json

import pytest
from tiny_run import options

import alprune
from alprune.errors import StoreError
from alprune.loop.event_log import read_events
from alprune.loop.run_folder import RunFolder


def test_events_can_be_read_while_they_are_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.event("start", 0.0, seed=1)
    assert read_events(tmp_path / "run") == [{"event": "start", "elapsed_s": 0.0, "seed": 1}]
    folder.event("end", 1.23456, reason="budget")
    assert read_events(tmp_path / "run")[1]["elapsed_s"] == 1.235


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path):
    RunFolder(tmp_path).event("start", 0.0)
    before = (tmp_path / "events.jsonl").read_bytes()
    with pytest.raises(StoreError, match="already holds a run.*Nothing was changed"):
        RunFolder(tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == before


def test_a_taken_folder_is_refused_before_the_data_are_loaded(tmp_path, monkeypatch):
    RunFolder(tmp_path / "my run").event("start", 0.0)
    monkeypatch.setattr("alprune.loop.setup.load_splits", None)
    with pytest.raises(StoreError, match=f"alprune run --resume '{tmp_path}/my run'"):
        alprune.run(options(tmp_path / "my run"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot write a run to"):
        alprune.run(options(tmp_path / "file"))


def test_a_place_where_nothing_can_be_written_is_refused_before_the_data_are_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("alprune.loop.setup.load_splits", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=f"{tmp_path}/file is not a folder"):
        alprune.run(options(tmp_path / "file" / "runs" / "one"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as on a read-only disk
    with pytest.raises(StoreError, match=f"nothing can be written to {tmp_path}. Choose another"):
        alprune.run(options(tmp_path / "runs" / "one"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("fields", "advice"),
    [({}, "alprune run --resume"), ({"asking": True}, "repeat the command")],
)
def test_a_full_disk_is_reported_with_what_to_do_then(tmp_path, monkeypatch, fields, advice):
    folder = RunFolder(tmp_path)
    folder.event("start", 0.0, **fields)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alprune.data.atomic_io.os.replace", full)
    with pytest.raises(StoreError, match=f"No space left.*Once that is repaired, .*{advice}"):
        folder.write("checkpoint", b"")


def test_a_disk_that_is_full_from_the_start_leaves_nothing_to_resume(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    folder = RunFolder(tmp_path)
    monkeypatch.setattr("alprune.data.atomic_io.os.replace", full)
    with pytest.raises(StoreError, match="Once that is repaired, repeat the command.$"):
        folder.write("config.toml", b"")
    folder.close()
    monkeypatch.undo()
    RunFolder(tmp_path).close()  # which can be done


def test_a_folder_with_a_users_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(StoreError, match="not empty .it holds 'labels.csv'"):
        RunFolder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.csv"]


def test_a_write_that_fails_leaves_no_rubbish(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alprune.data.atomic_io.os.replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        folder.write("summary.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "events.jsonl"]


def test_a_path_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(StoreError, match="file"):
        RunFolder(path)
    assert path.read_text() == "mine"


def test_a_half_written_last_line_is_left_out(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "start", "elapsed_s": 0}\n{"event": "st')
    assert [e["event"] for e in read_events(tmp_path)] == ["start"]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "start"}\nrubbish\n{"event": "end"}\n')
    with pytest.raises(StoreError, match="line 2 is damaged"):
        read_events(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        *({"elapsed_s": odd} for odd in (True, "1", float("nan"), -1.0, 1e11)),
        *({name: 10**100} for name in ("labelled", "steps", "macs_before", "train_loss")),
        *({"test_accuracy": odd} for odd in (1.01, -0.01, float("inf"))),
        {"steps": False},
    ],
    ids=str,
)
def test_an_event_of_values_that_no_run_writes_is_damaged(tmp_path, value):
    line = json.dumps({"event": "step", "elapsed_s": 1.0} | value)
    (tmp_path / "events.jsonl").write_text('{"event": "start"}\n' + line + "\n")
    with pytest.raises(StoreError, match="line 2 is damaged"):
        read_events(tmp_path)


def test_a_record_of_other_bytes_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("alprune.loop.event_log.LINE_BYTES", 100)
    line = json.dumps({"event": "step", "acquired": list(range(50))})
    (tmp_path / "events.jsonl").write_text('{"event": "start"}\n' + line + "\n")
    with pytest.raises(StoreError, match="not a record of a run: it has a line of more than 100"):
        read_events(tmp_path)


def test_no_record_grows_longer_than_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("alprune.loop.run_folder.FILE_BYTES", 100)
    folder = RunFolder(tmp_path / "run")
    folder.event("start", 0.0)
    with pytest.raises(StoreError, match="longer than the 100 bytes .* new folder"):
        folder.event("step", 1.0, note="x" * 60)
    assert len(read_events(tmp_path / "run")) == 1


def test_an_empty_record_without_options_is_no_run(tmp_path):
    (tmp_path / "events.jsonl").touch()
    with pytest.raises(StoreError, match="holds no run to resume"):
        RunFolder(tmp_path, resume=True)
    RunFolder(tmp_path).event("start", 0.0)
    assert len(read_events(tmp_path)) == 1


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(StoreError, match="holds no readable run"):
        read_events(tmp_path)


def test_a_file_is_replaced_whole_and_leaves_no_rubbish(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write("summary.json", "{}")
    folder.write("summary.json", json.dumps({"a": 1}))
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "events.jsonl", "summary.json"]
