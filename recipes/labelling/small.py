"""What labels and smaller networks do to a frozen learner's accuracy, on CIFAR-10 as photos.

    python recipes/labelling/small.py --data cifar10.npz

draws the photos of few_labels.py, labels some of them, at random or as `--acquisition` says, and
exports the learner small, with half of its FLOPs; fine-tuned; and both. It prints a table in
Markdown as it goes: accuracies or, where `--imbalance` makes the pool long-tailed, macro-F1.
Budgets are seconds of this machine, so a slower one learns less; processor time is printed, too.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from few_labels import MARKS, drawn, options, photos
from sklearn.metrics import f1_score

import alprune
from alprune.runs.export import Exported, FineTuneOptions, SmallOptions
from alprune.runs.export.evaluate import classes_of
from alprune.runs.load import find_learner
from alprune.training.resize import seeing

LABELS = (450, 1000)
KINDS = ("small", "fine-tuned", "both")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--acquisition", default="random", help="chooses, after 50 by typiclust")
    parser.add_argument("--imbalance", type=float, default=1, help="of the pool, not of the tests")
    parser.add_argument("--pool-seed", type=int, default=7, help="draws the photos")
    parser.add_argument("--flops-reduction", type=float, default=0.5)
    parser.add_argument("--image-size", type=int, help="of the small network [default: chosen]")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds, each")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    small = SmallOptions(given.flops_reduction, given.budget, image_size=given.image_size)
    tune = FineTuneOptions(given.budget)
    score = "accuracy" if given.imbalance == 1 else "macro-F1"
    print(f"| labels, seed | network | {score} | frozen | what was found | processor time |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        data = drawn(given.data, given.pool_seed, Path(name) / "photos.npz")
        for seed in given.seeds:
            for count in given.labels:
                full = run(Path(name) / f"{count}-{seed}", data, seed, count, given)
                for kind in given.kinds:
                    begin = time.process_time()
                    [made] = alprune.export(
                        full.path,
                        "safetensors",
                        small=None if kind == "fine-tuned" else small,
                        tune=None if kind == "small" else tune,
                    )
                    taken = f"{time.process_time() - begin:.0f} s"
                    accuracy, said = found(made)
                    scores = accuracy or 0.0, full.test_accuracy or 0.0
                    if given.imbalance > 1:
                        test = data, seed, given.imbalance
                        scores = macro_f1(made.path, *test), macro_f1(full.path, *test)
                    cells = f"{count}, {seed}", kind, *(f"{s:.1%}" for s in scores), said, taken
                    print(f"| {' | '.join(cells)} |", flush=True)


def run(
    out: Path, data: Path, seed: int, count: int, given: argparse.Namespace
) -> alprune.RunResult:
    """Fit a frozen learner to some labels."""
    chosen = options(data, seed, given.imbalance) | {"out": str(out)}
    if given.acquisition == "random":
        chosen |= {"initial": count, "start": "random", "steps": 0}
    else:
        steps = (count - MARKS[0]) // 50
        chosen |= {"acquisition": given.acquisition, "start": "typiclust", "steps": steps}
    return alprune.run(alprune.RunConfig(**chosen))


def found(made: Exported) -> tuple[float | None, str]:
    """Return the accuracy of what was written, and what was decided."""
    said, accuracy = [], None
    if made.small is not None:
        share = made.small.macs_after / made.small.macs_before
        side = made.small.size_after[0]
        said.append(f"{share:.0%} of the FLOPs at {side} pixels, agrees {made.small.agreement:.1%}")
        accuracy = made.small.accuracy_after
    if made.tuned is not None:
        tuned = made.tuned
        said.append(
            f"{tuned.chosen}: cross-validation {tuned.tuned_accuracy:.1%} against "
            f"{tuned.frozen_accuracy:.1%} frozen"
        )
        accuracy = tuned.accuracy_after
    return accuracy, "; ".join(said)


def macro_f1(path: Path, data: Path, seed: int, imbalance: float) -> float:
    """Return the mean F1 score of the classes on the test photos, of a run folder or a file."""
    classifier, test = find_learner(path).classifier, photos(data, seed, imbalance).test
    network = seeing(classifier.network, classifier.inputs.image_shape[1:])
    said = classes_of(network, test, torch.arange(len(test.y)))
    return float(f1_score(test.y, said, average="macro"))


if __name__ == "__main__":
    sys.exit(main())
