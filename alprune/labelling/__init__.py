"""Asking people: which images to label next, and what they answered, round by round."""

from alprune.labelling.check_answers import Told
from alprune.labelling.journal import Query
from alprune.labelling.opening import open_asking
from alprune.labelling.read_answers import Given, read_answers
from alprune.labelling.rounds import Round
from alprune.labelling.session import Asking

__all__ = ["Asking", "Given", "Query", "Round", "Told", "open_asking", "read_answers"]
