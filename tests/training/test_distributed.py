"""Several processes that make one run: gloo between processors of this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import write_shards
from safetensors.torch import save_file
from tiny_run import events_of
from torch import nn

import alprune
from alprune import data
from alprune.errors import ConfigError
from alprune.loop.checkpoint import load_checkpoint
from alprune.models import build
from alprune.training.distributed import ALONE, SyncedBatchNorm, join

HERE = Path(__file__).parent
OPTIONS = (
    "--dataset digits --model tiny_learner:build --method 3sp --min-channels 2 --device cpu "
    "--precision fp32 --initial-epochs 4 --epochs 1 --eval-every 1 --sync-batchnorm"
).split()
posix = pytest.mark.skipif(os.name == "nt", reason="gloo and signals as on POSIX systems")


def begin(processes, *args, script=("-m", "alprune")):
    paths = [str(HERE.parent / "helpers"), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    env |= {"OMP_NUM_THREADS": "1"}
    env.pop("WORLD_SIZE", None)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), *script, *map(str, args)]
    return subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(processes, *args):
    process = begin(processes, *args)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def steps_of(path):
    return [(e["labelled"], e["acquired"]) for e in events_of(path, "step")]


def test_a_process_alone_is_a_team_that_changes_nothing():
    rows = torch.rand(3, 2)
    assert ALONE.same("a") == "a" and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.total(rows) is rows and ALONE.gather(rows, 3) is rows
    assert ALONE.share(5) == slice(0, 5)
    model = nn.Linear(2, 2)
    assert ALONE.wrap(model, rows) is model
    assert join() is ALONE


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK.*is not set. Start with torchrun"):
        join()


@posix
@pytest.mark.slow
def test_two_processes_acquire_what_one_does(tmp_path):
    """In fp32, sums in another order: accuracies within 1%, the losses within 1e-3."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    run(1, "run", *OPTIONS, "--steps", 2, "--out", alone)
    out = run(2, "run", *OPTIONS, "--steps", 2, "--out", both, "--json")
    [line] = [line for line in out.splitlines() if line.startswith("{")]  # one of them reports
    assert json.loads(line)["steps"] == 2
    assert steps_of(alone) == steps_of(both)
    for one, other in zip(events_of(alone, "step"), events_of(both, "step"), strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-3)
        assert other["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.01)
    # What is left goes on with another number of processes, as if nothing had been.
    for path in (alone, both):
        alprune.resume(path, steps=4)
    assert steps_of(alone) == steps_of(both)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("function", ["k-center", "bald", "badge", "qbc"])
def test_functions_of_embeddings_and_draws_work_on_shares(tmp_path, function):
    """Rounding may swap two points that are about equally good."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    for processes, path in ((1, alone), (2, both)):
        args = ["--steps", 2, "--acquisition", function, "--score-subset", 501, "--out", path]
        run(processes, "run", *OPTIONS, *args)
    for (_, one), (_, other) in zip(steps_of(alone), steps_of(both), strict=True):
        assert len(set(one) & set(other)) >= 0.8 * len(one)
    assert set(steps_of(alone)[0][1]) == set(steps_of(both)[0][1])


@posix
@pytest.mark.slow
@pytest.mark.parametrize("function", ["margin", "badge"])
def test_a_frozen_learner_of_two_processes_chooses_as_that_of_one(tmp_path, monkeypatch, function):
    weights = tmp_path / "w.safetensors"
    save_file(build("tiny_learner:build", 10, (1, 8, 8), 9).state_dict(), weights)
    options = [*OPTIONS[:4], "--device", "cpu", "--learner", "frozen", "--pretrained", weights]
    for processes in (1, 2):
        monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / f"cache{processes}"))
        path = tmp_path / str(processes)
        args = ["--steps", 2, "--acquisition", function, "--initial", 40, "--out", path]
        run(processes, "run", *options, *args)
    alone, both = (steps_of(tmp_path / name) for name in "12")
    assert both == alone
    # Together they have embedded each image once, or a block twice at the beginning.
    known = [
        sum(f.stat().st_size for f in (tmp_path / f"cache{n}").rglob("*.vectors")) for n in (1, 2)
    ]
    assert known[0] <= known[1] < 2 * known[0]
    alprune.resume(tmp_path / "2", steps=3)  # by one


@posix
@pytest.mark.slow
def test_each_process_decodes_its_own_shards(tmp_path, monkeypatch):
    """With a cache each, as on machines of their own, two hold little more than one alone."""
    digits = data.load("digits")
    for name, part in (("train", digits.train), ("test", digits.test)):
        images = (part.x[..., 0] * (1 if part.x.dtype == torch.uint8 else 15)).byte().numpy()
        write_shards(tmp_path / "set", name, images[:1000], part.y[:1000].tolist(), 50)
    (tmp_path / "sharded_digits.py").write_text(SHARDED.format(here=tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = [*OPTIONS[2:], "--dataset", "sharded_digits:load", "--steps", 2, "--initial", 100]
    run(1, "run", *options, "--out", tmp_path / "alone")
    alone = _decoded(tmp_path, "0")
    shutil.rmtree(tmp_path / "cache-0")
    run(2, "run", *options, "--out", tmp_path / "both")
    asked = [{*steps_of(tmp_path / name)[0][1]} for name in ("alone", "both")]
    assert asked[0] == asked[1]
    first, second = (_decoded(tmp_path, rank) for rank in "01")
    assert (first | second)[alone].mean() > 0.99  # later queries may differ in a near-tie
    pool = slice(500, None)  # behind the test images, which each looks at once
    assert first[pool].sum() < 0.7 * alone[pool].sum() > second[pool].sum()


SHARDED = """
import os
from pathlib import Path

from alprune.data.shards import splits as shards
from alprune.data.dataset import LoadOptions


def load():
    shards._LOOKED_AT = 10
    cache = Path("{here}", "cache-" + os.environ.get("RANK", "0"))
    options = LoadOptions(size=(8, 8), in_memory=0, cache=cache)
    return shards.load("{here}/set", options)
"""


def _decoded(folder, rank):
    [checks] = (folder / f"cache-{rank}").rglob("checks-*.bin")
    return np.fromfile(checks, "<u4") != 0


@posix
@pytest.mark.slow
def test_a_budget_ends_all_processes_within_a_batch(tmp_path):
    run(2, "run", *OPTIONS, "--budget", 4, "--out", tmp_path / "run")
    end = events_of(tmp_path / "run")[-1]
    steps = [event for event in events_of(tmp_path / "run") if event["event"] == "step"]
    batch_s = max(step["train_s"] / step["batches"] for step in steps if step["batches"])
    assert end["reason"] == "budget" and end["elapsed_s"] <= 4 + max(1.0, 5 * batch_s)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_the_run_with_a_sound_folder(tmp_path, victim):
    path = tmp_path / "run"
    process = begin(2, "run", *OPTIONS, "--steps", 100_000, "--out", path)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not (path / "checkpoint-1.safetensors").exists():
            time.sleep(0.1)
        assert (path / "checkpoint-1.safetensors").exists()
        os.kill(_ranks(process.pid)[victim], signal.SIGKILL)
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode != 0
    if victim == 1:
        assert "another one has died" in err
    state = load_checkpoint(path)
    assert state is not None
    assert alprune.resume(path, steps=state["step"] + 1).reason == "steps"


def _ranks(parent):
    """Return the process ids of the ranks that torchrun started."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            rank = re.search(rb"\0RANK=(\d+)", environ)
            if rank and re.search(rf"PPid:\s+{parent}\b", status):
                found[int(rank.group(1))] = int(entry.name)
    return found


def _normed(rank, place, rows, results):
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    layer = nn.BatchNorm2d(3)
    layer.__class__ = SyncedBatchNorm
    mine = rows[:2] if rank == 0 else rows[2:]
    mine = mine.clone().requires_grad_()
    out = layer(mine)
    (out * torch.arange(3.0).view(1, 3, 1, 1) * mine.detach()).sum().backward()
    results[rank] = (out.detach(), mine.grad, layer.running_var.clone())
    torch.distributed.destroy_process_group()


@posix
@pytest.mark.slow
def test_synced_batchnorm_is_that_of_the_whole_batch(tmp_path):
    rows = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        args = (f"file://{tmp_path / 'meet'}", rows, results)
        torch.multiprocessing.spawn(_normed, args=args, nprocs=2)
        parts = [results[0], results[1]]
    layer, whole = nn.BatchNorm2d(3), rows.clone().requires_grad_()
    out = layer(whole)
    (out * torch.arange(3.0).view(1, 3, 1, 1) * whole.detach()).sum().backward()
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), out.detach())
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole.grad)
    torch.testing.assert_close(parts[0][2], layer.running_var)
