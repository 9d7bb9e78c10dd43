"""What only POSIX systems have is not needed: Windows in principle, as far as that can be faked."""

import subprocess
import sys
from pathlib import Path

import pytest

# torch and the other packages are imported first: they know their own ways around.
WITHOUT = """
import os, pkgutil, signal, sys
import torch, torchvision, sklearn, scipy.stats, matplotlib, filelock, flask, waitress, tqdm, timm
from PIL import Image
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
for name in ("fork", "getloadavg", "sysconf", "geteuid", "mkfifo", "posix_fadvise", "pread",
             "pwrite", "sched_getaffinity", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGPIPE", "SIGALRM", "SIGSTOP", "SIGUSR1"):
    if hasattr(signal, name):
        delattr(signal, name)
read = open
def without_proc(file, *args, **options):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(file)
    return read(file, *args, **options)
import builtins
builtins.open = without_proc
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
from alprune.runs.watch import is_written
from pathlib import Path
assert is_written(Path("run")) is not True
predicted = alprune.predict("run", torch.zeros(3, 28, 28, 1, dtype=torch.uint8))
assert len(predicted) == 3
alprune.export("run", "safetensors")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there it need not be faked")
@pytest.mark.slow
def test_a_run_is_made_resumed_and_used_without_what_only_posix_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
