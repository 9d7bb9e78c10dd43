"""How much each channel matters during training: magnitude or Taylor, averaged over batches.

Source: "When to Prune" (Shen et al. 2022), section 3.1, equations 2 and 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.pruning.criteria.taylor import channel_norms
from alprune.pruning.graph.channels import ChannelGraph, rows
from alprune.pruning.graph.surgery import registered, unwrap
from alprune.registry import lookup


@dataclass(frozen=True)
class Place:
    """A dimension of a parameter at which a criterion looks.

    Attributes:
        name: Of the parameter.
        dim: The dimension.
        elements: How many elements of the parameter one index holds.
        channels: `(k,)` int64, the channel of each index, -1 where it does not count.
    """

    name: str
    dim: int
    elements: int
    channels: Tensor


class Sites:
    """All places of a criterion, ready to add up.

    Args:
        channels: N of the graph.
        places: Where to look.
    """

    def __init__(self, channels: int, places: list[Place]) -> None:
        self.channels, self.places = channels, places
        ids = torch.cat([torch.empty(0, dtype=torch.int64), *(p.channels for p in places)])
        self._ids = ids.where(ids >= 0, channels)  # one bin more, thrown away
        self._elements = self.add([torch.full(p.channels.shape, float(p.elements)) for p in places])

    def add(self, values: list[Tensor]) -> Tensor:
        """Sum one value an index, `(k,)` for each place, to one a channel, `(N,)`."""
        if not values:
            return torch.zeros(self.channels)
        flat = torch.cat(values)
        self._ids = self._ids.to(flat.device)
        total = flat.new_zeros(self.channels + 1).index_add_(0, self._ids, flat)
        return total[: self.channels]

    def mean(self, values: list[Tensor]) -> Tensor:
        """As `add`, divided by the number of elements that each channel has."""
        total = self.add(values)
        self._elements = self._elements.to(total.device)
        return total / self._elements.clamp_min(1)


def maker_sites(model: nn.Module, graph: ChannelGraph) -> Sites:
    """Return the weights that make channels: filters, rows of linear layers, gates.

    Depthwise filters make no channel of their own and do not count, nor do biases.
    """
    return Sites(graph.channels, _makers(graph))


def taylor_sites(model: nn.Module, graph: ChannelGraph) -> Sites:
    """Return BatchNorm's scale and shift, and the makers' weights of channels without BatchNorm.

    In front of a BatchNorm the filters' weights say nothing: the loss does not feel their size.
    Nor does it in front of other normalisations of single channels, which count like BatchNorm.

    Raises:
        PruneError: One of them has no scale.
    """
    norms = channel_norms(unwrap(model), graph)
    places: list[Place] = []
    normed = torch.zeros(graph.channels + 1, dtype=torch.bool)  # the last is for the pinned
    for tensor in graph.tensors:
        if tensor.trainable and tensor.name.rpartition(".")[0] in norms:
            for dim, axis in tensor.axes.items():
                for ids in rows(axis):
                    places.append(Place(tensor.name, dim, 1, ids))
                    normed[ids] = True
    return Sites(graph.channels, places + _makers(graph, normed))


def magnitude(parameters: Mapping[str, Tensor], sites: Sites) -> Tensor:
    """Equation 2: the l2 norm of a neuron's weights over the square root of their number.

    For coupled channels the norm runs over the weights of all their makers, so that it stays
    the root of a mean square, comparable between layers.

    Args:
        parameters: By name.
        sites: From `maker_sites`.

    Returns:
        `(N,)`, >= 0.
    """
    squares = []
    for place in sites.places:
        weight = parameters[place.name].detach()
        others = _others(weight, place.dim)
        norm = torch.linalg.vector_norm(weight, 2, others, dtype=_wide(weight))
        squares.append(norm.square())
    return sites.mean(squares).sqrt()


def taylor(parameters: Mapping[str, Tensor], sites: Sites) -> Tensor:
    """Equation 3: the absolute first-order change of the loss when a neuron is removed.

    `|sum of g * w|` over the neuron's weights, without biases, as printed; where BatchNorm
    follows, `|g_gamma * gamma + g_beta * beta|`. Coupled channels leave in one event: their
    terms are added before the absolute value is taken. So a depthwise convolution's BatchNorm
    counts beside that of its input; the paper does not say.

    Args:
        parameters: By name, with the gradients of one batch; a missing gradient counts as zero.
        sites: From `taylor_sites`.

    Returns:
        `(N,)`, >= 0.

    Raises:
        PruneError: No parameter has a gradient.
    """
    terms: list[Tensor] = []
    for place in sites.places:
        weight, gradient = parameters[place.name].detach(), parameters[place.name].grad
        if gradient is None:
            terms.append(weight.new_zeros(weight.shape[place.dim], dtype=_wide(weight)))
        else:
            product = (weight * gradient).to(_wide(weight))
            others = _others(weight, place.dim)
            terms.append(product.sum(others) if others else product)
    if all(parameters[place.name].grad is None for place in sites.places):
        raise PruneError(
            "no parameter that makes or normalises channels has a gradient: observe the model "
            "after the backward pass and before the gradients are cleared."
        )
    return sites.add(terms).abs()


@dataclass(frozen=True)
class EarlyCriterion:
    """A way to rank channels during training.

    Attributes:
        threshold: The EPI at which pruning may begin (section 4.2).
        sites: Which parameters it looks at.
        score: One batch's importance, `(N,)`, from the parameters and the sites.
    """

    threshold: float
    sites: Callable[[nn.Module, ChannelGraph], Sites]
    score: Callable[[Mapping[str, Tensor], Sites], Tensor]


EARLY_CRITERIA: dict[str, EarlyCriterion] = {
    "magnitude": EarlyCriterion(0.983, maker_sites, magnitude),
    "taylor": EarlyCriterion(0.944, taylor_sites, taylor),
}


class Importance:
    """The importance of each channel, averaged over the batches it was shown.

    A batch costs one pass over the parameters (magnitude) or over those of BatchNorm (Taylor)
    and no wait for the device; the values stay there until `mean` is asked for.

    Args:
        graph: The channels of the network that is trained.
        criterion: A key of `EARLY_CRITERIA`.

    Raises:
        ConfigError: Unknown criterion.
    """

    def __init__(self, graph: ChannelGraph, criterion: str = "taylor") -> None:
        self.criterion: EarlyCriterion = lookup("criterion", criterion, EARLY_CRITERIA)
        self.graph = graph
        self.batches = 0
        self._sites: Sites | None = None
        self._sum = torch.zeros(graph.channels)

    @torch.no_grad()
    def observe(self, model: nn.Module) -> None:
        """Take in one batch: after its backward pass, before the optimiser's step.

        Gradients scaled for half precision weigh their batch by the scale; bfloat16 needs none.

        Raises:
            PruneError: No gradients, or the model is not the one that the graph was traced on.
        """
        parameters = registered(unwrap(model))
        if self._sites is None:
            self._sites = self.criterion.sites(model, self.graph)
        for place in self._sites.places:
            found = parameters.get(place.name)
            if found is None or found.shape[place.dim] != place.channels.numel():
                got = "no such parameter" if found is None else f"shape {tuple(found.shape)}"
                raise PruneError(
                    f"{place.name!r} does not fit the graph: expected {place.channels.numel()} "
                    f"indices in dimension {place.dim}, got {got}. Narrow the model as soon as "
                    "it is asked for, and observe the narrowed one."
                )
        value = self.criterion.score(parameters, self._sites)
        self._sum = self._sum.to(value) + value if self.batches else value
        self.batches += 1

    def mean(self) -> Tensor:
        """Return the average, `(N,)` on the CPU, float32 or wider.

        Raises:
            PruneError: Nothing was observed, or a value is not finite.
        """
        if not self.batches:
            raise PruneError("no batch was observed: call observe(model) after backward passes.")
        mean = self._sum.cpu() / self.batches
        if not bool(torch.isfinite(mean).all()):
            group = self.graph.group_of[torch.nonzero(~torch.isfinite(mean))[0, 0]]
            raise PruneError(
                f"the importance of channels of {self.graph.groups[int(group)].name!r} is not "
                f"finite after {self.batches} batches. Lower the learning rate."
            )
        return mean

    def reset(self) -> None:
        """Begin a new average."""
        self.batches = 0

    def state(self) -> dict[str, Any]:
        """Return the running average as a tensor `(N,)` and the number of batches."""
        return {"sum": self._sum.cpu().clone(), "batches": self.batches}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._sum, self.batches = state["sum"].clone(), int(state["batches"])


def _makers(graph: ChannelGraph, without: Tensor | None = None) -> list[Place]:
    """List the makers' weights; of trained ones those of channels not in `without`, `(N + 1,)`."""
    left_out = torch.zeros(graph.channels + 1, dtype=torch.bool) if without is None else without
    places = []
    for tensor in graph.tensors:
        for dim in tensor.dims("makes"):
            if len(tensor.shape) < 2 or (without is not None and not tensor.trainable):
                continue
            for ids in rows(tensor.axes[dim]):
                counted = ids.masked_fill(left_out[ids], -1)
                if bool((counted >= 0).any()):
                    elements = torch.Size(tensor.shape).numel() // tensor.shape[dim]
                    places.append(Place(tensor.name, dim, elements, counted))
    return places


def _others(tensor: Tensor, dim: int) -> list[int]:
    return [d for d in range(tensor.ndim) if d != dim]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
