"""Embed a data set beforehand."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

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


class EmbeddingPlan:
    """All images of a data set, and which of them are embedded.

    Args:
        config: Options; `learner` is "frozen".
        progress: Whether the terminal shows how far it is.

    Attributes:
        folder: Where embeddings are kept.

    Raises:
        AlpruneError: The data or the weights are not usable.
    """

    def __init__(self, config: RunConfig, progress: bool = True) -> None:
        config = complete(config)
        loaded = data.load(**data_options(config), incomplete=True, progress=progress)
        splits = scaled(config, loaded)
        self._embedder, self._progress = embedder_for(config, splits.train), progress
        self.folder = self._embedder.folder
        parts = [part for part in (splits.train, splits.test) if len(part)]
        self._tables = [(p.x, self._embedder.table(p.x, p.files)) for p in parts]
        self._images = sum(len(table) for _, table in self._tables)
        self._before = self.missing

    @property
    def missing(self) -> int:
        """Images that are not embedded, as far as is known here."""
        return sum(len(table.missing()) for _, table in self._tables)

    def embed(self, share: tuple[int, int] = (0, 1)) -> None:
        """Embed what is missing of a share; `(i, n)` is the i-th of n, i from 0."""
        titles = ("embedding", "embedding test images") if self._progress else (None, None)
        for (x, table), title in zip(self._tables, titles, strict=False):
            self._embedder.complete(x, table, progress=title, share=share)

    def follow(self, bar: "tqdm[NoReturn]") -> int:
        """Show what other processes have embedded; return how many images that is by now."""
        for _, table in self._tables:
            table.refresh()
        done = self._before - self.missing
        bar.update(done - bar.n)
        return done

    def done(self) -> Embedded:
        """Return what was embedded since this was made, and close its files."""
        missing = self.missing
        for _, table in self._tables:
            table.close()
        return Embedded(self._images, self._before - missing, self._images - missing, self.folder)


def embed(config: RunConfig, share: tuple[int, int] = (0, 1), progress: bool = True) -> Embedded:
    """Embed all images of a data set, labelled or not.

    Args:
        config: Options; `learner` is "frozen".
        share: `(i, n)`: only the i-th of n parts, i from 0.
        progress: Whether the terminal shows how far it is.

    Raises:
        AlpruneError: The data or the weights are not usable.
    """
    plan = EmbeddingPlan(config, progress)
    plan.embed(share)
    return plan.done()
