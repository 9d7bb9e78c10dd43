"""The channels of any network: which leave together, who makes and who reads them, and the cut.

`trace` runs the network once and follows every channel; `narrow` cuts, `masked` silences. To
support another operation, add a rule to `rules.py` (what it does to labels) or `layers.py`.
"""

from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned
from alprune.pruning.graph.surgery import masked, narrow
from alprune.pruning.graph.tracing import trace

__all__ = ["ChannelGraph", "ChannelTensor", "Group", "Pinned", "masked", "narrow", "trace"]
