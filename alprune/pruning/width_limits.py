"""What widths may be: at least so many channels, in multiples that processors like."""

AUTO = 0
LEAST = 4


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
        round_to: The multiple itself, or `AUTO`: 8 from 64 channels on, and in narrower layers
            the power of two that is at most an eighth of their channels.
    """
    return round_to if round_to != AUTO else 1 << max(0, min(3, channels.bit_length() - 4))


def named(min_channels: int, round_to: int) -> str:
    """Name the limits in a message."""
    least = f"{min_channels}" if min_channels != AUTO else "a sixteenth of the"
    return f"{least} channels a layer in steps of {round_to if round_to != AUTO else 'up to 8'}"
