"""Controls of the papers' recipes: `--method recipes.mask_methods:grasp_shuffled`.

Found where the command is given in the root of the repository. Each removes `params_reduction`,
by default 90%. Weight masks:

- `snip_shuffled`, `grasp_shuffled`, `synflow_shuffled`: as many weights in each layer as that
  method keeps, at random places; what is left of the method is its share by layer;
- `grasp_reversed`: GraSP with the opposite sign, so that the smallest `-w * Hg` are removed;
- `grasp_unsigned`: GraSP's scores without their sign;
- `synexp_random`, `synexp_filters`: random weights, or whole random filters, at the layer
  densities of SynExp (PreCrop, equation 5 and figure 1);
- `synexp_flops_6`, `_9`, `_12`: random weights at the densities that leave 6, 9 or 12% of the
  multiply-accumulates, too, those with a masked weight counted as saved (equation 6, figure 3).

And smaller networks:

- `snip_cropped`, `grasp_cropped`, `synflow_cropped`: layers cropped as PreCrop does, but to the
  densities of that method's mask (figure 7). The widths are not adjusted afterwards, so the
  parameters left differ a little from those asked for.
"""

from functools import partial
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

from alprune.models.cost import cost
from alprune.pruning import Method, Plan
from alprune.pruning.methods import Cut, Request, by_weights
from alprune.pruning.precrop import crop
from alprune.pruning.precrop.allocate import synexp
from alprune.pruning.unstructured.masks import maskable_weights, weight_masks
from alprune.pruning.unstructured.scores import Batches, Scorer, Scores, grasp, snip, synflow


def shuffled(
    scorer: Scorer,
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator,
    sparsity: float,
) -> Scores:
    """Score 1 for the weights to keep: as many a layer as `scorer` keeps, at random places."""
    masks = weight_masks(scorer(model, batch, generator, sparsity), sparsity)
    return {name: _shuffle(mask, generator).float() for name, mask in masks.items()}


def reversed_grasp(
    model: nn.Module, batch: Batches, generator: torch.Generator, sparsity: float
) -> Scores:
    """Keep what GraSP removes first."""
    return {name: -score for name, score in grasp(model, batch).items()}


def unsigned_grasp(
    model: nn.Module, batch: Batches, generator: torch.Generator, sparsity: float
) -> Scores:
    """Keep the weights that change the gradient flow most, in either direction."""
    return {name: score.abs() for name, score in grasp(model, batch).items()}


def at_synexp_densities(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator,
    sparsity: float,
    filters: bool = False,
    macs_left: float | None = None,
) -> Scores:
    """Score from 1 to 2 for random weights, each layer's share of SynExp, and below 1 for others.

    With `filters` the weights of an output channel share one score, the classifier's aside.
    `macs_left` limits the share of the multiply-accumulates, too. Rounding leaves the shares a few
    weights or a filter short or over; the total is exact, by `weight_masks`, unless the second
    limit leaves fewer weights than asked for: then weights are drawn from all layers up to it.
    """
    weights = maskable_weights(model)
    sizes = np.array([weight.numel() for weight in weights.values()], dtype=float)
    macs, macs_budget = sizes, None
    if macs_left is not None:
        by_layer = cost(model, batch[0][0][:1]).by_layer
        macs = np.array([by_layer[name.removesuffix(".weight")] for name in weights], dtype=float)
        macs_budget = macs_left * macs.sum()
    densities = synexp(sizes, macs, (1 - sparsity) * sizes.sum(), macs_budget)
    scores = {}
    for (name, weight), density in zip(weights.items(), densities, strict=True):
        whole = filters and name != list(weights)[-1]
        count = len(weight) if whole else weight.numel()
        draw = torch.rand(count, generator=generator, dtype=torch.float64)
        draw[draw.topk(max(1, round(density * count))).indices] += 1
        draw = draw.repeat_interleave(weight.numel() // count)
        scores[name] = draw.view(weight.shape).to(weight.device)
    return scores


def cropped(scorer: Scorer, model: nn.Module, request: Request) -> Cut:
    """Crop each layer to `floor(sqrt(p) * channels)`, p being the share that `scorer` keeps."""
    sparsity = request.target.reduction
    scores = scorer(model, request.batches, request.generator, sparsity)
    kept = {
        name.removesuffix(".weight"): mask.double().mean().item()
        for name, mask in weight_masks(scores, sparsity).items()
    }

    def width(layer: str, channels: int) -> int:
        return max(1, int(sqrt(kept[layer]) * channels))

    widths, _, _ = crop.simulate(crop.survey(model, request.example), width)
    rebuilt = crop.at_widths(model, widths, request.generator)
    outputs = {name: out for name, (_, out) in widths.items()}
    return Cut(rebuilt, Plan.of_widths(request.example.shape[1:], widths), widths=outputs)


def _shuffle(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
    return mask.flatten()[order].view(mask.shape)


def _method(summary: str, scorer: Scorer) -> Method:
    return Method(summary, partial(by_weights, scorer), {"params": 0.9}, saves_time=False)


snip_shuffled = _method("SNIP's share of each layer, at random", partial(shuffled, snip))
grasp_shuffled = _method("GraSP's share of each layer, at random", partial(shuffled, grasp))
synflow_shuffled = _method("SynFlow's share of each layer, at random", partial(shuffled, synflow))
grasp_reversed = _method("GraSP with the opposite sign", reversed_grasp)
grasp_unsigned = _method("GraSP without signs", unsigned_grasp)
synexp_random = _method("random weights at SynExp's densities", at_synexp_densities)
synexp_filters = _method(
    "random filters at SynExp's densities", partial(at_synexp_densities, filters=True)
)
synexp_flops_6, synexp_flops_9, synexp_flops_12 = (
    _method(
        f"random weights at SynExp's densities for {share:.0%} of the products",
        partial(at_synexp_densities, macs_left=share),
    )
    for share in (0.06, 0.09, 0.12)
)
snip_cropped, grasp_cropped, synflow_cropped = (
    Method(f"crops at {name}'s densities", partial(cropped, scorer), {"params": 0.9})
    for name, scorer in (("SNIP", snip), ("GraSP", grasp), ("SynFlow", synflow))
)
