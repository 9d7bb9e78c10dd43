"""Which labels teach more: those that runs asked for, at equal numbers and equal training.

    python recipes/clock/equal_labels.py outputs/counted/vgg19-95-[emr]*-450-151 --labels 6000,11800

takes the first N points that each run labelled, and trains the run's network on them, pruned and
initialised anew by the run's seed, so that what a run spends on choosing and what it trained on
earlier make no difference. Every training sees the same number of images.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import alprune
from alprune.acquisition.initial import STARTS, ColdPool


def in_order(run: Path) -> Tensor:
    """Return the points that a run labelled, earliest first; those of a step by their index."""
    with (run / "labels.csv").open() as file:
        rows = sorted((int(row["step"]), int(row["index"])) for row in csv.DictReader(file))
    return torch.tensor([index for _, index in rows])


def main() -> None:
    """Train on each run's first labels, and print the test accuracies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, of counted.py or compare")
    parser.add_argument("--labels", default="6000,11800", help="how many of each run's first")
    parser.add_argument("--images", type=int, default=600_000, help="that each training sees")
    parser.add_argument("--out", type=Path, default=Path("outputs/equal-labels"))
    args = parser.parse_args()
    for run in args.runs:
        order = in_order(run)
        for count in map(int, args.labels.split(",")):
            if count > len(order):
                print(f"{run.name}: {len(order)} labels, fewer than {count}", flush=True)
                continue

            def first(pool: ColdPool, count: int, generator: torch.Generator) -> Tensor:
                return order[:count]  # noqa: B023 (used before the next round of the loop)

            STARTS["first"] = first
            config = replace(
                alprune.RunConfig.from_toml(run / "config.toml"),
                start="first",
                initial=count,
                initial_epochs=args.images / count,
                steps=0,
                budget=None,
                out=str(args.out / f"{run.name}-{count}"),
            )
            result = alprune.run(config)
            print(f"{run.name} {count} {result.test_accuracy:.2%}", flush=True)


if __name__ == "__main__":
    main()
