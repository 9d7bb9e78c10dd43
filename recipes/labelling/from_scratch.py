"""Accuracy of learners without pretrained weights, by number of labels, on photos of six classes.

    python recipes/labelling/from_scratch.py --data cifar10.npz

draws 1,500 photos and 900 test photos, 160 pixels a side, labels 70 at random and then 50 a round
to 270, and prints a table in Markdown. `--data` is an .npz file with x_train, y_train, x_test and
y_test, 32 x 32 pixels. Rounds make all their passes, so the result does not depend on the
machine's speed. The baseline learns from the same labels as the learner in the row below it.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from few_labels import features
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import alprune

MARKS = (70, 120, 170, 220, 270)
CLASSES, POOL, TEST, SIDE = 6, 1500, 900, 160
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "vgg19": ("vgg19 pruned by 3sp-ca, entropy", {"model": "vgg19", "method": "3sp-ca"}),
    "random": ("patches, random photos", {"acquisition": "random"}),
    "default": ("patches, entropy: the default", {}),
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--pool-seed", type=int, default=7, help="draws the photos")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"| by labels | {' | '.join(map(str, MARKS))} |\n{'| --- ' * (1 + len(MARKS))}|")
    with tempfile.TemporaryDirectory() as name:
        photos = draw(given.data, given.pool_seed, Path(name) / "photos")
        for key in given.rows:
            title, options = ROWS[key]
            runs = [
                chain(photos, Path(name) / f"{key}-{seed}", {"seed": seed} | options)
                for seed in given.seeds
            ]
            if key != "vgg19":
                print(row("HOG and colours, the photos of the next row", [run[1] for run in runs]))
            print(row(title, [run[0] for run in runs]), flush=True)


def draw(source: Path, seed: int, target: Path) -> Path:
    """Write photos of the first classes as files in class folders, for learning and for tests."""
    generator = np.random.default_rng(seed)
    with np.load(source) as whole:
        for part, count, below in (("train", POOL, ""), ("test", TEST, "test")):
            x, y = whole[f"x_{part}"], whole[f"y_{part}"]
            for place in generator.permutation(np.flatnonzero(y < CLASSES))[:count]:
                path = target / below / f"class {y[place]}" / f"{place:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x[place]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return target


def chain(
    photos: Path, folder: Path, options: dict[str, object]
) -> tuple[list[float], list[float]]:
    """Label round by round; return the accuracy after each round, the learner's and HOG's."""
    accuracy, baseline = [], []
    described: tuple[np.ndarray, np.ndarray] | None = None
    whole = {
        "dataset": f"folder:{photos}",
        "cache": str(folder.parent / "cache"),
        "learner": "trained",
        "initial": MARKS[0],
        "query_size": 50,
        "budget": "10h",  # passes end a round, not the clock
        **options,
    }
    with alprune.open_asking(folder, **whole) as asking:
        for _ in MARKS:
            prepared = asking.prepare()
            images = prepared.images
            train, test, known = images.splits.train, images.splits.test, images.labelled.numpy()
            accuracy.append(100 * prepared.learnt["test_accuracy"])
            described = described or described_by_hog(train.x[:].numpy(), test.x[:].numpy())
            fitted = LogisticRegression(C=0.01, max_iter=2000)
            fitted.fit(described[0][known], train.y.numpy()[known])
            baseline.append(100 * float(fitted.score(described[1], test.y.numpy())))
            asking.open_round(prepared)
            asking.tell_truth()
    return accuracy, baseline


def described_by_hog(pool: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of pool and test images, scaled by those of the pool."""
    scale = StandardScaler().fit(found := features(pool))
    return scale.transform(found), scale.transform(features(test))


def row(name: str, runs: list[list[float]]) -> str:
    """Write mean and standard deviation over seeds."""
    cells = (f"{np.mean(marks):.1f} ± {np.std(marks):.1f}" for marks in zip(*runs, strict=True))
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
