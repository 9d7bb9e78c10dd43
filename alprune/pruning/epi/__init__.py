"""Pruning during training: "When to Prune" and its Early Pruning Indicator."""

from alprune.pruning.epi.pruner import EarlyPruner, EarlySettings, Removal

__all__ = ["EarlyPruner", "EarlySettings", "Removal"]
