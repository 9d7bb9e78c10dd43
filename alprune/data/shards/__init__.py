"""Images in sharded archives, for data that fit no memory and no single process: `shards:PATH`.

Shards are tar files in the layout of WebDataset, which needs nothing but a tar to read: an image
lies in one piece at a known place, so that any one of them can be fetched by itself, where a row
group of a parquet file would have to be read for it; and a shard read from its beginning to its end
is a single long read. What is known of them is mapped from files (`index`), and images are decoded
when they are needed and kept from then on (`pixels`).

Candidates are in the order of the shards, and each process of a run scores a run of them: so it
reads its own shards, and the labelled points of its part of each batch.
"""

from typing import TYPE_CHECKING

from alprune.registry import lazy

if TYPE_CHECKING:
    from alprune.data.shards.splits import load, samples

__all__ = ["load", "samples"]

# The processes that list shards import this package; they must not import torch.
__getattr__ = lazy(__name__, {"alprune.data.shards.splits": ["load", "samples"]})
