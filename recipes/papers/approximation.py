"""How well do first-order scores predict what removing one weight or one channel does?

    python recipes/papers/approximation.py cifar10.npz

3SP's figures 2 and 6: at initialisation, the change that a score predicts for leaving out a
single weight (SNIP, GraSP) or a single channel (3SP, structured GraSP), against the change found
by leaving it out. For SNIP and 3SP it is the absolute change of the loss, for the GraSPs the
signed change of the squared gradient norm at temperature 200. Entries are drawn uniformly; the
figure of merit is Spearman's rank correlation. In float64, as the effect of one of 22 million
weights is below the resolution of a loss in float32.

Measured: VGG-19, PyTorch's default initialisation, a batch of 32 CIFAR-10 images, seed 0, 60
entries each (`--entries 60`), torch 2.15 on a CPU. At 60 entries a correlation of 0 is measured
with a standard error of 0.13.

| | single weights | channels |
| --- | --- | --- |
| change of the loss | SNIP +0.96 | 3SP +0.73 |
| change of the gradient norm | GraSP +0.23 | structured GraSP +0.20 |

As in the paper, the loss is predicted almost perfectly for weights and well, with noise, for
channels, and GraSP's objective far worse. The paper sees a correlation for GraSP's weights and
none for its channels; this sample is too small to tell the two apart. It takes 20 minutes of a
shared core, most of it for GraSP, where each entry costs a backward pass.
"""

import argparse
import time
from collections.abc import Callable

import torch
from collapse import real_batch
from scipy.stats import spearmanr
from torch import Tensor, nn

from alprune.models import INITS, build
from alprune.pruning import ChannelGraph, narrow, trace
from alprune.pruning.criteria.base import Batch, ScoreOptions, gradients, loss_on
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.criteria.three_sp import mask_gradients
from alprune.pruning.unstructured.scores import grasp, snip

TEMPERATURE = 200.0
Objective = Callable[[nn.Module], float]


def loss(batch: Batch) -> Objective:
    def value(model: nn.Module) -> float:
        with torch.no_grad():
            return loss_on(model, batch).item()

    return value


def flow(batch: Batch) -> Objective:
    """Return the squared norm of the gradient by the weights, with smoothed outputs."""

    def value(model: nn.Module) -> float:
        weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
        found = gradients(loss_on(model, batch, TEMPERATURE), weights)
        return sum((g**2).sum().item() for g in found.values())

    return value


def without_weight(model: nn.Module, objective: Objective, name: str, index: int) -> float:
    weight = model.get_parameter(name).detach().view(-1)
    kept = weight[index].clone()
    weight[index] = 0
    try:
        return objective(model)
    finally:
        weight[index] = kept


def by_weights(
    model: nn.Module, scores: dict[str, Tensor], objective: Objective, count: int, seed: int
) -> tuple[list[float], list[float]]:
    """Score and actual change of `count` random weights."""
    names = list(scores)
    ends = torch.tensor([scores[name].numel() for name in names]).cumsum(0)
    draw = torch.randint(int(ends[-1]), (count,), generator=torch.Generator().manual_seed(seed))
    before = objective(model)
    predicted, actual = [], []
    for position in draw.tolist():
        layer = int(torch.searchsorted(ends, position, right=True))
        index = position - (int(ends[layer - 1]) if layer else 0)
        predicted.append(scores[names[layer]].view(-1)[index].item())
        actual.append(without_weight(model, objective, names[layer], index) - before)
    return predicted, actual


def by_channels(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Tensor,
    objective: Objective,
    count: int,
    seed: int,
) -> tuple[list[float], list[float]]:
    """Score and actual change of `count` random channels."""
    chosen = torch.randperm(graph.channels, generator=torch.Generator().manual_seed(seed))[:count]
    before = objective(model)
    actual = []
    for channel in chosen.tolist():
        keep = graph.all_kept()
        keep[channel] = False
        actual.append(objective(narrow(model, graph, keep)) - before)
    return scores[chosen].tolist(), actual


def report(what: str, predicted: list[float], actual: list[float], began: float) -> None:
    rank = spearmanr(predicted, actual).statistic
    print(f"{what:18} {rank:+.2f}  ({time.perf_counter() - began:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz with x_train (n, 32, 32, 3) uint8 and y_train (n,)")
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--init", default="default", help="the paper's: PyTorch's own")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--entries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    images, labels = real_batch(asked.data, asked.batch, asked.seed)
    batch = (images.double(), labels)
    model = build(asked.model, 10, (3, 32, 32), asked.seed)
    INITS[asked.init](model, torch.Generator().manual_seed(asked.seed))
    model = model.double().train()
    graph = trace(model, batch[0][:2])
    limits = (asked.entries, asked.seed)

    began = time.perf_counter()
    predicted, actual = by_weights(model, snip(model, batch), loss(batch), *limits)
    report("SNIP, weights", predicted, [abs(a) for a in actual], began)
    scores = mask_gradients(model, graph, batch)
    predicted, actual = by_channels(model, graph, scores.abs(), loss(batch), *limits)
    report("3SP, channels", predicted, [abs(a) for a in actual], began)
    scores_by_weight = grasp(model, batch, temperature=TEMPERATURE)
    predicted, actual = by_weights(model, scores_by_weight, flow(batch), *limits)
    report("GraSP, weights", [-p for p in predicted], actual, began)
    scores = structured_grasp(model, graph, batch, ScoreOptions(temperature=TEMPERATURE))
    predicted, actual = by_channels(model, graph, scores, flow(batch), *limits)
    report("GraSP, channels", [-p for p in predicted], actual, began)


if __name__ == "__main__":
    main()
