"""Score a pool of a million images that stays in its file: time and memory.

    python recipes/bench/pool.py                                   # 1,000,000 of 3x32x32, 3.1 GB
    python recipes/bench/pool.py --points 200000 --model vgg19     # another pool, another learner

Writes an .npz of random images to a temporary folder (removed afterwards), loads it as
`npz:PATH` does, prunes a small learner, and scores first a twentieth of the pool, then all of it,
then the twentieth again, each with entropy and the 50 best. Memory is the resident set of the
whole process, pages of the file included: its peak, less what it was before scoring
(`added_mb`), and less what it was before the file was opened (`added_from_start_mb`).

Measured, two cores of an Intel Xeon at 2.3 GHz, nothing else running, torch 2.15: 50,000 images in
0.44 s, 1,000,000 in 8.85 s, 19.9 times as long; 84 MB added by scoring, 107 MB since before the
file (3,080 MB, opened in 4.7 s). Again with one thread beside other programs, torch 2.14: 17.2 s
of the processor for 1,000,000, 19.5 times as many as for 50,000; 82 and 176 MB.
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from measuring import peak_bytes
from numpy.lib import format as npy

from alprune import data, models, prune
from alprune.acquisition import Evidence, acquire, find_acquisition
from alprune.data import Dataset
from alprune.loop.pool import LabelPool
from alprune.training import FitSettings, Learner
from alprune.training.augment import normalise

CLASSES = 10
QUERY = 50


def write_pool(path: Path, points: int, size: int) -> None:
    """Write random colour images, the same 10,000 over and over, as np.savez would."""
    rows = 10_000
    block = np.random.default_rng(0).bytes(rows * size * size * 3)
    parts = {"x_train": (points, size, size, 3), "x_test": (100, size, size, 3)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in parts.items():
            about = {"descr": "|u1", "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, about)
                for begin in range(0, shape[0], rows):
                    file.write(memoryview(block)[: (shape[0] - begin) * size * size * 3])
            labels = np.arange(shape[0]) % CLASSES
            with archive.open(f"{name.replace('x', 'y')}.npy", "w") as file:
                npy.write_array(file, labels)


def small_learner(name: str, method: str, train: Dataset) -> Learner:
    """Build a learner, pruned on 32 images of the pool."""
    model = models.build(name, CLASSES, train.image_shape, seed=0)
    inputs = normalise(train.x[:32], torch.tensor(train.mean), torch.tensor(train.std))
    small = prune(model, method, batch=(inputs, train.y[:32])).model
    return Learner(small, train, FitSettings(), torch.device("cpu"), torch.float32)


def score(learner: Learner, candidates: torch.Tensor, first: torch.Tensor, y: torch.Tensor) -> int:
    """Acquire as the loop does; return how many candidates were looked at."""
    evidence = Evidence(learner, candidates, first, y[first], CLASSES)
    generator = torch.Generator().manual_seed(0)
    chosen = acquire(find_acquisition("entropy"), evidence, QUERY, generator)
    assert chosen.numel() == QUERY
    return candidates.numel()


def resident_mb() -> float:
    """Resident set now; its peak so far where the system has no /proc."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return peak_bytes() / 1e6
    return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6


def measure(options: argparse.Namespace, path: Path) -> dict[str, float]:
    """Load the pool at `path` and score it."""
    start_mb = resident_mb()
    begin = time.perf_counter()
    train = data.load(f"npz:{path}").train
    load_s = time.perf_counter() - begin
    learner = small_learner(options.model, options.method, train)
    pool = LabelPool(len(train), CLASSES)
    first = pool.draw(1000, torch.Generator().manual_seed(0))
    pool.label(first, train.y[first], step=0)
    score(learner, pool.draw(2000, torch.Generator()), first, train.y)  # warm up
    before_mb = resident_mb()

    part = len(train) // 20
    part_s, whole_s, part_cpu_s, whole_cpu_s, scored = [], 0.0, [], 0.0, 0
    for count in (part, len(train), part):
        candidates = torch.arange(count)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        scored = max(scored, score(learner, candidates, first, train.y))
        taken, taken_cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        if count == part:
            part_s.append(taken)
            part_cpu_s.append(taken_cpu)
        else:
            whole_s, whole_cpu_s = taken, taken_cpu
    return {
        "points": len(train),
        "scored": scored,
        "file_mb": path.stat().st_size / 1e6,
        "load_s": load_s,
        "part": part,
        "part_s": statistics.mean(part_s),
        "whole_s": whole_s,
        "whole_cpu_s": whole_cpu_s,
        "ratio": whole_s / statistics.mean(part_s),
        "ratio_cpu": whole_cpu_s / statistics.mean(part_cpu_s),
        "images_per_s": scored / whole_s,
        "added_mb": peak_bytes() / 1e6 - before_mb,
        "added_from_start_mb": peak_bytes() / 1e6 - start_mb,
    }


def show(found: dict[str, float]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{found['points']:>9,} images in {found['file_mb']:,.0f} MB", end="")
    print(f", opened in {found['load_s']:.1f} s")
    print(f"{found['part']:>9,} scored in {found['part_s']:.2f} s")
    print(f"{found['scored']:>9,} scored in {found['whole_s']:.2f} s", end="")
    print(f" ({found['whole_cpu_s']:.2f} s of the processor)", end="")
    print(f": {found['ratio']:.2f} times as long,", end="")
    print(f" {found['ratio_cpu']:.2f} times the processor's time")
    print(f"memory added by scoring at its peak: {found['added_mb']:.0f} MB")
    print(f"since before the file was opened: {found['added_from_start_mb']:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--model", default="lenet-300-100")
    parser.add_argument("--method", default="3sp-ca")
    parser.add_argument("--folder", help="where the temporary file goes (the system's own place)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "pool.npz"
        write_pool(path, options.points, options.size)
        found = measure(options, path)
    show(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
