"""A local page on which a person labels while the learner learns."""

from alprune.labelling.web.server import Server

__all__ = ["Server"]
