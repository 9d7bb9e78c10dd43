"""How the channels of a network are found, as a caller may choose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.pruning.graph import trace
from alprune.pruning.graph.channels import ChannelGraph
from alprune.pruning.graph.tracer import Rule
from alprune.pruning.graph.tracing import NORMALISED
from alprune.pruning.option_values import check_flag
from alprune.registry import unknown


@dataclass(frozen=True)
class Tracing:
    """How a network's channels are found; see `alprune.pruning.trace`.

    Attributes:
        normalised: What becomes of channels over which an operation normalises, as LayerNorm
            does: "pinned", "follow", or "auto", which pins them unless less than half of the
            FLOPs could be removed then.
        rules: Rules of your own, for module classes or names of operations.
        one_path: Accept a forward that reads values of its input into Python, on your word that
            every input takes the same path.
    """

    normalised: str = "auto"
    rules: Mapping[type[nn.Module] | str, Rule] | None = None
    one_path: bool = False

    def __post_init__(self) -> None:
        rules = self.rules or {}
        if not isinstance(rules, Mapping) or not all(map(_is_rule, rules.items())):
            raise PruneError(
                "rules must map classes of modules, or names of operations, to functions "
                f"(tracer, call); got {rules!r}."
            )
        check_flag("one_path", self.one_path)
        if self.normalised not in NORMALISED:
            raise unknown("treatment of normalised channels", self.normalised, list(NORMALISED))

    def graph(self, model: nn.Module, example: Tensor) -> ChannelGraph:
        """Trace a network on an example `(b, ...)`."""
        return trace(
            model,
            example,
            normalised=self.normalised,
            rules=self.rules,
            one_path=self.one_path,
        )


def _is_rule(item: tuple[Any, Any]) -> bool:
    kind, rule = item
    named = isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, nn.Module))
    return named and callable(rule)
