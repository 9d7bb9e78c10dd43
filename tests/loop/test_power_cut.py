"""What a power cut, a full disk, a removed folder or an odd file system leaves behind."""

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alprune.data import atomic_io
from alprune.errors import StoreError
from alprune.loop.csv_tables import read_labels
from alprune.loop.event_log import read_events
from alprune.loop.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows cannot sync a folder")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.rewind(0)
    yield folder
    folder.close()


@posix
def test_every_folder_that_was_made_and_every_name_in_it_is_written_through(tmp_path, monkeypatch):
    synced, sync = [], atomic_io.sync_folder
    monkeypatch.setattr(atomic_io, "sync_folder", lambda path: (synced.append(path), sync(path)))
    folder = RunFolder(tmp_path / "a" / "b" / "run")
    assert sorted(synced) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    synced.clear()
    folder.write("config.toml", "seed = 1")
    assert synced == [folder.path]


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_write_a_folder_through_is_taken_as_it_is(
    folder, monkeypatch, number
):
    failing_sync_of_folders(monkeypatch, number)
    folder.write("summary.json", "{}")
    assert (folder.path / "summary.json").read_text() == "{}"


@posix
def test_a_disk_that_fails_to_write_a_folder_through_is_a_message(folder, monkeypatch):
    failing_sync_of_folders(monkeypatch, errno.EIO)
    with pytest.raises(StoreError, match="cannot write .*summary.json.*Input/output error"):
        folder.write("summary.json", "{}")


def failing_sync_of_folders(monkeypatch, number):
    sync = os.fsync

    def fail(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail)


@posix
def test_content_is_on_the_disk_before_it_takes_a_name_or_counts(folder, monkeypatch):
    """Without this a power cut leaves an empty file of the new name, or a line of zeros."""
    seen, sync, rename = [], os.fsync, os.replace

    def synced(handle):
        if not os.path.isdir(f"/proc/self/fd/{handle}"):
            seen.append(os.fstat(handle).st_size)
        sync(handle)

    def renamed(source, target):
        seen.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    folder.write("summary.json", "{}", b"  ")
    assert seen == [4, "renamed"]
    folder.event("start", 0.0)
    assert seen[2:] == [(folder.path / "events.jsonl").stat().st_size]


@pytest.mark.parametrize("torn", [b"", b'{"event": "step", "elapsed_s": 1.0, "acquired": [1, 2'])
def test_a_line_is_added_after_the_sound_part_and_nowhere_else(folder, torn):
    folder.event("start", 0.0)
    record = folder.path / "events.jsonl"
    record.write_bytes(record.read_bytes() + torn)
    folder.event("end", 1.0)
    assert [event["event"] for event in read_events(folder.path)] == ["start", "end"]
    record.write_bytes(record.read_bytes()[:-9])
    cut = record.read_bytes()
    with pytest.raises(StoreError, match="another program has cut it"):
        folder.event("end", 2.0)
    assert record.read_bytes() == cut


def test_labels_that_are_added_replace_none_that_were_written(folder):
    folder.write_labels([(3, 1, "cat", 0), (5, 1, "cat", 0)])
    folder.append_labels([(4, 0, "dog", 1)])
    folder.write_labels([(3, 1, "cat", 0)])
    folder.append_labels([(6, 0, "dog", 1)])
    folder.append_labels([(7, 0, "dog", 2)])
    assert read_labels(folder.path) == {3: (1, 0), 6: (0, 1), 7: (0, 2)}


