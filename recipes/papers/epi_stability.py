"""How the structure of the best sub-network settles during training (When to Prune, figure 6).

    python recipes/papers/epi_stability.py cifar10.npz --epochs 90
    python recipes/papers/epi_stability.py cifar10.npz --epochs 90 --criterion magnitude

One dense training per seed, in which nothing is pruned; after each epoch the Early Pruning
Indicator of several pruning ratios, mean over the seeds. ResNet-20 on CIFAR-10, SGD with Nesterov
momentum 0.9, rate 0.1 falling linearly; the paper trains ResNet-34 and ResNet-50 on ImageNet. The
first value is that of epoch 6, the first with five epochs before it.

Not measured (recipes/papers/README.md).
"""

import argparse
from typing import cast

import torch
from torch import nn

from alprune.data import Dataset, load
from alprune.models import INITS, build
from alprune.pruning import Limits, Target, trace
from alprune.pruning.epi import EarlyPruner, EarlySettings, Removal
from alprune.pruning.epi.importance import EARLY_CRITERIA
from alprune.training import FitSettings, Learner


class Watchers:
    """Early pruners of several ratios over one training, none of which ever prunes."""

    def __init__(self, pruners: list[EarlyPruner]) -> None:
        self.pruners = pruners

    def observe(self, model: nn.Module) -> None:
        for pruner in self.pruners:
            pruner.observe(model)

    def after_batch(self, batches: int) -> Removal | None:
        for pruner in self.pruners:
            pruner.after_batch(batches)
        return None


def indicators(
    train: Dataset,
    points: int,
    name: str,
    criterion: str,
    ratios: list[float],
    epochs: int,
    seed: int,
) -> list[list[float]]:
    """Train on `points` random images; return the indicator by ratio and epoch, from epoch 6 on."""
    generator = torch.Generator().manual_seed(seed)
    model = build(name, len(train.classes), train.image_shape, seed)
    INITS["he"](model, generator)
    graph = trace(model, torch.zeros(2, *train.image_shape))
    settings = [
        EarlySettings(Target("channels", ratio, Limits(1, 1)), criterion, rising=epochs)
        for ratio in ratios
    ]
    watchers = Watchers([EarlyPruner(graph, of) for of in settings])
    learner = Learner(
        model,
        train,
        FitSettings(lr=0.1, batch_size=128, averaging=0.0),
        torch.device("cpu"),
        torch.float32,
        cast(EarlyPruner, watchers),
    )
    chosen = torch.randperm(len(train), generator=generator)[:points]
    learner.fit(chosen, train.y[chosen], epochs, generator, progress=lambda done: done)
    return [[v for v in pruner.epi if v is not None] for pruner in watchers.pruners]


def parser_of(description: str) -> argparse.ArgumentParser:
    """Make a parser that asks for a network and for the images that it is trained on."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("data", help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--points", type=int, default=50_000, help="to train on, drawn at random")
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--criterion", choices=EARLY_CRITERIA, default="taylor")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train = load(f"npz:{asked.data}", size=(asked.size, asked.size)).train
    settings = asked.points, asked.model, asked.criterion, asked.ratios, asked.epochs
    by_seed = [indicators(train, *settings, seed) for seed in asked.seeds]
    means = torch.tensor(by_seed, dtype=torch.float64).mean(0)  # (ratios, epochs)
    print(f"{asked.model}, {asked.criterion}, seeds {asked.seeds}: EPI, from epoch 6 on")
    tau = EARLY_CRITERIA[asked.criterion].threshold
    for ratio, values in zip(asked.ratios, means.tolist(), strict=True):
        reached = [epoch for epoch, value in enumerate(values, 6) if value >= tau]
        print(
            f"{ratio:4.0%} pruned: {' '.join(f'{value:.3f}' for value in values)}  "
            f"at the threshold from epoch {reached[0] if reached else '-'}"
        )


if __name__ == "__main__":
    main()
