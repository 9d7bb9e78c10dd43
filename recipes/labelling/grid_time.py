"""Time to label 500 photos one by one and in the page's grid, simulated, on CIFAR-10 as photos.

    python recipes/labelling/grid_time.py --data cifar10.npz

A key takes 2 s and a click 0.7 s. One by one, each photo takes a key; the learner chooses them. In
the grid, after 50 photos one by one, each page shows the 24 open photos that the learner takes
most surely for one class: a click for each wrong one, one key for the rest, and a key for each
wrong one afterwards. The classes are taken in turn, or always the one whose page is surest. The
frozen backbone learns again after every 100 labels. Accuracy is that on 1,000 test photos after the
last label. `--rows turns surest` leaves some rows out.
"""

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import alprune
from alprune.labelling.insight import look_over
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue

KEY_S, CLICK_S = 2.0, 0.7
LABELS, FIRST, AGAIN = 500, 50, 100
POOL, TEST, SIDE = 2_000, 1_000, 128
NAMES = tuple(f"class {number}" for number in range(10))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        "| | minutes | keys | clicks | accuracy on test photos |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as name:
        photos = draw(given.data, Path(name) / "photos")
        for row in given.rows:
            title, label = ROWS[row]
            runs = [label(photos, Path(name) / f"{row}-{seed}", seed) for seed in given.seeds]
            keys, clicks, accuracy = np.mean(runs, axis=0)
            minutes = (keys * KEY_S + clicks * CLICK_S) / 60
            print(
                f"| {title} | {minutes:.1f} | {keys:.0f} | {clicks:.0f} | {accuracy:.1%} |",
                flush=True,
            )


def draw(source: Path, target: Path) -> Path:
    """Write photos as files: the pool without labels, test photos in class folders."""
    generator = np.random.default_rng(7)
    with np.load(source) as whole:
        for part, count in (("train", POOL), ("test", TEST)):
            x, y = whole[f"x_{part}"], whole[f"y_{part}"]
            for row in generator.permutation(len(x))[:count]:
                folder = "unlabelled" if part == "train" else f"test/{NAMES[y[row]]}"
                path = target / folder / f"{row:05d}-{y[row]}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x[row]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return target


def truth(path: str) -> str:
    """Return the class of a photo."""
    return NAMES[int(Path(path).stem.rpartition("-")[2])]


def opened(photos: Path, folder: Path, seed: int) -> alprune.Asking:
    """Begin to label."""
    return alprune.open_asking(folder, classes=NAMES, dataset=f"folder:{photos}", seed=seed)


def one_by_one(photos: Path, folder: Path, seed: int) -> tuple[int, int, float]:
    """Label what the learner chooses; return keys, clicks and accuracy."""
    with opened(photos, folder, seed) as asking:
        while len(asking.labels) < LABELS:
            asking.tell({query.path: truth(query.path) for query in asking.ask()})
        return len(asking.labels), 0, asking.prepare().learnt["test_accuracy"]


def in_grid(photos: Path, folder: Path, seed: int, in_turn: bool) -> tuple[int, int, float]:
    """Label page by page; return keys, clicks and accuracy."""
    keys = clicks = 0
    turns = itertools.cycle(NAMES)
    with opened(photos, folder, seed) as asking:
        queue = LabelQueue(asking)
        overview = Overview(asking, queue)
        asking.tell({query.path: truth(query.path) for query in asking.ask()})
        keys += len(asking.labels)
        while len(asking.labels) < LABELS:
            prepared, known = asking.prepare(), len(asking.labels)
            overview.update(look_over(prepared.images, prepared.learner, (), seed))
            while len(asking.labels) < min(known + AGAIN, LABELS):
                name = next(turns) if in_turn else max(NAMES, key=partial(sureness, overview))
                page = overview.grid(name)["images"]
                if not page:
                    continue
                right = [image for image in page if truth(image["path"]) == name]
                wrong = [image for image in page if truth(image["path"]) != name]
                clicks += len(wrong)
                keys += bool(right) + len(wrong)
                queue.answer({image["number"]: truth(image["path"]) for image in right + wrong})
        return keys, clicks, asking.prepare().learnt["test_accuracy"]


def sureness(overview: Overview, name: str) -> float:
    """Return the sum of the probabilities on a class's page, 0 if it is empty."""
    return sum(image["probability"] for image in overview.grid(name)["images"])


ROWS: dict[str, tuple[str, Callable[[Path, Path, int], tuple[int, int, float]]]] = {
    "single": ("one by one, chosen by the learner", one_by_one),
    "turns": ("50 one by one, then the grid, the classes in turn", partial(in_grid, in_turn=True)),
    "surest": ("the same, always the class that is surest", partial(in_grid, in_turn=False)),
}


if __name__ == "__main__":
    main()
