"""A local page on which a person labels, while the learner goes on learning."""

from alprune.labelling.web.server import Server

__all__ = ["Server"]
