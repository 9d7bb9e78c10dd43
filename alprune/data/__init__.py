"""Images and labels: `load(name)`, the registry of data sets, the image cache, tar shards."""

from typing import TYPE_CHECKING

from alprune.registry import lazy

if TYPE_CHECKING:
    from alprune.data.dataset import (
        UNKNOWN,
        Dataset,
        DataSource,
        LoadOptions,
        Splits,
        make_splits,
        relabelled,
    )
    from alprune.data.provenance import Files
    from alprune.data.sources import DATASETS, load, source

__all__ = [
    "DATASETS",
    "DataSource",
    "Dataset",
    "Files",
    "LoadOptions",
    "Splits",
    "UNKNOWN",
    "load",
    "make_splits",
    "relabelled",
    "source",
]

# The processes that decode images import this package; they must not import torch.
__getattr__ = lazy(
    __name__,
    {
        "alprune.data.dataset": [
            "UNKNOWN",
            "Dataset",
            "DataSource",
            "LoadOptions",
            "Splits",
            "make_splits",
            "relabelled",
        ],
        "alprune.data.provenance": ["Files"],
        "alprune.data.sources": ["DATASETS", "load", "source"],
    },
)
