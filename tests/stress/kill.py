"""SIGKILL a run at random instants, resume it each time: is it the run that nobody killed?

A small run on the digits is killed, resumed, killed again ... until it has ended; then the next
one begins. Each kill aims at one of the three phases that were hit least so far, at a random
instant of a random one of its next turns; the table counts the phases that were really hit. After
every kill the folder must be sound: every line of events.jsonl whole but for a last one, no step
missing or twice, the clock never back, both checkpoints whole and fitting the record, at most one
step lost. Every run that ends must equal the uninterrupted one bit for bit: events, labels and
weights.

    python tests/stress/kill.py --kills 200

Needs Linux or macOS (it forks). Exits with 1 at the first difference. Ctrl-C or SIGTERM ends it
after the current run, with the table of what was done until then.

Measured (--kills 200 --seed 11, one thread of an Intel Xeon at 2.3 GHz, 50 s): set-up 18, fit 18,
evaluate 18, score 62, acquire 9, write event 17, write checkpoint 18, write labels 18, end 18, in
between 4; 12 left a half-written file, 46 a step to do again; 34 runs ended, all equal.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import sklearn.datasets  # noqa: F401  imported here, so that no child has to
import torch
from safetensors.torch import load_file
from torch import nn

import alprune
from alprune.acquisition import Evidence
from alprune.loop import session
from alprune.loop.active_learner import ActiveLearner
from alprune.loop.checkpoint import SLOTS, CheckpointWriter, decode
from alprune.loop.csv_tables import read_labels
from alprune.loop.events import Record
from alprune.training import Learner

WORK = [
    ("fit", Learner, "fit"),
    ("evaluate", Learner, "evaluate"),
    ("score", Evidence, "_pass"),
    ("acquire", ActiveLearner, "_acquire"),
    ("write event", Record, "step"),
    ("write checkpoint", CheckpointWriter, "save"),
    ("write labels", Record, "labelled"),
    ("end", session.Session, "finish"),
]
SETUP, BETWEEN = 0, len(WORK) + 1
PHASES = ["set-up", *(name for name, _, _ in WORK), "in between"]
SCORE, ACQUIRE = PHASES.index("score"), PHASES.index("acquire")
# Shared with the children: what they are doing, how often they began it, how long it took in all.
now, begun, spent = RawArray("i", 1), RawArray("i", len(PHASES)), RawArray("d", len(PHASES))


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
        method="3sp-ca",
        flops_reduction=0.5,
        round_to=1,
        min_channels=2,
        acquisition="badge",  # which draws, and takes a while
        steps=8,
        initial_epochs=4.0,
        epochs=1.0,
        device="cpu",
        precision="fp32",
        out=str(out),
    )


def mark(number, owner, name):
    """Let a function say in shared memory that it is at work."""
    work = getattr(owner, name)

    def marking(*args, **kwargs):
        before, begin = now[0], time.perf_counter()
        now[0] = number
        begun[number] += 1
        try:
            return work(*args, **kwargs)
        finally:
            spent[number] += time.perf_counter() - begin
            now[0] = before if before in range(1, BETWEEN) else BETWEEN

    setattr(owner, name, marking)


def start(path):
    """Fork a child that begins or resumes the run, and return its process id."""
    now[0] = SETUP
    child = os.fork()
    if child:
        return child
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent answers them
            signal.signal(number, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        alprune.resume(path, trust_code=True) if (path / "config.toml").exists() else alprune.run(
            options(path)
        )
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for(phase, turns, child):
    """Wait until a child has begun a phase so many times more, or has ended."""
    goal = begun[phase] + turns
    while begun[phase] < goal:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.0001)


def wait(seconds):
    """Wait so long to the tenth of a millisecond, as a sleep does not."""
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        time.sleep(max(0.0, left - 0.005))


def story(path):
    """Return what a run recorded, without what the clock and the machine put in."""
    told = []
    for event in alprune.read_events(path):
        if event["event"] != "resume":
            hidden = [
                k for k in event if k.endswith("_s") or k.startswith(("peak_", "load_", "others_"))
            ]
            told.append({k: v for k, v in event.items() if k not in [*hidden, "config"]})
    return told


def check_sound(path):
    """Assert that a killed run's folder is sound; return how many steps are lost."""
    events = alprune.read_events(path)
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == list(range(len(steps))), f"steps {steps}"
    clock = [event["elapsed_s"] for event in events]
    assert clock == sorted(clock), f"the clock goes back: {clock}"
    states = [decode(path / slot)["state"] for slot in SLOTS if (path / slot).exists()]
    record = (path / "events.jsonl").read_bytes()
    for state in states:
        part = record[: state["events_bytes"]]
        assert hashlib.blake2b(part, digest_size=16).hexdigest() == state["events_digest"]
    saved = [state["step"] + (state["asked"] is not None) for state in states]
    assert max(saved, default=0) >= len(steps) - 1, f"saved {saved}, recorded {steps}"
    assert states or not steps
    read_labels(path)
    return len(steps) - max(saved, default=0)


