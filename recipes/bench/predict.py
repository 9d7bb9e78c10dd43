"""Classify a folder of JPEGs: images a second, and memory as their number grows.

    python recipes/bench/predict.py                          # 20,000 of 256x192, made in TMPDIR
    python recipes/bench/predict.py --images 2000 --width 1600 --height 1200
    python recipes/bench/predict.py --model resnet18 --method dense

Makes the files (removed afterwards), trains a learner on 200 of them for one step, and has
`alprune predict` do a tenth of them, all of them, and the tenth again, each in a process of its
own. `peak_mb` is such a process's resident set at its largest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import alprune

CLASSES = ("one", "two")
_MEASURE = """
import json, resource, sys, time
from click.testing import CliRunner
from alprune.cli import main
begin = time.perf_counter()
done = CliRunner().invoke(main, sys.argv[1:])
assert done.exit_code == 0, done.output
record = json.loads(done.stdout)
whole_s = time.perf_counter() - begin
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"images": record["images"], "errors": record["errors"],
                  "predict_s": record["seconds"], "whole_s": round(whole_s, 1),
                  "images_a_second": round(record["images"] / record["seconds"], 1),
                  "peak_mb": round(peak / 1e6)}))
"""


def write_jpegs(root: Path, count: int, width: int, height: int) -> int:
    """Write photos of blurred noise, a thousand a folder; return their mean size in bytes."""
    draws = np.random.default_rng(0)
    size = 0
    for number in range(count):
        folder = root / f"{number // 1000:04}"
        folder.mkdir(parents=True, exist_ok=True)
        blobs = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:07}.jpg", quality=85)
        size += (folder / f"{number:07}.jpg").stat().st_size
    return size // count


def train(root: Path, model: str, method: str) -> Path:
    """Train a learner for one step on a few such photos of two classes."""
    for part, count in (("train", 100), ("test", 10)):
        for name in CLASSES:
            write_jpegs(root / "few" / part / name, count, 64, 48)
    config = alprune.RunConfig(
        dataset=f"folder:{root / 'few'}", model=model, method=method, steps=1, initial=100,
        initial_epochs=1.0, query_size=10, out=str(root / "run"),
    )  # fmt: skip
    return alprune.run(config).path


def measure(run: Path, photos: list[Path], out: Path) -> dict[str, float]:
    """Classify folders in a process of its own."""
    arguments = [str(run), *map(str, photos), "--out", str(out), "--json"]
    command = [sys.executable, "-c", _MEASURE, "predict", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record: dict[str, float] = json.loads(done.stdout)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--method", default="3sp-ca")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alprune-predict-") as folder:
        root = Path(folder)
        run = train(root, args.model, args.method)
        begin = time.perf_counter()
        each = write_jpegs(root / "photos", args.images, args.width, args.height)
        made_s = time.perf_counter() - begin
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        print(json.dumps({"cores": cores, "bytes_each": each, "made_s": round(made_s, 1)}))
        folders = sorted((root / "photos").iterdir())
        tenth = folders[: max(1, len(folders) // 10)]
        for number, photos in enumerate((tenth, folders, tenth)):
            print(json.dumps(measure(run, photos, root / f"{number}.csv")), flush=True)


if __name__ == "__main__":
    main()
