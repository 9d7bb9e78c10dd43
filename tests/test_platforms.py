"""What only POSIX systems have is not needed: Windows in principle, as far as that can be faked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alprune.data import atomic_io
from alprune.errors import StoreError, shell_word
from alprune.loop.checkpoint import SLOTS, decode, save_checkpoint
from alprune.loop.run_folder import RunFolder

HELPERS = Path(__file__).parent / "helpers"

# torch and the other packages are imported first: they know their own ways around.
WITHOUT = """
import builtins, errno, io, mmap, os, pkgutil, shutil, signal, sys
import torch, torchvision, sklearn, scipy.stats, matplotlib, filelock, flask, waitress, tqdm, timm
from PIL import Image
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
for name in ("fork", "getloadavg", "sysconf", "geteuid", "mkfifo", "posix_fadvise", "pread",
             "pwrite", "sched_getaffinity", "O_DIRECTORY", "getuid",
             "getpgid", "killpg", "setsid", "posix_fallocate", "uname", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGPIPE", "SIGALRM", "SIGSTOP", "SIGUSR1"):
    if hasattr(signal, name):
        delattr(signal, name)
if hasattr(mmap, "MADV_DONTNEED"):
    del mmap.MADV_DONTNEED
read, links, look = open, os.readlink, os.listdir
def without_proc(file, *args, **options):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(file)
    return read(file, *args, **options)
builtins.open = io.open = without_proc  # pathlib takes the latter

# Windows opens no folder, and removes or replaces no file that is open or mapped.
def in_use(path):
    path = os.path.realpath(path)
    with read("/proc/self/maps") as maps:
        if any(line.rstrip().endswith(path) for line in maps):
            return True
    for handle in look("/proc/self/fd"):
        try:
            if links(f"/proc/self/fd/{handle}") == path:
                return True
        except OSError:
            pass
    return False
def refusing(function, which):
    def call(*paths, **options):
        if in_use(paths[which]) and "lock" not in os.path.basename(paths[which]):  # filelock's own
            raise PermissionError(errno.EACCES, "it is in use", str(paths[which]))
        return function(*paths, **options)
    return call
for name, which in (("replace", 1), ("rename", 1), ("unlink", 0), ("remove", 0)):
    setattr(os, name, refusing(getattr(os, name), which))
shutil._use_fd_functions = False  # as Windows has it
opened = os.open
def open_file(path, *args, **options):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "it is a folder", str(path))
    return opened(path, *args, **options)
os.open = open_file
import alprune
for module in pkgutil.walk_packages(alprune.__path__, "alprune."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
config = alprune.RunConfig(
    dataset="digits", model="lenet-300-100", method="3sp", steps=1, initial_epochs=1.0,
    device="cpu", out="run",
)
alprune.run(config)
assert alprune.resume("run", steps=2).steps == 2
from alprune.loop.run_folder import is_written
from pathlib import Path
assert is_written(Path("run")) is not True
predicted = alprune.predict("run", torch.zeros(3, 28, 28, 1, dtype=torch.uint8))
assert len(predicted) == 3
alprune.export("run", "safetensors")

import photos
from alprune.labelling import open_asking
options = photos.options(photos.make("photos", each=5))
for _ in range(3):  # a folder that is opened again has a cache, and a checkpoint, of before
    with open_asking("asked", classes=photos.NAMES, **options) as asking:
        asked = asking.ask()
        asking.tell({query.path: photos.truth(query.path) for query in asked})
    photos.fill(Path("photos/unlabelled"), "dark", [90 + len(asked)])
assert len(alprune.predict("asked", "photos", trust_code=True)) > 15
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there it need not be faked")
@pytest.mark.slow
def test_a_run_is_made_resumed_and_used_without_what_only_posix_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT]
    paths = os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])])
    env = os.environ | {"PYTHONPATH": paths, "ALPRUNE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("word", "windows", "posix"),
    [
        (r"outputs\a-b_0", r"outputs\a-b_0", r"'outputs\a-b_0'"),
        (r"C:\O'Neil & co\run", '"C:\\O\'Neil & co\\run"', None),
        ("csv:a.csv?root=b", '"csv:a.csv?root=b"', "'csv:a.csv?root=b'"),
        ("größe", "größe", None),
        ("", '""', "''"),
    ],
)
def test_a_command_to_paste_is_quoted_as_the_systems_shells_take_it(
    word: str, windows: str, posix: str | None
) -> None:
    assert shell_word(word, windows=True) == windows
    assert posix is None or shell_word(word, windows=False) == posix


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let another process read whatever is replaced, as long as the list has numbers."""
    looks: list[int] = []
    replace = os.replace

    def refused(source: object, target: object) -> None:
        if looks:
            looks.pop()
            raise PermissionError(13, "it is in use", str(target))
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(atomic_io.time, "sleep", lambda seconds: None)
    return looks


def test_a_file_that_is_read_for_a_moment_is_replaced_after_it(
    tmp_path: Path, reader: list[int]
) -> None:
    reader += [1, 2, 3]
    atomic_io.replace(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new" and not reader


@pytest.mark.parametrize("act", ["append", "replace", "unlink"])
def test_a_file_that_a_scanner_has_open_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    path, tries = tmp_path / "file", [1, 2]
    path.write_bytes(b"old ")
    opened, unlink = open, Path.unlink

    def held(file: Path, *args: object, **options: object) -> object:
        if tries:
            tries.pop()
            raise PermissionError(13, "it is in use", str(file))
        return (unlink if act == "unlink" else opened)(file, *args, **options)  # type: ignore

    monkeypatch.setattr(atomic_io.time, "sleep", lambda seconds: None)
    if act == "unlink":
        monkeypatch.setattr(Path, "unlink", held)
    else:
        monkeypatch.setattr(atomic_io, "open", held, raising=False)
    if act == "append":
        assert atomic_io.append(path, b"new", 4) == 7
    else:
        atomic_io.replace(path, b"old new")
    assert path.read_bytes() == b"old new" and not tries


def test_a_file_that_stays_in_use_is_a_message_and_is_kept(
    tmp_path: Path, reader: list[int]
) -> None:
    folder = RunFolder(tmp_path)
    folder.write("plan.json", "old")
    reader += range(99)
    with pytest.raises(
        StoreError, match=r"cannot write .*plan\.json: .*it is in use.*close it there"
    ):
        folder.write("plan.json", "new")
    reader.clear()
    assert (tmp_path / "plan.json").read_text() == "old"
    assert not list(tmp_path.glob("*.tmp"))
    folder.close()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_a_checkpoint_that_was_read_is_not_held(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_checkpoint(folder, 0, {"weights": torch.arange(100_000.0)})
    read = decode(tmp_path / SLOTS[0])["state"]["weights"]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    (tmp_path / SLOTS[0]).write_bytes(b"\0" * 400_000)
    assert read[-1] == 99_999
    folder.close()
