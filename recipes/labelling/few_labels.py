"""Accuracy by number of labels on CIFAR-10 as photos: frozen learners, a baseline, a long tail.

    python recipes/labelling/few_labels.py --data cifar10.npz

draws a pool of 5,000 photos and 2,000 test photos, embeds them once, and lets each acquisition
function label 1,000 in steps of 50; it prints tables in Markdown. `--data` is an .npz file with
x_train, y_train, x_test and y_test, 32 x 32 pixels, 10 classes.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

import alprune
from alprune.data import Splits
from alprune.loop.setup import complete, load_splits, open_session, simulation

MARKS = (50, 150, 300, 450, 1000)
POOL, TEST = 5000, 2000
ASKED = "random margin entropy typiclust probcover badge diverse:margin falcun".split()


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--acquisitions", nargs="+", default=ASKED)
    parser.add_argument("--pool-seed", type=int, default=7, help="draws the photos")
    parser.add_argument("--imbalances", type=float, nargs="+", default=[1, 50], help="of the pool")
    parser.add_argument("--only-frozen", action="store_true", help="leave the baseline out")
    parser.add_argument("--most", type=int, default=MARKS[-1], help="labels in all")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    marks = [mark for mark in MARKS if mark <= given.most]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = drawn(given.data, given.pool_seed, folder / "photos.npz")
        for imbalance in given.imbalances:
            rare = imbalance > 1
            title = f"macro-F1, long-tailed pool {imbalance:g}:1" if rare else "accuracy"
            print(head(title, marks), flush=True)
            if not given.only_frozen:
                found = baseline(data, imbalance, given.seeds, marks)
                print(row("HOG and colours, random", found, rare), flush=True)
            for asked in given.acquisitions:
                runs = [run(folder, data, asked, seed, imbalance, marks) for seed in given.seeds]
                print(row(f"frozen, {asked}", list(zip(*runs, strict=True)), rare), flush=True)


def drawn(source: Path, seed: int, target: Path) -> Path:
    """Write some of the photos to another file and return it."""
    generator, arrays = np.random.default_rng(seed), {}
    with np.load(source) as whole:
        for part, count in (("train", POOL), ("test", TEST)):
            x, y = whole[f"x_{part}"], whole[f"y_{part}"]
            rows = generator.permutation(len(x))[:count]
            arrays |= {f"x_{part}": x[rows], f"y_{part}": y[rows]}
    np.savez(target, **arrays)
    return target


def options(data: Path, seed: int, imbalance: float) -> dict[str, object]:
    """Return the options of a frozen learner on these photos."""
    return {
        "dataset": f"npz:{data}",
        "learner": "frozen",
        "seed": seed,
        "imbalance": imbalance,
        "initial": MARKS[0],
        "query_size": 50,
        "eval_every": 1,
    }


def run(
    folder: Path, data: Path, asked: str, seed: int, imbalance: float, marks: list[int]
) -> list[tuple[float, int]]:
    """Return accuracy (macro-F1 in a long-tailed pool) and labels of the last class, by mark."""
    out = folder / f"{asked.replace(':', '-')}-{imbalance:g}-{seed}"
    config = alprune.RunConfig(
        **options(data, seed, imbalance),
        acquisition=asked,
        start="random" if asked == "random" else "typiclust",
        steps=(marks[-1] - MARKS[0]) // 50,
        out=str(out),
    )
    whole = complete(config)
    splits = photos(data, seed if imbalance > 1 else 0, imbalance)
    open_session(whole, splits).run(simulation(whole, splits.train))
    kind = "test_accuracy" if imbalance == 1 else "macro_f1"
    found, rare = {}, 0
    for event in alprune.read_events(out):
        if event["event"] == "step":
            rare += event["told"][-1]
            found[event["labelled"]] = (100 * event[kind], rare)
    return [found[mark] for mark in marks]


@cache
def photos(data: Path, seed: int, imbalance: float) -> Splits:
    """Load the photos once for all runs on them."""
    return load_splits(complete(alprune.RunConfig(**options(data, seed, imbalance))))


def baseline(
    data: Path, imbalance: float, seeds: Iterable[int], marks: list[int]
) -> list[list[tuple[float, int]]]:
    """Return what HOG, colour histograms and logistic regression reach, by mark and seed."""
    columns: list[list[tuple[float, int]]] = [[] for _ in marks]
    for seed in seeds:
        config = alprune.RunConfig(**options(data, seed, imbalance), image_size=32)
        splits = load_splits(complete(config))
        scale = StandardScaler().fit(pool := features(splits.train.x.numpy()))
        pool, test = scale.transform(pool), scale.transform(features(splits.test.x.numpy()))
        y, truth = splits.train.y.numpy(), splits.test.y.numpy()
        order = np.random.default_rng(seed).permutation(len(y))
        for column, mark in zip(columns, marks, strict=True):
            known = order[:mark]
            fitted = LogisticRegression(C=0.01, max_iter=2000).fit(pool[known], y[known])
            said = fitted.predict(test)
            right = (said == truth).mean()
            score = right if imbalance == 1 else f1_score(truth, said, average="macro")
            column.append((100 * float(score), int((y[known] == y.max()).sum())))
    return columns


def features(images: np.ndarray, cells: int = 4, bins: int = 9, colours: int = 8) -> np.ndarray:
    """Return oriented gradients by cell and colour histograms of images `(n, h, w, 3)`."""
    grey = images.astype(np.float32).mean(3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    place = np.minimum((angle / np.pi * bins).astype(int), bins - 1)
    row, column = (np.arange(side) * cells // side for side in grey.shape[1:])
    cell = row[:, None] * cells + column
    hog = np.zeros((len(images), cells * cells * bins), np.float32)
    which = np.arange(len(images))[:, None, None]
    np.add.at(hog, (which, cell * bins + place), strength)
    hog = np.sqrt(hog / (hog.sum(1, keepdims=True) + 1e-6))
    values = images.reshape(len(images), -1, 3) // (256 // colours)
    counts = [(values == level).mean(1) for level in range(colours)]
    return np.concatenate([hog, *map(np.sqrt, counts)], 1)


def head(title: str, marks: list[int]) -> str:
    """Write the first lines of a table."""
    lines = [f"\n| {title}, by labels | " + " | ".join(map(str, marks)) + " |"]
    return "\n".join([*lines, "| --- " * (1 + len(marks)) + "|"])


def row(name: str, columns: Sequence[Sequence[tuple[float, int]]], rare: bool) -> str:
    """Write mean and standard deviation over seeds; in a long tail, labels of the rarest class."""
    cells = []
    for column in columns:
        scores, found = zip(*column, strict=True)
        cell = f"{np.mean(scores):.1f} ± {np.std(scores):.1f}"
        cells.append(f"{cell} ({np.mean(found):.0f})" if rare else cell)
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
