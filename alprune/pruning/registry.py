"""The pruning methods by name; reading the names imports no torch.

A method of your own is one function and one line: a criterion `(model, graph, batch, options) ->
(channels,)` scores each channel, larger is kept. Name it `package.module:function`, offer it
under a name in the entry point group `alprune.criteria`, or add it to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from alprune.errors import PruneError
from alprune.registry import installed, later, loaded, lookup, origin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alprune.pruning.criteria.base import Criterion
    from alprune.pruning.graph import ChannelGraph
    from alprune.pruning.methods import Cut, Request
    from alprune.pruning.reinit import AfterPruning

TARGETS = ("flops", "params", "channels", "latency", "time")
"""What a reduction may be of; channels: the papers' percentile p, time: that of a training step."""

MEASURED = ("latency", "time")
"""Those that are measured on this machine."""

ENTRY_POINTS = "alprune.criteria"
"""The entry point group in which an installed package offers criteria by name."""


@dataclass(frozen=True)
class Method:
    """A way to prune before training.

    Attributes:
        summary: One line for `alprune list`.
        cut: `(network, request) -> the pruned network and its plan`.
        reductions: What it removes by default, `{quantity: share}`.
        saves_time: Whether the network is a smaller one from the first batch on.
        early: Whether a run prunes it during training instead, by `alprune.pruning.epi`.
    """

    summary: str
    cut: Callable[[nn.Module, Request], Cut]
    reductions: Mapping[str, float] = field(default_factory=lambda: {"flops": 0.5})
    saves_time: bool = True
    early: bool = False

    @property
    def masks(self) -> bool:
        """Whether it masks single weights."""
        return not self.saves_time and "params" in self.reductions


def _in(place: str, *first: Any) -> Callable[..., Any]:
    return later(f"alprune.pruning.{place}", *first)


def _scoring(criterion: str) -> Callable[..., Any]:
    return _in("methods:by_channels", f"alprune.pruning.criteria.{criterion}")


def _masking(summary: str, scorer: str) -> Method:
    cut = _in("methods:by_weights", f"alprune.pruning.unstructured.scores:{scorer}")
    return Method(f"{summary}; saves no time", cut, {"params": 0.9}, saves_time=False)


METHODS: dict[str, Method] = {
    "dense": Method(
        "no pruning: the whole network", _in("methods:keep_all"), {"flops": 0.0}, saves_time=False
    ),
    "3sp": Method(
        "channels with the least effect on the loss (van Amersfoort et al. 2020)",
        _scoring("three_sp:three_sp"),
    ),
    "3sp-ca": Method(
        "3sp per unit of compute removed (van Amersfoort et al. 2020)",
        _scoring("three_sp:three_sp_ca"),
        {"flops": 0.8},
    ),
    "uniform": Method(
        "channels at random, each with the same chance", _scoring("magnitude:uniform")
    ),
    "3sp-iterative": Method(
        "3sp in rounds, scored again after each (after SNAP-it and FORCE)",
        _in("methods:in_rounds", "alprune.pruning.criteria.three_sp:three_sp"),
        {"flops": 0.8},
    ),
    "structured-grasp": Method(
        "channels that carry little gradient flow (van Amersfoort et al. 2020, section 5)",
        _scoring("grasp:structured_grasp"),
    ),
    "magnitude": Method(
        "channels made by the smallest weights (Li et al. 2017)", _scoring("magnitude:magnitude")
    ),
    "taylor": Method(
        "channels with the smallest squared gate gradient (Molchanov et al. 2019)",
        _scoring("taylor:taylor"),
    ),
    "precrop-params": Method(
        "widths by SynExp within a number of parameters (Cai et al. 2022)",
        _in("methods:by_widths", ("params",)),
        {"params": 0.5},
    ),
    "precrop-flops": Method(
        "widths by SynExp within a number of FLOPs (Cai et al. 2022)",
        _in("methods:by_widths", ("flops",)),
    ),
    "precrop": Method(
        "widths by SynExp within both limits (Cai et al. 2022)",
        _in("methods:by_widths", ("flops", "params")),
        {"flops": 0.5, "params": 0.5},
    ),
    "preconfig": Method(
        "as precrop, but layers may widen (Cai et al. 2022)",
        _in("methods:by_wider_widths", ("flops", "params")),
        {"flops": 0.0, "params": 0.2},
    ),
    "epi": Method(
        "during training, once the best sub-network rests (Shen et al. 2022)",
        _in("methods:during_training"),
        {"channels": 0.5},
        saves_time=False,
        early=True,
    ),
    "snip": _masking("weights with an effect on the loss (Lee et al. 2019)", "snip"),
    "grasp": replace(
        _masking("weights that carry the gradient flow (Wang et al. 2020)", "grasp"),
        cut=_in("methods:by_grasp"),
    ),
    "synflow": _masking("weights on strong paths, no data (Tanaka et al. 2020)", "synflow"),
    "magnitude-weights": _masking("largest weights (Han et al. 2015)", "magnitude"),
    "random": _masking("weights at random", "random"),
}

AFTER_PRUNING: dict[str, AfterPruning] = {
    "inherit": _in("reinit:inherit"),
    "reinit": _in("reinit:reinit"),
    "rescale": _in("reinit:rescale"),
}
"""What becomes of the weights after the cut."""

CHANNEL_COSTS: dict[str, Callable[[ChannelGraph], Tensor]] = {
    "made": _in("criteria.costs:made"),
    "step": _in("criteria.costs:step"),
}
"""What 3SP+CA divides by, `graph -> (channels,)`."""


def find_method(method: str | Criterion | Method) -> Method:
    """Return the method for a name, a criterion of your own or a `Method`.

    Args:
        method: A key of `METHODS`; a name that an installed package offers in the entry point
            group `alprune.criteria`; `package.module:function`; or the criterion itself.

    Raises:
        ConfigError: Unknown name, or what it names cannot be imported.
        PruneError: Not a criterion or a `Method`.
    """
    found = _named(method) if isinstance(method, str) else method
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise PruneError(
            f"method {method!r} is a {type(found).__name__}; it must be a criterion "
            "(model, graph, batch, options) -> (channels,), or an alprune.pruning.Method."
        )
    return Method("your own criterion", _in("methods:by_channels", found))


def summaries() -> dict[str, str]:
    """Return one line for each known name, those of installed packages included."""
    known = {name: entry.summary for name, entry in METHODS.items()}
    for name, entry in sorted(installed(ENTRY_POINTS, METHODS).items()):
        known[name] = f"a criterion of {origin(entry)}"
    return known


def _named(name: str) -> Any:
    if name in METHODS:  # without a look at all installed packages, which takes 20 ms
        return METHODS[name]
    offered = installed(ENTRY_POINTS, METHODS)
    if name in offered:
        return loaded("method", offered[name])
    return lookup("method", name, {**offered, **METHODS})
