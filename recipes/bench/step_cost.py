"""What a training step spends on multiply-accumulates, on values of activations and on weights.

    python recipes/bench/step_cost.py --threads 2       # three minutes, downloads nothing
    python recipes/bench/step_cost.py --model resnet18 --device cuda

Trains networks of random widths, pruned from the model, on one batch that lies ready, in turns, and
fits the median times by a sum of three terms, none negative, with errors as shares of the time.
Prints what a value and a weight cost in multiply-accumulates, as
`alprune/pruning/criteria/costs.py` has them, and how far off times are by this and by
multiply-accumulates alone.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.models import MODELS, build
from alprune.pruning import ChannelGraph, narrow, trace
from alprune.training import FitSettings, new_optimiser
from alprune.training.device import hardware, pick_device
from alprune.training.optimiser import follow

BATCH = 64
STEPS = 4  # a turn
ROUNDS = 5


def random_widths(graph: ChannelGraph, draws: torch.Generator) -> Tensor:
    """Keep a random part of each group, `(channels,)` bool, multiples of 8 where there are 8."""
    keep = torch.zeros(graph.channels, dtype=torch.bool)
    whole = 0.15 + 0.35 * float(torch.rand((), generator=draws))
    for group in graph.groups:
        count = len(group.channels)
        share = whole * (0.4 + 2.1 * float(torch.rand((), generator=draws)))
        step = min(8, count)
        keep[group.channels[: max(step, round(min(1.0, share) * count / step) * step)]] = True
    return keep


def values(graph: ChannelGraph, keep: Tensor) -> int:
    """Count the values that the layers make of one example."""
    return sum(
        tensor.macs_per_element * int(graph.kept(tensor.axes[dim], keep).sum())
        for tensor in graph.tensors
        for dim in tensor.dims("makes")
    )


class Turn:
    """A network that is trained a few steps at a time."""

    def __init__(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.averaged = copy.deepcopy(self.network)
        self.optimiser = new_optimiser(self.network, FitSettings(lr=1e-4))
        self.inputs, self.labels = inputs, labels

    def __call__(self) -> None:
        for _ in range(STEPS):
            loss = F.cross_entropy(self.network(self.inputs), self.labels)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            follow(self.averaged, self.network, 0.01)


def seconds(work: Turn, device: torch.device) -> float:
    """Time a turn with the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg19", choices=sorted(MODELS))
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = pick_device(given.device)
    draws = torch.Generator().manual_seed(given.seed)
    shape = MODELS[given.model].input_shape
    inputs = torch.randn(BATCH, *shape, generator=draws).to(device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,), generator=draws).to(device)
    model = build(given.model, 10, shape).to(device)
    graph = trace(model, inputs[:2])
    keeps = [random_widths(graph, draws) for _ in range(given.networks)]
    turns = [Turn(narrow(model, graph, keep), inputs, labels) for keep in keeps]
    times: list[list[float]] = [[] for _ in turns]
    for work in turns:
        work()
    for _ in range(ROUNDS):
        for work, taken in zip(turns, times, strict=True):
            taken.append(seconds(work, device) / STEPS / BATCH)
    found = torch.tensor([statistics.median(taken) for taken in times], dtype=torch.float64)
    terms = torch.tensor(
        [[graph.macs(keep), values(graph, keep), graph.params(keep)] for keep in keeps],
        dtype=torch.float64,
    )
    shares = terms / found[:, None]
    weights, off = nnls(shares.numpy(), torch.ones(len(found)).numpy())
    _, off_alone = nnls(shares[:, :1].numpy(), torch.ones(len(found)).numpy())
    print(json.dumps({
        "model": given.model,
        "hardware": hardware(device),
        "a_value": round(weights[1] / weights[0], 1),
        "a_weight": round(weights[2] / weights[0], 1),
        "off": round(off / len(found) ** 0.5, 3),
        "off_by_macs_alone": round(off_alone / len(found) ** 0.5, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
