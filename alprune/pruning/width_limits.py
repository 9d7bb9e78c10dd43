"""What widths may be: floors, multiples that processors like, layers that stay or are set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alprune.errors import PruneError, quoted
from alprune.pruning.option_values import check_count, check_flag, make_plain, plain

AUTO = 0
LEAST = 4


@dataclass(frozen=True)
class Limits:
    """What pruning must leave.

    A layer is named by its module's name, "layer1.0.conv1", by the name of a module around it,
    "layer1", or by a pattern, "*.conv1" (`fnmatch`). Layers whose channels are coupled, as
    around a residual connection, share their limits.

    Attributes:
        min_channels: Floor of channels that every layer keeps; 0: a sixteenth of them, at least 4.
        round_to: Widths are multiples of this where the layer is large enough; 0: multiples of 16
            in wide layers, of less in narrow ones. Layers in `layer_reductions` round down.
        ignore: Layers that keep all their output channels, as a list or separated by commas.
            What they read may still shrink. Kept as a tuple.
        layer_floors: `{layer: channels it keeps at least}`.
        layer_reductions: `{layer: share of its output channels to remove}`, in [0, 1). These
            layers lose exactly that share (attention in the finer of heads and places within them,
            or in heads where a layer makes these alone); the others are ranked to meet the target.
            Of several entries that name one layer, the last holds.
        local: Rank each layer's channels among themselves, so that all layers lose the same
            share, instead of ranking those of all layers together. Attention loses it of its heads
            and of the places within.
    """

    min_channels: int = LEAST
    round_to: int = 1
    ignore: Sequence[str] | str | None = ()
    layer_floors: Mapping[str, int] = field(default_factory=dict)
    layer_reductions: Mapping[str, float] = field(default_factory=dict)
    local: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("min_channels", "round_to"):
            check_count(name, getattr(self, name))
        check_flag("local", self.local)
        ignore = self.ignore
        if ignore is None or isinstance(ignore, str):
            ignore = [name.strip() for name in (ignore or "").split(",") if name.strip()]
        if not isinstance(ignore, list | tuple | set | frozenset) or not all(
            isinstance(name, str) for name in ignore
        ):
            raise PruneError(
                "ignore must be a list of layers (names, patterns, in Python also modules of the "
                f"network), got {quoted(self.ignore)}."
            )
        object.__setattr__(self, "ignore", tuple(ignore))
        for name in ("layer_floors", "layer_reductions"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise PruneError(
                    f"{name} must map layer names or patterns to numbers, got {quoted(value)}."
                )
            numbers = {layer: plain(number) for layer, number in value.items()}
            object.__setattr__(self, name, numbers)
        for layer, count in self.layer_floors.items():
            check_count(f"layer_floors[{layer!r}]", count)
        for layer, share in self.layer_reductions.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
                raise PruneError(
                    f"layer_reductions[{layer!r}] must be a share in [0, 1), got {share!r}: 0.8 "
                    "removes 80% of the layer's channels."
                )


def floor_for(channels: int, min_channels: int) -> int:
    """Return how many channels a layer keeps at least.

    Args:
        channels: The layer's width before pruning.
        min_channels: The floor itself, or `AUTO`: a sixteenth of the channels, at least 4.
    """
    return min_channels if min_channels != AUTO else max(LEAST, channels // 16)


def multiple_for(channels: int, round_to: int) -> int:
    """Return what the widths of a layer are multiples of.

    Args:
        channels: The layer's width before pruning.
        round_to: The multiple itself, or `AUTO`: the power of two that is at most an eighth of
            the channels, up to 16, as many numbers as a vector register of AVX-512 holds.
    """
    return round_to if round_to != AUTO else 1 << max(0, min(4, channels.bit_length() - 4))


def named(min_channels: int, round_to: int) -> str:
    """Name the limits in a message."""
    least = f"{min_channels}" if min_channels != AUTO else "a sixteenth of the"
    return f"{least} channels a layer in steps of {round_to if round_to != AUTO else 'up to 16'}"
