r"""Lottery tickets: train, mask the smallest weights, rewind and train again.

    python recipes/papers/lottery_ticket.py mnist.npz --sparsities 0.9 0.98

A baseline of When to Prune (section 4.1; Frankle and Carbin 2019): it costs a
whole training before the one that counts. A fresh network is trained, the smallest weights of all
layers together are masked, and the others go back to the values that they had at the start, or
after `--rewind` epochs (Frankle et al. 2020); then the masked network is trained. With `--rounds`
the weights go in several rounds, each of which removes the same share of what is left. Beside it:
fresh weights under the same masks, and SNIP's masks, which need no training.

Networks, data and training are those of `snip_lenet.py`: SGD with Nesterov momentum 0.9, batches
of 100, weight decay 5e-4, rate 0.1 falling linearly to zero in each training. Channels instead of
weights: `when_to_prune.py --tickets`.

Measured: see recipes/papers/README.md.
"""

import argparse
import copy
import statistics
import time
from dataclasses import replace

import torch
from snip_lenet import SETTINGS, random_batch
from torch import Tensor, nn

from alprune.data import Splits, load
from alprune.models import INITS, build
from alprune.pruning import prune
from alprune.pruning.reinit import reinit
from alprune.pruning.unstructured.masks import (
    apply_masks,
    maskable_weights,
    masks_of,
    weight_masks,
)
from alprune.training import FitSettings, Learner


def trained(
    model: nn.Module, splits: Splits, epochs: float, settings: FitSettings, seed: int
) -> tuple[nn.Module, float]:
    """Train a network in place; return it and its test error in percent."""
    train, generator = splits.train, torch.Generator().manual_seed(seed)
    learner = Learner(model, train, settings, torch.device("cpu"), torch.float32)
    if epochs:
        everything = torch.arange(len(train))
        learner.fit(everything, train.y, epochs, generator, progress=lambda done: done)
    return learner.model, 100 * (1 - learner.evaluate(splits.test).accuracy)


def smallest_masked(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Mask the smallest weights of a network, masked or not; what is zero goes first."""
    weights = maskable_weights(model)
    return weight_masks({name: w.detach().abs() for name, w in weights.items()}, sparsity)


def ticket(
    start: nn.Module,
    splits: Splits,
    sparsity: float,
    rounds: int,
    epochs: float,
    settings: FitSettings,
    seed: int,
) -> nn.Module:
    """Return the masked network at its first weights, `start`, which is left as found."""
    masked = copy.deepcopy(start)
    for number in range(1, rounds + 1):
        found, _ = trained(masked, splits, epochs, settings, seed)
        share = sparsity if number == rounds else 1 - (1 - sparsity) ** (number / rounds)
        masked = apply_masks(start, smallest_masked(found, share))
    return masked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="MNIST as .npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--model", default="lenet-300-100", help="or lenet-5-caffe")
    parser.add_argument("--init", choices=INITS, default="he")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    parser.add_argument("--rounds", type=int, default=1, help="trainings before the last one")
    parser.add_argument("--rewind", type=float, default=0, help="epochs, to whose end weights go")
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = load(f"npz:{asked.data}")
    settings = replace(SETTINGS, lr=asked.lr)
    print(f"{asked.model}, {asked.epochs:g} epochs, {asked.rounds} rounds: test error in %")
    for sparsity in asked.sparsities:
        began, errors = time.process_time(), {"rewound": [], "fresh": [], "snip": []}
        for seed in asked.seeds:
            generator = torch.Generator().manual_seed(seed)
            start = build(asked.model, len(splits.train.classes), splits.train.image_shape, seed)
            INITS[asked.init](start, generator)
            batch = random_batch(splits.train, 100, seed)
            by_snip = prune(start, "snip", batch=batch, params_reduction=sparsity).model
            start, _ = trained(start, splits, asked.rewind, settings, seed)
            rewound = ticket(start, splits, sparsity, asked.rounds, asked.epochs, settings, seed)
            fresh = apply_masks(start, masks_of(rewound))
            reinit(fresh, start, generator, asked.init)
            for name, model in zip(errors, (rewound, fresh, by_snip), strict=True):
                errors[name].append(trained(model, splits, asked.epochs, settings, seed)[1])
        told = "  ".join(
            f"{name} {statistics.mean(found):.2f} ({' '.join(f'{e:.2f}' for e in found)})"
            for name, found in errors.items()
        )
        print(f"{sparsity:4.0%}  {told}  {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
