"""A folder of JPEGs: time, memory and disk of the first start and of the next one.

    python recipes/bench/folder.py                           # 20,000 of 96x96 pixels
    python recipes/bench/folder.py --images 200000
    python recipes/bench/folder.py --images 50 --width 4000 --height 3000     # photographs

Writes different images of blurred noise in two classes to a temporary folder (removed afterwards)
and loads it twice as `folder:PATH` does, at --image-size, each time in a process of its own: the
first start decodes the images into the cache, the second finds them there. `cpu_s` counts all
cores, the processes that decode included, and hardly depends on what else runs; `wall_s` does.
`peak_mb` is the resident set of the process that loads at its largest, `added_mb` that less what
it was before. The outcome is in recipes/data/README.md.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_bytes, timed
from PIL import Image

from alprune import data
from alprune.data.image_cache.store import disk_bytes, list_caches

CLASSES, TESTS = ("one", "two"), 10


def write(root: Path, count: int, width: int, height: int) -> None:
    """Write images to train on, up to 1,000 a folder, and a few to test on."""
    draws = np.random.default_rng(0)
    for part, images in (("train", count), ("test", TESTS)):
        for number in range(images):
            name = CLASSES[number % len(CLASSES)]
            path = root / part / name / f"{number // 1000:04}" / f"{number:07}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = draws.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(noise).resize((width, height)).save(path, quality=85)


def start(root: Path, cache: Path, side: int, results: Any) -> None:
    """Load the folder and report."""
    before, began = peak_bytes(), os.times()
    wall_s, splits = timed(lambda: data.load(f"folder:{root}", size=(side, side), cache=cache))
    cpu_s = sum(os.times()[:4]) - sum(began[:4])  # own and ended children's, user and system
    outcome = {"images": len(splits.train), "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)}
    peak = peak_bytes()
    results.put(outcome | {"peak_mb": peak / 1e6, "added_mb": round((peak - before) / 1e6, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=32, help="pixels to resize to")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="alprune-folder-") as folder:
        root, cache = Path(folder, "photos"), Path(folder, "cache")
        write(root, asked.images, asked.width, asked.height)
        for name in ("first start", "second start"):
            results = context.Queue()
            process = context.Process(target=start, args=(root, cache, asked.image_size, results))
            process.start()
            print(json.dumps({"start": name} | results.get()), flush=True)
            process.join()
        cached = sum(disk_bytes(info.path) for info in list_caches(cache))
        print(json.dumps({"cache_mb": round(cached / 1e6, 1)}))


if __name__ == "__main__":
    main()
