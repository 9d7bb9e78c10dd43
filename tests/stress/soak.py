"""Five thousand steps: do memory, file handles or the time of a step grow?

The digits, shifted about to a pool that lasts, a tiny learner that trains one batch a step, one
point acquired a step. Sampled at every step: resident memory, open file handles, seconds of the
processor (those of the clock say more about what else runs).

    python tests/stress/soak.py --steps 5000

Needs Linux (/proc). Exits with 1 if memory grew by 1% or more after the first 100 steps, the
handles at all, the median step by half, or if the record is not sound. Ctrl-C or SIGTERM
ends it after the current batch, with the figures until then.

Measured (5000 steps, one thread of an Intel Xeon at 2.3 GHz that other programs shared, 47 s of the
processor): memory 851.8 to 847.5 MiB (-0.50%), 7 handles throughout, 9.2 and 9.4 ms a step in the
first and the last quarter, the record sound.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from array import array
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import alprune
from alprune.loop.events import Observer


def network(classes, input_shape):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


class Sampler(Observer):
    """Notes memory, handles and seconds at every step, in arrays that do not grow."""

    def __init__(self, steps):
        self.count = 0
        self.memory, self.handles = (array("q", bytes(8 * (steps + 1))) for _ in range(2))
        self.seconds = array("d", bytes(8 * (steps + 1)))
        self.begin, self.last = time.perf_counter(), time.process_time()

    def event(self, name, fields):
        if name != "step":
            return
        now = time.process_time()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory[self.count] = pages * os.sysconf("SC_PAGE_SIZE")
        self.handles[self.count] = len(os.listdir("/proc/self/fd"))
        self.seconds[self.count] = now - self.last
        self.count += 1
        self.last = now
        if fields["step"] % 250 == 0:
            print(
                f"{time.perf_counter() - self.begin:6.0f} s  step {fields['step']}, "
                f"{self.memory[self.count - 1] / 2**20:.1f} MiB, "
                f"{self.handles[self.count - 1]} handles",
                flush=True,
            )


def write_pool(path, wanted):
    """Shift the digits about until there are enough of them."""
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    shifts = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]
    shifted = [np.roll(images[200:], shift, axis=(1, 2)) for shift in shifts]
    pool, first = np.unique(np.concatenate(shifted), axis=0, return_index=True)
    if len(pool) < wanted + 50:
        sys.exit(f"the shifted digits are enough for {len(pool) - 50} steps, not for {wanted}")
    classes = np.tile(labels[200:], len(shifts))[first]
    np.savez(path, x_train=pool, y_train=classes, x_test=images[:200], y_test=labels[:200])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5000)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # for soak:network
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the learner is too small to learn much
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sampler = Sampler(given.steps)
    with tempfile.TemporaryDirectory() as folder:
        write_pool(Path(folder) / "pool.npz", given.steps)
        config = alprune.RunConfig(
            dataset=f"npz:{folder}/pool.npz",
            model="soak:network",
            method="dense",
            steps=given.steps,
            initial=50,
            query_size=1,
            score_subset=64,
            initial_epochs=1.0,
            epochs=1e-6,  # one batch
            batch_size=32,
            eval_every=50,
            device="cpu",
            precision="fp32",
            out=f"{folder}/run",
        )
        result = alprune.run(config, observer=sampler)
        events = alprune.read_events(result.path)
        steps = [event["step"] for event in events if event["event"] == "step"]
        clock = [event["elapsed_s"] for event in events]
        rows = (result.path / "labels.csv").read_text().count("\n") - 1
        sound = steps == list(range(len(steps))) and clock == sorted(clock)
        sound = sound and rows == result.labelled == 50 + result.steps
    first, last = min(100, sampler.count // 2), sampler.count
    memory, handles, seconds = (
        part[first:last] for part in (sampler.memory, sampler.handles, sampler.seconds)
    )
    quarter = max(1, len(seconds) // 4)
    early, late = (statistics.median(part) for part in (seconds[:quarter], seconds[-quarter:]))
    growth = memory[-1] / memory[0] - 1
    short = "" if result.reason == "steps" else f", STOPPED EARLY of {given.steps}"
    clock_s = time.perf_counter() - sampler.begin
    print(
        f"{result.steps} steps{short}, {clock_s:.0f} s, {sum(sampler.seconds):.0f} s of a processor"
    )
    print(
        f"memory     {memory[0] / 2**20:.1f} -> {memory[-1] / 2**20:.1f} MiB ({growth:+.2%}), "
        f"at most {max(memory) / 2**20:.1f}"
    )
    print(f"handles    {handles[0]} -> {handles[-1]}, at most {max(handles)}")
    print(
        f"a step     {early * 1000:.1f} -> {late * 1000:.1f} ms of a processor "
        "(medians of the quarters)"
    )
    print(f"record     {'sound' if sound else 'NOT SOUND'}")
    flat = growth < 0.01 and handles[-1] <= handles[0] and late < 1.5 * early
    sys.exit(not (flat and sound and not short))


if __name__ == "__main__":
    main()