def check_equal(path, reference):
    """Assert that a run equals the one that nobody killed."""
    assert story(path) == story(reference), "the events differ"
    ours, theirs = (load_file(p / "model.safetensors") for p in (path, reference))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs), "the weights differ"
    same = (path / "labels.csv").read_bytes() == (reference / "labels.csv").read_bytes()
    assert same, "the labels differ"


def torn(path):
    """Say what a kill has left half done in a folder."""
    if any(path.glob(".*.tmp")):
        yield "a half-written file"
    text = (path / "events.jsonl").read_bytes() if (path / "events.jsonl").exists() else b""
    if text and not text.endswith(b"\n"):
        yield "a half-written line"


class Tally:
    """What the kills came to."""

    def __init__(self, wanted):
        self.wanted, self.begin = wanted, time.perf_counter()
        self.aimed, self.hit, self.found, self.ended = Counter(), Counter(), Counter(), 0

    def progress(self):
        spread = ", ".join(f"{name} {self.hit[name]}" for name in PHASES if self.hit[name])
        minutes = (time.perf_counter() - self.begin) / 60
        print(
            f"{minutes:5.1f} min: {self.hit.total()} of {self.wanted} kills, {self.ended} runs "
            f"ended and equal; {spread}",
            flush=True,
        )

    def table(self):
        print(f"\n{'phase':<18}{'aimed at':>9}{'hit':>6}")
        for name in PHASES:
            print(f"{name:<18}{self.aimed[name]:>9}{self.hit[name]:>6}")
        print(f"{'all':<18}{self.aimed.total():>9}{self.hit.total():>6}")
        print("left by the kills: " + (", ".join(f"{n} {k}" for k, n in self.found.items()) or "-"))
        short = "" if self.hit.total() >= self.wanted else f", STOPPED EARLY of {self.wanted}"
        print(
            f"{self.hit.total()} kills{short}, {self.ended} runs that ended, all equal to the "
            f"uninterrupted one, {time.perf_counter() - self.begin:.0f} s",
            flush=True,
        )


def finish(path, reference, tally):
    """Let a run come to its end, undisturbed, and compare it."""
    assert os.waitpid(start(path), 0)[1] == 0, "the run failed, see above"
    check_equal(path, reference)
    tally.ended += 1


def kill_runs(folder, tally, draw, stopping):
    """Kill and resume runs until there were enough kills."""
    reference, path = folder / "reference", folder / "run-0"
    assert os.waitpid(start(reference), 0)[1] == 0
    length = {p: spent[p] / begun[p] for p in range(1, BETWEEN)}
    length[SETUP] = time.perf_counter() - tally.begin - sum(spent)
    print(f"uninterrupted: {time.perf_counter() - tally.begin:.2f} s; a turn takes in ms: ", end="")
    print(", ".join(f"{PHASES[p]} {1000 * s:.1f}" for p, s in length.items()), flush=True)
    while tally.hit.total() < tally.wanted and not stopping:
        rarest = sorted(length, key=lambda phase: (tally.hit[PHASES[phase]], draw.random()))
        aim = draw.choice(rarest[:3])
        child = start(path)
        if aim != SETUP:
            wait_for(aim, 1 if PHASES[aim] == "end" else draw.randint(1, 3), child)
        earliest = length[SCORE] if aim == ACQUIRE else 0.0  # of what acquiring does, the first
        wait(draw.uniform(earliest, length[aim]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        tally.aimed[PHASES[aim]] += 1
        if os.WIFSIGNALED(status):
            tally.hit[PHASES[now[0]]] += 1
            tally.found.update(torn(path))
            if (path / "events.jsonl").exists():
                tally.found.update(["a step to do again"] * check_sound(path))
            if tally.hit.total() % 10 == 0:
                tally.progress()
            continue
        assert os.WEXITSTATUS(status) == 0, "the run failed, see above"
        check_equal(path, reference)
        tally.ended += 1
        path = folder / f"run-{tally.ended}"
    finish(path, reference, tally)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # for kill:network
    torch.set_num_threads(1)
    stopping = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(1))
    for number, (_, owner, name) in enumerate(WORK, start=1):
        mark(number, owner, name)
    tally = Tally(given.kills)
    with tempfile.TemporaryDirectory() as folder:
        kill_runs(Path(folder), tally, random.Random(given.seed), stopping)
    tally.table()


if __name__ == "__main__":
    main()
