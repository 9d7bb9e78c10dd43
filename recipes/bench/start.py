"""Which points to label first: balanced, random or typiclust?

The learner is trained on the first points alone, chosen by each `--start`, and tested.

    python recipes/bench/start.py --data digits --model lenet-300-100 --batches 200 \\
        --labels 10 20 50 --seeds 6
    python recipes/bench/start.py --data npz:cifar10.npz --model lenet-5-caffe --lr 0.01 \\
        --batches 100 --labels 40 --seeds 3

Outcome of the first (mean accuracy of six seeds, and classes among the first points; one thread of
a busy machine):

    labels   balanced     random       typiclust
        10   53.4% (10)   41.7% (6.3)  62.1% (9.0)
        20   67.3% (10)   54.2% (8.5)  72.5% (10)
        50   79.3% (10)   75.0% (10)   84.6% (10)
"""

import argparse
import statistics
import time

import torch

from alprune import PrunedClassifier
from alprune.acquisition.initial import STARTS, ColdPool, first_points
from alprune.data import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="start.py")
    parser.add_argument("--data", default="digits", help="as alprune run --dataset")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 50], help="first points")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lr", type=float, help="learning rate (the model's own default)")
    parser.add_argument("--batches", type=int, default=400, help="training batches")
    parser.add_argument("--test", type=int, default=2000, help="test images used")
    given = parser.parse_args()
    splits = load(given.data)
    train, test = splits.train, splits.test
    pool = ColdPool(train.x, train.classes, train.y)
    some = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: given.test]
    print(f"{'labels':>6} {'start':10} {'accuracy by seed':24} mean  classes seen  choosing")
    for count in given.labels:
        for start in given.starts:
            accuracies, seen, spent = [], [], 0.0
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                begin = time.perf_counter()
                first = first_points(start, pool, count, torch.Generator().manual_seed(seed))
                spent += time.perf_counter() - begin
                labels = train.y[first]
                learner = PrunedClassifier(
                    given.model,
                    partial_epochs=given.batches * min(64, count) / count,
                    lr=given.lr,
                    random_state=seed,
                    pad=4 if train.flip else 0,
                    flip=train.flip,
                )
                learner.partial_fit(train.x[first], labels, range(len(train.classes)))
                accuracies.append(learner.score(test.x[some], test.y[some]))
                seen.append(labels.unique().numel())
            shown = " ".join(f"{100 * a:.1f}" for a in accuracies)
            print(
                f"{count:6} {start:10} {shown:24} {100 * statistics.mean(accuracies):.1f}  "
                f"{statistics.mean(seen):12.1f}  {spent / given.seeds:6.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
