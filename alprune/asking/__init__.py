"""Asking people: which images to label next, and what they answered, round by round."""

from alprune.asking.journal import Query
from alprune.asking.loop import Asking
from alprune.asking.opening import open_asking
from alprune.asking.reading import Given, read_answers
from alprune.asking.rounds import Round
from alprune.asking.telling import Told

__all__ = ["Asking", "Given", "Query", "Round", "Told", "open_asking", "read_answers"]
