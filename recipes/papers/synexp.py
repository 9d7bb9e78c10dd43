"""SynExp's theorem by sampling: what the granularity of random pruning does to SynFlow's score.

Theorem 1 of Cai et al. 2022 (equation 4): with the same density in every layer, the expected
SynFlow score of a randomly pruned random network is N C_{N+1} prod(p_l C_l E|w_l|), whether
weights, filters (k x k kernels) or input channels are pruned. Here networks are drawn and masked
at random, scored by alprune's SynFlow, and the mean is set against the formula. For convolutions
the formula gains the kernel's size in each factor and the number of pixels; padding is circular,
so that no border disturbs it.

The last row crops output channels and the next layer's inputs together, each width by sqrt(p),
as PreCrop does behind layers without residual connections. That is outside the theorem, whose
masks are independent from layer to layer: here a path survives a channel's removal with one
chance sqrt(p), which the product of densities counts twice. With two inner widths and p = 1/4
the mean is therefore 1 / sqrt(p)^2 = 4 times the formula at the same densities.

    python recipes/papers/synexp.py --samples 3000

Measured (3000 networks a row, widths 6, 12, 12, 8, p = 1/4, seed 0), mean score / formula and
standard error:

    fully connected  weight   1.002 0.007      3x3 convolution  weight   0.999 0.002
                     filter   1.002 0.007                       filter   1.003 0.003
                     channel  1.006 0.008                       channel  0.994 0.003
                     coupled  3.970 0.015                       coupled  4.002 0.005

So the theorem holds for all three granularities (a 1x1 kernel's filter is its weight: the first
two rows on the left are the same draws), and does not cover coupled channels.
"""

import math

import click
import torch
from torch import Tensor, nn

from alprune.pruning.unstructured.scores import synflow

WIDTHS = (6, 12, 12, 8)
GRANULARITIES = ("weight", "filter", "channel", "coupled")


def network(kernel: int) -> nn.Sequential:
    return nn.Sequential(
        *[
            nn.Conv2d(
                reads,
                makes,
                kernel,
                padding=kernel // 2,
                padding_mode="circular",
                bias=False,
            )
            for reads, makes in zip(WIDTHS, WIDTHS[1:], strict=False)
        ]
    ).double()


def kept(count: int, density: float, generator: torch.Generator) -> Tensor:
    """Keep exactly `density * count` of `(count,)`, drawn uniformly."""
    mask = torch.zeros(count, dtype=torch.float64)
    mask[torch.randperm(count, generator=generator)[: round(density * count)]] = 1
    return mask


def draw(model: nn.Sequential, how: str, density: float, generator: torch.Generator) -> list[float]:
    """Redraw weights and masks in place; return each layer's density."""
    densities = []
    alive = torch.ones(WIDTHS[0], dtype=torch.float64)
    for index, layer in enumerate(model):
        makes, reads, *kernel = layer.weight.shape
        if how == "weight":
            mask = kept(layer.weight.numel(), density, generator).view(layer.weight.shape)
        elif how == "filter":
            mask = kept(makes * reads, density, generator).view(makes, reads, 1, 1)
        elif how == "channel":
            mask = kept(reads, density, generator).view(1, reads, 1, 1)
        else:
            last = index == len(model) - 1
            out = kept(makes, 1.0 if last else density**0.5, generator)
            mask, alive = out.view(-1, 1, 1, 1) * alive.view(1, -1, 1, 1), out
        mask = mask.expand(layer.weight.shape)
        weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        layer.weight.data = weight * mask
        densities.append(mask.mean().item())
    return densities


def formula(model: nn.Sequential, densities: list[float], pixels: int) -> float:
    mean_magnitude = math.sqrt(2 / math.pi)  # of a standard normal weight
    factors = [
        p * layer.weight[0].numel() * mean_magnitude
        for p, layer in zip(densities, model, strict=True)
    ]
    return len(model) * WIDTHS[-1] * pixels * math.prod(factors)


@click.command()
@click.option("--samples", default=3000, show_default=True)
@click.option("--density", default=0.25, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(samples: int, density: float, seed: int) -> None:
    torch.set_num_threads(1)
    print(f"{samples} networks a row, widths {WIDTHS}, density {density}")
    print("network        pruned   mean / formula   standard error")
    for name, kernel, side in (("fully connected", 1, 1), ("3x3 convolution", 3, 4)):
        model = network(kernel)
        example = torch.zeros(1, WIDTHS[0], side, side), torch.zeros(1)
        for how in GRANULARITIES:
            generator = torch.Generator().manual_seed(seed)
            ratios = []
            for _ in range(samples):
                densities = draw(model, how, density, generator)
                total = sum(s.sum().item() for s in synflow(model, example, rounds=1).values())
                ratios.append(total / formula(model, densities, side * side))
            found = torch.tensor(ratios)
            error = found.std() / len(ratios) ** 0.5
            print(f"{name}  {how:8} {found.mean():10.3f} {error:16.3f}")


if __name__ == "__main__":
    main()
