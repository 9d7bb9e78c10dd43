"""How many images SNIP should score on (SNIP, figure 3).

    python recipes/papers/snip_batch.py mnist.npz --epochs 3

LeNet-300-100, 90% masked, scored on batches of different sizes and trained as in `snip_lenet.py`
(batches of 100 in all cases). For each size: the test error; Pearson's correlation of the share of
each pixel's weights that are kept in the first layer with the mean of the scored images, and with
the mean of all; the share of the weights kept that scoring on the largest batch keeps too.

What came out is in recipes/papers/README.md.
"""

import argparse
import statistics
from dataclasses import replace

import torch
from snip_lenet import SETTINGS, scoring_batch

from alprune.data import Splits, load
from alprune.models import INITS, build
from alprune.pruning.unstructured.masks import apply_masks, weight_masks
from alprune.pruning.unstructured.scores import snip
from alprune.training import Learner


def measured(
    splits: Splits, sizes: list[int], sparsity: float, epochs: float, seed: int
) -> list[tuple[float, float, float, float]]:
    """Return for each size the test error in percent, both correlations and the shared weights."""
    train = splits.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    model = build("lenet-300-100", len(train.classes), train.image_shape, seed)
    INITS["he"](model, torch.Generator().manual_seed(seed))
    masks = [
        weight_masks(snip(model, scoring_batch(train, order[:size])), sparsity) for size in sizes
    ]
    whole = train.x.double().mean(0).flatten()
    rows = []
    for size, mask in zip(sizes, masks, strict=True):
        kept = mask["fc1.weight"].double().mean(0)
        scored = train.x[order[:size]].double().mean(0).flatten()
        own, overall = torch.corrcoef(torch.stack([kept, scored, whole]))[0, 1:].tolist()
        both = sum(int((mask[name] & masks[-1][name]).sum()) for name in mask)
        shared = both / sum(int(part.sum()) for part in mask.values())
        learner = Learner(
            apply_masks(model, mask),
            train,
            replace(SETTINGS, lr=0.1),
            torch.device("cpu"),
            torch.float32,
        )
        generator = torch.Generator().manual_seed(seed)
        everything = torch.arange(len(train))
        learner.fit(everything, train.y, epochs, generator, progress=lambda done: done)
        rows.append((100 * (1 - learner.evaluate(splits.test).accuracy), own, overall, shared))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="MNIST as .npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = load(f"npz:{asked.data}")
    runs = [
        measured(splits, asked.sizes, asked.sparsity, asked.epochs, seed) for seed in asked.seeds
    ]
    print(f"{asked.sparsity:.0%} masked, {asked.epochs:g} epochs, seeds {asked.seeds}")
    print("images  test error in %               r with scored   with all   kept by the last, too")
    for size, rows in zip(asked.sizes, zip(*runs, strict=True), strict=True):
        errors, own, overall, shared = zip(*rows, strict=True)
        each = " ".join(f"{error:.2f}" for error in errors)
        print(
            f"{size:6}  {statistics.mean(errors):5.2f} ({each:17})  {statistics.mean(own):12.2f} "
            f"{statistics.mean(overall):10.2f} {statistics.mean(shared):12.0%}"
        )


if __name__ == "__main__":
    main()
