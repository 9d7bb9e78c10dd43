"""The first labelled points: how they are chosen before there is a learner to ask."""

from alprune.start.first import (
    STARTS,
    ColdPool,
    find_start,
    first_points,
    held_out,
    trained_on,
)

__all__ = ["STARTS", "ColdPool", "find_start", "first_points", "held_out", "trained_on"]
