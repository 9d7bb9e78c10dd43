"""Widths as multiples: what processors like, in layers that can afford it."""

AUTO = 0


def multiple_for(channels: int, round_to: int) -> int:
    """Return what the widths of a layer are multiples of.

    Args:
        channels: The layer's width before pruning.
        round_to: The multiple itself, or `AUTO`: 8 from 64 channels on, and in narrower layers
            the power of two that is at most an eighth of their channels.
    """
    return round_to if round_to != AUTO else 1 << max(0, min(3, channels.bit_length() - 4))


def steps_of(round_to: int) -> str:
    """Say in a message in which steps widths may be."""
    return f"{round_to}" if round_to != AUTO else "up to 8"
