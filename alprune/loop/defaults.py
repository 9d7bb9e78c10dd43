"""Which options a command takes; imports nothing that computes."""

from dataclasses import fields
from typing import Any

from alprune.loop.config import RunConfig

# Options that `prune` knows by the same name.
REDUCTIONS = tuple("flops_reduction params_reduction channels_reduction latency_reduction".split())
PRUNE_OPTIONS = (
    *REDUCTIONS,
    *"smoothing channel_cost temperature min_channels round_to rounds".split(),
    *"latency_batch latency_aware init ignore local".split(),
)
# Options of a run that labelling by people does not use: nobody knows labels to simulate with.
NOT_FOR_LABELLING = tuple(
    "steps imbalance label_noise prune_at epi_criterion score_subset eval_every out "
    "sync_batchnorm pretrained_digest "
    "stop_labels stop_accuracy stop_uncertainty stop_plateau".split()
)
LABELLING_OPTIONS = tuple(e.name for e in fields(RunConfig) if e.name not in NOT_FOR_LABELLING)
# Settings of `alprune bench`.
BENCH: dict[str, Any] = {
    "methods": ("dense", "3sp", "3sp-ca"),
    "model": "vgg19",
    "batch_size": 64,
    "dataset": "synthetic",
    "seconds": 40.0,
    "pool": 10_000,
    "seed": 0,
}

__all__ = ["BENCH", "LABELLING_OPTIONS", "NOT_FOR_LABELLING", "PRUNE_OPTIONS", "REDUCTIONS"]
