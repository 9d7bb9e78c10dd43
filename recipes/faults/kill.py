"""SIGKILL a run at random instants, resume it each time: is it the run that nobody killed?

A small run on the digits is killed, resumed, killed again ... until it has ended; then the next
one begins. After every kill the folder must be sound: every line of events.jsonl whole, no step
missing or twice, the clock never back, both checkpoints whole, at most one step lost. Every run
that ends must equal the uninterrupted one bit for bit: events, labels, weights.

    python recipes/faults/kill.py --kills 200

Needs Linux or macOS (it forks). Exits with 1 at the first difference.
"""

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import sklearn.datasets  # noqa: F401  imported here, so that no child has to
import torch
from safetensors.torch import load_file
from torch import nn

import alprune
from alprune.loop import session
from alprune.store import read_labels
from alprune.store.checkpoint import SLOTS, decode
from alprune.store.record import Record
from alprune.train import Learner

PHASES = ["set-up", "fit", "test", "score and acquire", "event", "checkpoint", "labels", "end"]
phase = mmap.mmap(-1, 1)  # shared with the children: what they are doing


def network(classes, input_shape):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def options(out):
    return alprune.RunConfig(
        dataset="digits",
        model="kill:network",
        steps=8,
        initial_epochs=4.0,
        epochs=1.0,
        min_channels=2,
        device="cpu",
        precision="fp32",
        out=str(out),
    )


def marked(owner, name, number):
    """Let a function say in shared memory that it is at work."""
    work = getattr(owner, name)

    def marking(*args, **kwargs):
        before = phase[0]
        phase[0] = number
        try:
            return work(*args, **kwargs)
        finally:
            phase[0] = before

    setattr(owner, name, marking)


def start(path):
    """Fork a child that begins or resumes the run, and return its process id."""
    phase[0] = 0
    child = os.fork()
    if child:
        return child
    try:
        begun = (path / "config.toml").exists()
        alprune.resume(path) if begun else alprune.run(options(path))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for_steps(child):
    """Wait until a child is past its set-up, or has ended."""
    while (
        phase[0] == 0 and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.001)


def story(path):
    """Return what a run recorded, without what the clock and the machine put in."""
    told = []
    for event in alprune.read_events(path):
        if event["event"] != "resume":
            hidden = [k for k in event if k.endswith("_s") or k.startswith("peak_")]
            told.append({k: v for k, v in event.items() if k not in [*hidden, "config"]})
    return told


def check_sound(path):
    """Assert that a killed run's folder is sound."""
    events = alprune.read_events(path)
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == list(range(len(steps))), f"steps {steps}"
    clock = [event["elapsed_s"] for event in events]
    assert clock == sorted(clock), f"the clock goes back: {clock}"
    saved = [decode(path / slot)["state"]["step"] for slot in SLOTS if (path / slot).exists()]
    assert max(saved, default=0) >= len(steps) - 2, f"saved {saved}, recorded {steps}"
    read_labels(path)


def check_equal(path, reference):
    """Assert that a run equals the one that nobody killed."""
    assert story(path) == story(reference), "the events differ"
    ours, theirs = (load_file(p / "model.safetensors") for p in (path, reference))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs), "the weights differ"
    same = (path / "labels.csv").read_bytes() == (reference / "labels.csv").read_bytes()
    assert same, "the labels differ"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # for kill:network
    torch.set_num_threads(1)
    for owner, name, number in [
        (Learner, "fit", 1),
        (Learner, "evaluate", 2),
        (session.Session, "_acquire", 3),
        (Record, "step", 4),
        (session, "save_checkpoint", 5),
        (Record, "told", 6),
        (session.Session, "finish", 7),
    ]:
        marked(owner, name, number)
    draw = random.Random(given.seed)
    hits, leftovers, ended = Counter(), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        begin = time.perf_counter()
        assert os.waitpid(start(reference), 0)[1] == 0
        whole_s = time.perf_counter() - begin
        print(f"uninterrupted: {whole_s:.2f} s, {len(story(reference))} events", flush=True)
        while hits.total() < given.kills:
            path = Path(folder) / f"run-{ended}"
            child = start(path)
            if draw.random() < 0.8:  # else anywhere, the set-up included, which takes longest
                wait_for_steps(child)
            time.sleep(draw.uniform(0, whole_s / 2))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                assert os.WEXITSTATUS(status) == 0, "the run failed, see above"
                check_equal(path, reference)
                ended += 1
                continue
            hits[PHASES[phase[0]]] += 1
            leftovers["a half-written file"] += any(path.glob(".*.tmp"))
            if (path / "events.jsonl").exists():
                text = (path / "events.jsonl").read_bytes()
                leftovers["a half-written line"] += not text.endswith(b"\n") and bool(text)
                check_sound(path)
        assert os.waitpid(start(path), 0)[1] == 0  # the last one to its end
        check_equal(path, reference)
    print(f"{given.kills} kills, {ended + 1} runs that ended, all equal to the uninterrupted one")
    print("killed during " + ", ".join(f"{name}: {hits[name]}" for name in PHASES))
    print("found " + ", ".join(f"{name}: {count}" for name, count in leftovers.items()))


if __name__ == "__main__":
    main()
