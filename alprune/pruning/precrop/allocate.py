"""Widths without scores: SynExp's layer densities, PreCrop and PreConfig.

Nothing here looks at weights or data: densities solve a convex programme over the layers' sizes,
and widths follow from densities. `alprune.pruning.precrop.crop` rebuilds the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.models.cost import cost
from alprune.pruning.precrop.crop import Layers, Widths, simulate, survey
from alprune.pruning.width_limits import AUTO, floor_for, multiple_for, named

Costs = Sequence[float] | np.ndarray


def synexp(
    params: Costs,
    macs: Costs,
    params_budget: float | None = None,
    macs_budget: float | None = None,
    upper: float | None = 1.0,
) -> np.ndarray:
    """Find the layer densities p that maximise sum(log p) within one or two budgets.

    Solved exactly by the KKT conditions, `p_l = min(1 / (lambda_1 a_l + lambda_2 b_l), upper)`.
    With one budget that is water-filling over the sorted costs. With two that both bind, the
    ratio of the multipliers is bisected: at each ratio the two budgets merge into one, whose
    water-filling is exact, and the one ratio at which both are met to the full is the optimum.

    Args:
        params: `(layers,)` parameters of each layer at density 1, alpha in the paper.
        macs: `(layers,)` multiply-accumulates of each layer at density 1, beta (the paper's
            FLOPs; the factor 2 cancels if the budget is in the same unit).
        params_budget: Upper limit of `params @ p`; None for none.
        macs_budget: Upper limit of `macs @ p`; None for none.
        upper: Upper limit of each density; None for PreConfig, which widens.

    Returns:
        `(layers,)` float64 in (0, upper]; budgets hold to rounding.

    Raises:
        PruneError: No budget, a budget or a cost that isn't a usable number, or a layer whose
            density nothing limits.

    Source: Cai et al. 2022, equations 5, 6 and 17 to 19.
    """
    if upper is not None and not 0 < upper < np.inf:
        raise PruneError(f"upper must be positive and finite, or None to widen; got {upper}.")
    limits = [
        _in_budgets("params", params, params_budget),
        _in_budgets("macs", macs, macs_budget),
    ]
    if len(limits[0][0]) != len(limits[1][0]):
        raise PruneError(
            f"params and macs must be one number a layer each, got {len(limits[0][0])} and "
            f"{len(limits[1][0])}."
        )
    shares = [cost / budget for cost, budget in limits if budget is not None]
    if not shares:
        raise PruneError("SynExp needs a budget: give params_budget, macs_budget or both.")
    if upper is None and (np.max(shares, axis=0) == 0).any():
        free = np.flatnonzero(np.max(shares, axis=0) == 0).tolist()
        raise PruneError(
            f"layers {free} cost nothing in the given budgets, so nothing limits their density. "
            "Leave them out, give the other budget too, or set upper."
        )
    for alone, others in ((shares[0], shares[1:]), (shares[-1], shares[:-1])):
        density = _fill(alone, upper)
        if all(_spent(other, density) <= 1 for other in others):
            return density
    return _fill_both(shares[0], shares[1], upper)


@dataclass(frozen=True)
class Allocation:
    """New widths for a network, and what they come to.

    Attributes:
        densities: `{layer: p}`, the solution of the convex programme.
        widths: `{layer: (inputs, outputs)}`, convolution, linear and BatchNorm layers.
        macs_before: Multiply-accumulates of one example, as the network is.
        macs_after: The same, at the new widths.
        params_before: Parameters, biases and normalisation included.
        params_after: The same, at the new widths.
    """

    densities: Mapping[str, float]
    widths: Widths
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int

    @property
    def flops_reduction(self) -> float:
        """Share of the FLOPs that is gone; negative after widening."""
        return 1 - self.macs_after / self.macs_before

    @property
    def params_reduction(self) -> float:
        """Share of the parameters that is gone; negative after widening."""
        return 1 - self.params_after / self.params_before


def precrop(
    model: nn.Module,
    example: Tensor,
    *,
    params_reduction: float | None = None,
    flops_reduction: float | None = None,
    widen: bool = False,
    min_channels: int = 4,
    round_to: int = 1,
    calibrate: bool = True,
) -> Allocation:
    """Crop every layer's width to `floor(sqrt(p) * channels)`, p from `synexp`.

    `precrop-params`, `precrop-flops` and `precrop` differ in the reductions given; PreConfig is
    `widen=True`, usually with both reductions 0.

    Behind a layer without a residual connection the next one reads all of it, so its density is
    `sqrt(p_before * p)`, as in the paper. A layer that reads a residual trunk reads its first
    `floor(sqrt(p) * channels)` channels, and one that writes to a trunk adds to its first
    channels, so those densities are p itself (figure 4). The paper leaves open, and here holds:
    depthwise convolutions take part in the programme but are as wide as what they read; a
    squeeze-and-excite gate is as wide as what it gates; a trunk is as wide as the widest layer
    that has written to it so far; the image and the classes stay.

    Args:
        model: Left as found. Convolutions (plain or depthwise), linear and BatchNorm layers.
        example: `(b, c, h, w)`; its shape is used, one example of it.
        params_reduction: Share of the parameters to remove, in [0, 1); None for no limit.
        flops_reduction: Share of the FLOPs to remove, in [0, 1); None for no limit.
        widen: PreConfig: densities may pass 1.
        min_channels: Floor of every layer's width (of its own width where that is smaller); 0: a
            sixteenth of it, at least 4.
        round_to: Widths are multiples of this, rounded down, in layers that have as many channels;
            0: as `alprune.pruning.width_limits` says. A trunk takes those of its widest layer;
            inputs and classes stay.
        calibrate: Widths are rounded and shared, so the paper's one solution misses its targets
            by some per cent. If True, the programme's budgets are scaled, both alike, to the
            largest for which the network meets the reductions. If False, the paper's budgets.

    Returns:
        The allocation; `alprune.pruning.precrop.crop.at_widths` makes the network.

    Raises:
        PruneError: A reduction out of range or out of reach, or a network beyond this method.

    Source: Cai et al. 2022, section 4.
    """
    asked = {"params": params_reduction, "flops": flops_reduction}
    limits = {name: value for name, value in asked.items() if value is not None}
    if not limits:
        raise PruneError("PreCrop needs params_reduction, flops_reduction or both.")
    for name, value in limits.items():
        if not 0 <= value < 1:
            raise PruneError(
                f"{name}_reduction must be at least 0 and less than 1, got {value:g}: 0.8 removes "
                "80%."
            )
    for name, value in (("min_channels", min_channels), ("round_to", round_to)):
        if value < AUTO:
            raise PruneError(f"{name} must be at least {AUTO}, got {value}.")
    layers = survey(model, example)
    by_layer = cost(layers.model, layers.example).by_layer

    def at(scale: float) -> Allocation:
        upper = None if widen else 1.0
        return _allocate(layers, by_layer, limits, scale, upper, min_channels, round_to)

    return _calibrated(at, limits, min_channels, round_to) if calibrate else at(1.0)


def _in_budgets(name: str, costs: Costs, budget: float | None) -> tuple[np.ndarray, float | None]:
    array = np.asarray(costs, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or (array < 0).any():
        raise PruneError(
            f"{name} must be one finite number >= 0 a layer, got shape {array.shape}, "
            f"values {array.ravel()[:5].tolist()}..."
        )
    if budget is not None and not 0 < budget < np.inf:
        raise PruneError(f"{name}_budget must be positive and finite, got {budget}.")
    return array, budget


def _spent(share: np.ndarray, density: np.ndarray) -> float:
    used = share > 0
    return float(share[used] @ density[used])


def _fill(share: np.ndarray, upper: float | None) -> np.ndarray:
    """Maximise sum(log p) with `share @ p <= 1` and `p <= upper`.

    Every layer spends the same, except those that would pass `upper`; a layer that costs nothing
    gets `upper`, or infinity.
    """
    with np.errstate(divide="ignore"):
        if upper is None:
            return 1 / np.count_nonzero(share) / share
        caps = share * upper
        if caps.sum() <= 1:
            return np.full_like(share, upper)
        ordered = np.sort(caps)  # the cheapest spend their cap, the others share what is left
        left = 1 - np.concatenate(([0.0], np.cumsum(ordered)[:-1]))
        levels = left / np.arange(len(caps), 0, -1)
        return np.minimum(levels[np.argmax(levels <= ordered)] / share, upper)


def _fill_both(first: np.ndarray, second: np.ndarray, upper: float | None) -> np.ndarray:
    """Find the mix of two budgets, each too generous alone, that spends both to the full."""
    low, high = -60.0, 60.0  # log-odds of the first budget's weight
    while True:
        middle = (low + high) / 2
        weight, rest = 1 / (1 + np.exp(-middle)), 1 / (1 + np.exp(middle))
        density = _fill(weight * first + rest * second, upper)
        if not low < middle < high:
            return density
        if _spent(first, density) > _spent(second, density):
            low = middle
        else:
            high = middle


def _allocate(
    layers: Layers,
    by_layer: Mapping[str, int],
    limits: Mapping[str, float],
    scale: float,
    upper: float | None,
    min_channels: int,
    round_to: int,
) -> Allocation:
    params = np.array([layers.params[name] for name in layers.names], dtype=np.float64)
    macs = np.array([by_layer[name] for name in layers.names], dtype=np.float64)
    left = {name: (1 - reduction) * scale for name, reduction in limits.items()}
    solved = synexp(
        params,
        macs,
        left["params"] * params.sum() if "params" in left else None,
        left["flops"] * macs.sum() if "flops" in left else None,
        upper,
    )
    densities = dict(zip(layers.names, solved.tolist(), strict=True))

    def width(name: str, channels: int) -> int:
        wanted = int(sqrt(densities[name]) * channels + 1e-9)  # 1e-9: p = 1 keeps all
        multiple = multiple_for(channels, round_to)
        floor = min(floor_for(channels, min_channels), channels)
        return _rounded_down(wanted, channels, floor, multiple)

    widths, sizes, params_after = simulate(layers, width)
    return Allocation(
        densities=densities,
        widths=widths,
        macs_before=sum(by_layer.values()),
        # A weight costs the same multiply-accumulates at every width.
        macs_after=sum(
            macs * sizes[name] // layers.params[name] if name in sizes else macs
            for name, macs in by_layer.items()
        ),
        params_before=sum(p.numel() for p in layers.model.parameters()),
        params_after=params_after,
    )


def _rounded_down(wanted: int, channels: int, floor: int, multiple: int) -> int:
    """Round a width to a multiple, down where the floor allows, in layers that are large enough."""
    if multiple == 1 or channels < multiple:
        return max(wanted, floor)
    least = -(-floor // multiple) * multiple
    width = max(wanted // multiple * multiple, least)
    return width if width <= max(channels, wanted) else max(wanted, floor)


def _calibrated(
    at: Callable[[float], Allocation],
    limits: Mapping[str, float],
    min_channels: int,
    round_to: int,
) -> Allocation:
    """Find the largest scale of the budgets at which rounded widths meet the limits."""

    def meets(found: Allocation) -> bool:
        reached = {"params": found.params_reduction, "flops": found.flops_reduction}
        return all(reached[name] >= limit for name, limit in limits.items())

    best = None
    low, high = 0.0, 1.0
    first = at(1.0)
    if meets(first):
        best, low, high = first, 1.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        found = at(middle)
        if meets(found):
            low, best = middle, found
        else:
            high = middle
    if best is None:
        asked = ", ".join(f"{name} by {limit:g}" for name, limit in limits.items())
        raise PruneError(
            f"cannot reduce {asked} with at least {named(min_channels, round_to)}: the floor "
            "alone costs more. Lower the reductions, min_channels or round_to."
        )
    return best
