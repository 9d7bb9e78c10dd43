"""Images that a frozen learner has embedded before: its head reads what is kept of them."""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from alprune.data.image_cache.vectors import VectorStore, VectorTable
from alprune.loop.frozen import FROZEN
from alprune.runs.load import Learned
from alprune.training.embeddings import folder_of, keys_of, last_linear

_CHECKED = 4  # images whose kept embeddings are compared with the network
_APART = 0.05  # of the largest logit: more than float16 explains


class Kept:
    """The embeddings that are kept of images, and the layer that reads them.

    Args:
        table: Of all images that were embedded by the learner's backbone.
        head: Its weights `(classes, d)` and biases `(classes,)`.
    """

    def __init__(self, table: VectorTable, head: tuple[Tensor, Tensor]) -> None:
        self._table, self._head = table, head
        self._checked = False

    def logits(self, images: Tensor, computed: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of images, `(n, classes)`.

        Args:
            images: `(n, h, w, c)`.
            computed: The network, for images that were not embedded. It also sees some that were:
                where it says something else, it is not the one that embedded them, and computes
                all.
        """
        places = torch.from_numpy(self._table.find(keys_of(images)))
        known = torch.nonzero(places >= 0).squeeze(1)
        if not len(known):
            return computed(images)
        vectors = torch.from_numpy(self._table.of(places[known].numpy())).float()
        found = F.linear(vectors, *self._head)
        if not self._checked:
            some = computed(images[known[:_CHECKED]])
            self._checked = bool((found[:_CHECKED] - some).abs().max() < _APART * some.abs().max())
            if not self._checked:
                return computed(images)
        logits = torch.empty(len(images), found.shape[1])
        logits[known] = found
        others = torch.nonzero(places < 0).squeeze(1)
        if len(others):
            logits[others] = computed(images[others])
        return logits


def kept_embeddings(learned: Learned) -> Kept | None:
    """Find the embeddings that the run of a frozen learner left; None if there are none."""
    config, inputs = learned.config, learned.classifier.inputs
    if config is None or config.learner != FROZEN:
        return None
    name, digest = config.model.rpartition(":")[2], config.pretrained_digest or ""
    folder = folder_of(inputs.image_shape, inputs.mean, inputs.std, name, digest, config.cache)
    if not os.path.isdir(folder):
        return None
    _, layer = last_linear(learned.classifier.plain().network)
    table = VectorTable.whole(VectorStore(folder, layer.in_features))
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu()
    return Kept(table, (layer.weight.detach().cpu(), bias))
