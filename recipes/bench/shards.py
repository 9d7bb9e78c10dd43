"""A pool in shards: time and memory to list it, to look at it for the first time, and again.

    python recipes/bench/shards.py                    # 1,000,000 JPEGs of 32x32 in 1000 shards
    python recipes/bench/shards.py --points 100000    # fewer

Writes 50 shards of 1000 JPEGs of noise to a temporary folder (removed afterwards) and links each
as often as it takes. Loads them as `shards:PATH` does, each start in a process of its own, and
scores 10,000 candidates with entropy and the 50 best, by a VGG-19 that 3SP+CA has pruned: when
their images have to be decoded, when they are kept already, and from an array in memory.

Measured, two cores of an Intel Xeon at 2.3 GHz, nothing else running, torch 2.15, 1,000,000
images: first start 61 s and 112 MB more, second 0.35 s and 95 MB; 10,000 scored in 8.5 s where they
had to be decoded, in 5.9 to 6.6 s where they were kept, in 6.3 to 6.4 s from memory.
125 MB of the disk.
"""

import argparse
import io
import json
import multiprocessing
import platform
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import peak_bytes, timed
from PIL import Image
from pool import CLASSES, score, small_learner

from alprune import data
from alprune.data import Dataset
from alprune.data.image_cache.store import disk_bytes, list_caches

PER_SHARD, DISTINCT, CANDIDATES = 1000, 50, 10_000


def write(root: Path, points: int) -> None:
    """Write the shards, of which only the first 50 take room."""
    draws = np.random.default_rng(0)
    shards = points // PER_SHARD
    for part, count in (("train", shards), ("test", 1)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            path = root / part / f"{number:06d}.tar"
            if number >= DISTINCT:
                path.hardlink_to(root / part / f"{number % DISTINCT:06d}.tar")
                continue
            with tarfile.open(path, "w") as tar:
                for sample in range(PER_SHARD):
                    noise = draws.integers(0, 256, (8, 8, 3), np.uint8)
                    image, out = Image.fromarray(noise).resize((32, 32)), io.BytesIO()
                    image.save(out, "JPEG", quality=90)
                    label = str(sample % CLASSES).encode()
                    for name, content in (("jpg", out.getvalue()), ("cls", label)):
                        member = tarfile.TarInfo(f"{sample:06d}.{name}")
                        member.size, member.mtime = len(content), 0.5
                        tar.addfile(member, io.BytesIO(content))


def start(root: Path, cache: Path, results: Any) -> None:
    """Load the pool, score some of it twice, and report."""
    before = peak_bytes()
    start_s, splits = timed(lambda: data.load(f"shards:{root}", cache=cache))
    loaded = peak_bytes()
    learner = small_learner("vgg19", "3sp-ca", splits.train)
    first, count = torch.arange(1000), min(CANDIDATES, len(splits.train) - 1000)
    drawn = torch.randperm(len(splits.train) - 1000, generator=torch.Generator().manual_seed(0))
    candidates = 1000 + drawn[:count].sort().values
    score(learner, candidates[:500], first, splits.train.y)  # warm
    seconds = [
        timed(lambda: score(learner, candidates, first, splits.train.y))[0] for _ in range(2)
    ]
    held: Dataset = splits.train.select(candidates)
    x = held.x.read() if hasattr(held.x, "read") else held.x
    plain = Dataset(x, held.y, held.classes, held.mean, held.std, held.flip, "")
    learner = small_learner("vgg19", "3sp-ca", plain)
    everyone = torch.arange(count)
    score(learner, everyone[:500], first, plain.y)
    memory_s = timed(lambda: score(learner, everyone, first, plain.y))[0]
    results.put(
        {
            "start_s": start_s,
            "start_mb": (loaded - before) / 1e6,
            "peak_mb": peak_bytes() / 1e6,
            "score_first_s": seconds[0],
            "score_again_s": seconds[1],
            "score_in_memory_s": memory_s,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    args = parser.parse_args()
    out: dict[str, Any] = {"points": args.points, "machine": platform.processor()}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "set"), Path(folder, "cache")
        out["written_s"] = timed(lambda: write(root, args.points))[0]
        for name in ("first start", "second start"):
            results = context.Queue()
            process = context.Process(target=start, args=(root, cache, results))
            process.start()
            out[name] = results.get()
            process.join()
        [info] = list_caches(cache)
        out["cache_mb"] = disk_bytes(info.path) / 1e6
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
