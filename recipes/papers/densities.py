"""Figure 2 of PreCrop: SynExp's layer densities against SynFlow's, the same parameter count.

SynFlow scores and prunes 100 times; SynExp solves one convex programme that knows only the
layers' sizes. Densities are compared over the convolutions and the linear layer: rank
correlation (Spearman), the largest and the mean absolute difference; means over seeds. `widest`
names the layer of the largest difference for the last seed.

    python recipes/papers/densities.py --model resnet20 --seeds 3

Measured, resnet20 at 3x32x32, 3 seeds, 100 rounds:

    kept   rank corr.   max |diff|   mean |diff|   synflow's range   synexp's range
     50%        0.802        0.230         0.101      0.371 - 0.991     0.310 - 1.000
     20%        0.952        0.244         0.093      0.094 - 0.954     0.088 - 1.000
     10%        0.971        0.274         0.045      0.039 - 0.894     0.039 - 1.000
      5%        0.971        0.460         0.039      0.018 - 0.773     0.019 - 1.000
      2%        0.972        0.146         0.016      0.006 - 0.488     0.007 - 0.621
      1%        0.972        0.050         0.004      0.003 - 0.275     0.004 - 0.311

mobilenet-v2 at 3x32x32, 1 seed, 100 rounds:

     50%        0.622        0.357         0.074      0.242 - 0.998     0.145 - 1.000
     20%        0.791        0.739         0.128      0.055 - 0.990     0.035 - 1.000
     10%        0.869        0.755         0.167      0.021 - 0.979     0.013 - 1.000
      5%        0.946        0.435         0.119      0.009 - 0.955     0.006 - 1.000
      2%        0.957        0.394         0.068      0.003 - 0.826     0.002 - 1.000
      1%        0.971        0.333         0.033      0.001 - 0.667     0.001 - 1.000

So on ResNet-20 the two agree closely in order and level once most weights are gone, as in the
paper's figure, but are not the same: where SynExp keeps all of a small layer, SynFlow still drops
its smallest weights, at 10% and less most of all in the classifier (640 weights). At 50% SynExp
keeps all layers but the widest whole, and a correlation of ties says little. On MobileNetV2 the
agreement is weaker than the figure's, and weakest at depthwise convolutions.
"""

import warnings

import click
import numpy as np
import torch
from scipy.stats import spearmanr

from alprune.models import build
from alprune.pruning.precrop.allocate import synexp
from alprune.pruning.unstructured.masks import weight_masks
from alprune.pruning.unstructured.scores import synflow

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


@click.command()
@click.option("--model", default="resnet20", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--rounds", default=100, show_default=True)
def main(model: str, seeds: int, rounds: int) -> None:
    warnings.simplefilter("ignore")  # emptied layers show in the table
    example = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    print(f"{model}, {seeds} seeds, {rounds} rounds of SynFlow")
    print(
        "kept   rank corr.   max |diff|   mean |diff|   synflow's range   synexp's range   widest"
    )
    for sparsity in SPARSITIES:
        rows = []
        for seed in range(seeds):
            scores = synflow(build(model, 10, seed=seed), example, None, sparsity, rounds)
            masks = weight_masks(scores, sparsity)
            found = np.array([mask.double().mean().item() for mask in masks.values()])
            sizes = np.array([mask.numel() for mask in masks.values()], dtype=float)
            expected = synexp(sizes, sizes, (1 - sparsity) * sizes.sum())
            gap = np.abs(found - expected)
            widest = list(masks)[gap.argmax()]
            rank = spearmanr(found, expected).statistic
            rows.append((rank, gap.max(), gap.mean(), found.min(), found.max()))
        rank, largest, mean, low, high = np.mean(rows, axis=0)
        numbers = f"{1 - sparsity:4.0%} {rank:12.3f} {largest:12.3f} {mean:13.3f}"
        ranges = f"{low:.3f} - {high:.3f}     {expected.min():.3f} - {expected.max():.3f}"
        print(f"{numbers}      {ranges}    {widest}")


if __name__ == "__main__":
    main()
