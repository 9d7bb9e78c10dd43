"""Active learning under a wall-clock budget, with learners pruned before training."""

__version__ = "0.1.0"
