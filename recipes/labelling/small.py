"""What a small learner keeps of a frozen one's accuracy, on CIFAR-10 as photos.

    python recipes/labelling/small.py --data cifar10.npz

draws the photos of few_labels.py, labels some of them at random, exports the learner with half of
its FLOPs, and prints a table in Markdown, beside the full network at a lower resolution.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from few_labels import drawn, options

import alprune
from alprune.runs.export import SmallOptions

LABELS = (450, 1000)
SMALLER = 96  # pixels: 56% of the FLOPs at 128


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--pool-seed", type=int, default=7, help="draws the photos")
    parser.add_argument("--flops-reduction", type=float, default=0.5)
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of teaching")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print("| labels | full network | small | agreement | full network at 96 pixels |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = drawn(given.data, given.pool_seed, folder / "photos.npz")
        for count in LABELS:
            full = run(folder / f"full-{count}", data, given.seed, count)
            chosen = SmallOptions(given.flops_reduction, given.budget)
            [made] = alprune.export(full.path, "safetensors", small=chosen)
            lower = run(folder / f"lower-{count}", data, given.seed, count, image_size=SMALLER)
            found = made.small
            cells = (found.accuracy_before, found.accuracy_after, found.agreement)
            shares = [f"{share:.1%}" for share in (*cells, lower.test_accuracy)]
            print(f"| {count} | " + " | ".join(shares) + " |", flush=True)


def run(out: Path, data: Path, seed: int, count: int, **changes: int) -> alprune.RunResult:
    """Fit a frozen learner to some labels."""
    chosen = options(data, seed, 1) | {"initial": count, "start": "random", "steps": 0} | changes
    return alprune.run(alprune.RunConfig(**chosen, out=str(out)))


if __name__ == "__main__":
    sys.exit(main())
