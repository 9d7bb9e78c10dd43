"""Percentile of channels pruned against the FLOPs left, VGG-19 (3SP, figure 3).

    python recipes/papers/flops_left.py cifar10.npz

The share of the multiply-accumulates left when a share p of the channels goes by their scores, all
layers ranked together, one channel a layer kept; means over the seeds. One scoring pass on a real
batch of 64 a seed and method, no training.

Measured (CIFAR-10 decoded from JPEG, PyTorch's own initialisation, seeds 0-2, 19 s on one core of
an Intel Xeon with AVX-512):

    pruned       uniform          3sp  3sp-ca 0.05     3sp-ca 0
      10%          81.3%        94.3%        91.8%        78.9%
      20%          63.4%        87.3%        82.1%        58.2%
      30%          48.6%        79.3%        71.0%        40.7%
      40%          35.8%        70.5%        60.3%        27.2%
      50%          24.8%        62.1%        49.8%        16.5%
      60%          16.0%        53.0%        40.0%         8.1%
      70%           9.0%        43.4%        30.2%         2.6%
      80%           4.0%        33.4%        20.9%         0.8%
      90%           1.0%        20.1%        11.3%         0.5%

The paper prints no numbers beside the figure; what it says of it holds: 3SP removes compute less
aggressively than uniform, since it keeps the early, costly layers, and compute-aware scores with
lambda 0 remove it faster than both. With lambda 0.05, the paper's choice for accuracy (figure 4),
they stay between 3SP and uniform. At equal p, that is; at equal FLOPs 3SP removes more channels.
"""

import argparse

import torch
from collapse import network, real_batch
from torch import Tensor

from alprune.pruning import ChannelGraph, Limits, ScoreOptions, Target, search, trace
from alprune.pruning.criteria.magnitude import uniform
from alprune.pruning.criteria.three_sp import three_sp, three_sp_ca

PERCENTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def scores_by_method(init: str, batch: int, path: str, seed: int) -> tuple[ChannelGraph, list]:
    """Score VGG-19 at initialisation, on one real batch, by each method of the figure."""
    model = network(init, seed)
    examples = real_batch(path, batch, seed)
    graph = trace(model, examples[0][:2])

    def options(smoothing: float) -> ScoreOptions:
        return ScoreOptions(smoothing, generator=torch.Generator().manual_seed(seed))

    return graph, [
        uniform(model, graph, examples, options(0.0)),
        three_sp(model, graph, examples, options(0.0)),
        three_sp_ca(model, graph, examples, options(0.05)),
        three_sp_ca(model, graph, examples, options(0.0)),
    ]


def flops_left(graph: ChannelGraph, scores: Tensor, percentile: float) -> float:
    """Share of the multiply-accumulates that is left without `percentile` of the channels."""
    plan = search(graph, scores, Target("channels", percentile, Limits(min_channels=1)))
    return graph.macs(plan.keep(graph)) / graph.macs(graph.all_kept())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz with x_train (n, 32, 32, 3) uint8 and y_train (n,)")
    parser.add_argument("--init", default="default", help="the paper's: PyTorch's own")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--png", help="where to draw the curves")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = ("uniform", "3sp", "3sp-ca 0.05", "3sp-ca 0")
    totals = torch.zeros(len(PERCENTILES), len(names))
    for seed in asked.seeds:
        graph, by_method = scores_by_method(asked.init, asked.batch, asked.data, seed)
        totals += torch.tensor(
            [[flops_left(graph, scores, p) for scores in by_method] for p in PERCENTILES]
        )
    left = totals / len(asked.seeds)
    print("pruned " + "".join(f"{name:>13}" for name in names))
    for percentile, row in zip(PERCENTILES, left.tolist(), strict=True):
        print(f"{percentile:5.0%}  " + "".join(f"{share:13.1%}" for share in row))
    if asked.png:
        draw(left, names, asked.png)


def draw(left: Tensor, names: tuple[str, ...], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, shares in zip(names, left.T.tolist(), strict=True):
        axes.plot([0, *PERCENTILES], [1, *shares], marker=".", label=name)
    axes.set(xlabel="share of channels pruned", ylabel="share of FLOPs left")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
