"""Prune a learner before training: score, plan what stays, cut."""

from typing import TYPE_CHECKING

from alprune.registry import lazy

if TYPE_CHECKING:
    from alprune.pruning.api import Pruned, prune, rebuild
    from alprune.pruning.criteria.base import Batch, Criterion, ScoreOptions
    from alprune.pruning.graph.channels import ChannelGraph, Group
    from alprune.pruning.graph.surgery import masked, narrow
    from alprune.pruning.graph.tracing import trace
    from alprune.pruning.latency import Latency
    from alprune.pruning.methods import (
        Cut,
        Request,
        by_channels,
        by_weights,
        by_widths,
        in_rounds,
    )
    from alprune.pruning.plan import Plan, Target, search
    from alprune.pruning.registry import (
        AFTER_PRUNING,
        CHANNEL_COSTS,
        METHODS,
        TARGETS,
        Method,
        find_method,
        summaries,
    )
    from alprune.pruning.report import describe, figures
    from alprune.pruning.tracing import Tracing
    from alprune.pruning.width_limits import Limits

_MODULES = {
    "alprune.pruning.api": ["Pruned", "prune", "rebuild"],
    "alprune.pruning.criteria.base": ["Batch", "Criterion", "ScoreOptions"],
    "alprune.pruning.graph.channels": ["ChannelGraph", "Group"],
    "alprune.pruning.graph.surgery": ["masked", "narrow"],
    "alprune.pruning.graph.tracing": ["trace"],
    "alprune.pruning.latency": ["Latency"],
    "alprune.pruning.methods": [
        "Cut",
        "Request",
        "by_channels",
        "by_weights",
        "by_widths",
        "in_rounds",
    ],
    "alprune.pruning.plan": ["Plan", "Target", "search"],
    "alprune.pruning.registry": [
        "AFTER_PRUNING",
        "CHANNEL_COSTS",
        "METHODS",
        "TARGETS",
        "Method",
        "find_method",
        "summaries",
    ],
    "alprune.pruning.report": ["describe", "figures"],
    "alprune.pruning.tracing": ["Tracing"],
    "alprune.pruning.width_limits": ["Limits"],
}

__all__ = [
    "AFTER_PRUNING",
    "Batch",
    "CHANNEL_COSTS",
    "ChannelGraph",
    "Criterion",
    "Cut",
    "Group",
    "Latency",
    "Limits",
    "METHODS",
    "Method",
    "Plan",
    "Pruned",
    "Request",
    "ScoreOptions",
    "TARGETS",
    "Target",
    "Tracing",
    "by_channels",
    "by_weights",
    "by_widths",
    "describe",
    "figures",
    "find_method",
    "in_rounds",
    "masked",
    "narrow",
    "prune",
    "rebuild",
    "search",
    "summaries",
    "trace",
]

__getattr__ = lazy(__name__, _MODULES)
