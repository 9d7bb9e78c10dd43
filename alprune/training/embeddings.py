"""Embeddings of images by a frozen network: what its last layer reads, computed once per image."""

import copy
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alprune.data import Files
from alprune.data.image_cache.decode import hash_of
from alprune.data.image_cache.vectors import VectorStore, VectorTable, store_folder
from alprune.data.lazy_rows import ChosenRows
from alprune.data.memmap import parts
from alprune.data.progress_bar import progress_bar
from alprune.errors import ModelError
from alprune.training.budget import Budget
from alprune.training.head import HeadSettings, Neighbours
from alprune.training.predict import Predictor, good_chunk

_TABLES = 4  # lists of images whose embeddings an embedder knows, the latest ones
_BLOCK = 512  # images whose embeddings are written at once: the most that a kill can cost


class Embedder:
    """Embeds images by a network without its last layer, and keeps what was embedded.

    Args:
        model: Maps normalised images to logits by a linear layer at its end; in eval mode, on the
            device, and never trained as long as this is used.
        image_shape: `(c, h, w)` of an image.
        mean: Of each channel, see `alprune.training.augment.normalise`.
        std: Likewise.
        name: Of the network, for the folder of the embeddings.
        digest: Of its weights.
        where: Folder of the image cache; None: the user's.

    Attributes:
        device: Where the network is.
        dimensions: Numbers in an embedding.
        folder: Where embeddings are kept.
        neighbours: The latest graph of images, and what it was made of: rounds over the same
            images share it.

    Raises:
        ModelError: The network does not end in a linear layer.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        name: str,
        digest: str,
        where: str | Path | None = None,
    ) -> None:
        device = self.device = next(model.parameters()).device
        scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        body, head = split(model, torch.zeros(2, *image_shape, device=device))
        self._body = body.to(memory_format=torch.channels_last)
        self.dimensions = head.in_features
        chunk = good_chunk(device, image_shape)
        self._predictor = Predictor(*scale, device, torch.float32, chunk)
        self.folder = folder_of(image_shape, mean, std, name, digest, where)
        self.neighbours: tuple[tuple[bytes, HeadSettings], Neighbours] | None = None
        self._tables: list[tuple[weakref.ref[Tensor], VectorTable]] = []

    def table(self, x: Tensor, files: Files | None = None) -> VectorTable:
        """Return the embeddings of images `(n, h, w, c)` as far as they are known.

        Args:
            x: The images; the same tensor, or one of the same images, gets the same table again.
            files: Where they come from, which saves hashing them.
        """
        for known, table in self._tables:
            if known() is x:
                return table
        keys = keys_of(x, files)
        same = (table for _, table in self._tables if table.is_of(keys))
        made = next(same, None) or VectorTable(keys, VectorStore(self.folder, self.dimensions))
        made.refresh()
        self._tables = [(weakref.ref(x), made), *self._tables][:_TABLES]
        return made

    def complete(
        self,
        x: Tensor,
        table: VectorTable,
        budget: Budget | None = None,
        progress: str | None = None,
        share: tuple[int, int] = (0, 1),
        tick: Callable[[int, int], None] = lambda done, planned: None,
    ) -> None:
        """Embed the images whose embedding is missing.

        Several processes may do this at once for the same images: each takes over what the others
        have written, and begins elsewhere.

        Args:
            x: The images.
            table: Of these images.
            budget: Checked before every chunk.
            progress: Title of a progress bar with the time left; None shows none.
            share: `(i, n)`: embed only the i-th of n parts of the images, i from 0.
            tick: Called with the images embedded and planned after each block.

        Raises:
            BudgetSpent: The budget ended before; what was embedded is kept.
        """
        mine = table.missing()
        missing = mine[mine % share[1] == share[0]]
        if not len(missing):
            return
        start = int(np.random.default_rng().integers(len(missing)))
        todo = np.roll(missing, start)
        planned, done = len(todo), 0
        with progress_bar(
            total=planned, desc=progress, unit="image", disable=progress is None
        ) as bar:
            while len(todo):
                some, todo = np.sort(todo[:_BLOCK]), todo[_BLOCK:]
                table.fill(some, self._embed(x, some, budget))
                table.refresh()
                todo = table.missing(todo)
                bar.update(planned - len(todo) - done)
                done = planned - len(todo)
                tick(done, planned)

    def _embed(self, x: Tensor, rows: np.ndarray, budget: Budget | None) -> np.ndarray:
        found = np.empty((len(rows), self.dimensions), np.float16)
        indices = torch.from_numpy(rows)
        for part, outputs in self._predictor.stream(self._body, x, indices, budget):
            found[part] = outputs.half().cpu().numpy()
        return found


def folder_of(
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    name: str,
    digest: str,
    where: str | Path | None = None,
) -> Path:
    """Return where embeddings by some weights are kept; the arguments are as for `Embedder`."""
    what = f"{digest} {image_shape} {mean} {std}"
    key = hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40]
    return store_folder(f"{plain}-{image_shape[1]}x{image_shape[2]}-{key}", where)


def keys_of(x: Tensor, files: Files | None = None) -> np.ndarray:
    """Return a hash of each image's pixels, `(n, 16)` uint8.

    Args:
        x: Images `(n, h, w, c)`. Images that are made on demand are told apart by where they come
            from instead, so that none has to be made.
        files: Where they come from; their hashes are known already.
    """
    if files is not None and x.shape[3] == 3:  # the hashes of files are of three channels
        return files.pixels
    if isinstance(x, ChosenRows) and x.on_demand:
        return x.row_keys()
    keys = [
        hash_of(np.ascontiguousarray(image)) for part in parts(x) for image in x[part].cpu().numpy()
    ]
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


def split(model: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Linear]:
    """Return a network without its last linear layer, and that layer.

    Args:
        model: Left untouched; the part that is returned shares its parameters.
        example: `(b, c, h, w)` inputs.

    Raises:
        ModelError: The last linear layer's output is not the network's.
    """
    name, head = last_linear(model)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    body = copy.deepcopy(model, dict(shared)).eval()
    body.set_submodule(name, nn.Identity())
    with torch.inference_mode():
        embedded = body(example)
        same = embedded.ndim == 2 and embedded.shape[1] == head.in_features
        if not same or not torch.allclose(head(embedded), model(example), rtol=1e-3, atol=1e-3):
            raise _headless(model)
    return body, head


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the name of a network's last linear layer, and the layer.

    Raises:
        ModelError: It has none.
    """
    layers = [(name, m) for name, m in model.named_modules() if name and isinstance(m, nn.Linear)]
    if not layers:
        raise _headless(model)
    return layers[-1]


def _headless(model: nn.Module) -> ModelError:
    return ModelError(
        f"{type(model).__name__} does not end in a linear layer, so it cannot be a frozen "
        "backbone. Choose another --model, efficientnet-lite0 for example, or --learner trained."
    )
