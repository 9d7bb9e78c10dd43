"""How many weights two ways of scoring keep in common: SNIP's BatchNorm, GraSP's linear layers.

    python recipes/papers/shared_masks.py cifar10.npz --model resnet20

For each seed a fresh network is scored on one batch and masked, by SNIP with BatchNorm in training
and in inference mode (`--score-mode`), and by GraSP with and without linear layers drawn for
scoring alone (`--redraw-linear`). Prints the share of the weights kept by one that the other keeps
too. The outcome is in recipes/papers/README.md.
"""

import argparse
from typing import Any

import torch
from snip_lenet import random_batch
from torch import Tensor

from alprune.data import Dataset, load
from alprune.models import build
from alprune.pruning import prune
from alprune.pruning.unstructured.masks import maskable_weights

PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "snip, train and eval": ("snip", {"score_mode": "eval"}),
    "grasp, as it is and redrawn": ("grasp", {"redraw_linear": True}),
}


def kept(
    name: str, train: Dataset, method: str, sparsity: float, size: int, seed: int, **options: Any
) -> Tensor:
    """Mask a fresh network and return which weights are left, `(weights,)` bool."""
    model = build(name, len(train.classes), train.image_shape, seed)
    pruned = prune(
        model,
        method,
        batch=random_batch(train, size, seed),
        params_reduction=sparsity,
        generator=torch.Generator().manual_seed(seed),
        **options,
    ).model
    weights = maskable_weights(pruned).values()
    return torch.cat([weight.detach().flatten() != 0 for weight in weights])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train = load(f"npz:{asked.data}").train
    print(f"{asked.model}, {asked.sparsity:.0%} masked, seeds {asked.seeds}: shared")
    for title, (method, other) in PAIRS.items():
        shares = []
        for seed in asked.seeds:
            first, second = (
                kept(asked.model, train, method, asked.sparsity, asked.batch, seed, **options)
                for options in ({}, other)
            )
            shares.append(f"{(first & second).sum() / first.sum():.0%}")
        print(f"{title:30} {'  '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
