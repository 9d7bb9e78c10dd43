"""The channels of any network: which leave together, who makes and who reads them, and the cut.

`trace` runs the network and follows every channel; `narrow` cuts, `masked` silences. To support
another operation, write a rule `(tracer, call)` that says what it does to labels and enter it
under the operation's name in the `RULES` of a `rules_` file; for a module or operation of one's
own, `trace(..., rules={Module: rule})` takes the same.
"""

from alprune.pruning.graph.channels import ChannelGraph, ChannelTensor, Group, Pinned
from alprune.pruning.graph.surgery import masked, narrow
from alprune.pruning.graph.tracing import trace

__all__ = ["ChannelGraph", "ChannelTensor", "Group", "Pinned", "masked", "narrow", "trace"]
