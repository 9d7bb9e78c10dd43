"""Ask and tell in turn over a folder of image files, with answers that are always true.

    python recipes/bench/asking.py --data cifar10.npz --folder photos --out asked --rounds 10 \\
        --budget 40

The images are written as PNG files, without labels (--images of them), and as a test folder. Each
round learns and chooses within --budget seconds. Called again, it goes on where it was.

Outcome (2,000 images of CIFAR-10, 1,000 test images, seed 0; half a core of a Xeon at 2.3 GHz):

    labels    0   50    100   150   200   250   300   350   400   450
    accuracy  -   20.8  20.3  23.1  30.0  31.7  34.0  34.8  36.2  36.5%

A round took 38 to 44 s of the clock on the wall, the first one, without a learner, 10 s.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from alprune import open_asking
from alprune.loop.event_log import read_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="asking.py")
    parser.add_argument("--data", required=True, help="npz file with x_train, y_train, ...")
    parser.add_argument("--folder", type=Path, required=True, help="of images; made if missing")
    parser.add_argument("--out", type=Path, required=True, help="folder of alprune ask")
    parser.add_argument("--images", type=int, default=2000, help="images without labels")
    parser.add_argument("--tests", type=int, default=1000, help="test images")
    parser.add_argument("--rounds", type=int, default=10, help="rounds in all")
    parser.add_argument("--budget", type=float, default=60, help="seconds a round")
    parser.add_argument("--acquisition", default="entropy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.folder / "truth.csv").exists():
        write_images(args.data, args.folder, args.images, args.tests)
    with open(args.folder / "truth.csv", newline="") as file:
        truth = dict(csv.reader(file))
    options = {"dataset": f"folder:{args.folder}", "seed": args.seed}
    again = {"budget": args.budget, "acquisition": args.acquisition}
    with open_asking(args.out, **(again if args.out.exists() else again | options)) as asking:
        while asking.journal.round < args.rounds:
            begin = time.perf_counter()
            asked = asking.ask()
            seconds = time.perf_counter() - begin
            asking.tell({query.path: truth[query.path] for query in asked}, new_classes=True)
            print(row(asked.number, asked.labelled, asked.learnt, seconds), flush=True)
            if asked.number >= args.rounds:
                break
    scored = [event["scored"] for event in read_events(args.out) if event["event"] == "fit"]
    print(f"images scored a round: {json.dumps(scored)}")


def row(number: int, labelled: int, learnt: dict, seconds: float) -> str:
    accuracy = learnt.get("test_accuracy")
    tested = "      -" if accuracy is None else f"{accuracy:7.1%}"
    return f"round {number:2}  {labelled:5} labels  {tested}  {seconds:6.1f} s"


def write_images(data: str, folder: Path, images: int, tests: int) -> None:
    """Write a random part of the training images into unlabelled/, and test images by class."""
    arrays = dict(np.load(data))
    names = [str(name) for name in arrays.get("classes", range(arrays["y_train"].max() + 1))]
    draw = np.random.default_rng(0)
    (folder / "unlabelled").mkdir(parents=True)
    truth = []
    for number, index in enumerate(draw.permutation(len(arrays["y_train"]))[:images]):
        path = f"unlabelled/{number:06d}.png"
        Image.fromarray(arrays["x_train"][index]).save(folder / path)
        truth.append((path, f"class {names[arrays['y_train'][index]]}"))
    for index in draw.permutation(len(arrays["y_test"]))[:tests]:
        where = folder / "test" / f"class {names[arrays['y_test'][index]]}"
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(arrays["x_test"][index]).save(where / f"{index:06d}.png")
    with open(folder / "truth.csv", "w", newline="") as file:
        csv.writer(file).writerows(truth)


if __name__ == "__main__":
    main()
