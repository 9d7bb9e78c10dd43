"""Accuracy on grey images by number of labels: patches, a network trained on photos, HOG.

    python recipes/labelling/grey.py --data mnist.npz

draws 1,500 images to learn from and 1,000 to test on, labels 150 and 1,000 of them at random, and
prints a table in Markdown. `--data` is an .npz file with x_train, y_train, x_test and y_test,
images `(n, h, w)`. Rounds make all their passes, so the result does not depend on the machine's
speed. The baseline is logistic regression on oriented gradients, with its own draw of labels.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from few_labels import features
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import alprune

MARKS, POOL, TEST = (150, 1000), 1500, 1000
GRADIENTS = 4 * 4 * 9  # of the features; the rest are colours
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "patches": ("typical patches: the default", {"learner": "trained", "model": "patches"}),
    "frozen": ("the network trained on photos, `--learner frozen`", {"learner": "frozen"}),
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--rows", nargs="+", choices=["hog", *ROWS], default=["hog", *ROWS])
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"| by labels | {' | '.join(map(str, MARKS))} |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(given.data, folder / "images.npz")
        for key in given.rows:
            title, options = ROWS.get(key, ("HOG, logistic regression", None))
            runs = [
                hog(folder / "images.npz", seed)
                if options is None
                else learn(folder, options | {"seed": seed})
                for seed in given.seeds
            ]
            columns = zip(*runs, strict=True)
            cells = " | ".join(f"{np.mean(found):.1f} ± {np.std(found):.1f}" for found in columns)
            print(f"| {title} | {cells} |", flush=True)


def draw(source: Path, target: Path) -> None:
    """Write some of the images to another file."""
    generator, arrays = np.random.default_rng(7), {}
    with np.load(source) as whole:
        for part, count in (("train", POOL), ("test", TEST)):
            rows = generator.permutation(len(whole[f"y_{part}"]))[:count]
            arrays |= {f"{axis}_{part}": whole[f"{axis}_{part}"][rows] for axis in "xy"}
    np.savez(target, **arrays)


def learn(folder: Path, options: dict[str, object]) -> list[float]:
    """Label at random, round by round; return the accuracy in percent after each round."""
    whole = {
        "dataset": f"npz:{folder / 'images.npz'}",
        "cache": str(folder / "cache"),
        "acquisition": "random",
        "start": "random",
        "initial": MARKS[0],
        "query_size": MARKS[1] - MARKS[0],
        "budget": "10h",  # passes end a round, not the clock
        **options,
    }
    accuracy = []
    with alprune.open_asking(folder / f"{options['learner']}-{options['seed']}", **whole) as asking:
        for _ in MARKS:
            prepared = asking.prepare()
            accuracy.append(100 * prepared.learnt["test_accuracy"])
            asking.open_round(prepared)
            asking.tell_truth()
    return accuracy


def hog(data: Path, seed: int) -> list[float]:
    """Return what logistic regression on oriented gradients reaches with random labels."""
    with np.load(data) as whole:
        x, tests, y, truth = (whole[name] for name in ("x_train", "x_test", "y_train", "y_test"))
    pool, test = (
        features(np.repeat(images[..., None], 3, axis=3))[:, :GRADIENTS] for images in (x, tests)
    )
    scale = StandardScaler().fit(pool)
    pool, test = scale.transform(pool), scale.transform(test)
    order, accuracy = np.random.default_rng(seed).permutation(len(y)), []
    for labels in MARKS:
        known = order[:labels]
        fitted = LogisticRegression(C=0.01, max_iter=2000).fit(pool[known], y[known])
        accuracy.append(100 * float(fitted.score(test, truth)))
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
