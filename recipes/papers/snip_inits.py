"""The initialisation at which SNIP scores, on a recurrent network (SNIP, table 3).

    python recipes/papers/snip_inits.py mnist.npz --model gru-s --batches 2400

GRU-s reads MNIST row by row. Weights are drawn by the initialisation named, scored on one batch of
100 and masked at 90%, then drawn again by VS-X (Glorot) and trained by Adam at 0.001 without weight
decay in batches of 100, as in the paper. The paper doesn't give the standard deviation of RN and
TN: 0.1 is alprune's "rn" and "tn", 1 the default of TensorFlow 1, in which its code is written.

Measured (GRU-s, one seed, 0; 4 minutes on one core of an Intel Xeon with AVX-512), test error in %;
"kept" is the share of the weights kept in the linear layer in front, in the cell's input and
recurrent weights, and in the classifier:

    scored at     1 epoch   4 epochs   paper             kept
    rn, std 1       57.20      43.51   47.61 (+- 20.49)  0.634 0.155 0.008 0.026
    tn, std 1       32.00      15.17   46.48 (+- 22.25)  0.603 0.153 0.009 0.152
    rn, std 0.1     28.09       5.92                     0.540 0.093 0.063 0.578
    tn, std 0.1     28.31                                0.552 0.088 0.066 0.604
    vs-x            32.86       7.43   1.80 (+- 0.10)    0.595 0.104 0.047 0.609
    vs-h            27.02       7.28   1.80 (+- 0.14)    0.645 0.115 0.033 0.579

So the paper's finding holds for RN and TN at std 1: less than 1% of the recurrent weights is kept
(presumably the gates saturate) and the network trains badly. At std 0.1 they do as well as variance
scaling, as they must: in this network VS-X has a std of 0.07 and VS-H of 0.09 in the cell. After 4
epochs errors are far from the paper's 1.80; between the last four rows one seed decides nothing.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from snip_lenet import random_batch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.data import Dataset, Splits, load
from alprune.models import INITS, build
from alprune.models.init import normal_, truncated_normal_
from alprune.pruning.unstructured.masks import apply_masks, maskable_weights, weight_masks
from alprune.pruning.unstructured.scores import snip
from alprune.training import FitSettings, Learner
from alprune.training.augment import Augment

CASES = {
    "rn, std 0.1": INITS["rn"],
    "tn, std 0.1": INITS["tn"],
    "rn, std 1": partial(normal_, std=1.0),
    "tn, std 1": partial(truncated_normal_, std=1.0),
    "vs-x": INITS["vs-x"],
    "vs-h": INITS["vs-h"],
}


def masked_network(train: Dataset, name: str, case: str, sparsity: float, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = build(name, len(train.classes), train.image_shape, seed)
    CASES[case](model, generator)
    masks = weight_masks(snip(model, random_batch(train, 100, seed)), sparsity)
    INITS["vs-x"](model, generator)
    return apply_masks(model, masks)


def adam(model: nn.Module, train: Dataset, batches: int, seed: int) -> float:
    """Train with batches of 100 and return the mean loss of the last tenth."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = torch.tensor(train.mean), torch.tensor(train.std)
    prepare = Augment(mean, std, flip=False, pad=0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    order = torch.empty(0, dtype=torch.int64)
    losses: list[Tensor] = []
    model.train()
    for _ in range(batches):
        if len(order) < 100:
            order = torch.randperm(len(train), generator=generator)
        chosen, order = order[:100], order[100:]
        loss = F.cross_entropy(model(prepare(train.x[chosen], generator)), train.y[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses[-max(1, batches // 10) :]).mean().item()


def densities(model: nn.Module) -> str:
    """Share of each layer's weights kept; of the recurrent ones input and recurrent weight."""
    weights = maskable_weights(model).values()
    return " ".join(f"{(weight != 0).double().mean():.3f}" for weight in weights)


def test_error(splits: Splits, model: nn.Module) -> float:
    settings = FitSettings(averaging=0.0)
    learner = Learner(model, splits.train, settings, torch.device("cpu"), torch.float32)
    return 100 * (1 - learner.evaluate(splits.test).accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="MNIST as .npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--model", default="gru-s", help="or lstm-s, lenet-300-100, ...")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batches", type=int, default=600, help="of 100; 600 are an epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--inits", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = load(f"npz:{asked.data}")
    print(f"{asked.model}, {asked.sparsity:.0%} masked, {asked.batches} batches, test error in %")
    for case in asked.inits:
        began = time.process_time()
        errors, losses = [], []
        for seed in asked.seeds:
            model = masked_network(splits.train, asked.model, case, asked.sparsity, seed)
            losses.append(adam(model, splits.train, asked.batches, seed))
            errors.append(test_error(splits, model))
        each = "  ".join(f"{error:.2f}" for error in errors)
        print(
            f"{case:12} mean {statistics.mean(errors):5.2f}  ({each})  training loss "
            f"{statistics.mean(losses):.3f}  kept {densities(model)}  "
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
