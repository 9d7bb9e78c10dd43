"""What pruning takes, part by part, beside one training step's gradient of the same network.

    python recipes/pruning/times.py                                # alone, about two minutes
    python recipes/pruning/times.py torchvision:resnet50@64        # NAME@PIXELS, any number of them

Seconds, the median over rounds after a first one that is not counted. `gradient` is one bare
forward and backward pass over two images: what a score by gradients has to wait for at least.
`trace` finds the channels and verifies them, `plan` chooses those that leave by scores that are
there, `prune` is all that `alprune.prune` does: trace, scores, plan, verified cut, both counts.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch

from alprune import prune
from alprune.models import build
from alprune.pruning import Target, search, trace

NETWORKS = (
    "torchvision:resnet50@64",
    "timm:vit_base_patch16_224@224",
    "torchvision:efficientnet_v2_l@64",
)
CUT, CLASSES = 0.5, 10


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NAME@PIXELS")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{torch.get_num_threads()} threads, median of {given.rounds} rounds, seconds\n")
    print("| network | gradient | trace | plan | trace and plan | prune |\n" + "| --- " * 6 + "|")
    for text in given.networks:
        name, _, pixels = text.rpartition("@")
        columns = zip(*rounds(name, int(pixels), given.rounds), strict=True)
        gradient, traced, plan, whole = map(statistics.median, columns)
        figures = (gradient, traced, plan, traced + plan, whole)
        cells = " | ".join(f"{seconds:.2f}" for seconds in figures)
        print(f"| {name}, {pixels} pixels | {cells} |", flush=True)


def rounds(name: str, pixels: int, count: int) -> list[tuple[float, ...]]:
    """Return the seconds of gradient, trace, plan and all of `prune`, round by round."""
    model = build(name, CLASSES, (3, pixels, pixels), seed=0)
    images = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2)
    graph = trace(model, images, normalised="follow")
    scores = torch.rand(graph.channels, generator=torch.Generator().manual_seed(0))

    def gradient() -> None:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])

    parts: list[Callable[[], object]] = [
        gradient,
        lambda: trace(model, images, normalised="follow"),
        lambda: search(graph, scores, Target("flops", CUT)),
        lambda: prune(model, batch=(images, labels), flops_reduction=CUT, normalised="follow"),
    ]
    return [tuple(map(seconds, parts)) for _ in range(count + 1)][1:]


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
