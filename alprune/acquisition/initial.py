"""Which points to label first, before there is a learner that could choose."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alprune.acquisition.distances import make_points
from alprune.acquisition.features import patch_features
from alprune.acquisition.kmeans import assign, k_means
from alprune.acquisition.typiclust import CLUSTERS, typical
from alprune.errors import AlpruneError, ConfigError, DataError, failure
from alprune.registry import lookup
from alprune.training.head import principal

_COMPONENTS = 128  # of embeddings, kept for clustering
_LOOKED_AT = 50_000  # of a larger pool typiclust looks at a random part of this size


@dataclass(frozen=True)
class ColdPool:
    """What the first points are chosen from.

    Attributes:
        x: Images `(n, h, w, c)`, uint8 or float, none of them labelled.
        classes: Name of each class.
        labels: In a simulation the label that each point would get, `(n,)` int64; None where
            people label, who have not been asked yet.
        embeddings: `(k,) indices -> (k, d)`, what a pretrained network knows of the images; None
            where there is no such network.
    """

    x: Tensor
    classes: tuple[str, ...]
    labels: Tensor | None = None
    embeddings: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.x)


Start = Callable[[ColdPool, int, torch.Generator], Tensor]
"""`(pool, count, generator) -> (count,)` distinct indices."""


def balanced(pool: ColdPool, count: int, generator: torch.Generator) -> Tensor:
    """Draw as many points of each class as of any other; needs a simulation, which knows them.

    What does not divide by the classes goes to random classes, one more each.

    Raises:
        DataError: Too few points of a class, fewer wanted than classes, or no labels known.
    """
    if pool.labels is None:
        raise DataError("a balanced start needs labels; choose --start random or typiclust.")
    classes = len(pool.classes)
    if count < classes:
        raise DataError(
            f"--initial {count} is not possible with a balanced start: it must be at least one "
            f"a class ({classes}). Raise it, or choose --start random or typiclust."
        )
    share = torch.full((classes,), count // classes)
    share[torch.randperm(classes, generator=generator)[: count % classes]] += 1
    sizes = torch.bincount(pool.labels, minlength=classes)
    short = torch.nonzero(sizes < share).squeeze(1)
    if short.numel():
        worst = int(short[sizes[short].argmin()])
        raise DataError(
            f"class {pool.classes[worst]!r} has {int(sizes[worst])} training points, but a "
            f"balanced start needs {int(share[worst])}. Lower --initial to at most "
            f"{int(sizes[worst]) * classes}, or choose --start random or typiclust."
        )
    drawn = [
        members[torch.randperm(members.numel(), generator=generator)[: int(share[c])]]
        for c, members in enumerate(_by_class(pool.labels, classes))
    ]
    return torch.cat(drawn)


def random(pool: ColdPool, count: int, generator: torch.Generator) -> Tensor:
    """Draw points at random, as one would without knowing anything."""
    return torch.randperm(len(pool), generator=generator)[:count]


def typiclust(pool: ColdPool, count: int, generator: torch.Generator) -> Tensor:
    """Take the most typical point of each cluster of the images, largest clusters first.

    Embeddings of a pretrained network describe the images, or if there is none
    `alprune.acquisition.features.patch_features`, learnt without labels;
    they are clustered into `count` clusters, 500 at most. Of a pool of more than 50,000 points, a
    part is clustered.

    Source: Hacohen et al. 2022, algorithm 1; with features that take seconds instead of theirs
    (SimCLR, hours).
    """
    looked_at = torch.arange(len(pool))
    if len(pool) > _LOOKED_AT:
        most = max(count, _LOOKED_AT)
        looked_at = torch.randperm(len(pool), generator=generator)[:most].sort().values
    if pool.embeddings is not None:
        points = make_points(principal(pool.embeddings(looked_at), _COMPONENTS))
    else:
        x = pool.x if len(looked_at) == len(pool) else pool.x[looked_at]
        features = patch_features(x, generator)
        points = make_points(features - features.mean(0))
    clusters = min(count, CLUSTERS)
    groups = assign(points, k_means(points, clusters, generator).rows)
    nothing = torch.zeros(clusters, dtype=torch.int64)
    return looked_at[typical(points, groups, nothing, count, generator)]


STARTS: dict[str, Start] = {
    "balanced": balanced,
    "random": random,
    "typiclust": typiclust,
}


def first_points(
    name: str | Start, pool: ColdPool, count: int, generator: torch.Generator
) -> Tensor:
    """Choose the points that are labelled first, and check what was chosen.

    Args:
        name: A key of `STARTS`, `package.module:function`, or a function
            `(pool, count, generator) -> (count,)` distinct indices.
        pool: What to choose from.
        count: Points wanted.
        generator: Source of randomness, on the CPU.

    Returns:
        `(count,)` absolute indices, int64, ascending.

    Raises:
        ConfigError: Unknown name, or a function that fails or returns something else.
        DataError: The points wanted are not there.
    """
    function = find_start(name)
    if not 1 <= count <= len(pool):
        raise DataError(
            f"--initial {count} is not possible: it must be at least 1 and at most the training "
            f"set ({len(pool)})."
        )
    what = f"start {getattr(function, '__name__', type(function).__name__)!r}"
    try:
        chosen = function(pool, count, generator)
    except AlpruneError:
        raise
    except Exception as error:
        raise ConfigError(failure(what, error)) from error
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.int64 or chosen.shape != (count,):
        got = (chosen.dtype, tuple(chosen.shape)) if isinstance(chosen, Tensor) else type(chosen)
        raise ConfigError(f"{what} returned {got}; it must return {count} indices, int64.")
    chosen = chosen.to("cpu").sort().values
    if int(chosen[0]) < 0 or int(chosen[-1]) >= len(pool) or (chosen.diff() == 0).any():
        raise ConfigError(
            f"{what} returned indices {int(chosen[0])}..{int(chosen[-1])}; they must be distinct "
            f"and lie in 0..{len(pool) - 1}."
        )
    return chosen


def find_start(name: str | Start) -> Start:
    """Return the function for a name in `STARTS` or `package.module:function`.

    Raises:
        ConfigError: Unknown name.
    """
    found = lookup("start", name, STARTS) if isinstance(name, str) else name
    if not callable(found):
        raise ConfigError(
            f"start {name!r} is a {type(found).__name__}; it must be a function "
            "(pool, count, generator) -> indices."
        )
    return found


def _by_class(labels: Tensor, classes: int) -> tuple[Tensor, ...]:
    order = labels.argsort(stable=True)
    return order.split(torch.bincount(labels, minlength=classes).tolist())