class HalfFull:
    """A file on a disk that takes some more bytes of it and no more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        taken = min(len(data), self.room)
        if not taken and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= taken
        return self.file.write(bytes(data)[:taken])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 9])
def test_half_a_line_or_half_a_file_on_a_full_disk_is_taken_back(folder, monkeypatch, room):
    folder.event("start", 0.0)
    folder.write("plan.json", "the plan")
    folder.write_labels([(3, 1, "cat", 0)])
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def full(*args, **kwargs):
        return HalfFull(builtins.open(*args, **{**kwargs, "buffering": 0}), room)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io, "open", full, raising=False)
        for write in (
            lambda: folder.event("step", 1.0, acquired=list(range(9))),
            lambda: folder.write("plan.json", *["another plan"] * 9),
            lambda: folder.append_labels([(i, 1, "cat", 1) for i in range(9)]),
        ):
            with pytest.raises(StoreError, match="No space left on device"):
                write()
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    folder.event("end", 2.0)
    folder.append_labels([(4, 0, "dog", 1)])
    assert [event["event"] for event in read_events(folder.path)] == ["start", "end"]
    assert read_labels(folder.path) == {3: (1, 0), 4: (0, 1)}


def test_a_folder_that_another_run_has_made_anew_is_left_to_it(folder):
    folder.event("start", 0.0, seed=1)
    shutil.rmtree(folder.path)
    other = RunFolder(folder.path)
    other.rewind(0)
    other.event("start", 0.0, seed=2)
    other.event("step", 5.0)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    for write in (
        lambda: folder.event("end", 1.0),
        lambda: folder.rewind(0),
        lambda: folder.write("summary.json", "{}"),
        lambda: folder.append_labels([(1, 1, "cat", 1)]),
    ):
        with pytest.raises(StoreError, match="was removed or replaced during the run"):
            write()
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    other.close()


def test_a_lock_that_was_removed_stops_the_run_before_another_can_come_in(folder):
    (folder.path / ".lock").unlink()
    with pytest.raises(StoreError, match="cannot write .*events.jsonl: .* removed or replaced"):
        folder.event("step", 1.0)


def test_a_last_line_whose_blocks_never_reached_the_disk_is_left_out(tmp_path):
    start = json.dumps({"event": "start", "elapsed_s": 0}).encode() + b"\n"
    for torn in (b"\0" * 40, b"\0" * 40 + b"\n", b'{"event": "st' + b"\0" * 9 + b" 1.5}\n"):
        (tmp_path / "events.jsonl").write_bytes(start + torn)
        assert [event["event"] for event in read_events(tmp_path)] == ["start"]
        (tmp_path / "events.jsonl").write_bytes(start + torn.rstrip(b"\n") + b"\n" + start)
        with pytest.raises(StoreError, match="line 2 is damaged"):
            read_events(tmp_path)
        (tmp_path / "labels.csv").write_bytes(b"index,label,class,step\r\n3,1,cat,0\r\n" + torn)
        assert read_labels(tmp_path) == {3: (1, 0)}


def test_a_line_longer_than_any_that_is_read_is_not_written(folder, monkeypatch):
    monkeypatch.setattr("alprune.loop.run_folder.LINE_BYTES", 100)
    with pytest.raises(StoreError, match="event 'start'.*at most 100"):
        folder.event("start", 0.0, initial=list(range(100)))
    assert (folder.path / "events.jsonl").read_bytes() == b""


def test_a_record_is_cut_only_where_its_checkpoint_was_written(folder):
    folder.event("start", 0.0)
    folder.event("step", 1.0)
    length, digest = folder.events_bytes, folder.events_digest
    folder.event("step", 2.0)
    whole = (folder.path / "events.jsonl").read_bytes()
    (folder.path / "events.jsonl").write_bytes(whole.replace(b"1.0", b"1.5"))
    with pytest.raises(StoreError, match="not the record that the checkpoint was written with"):
        folder.rewind(length, digest)
    (folder.path / "events.jsonl").write_bytes(whole)
    folder.rewind(length, digest)
    assert (folder.path / "events.jsonl").read_bytes() == whole[:length]
    assert folder.events_digest == digest


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_message(tmp_path, monkeypatch, number):
    import fcntl

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=f"no locks there .*{os.strerror(number)}.*local disk"):
        RunFolder(tmp_path / "run")


def test_a_system_without_locks_is_a_message(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("FileLock is not available here")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(StoreError, match="not available here.*local disk"):
        RunFolder(tmp_path / "run")


SMALL_DISK = """
import os, sys
from pathlib import Path
import torch
import alprune
from alprune.loop.events import Observer
from tiny_run import options

class Filler(Observer):
    def event(self, name, fields):
        if name == "step" and fields["step"] == 1:
            with open(disk / "ballast", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass

torch.set_num_threads(1)
disk = Path(sys.argv[1])
alprune.run(options(sys.argv[2]))
try:
    alprune.run(options(disk / "run"), observer=Filler())
except alprune.AlpruneError as error:
    print(error)
before = [event["event"] for event in alprune.read_events(disk / "run")]
print(before[:4], not list((disk / "run").glob(".*.tmp")))
(disk / "ballast").unlink()
print(alprune.resume(disk / "run").reason)
for name in ("model.safetensors", "labels.csv", "plan.json"):
    print((disk / "run" / name).read_bytes() == (Path(sys.argv[2]) / name).read_bytes())
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts a small disk of its own")
def test_a_disk_that_fills_up_for_real_stops_the_run_and_it_goes_on_later(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "program.py").write_text(SMALL_DISK)
    mount = 'mount -t tmpfs -o size=4m small "$1/disk" || exit 77; exec "$2" "$1/program.py" '
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount + '"$1/disk" "$1/whole"', "-", tmp_path]
        + [sys.executable],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
        },
        capture_output=True,
        text=True,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("may not mount")
    lines = done.stdout.splitlines()
    assert "No space left on device" in lines[0], done.stdout + done.stderr
    assert lines[1:] == ["['start', 'prune', 'step', 'step'] True", "steps", *["True"] * 3]
