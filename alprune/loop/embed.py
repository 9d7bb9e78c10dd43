"""Embed a data set beforehand."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alprune import data
from alprune.loop.config import RunConfig
from alprune.loop.frozen import embedder_for
from alprune.loop.setup import complete, data_options
from alprune.loop.start_weights import scaled


@dataclass(frozen=True)
class Embedded:
    """What embedding came to.

    Attributes:
        images: Different images of the data set, test images included.
        embedded: Images embedded now.
        known: Images whose embedding is kept by now.
        folder: Where embeddings are kept.
    """

    images: int
    embedded: int
    known: int
    folder: Path

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"folder": str(self.folder)}


def embed(config: RunConfig, share: tuple[int, int] = (0, 1)) -> Embedded:
    """Embed all images of a data set, labelled or not, with progress on the terminal.

    Args:
        config: Options; `learner` is "frozen".
        share: `(i, n)`: only the i-th of n parts, i from 0.

    Raises:
        AlpruneError: The data or the weights are not usable.
    """
    config = complete(config)
    loaded = data.load(**data_options(config), incomplete=True, progress=True)
    splits = scaled(config, loaded)
    embedder = embedder_for(config, splits.train)
    images = embedded = known = 0
    for part, title in ((splits.train, "embedding"), (splits.test, "embedding test images")):
        if not len(part):
            continue
        table = embedder.table(part.x, part.files)
        before = len(table.missing())
        embedder.complete(part.x, table, progress=title, share=share)
        left = len(table.missing())
        images, known = images + len(table), known + len(table) - left
        embedded += before - left
        table.close()
    return Embedded(images, embedded, known, embedder.folder)


__all__ = ["Embedded", "embed"]
