"""A linear classifier over embeddings: regularised logistic regression, helped by unlabelled ones.

With few labels the classes of unlabelled images are guessed from their neighbours: labels spread
over a graph of nearest neighbours, and the surest guesses are learnt from as well, together worth
a fixed number of labels, so that real ones soon outweigh them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.errors import ConfigError

_BLOCK = 1024  # images whose similarities to all others are held at a time
_TINY = 1e-12


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted.

    Attributes:
        strength: Weight of a labelled image's loss against half the squared weights (C).
        guesses: Labels per class that all guessed labels together count for; 0 uses none.
        sure: Share of the unlabelled images of each guessed class that is learnt from.
        neighbours: Edges per image of the graph.
        components: Principal components in which neighbours are sought.
        reach: Share of an image's class that comes from its neighbours, in [0, 1).
        pool: Unlabelled images that are looked at, at most.
        learnt_from: Guessed images that are learnt from, at most.
        iterations: Of L-BFGS, at most.
    """

    strength: float = 10.0
    guesses: float = 20.0
    sure: float = 0.25
    neighbours: int = 15
    components: int = 128
    reach: float = 0.9
    pool: int = 10_000
    learnt_from: int = 2000
    iterations: int = 60

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.guesses >= 0 and 0 < self.sure <= 1):
            raise ConfigError(
                f"a head needs strength > 0, guesses >= 0 and sure in (0, 1]; got {self}."
            )


class Head(nn.Module):
    """A linear layer over embeddings that are centred first, and of length 1 on average.

    Args:
        centre: `(d,)`.
        length: Mean distance of embeddings from it, > 0.
        classes: Outputs, all zero at first.
    """

    centre: Tensor
    length: Tensor

    def __init__(self, centre: Tensor, length: float, classes: int) -> None:
        super().__init__()
        self.register_buffer("centre", centre.clone())
        self.register_buffer("length", torch.tensor(length, device=centre.device))
        self.linear = nn.Linear(len(centre), classes, device=centre.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.requires_grad_(False).eval()

    @classmethod
    def over(cls, embeddings: Tensor, classes: int) -> "Head":
        """Make one for embeddings like these, `(n, d)`, n >= 1."""
        centre = embeddings.mean(0)
        length = float((embeddings - centre).norm(dim=1).mean())
        return cls(centre, length if length > 0 else 1.0, classes)

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Centre and scale embeddings `(n, d)`."""
        return (embeddings - self.centre).div_(self.length)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the logits of embeddings `(n, d)`, `(n, classes)`."""
        logits: Tensor = self.linear(self.scaled(embeddings))
        return logits

    def plain(self) -> tuple[Tensor, Tensor]:
        """Return weights `(classes, d)` and biases `(classes,)` for embeddings as they are."""
        weight = self.linear.weight / self.length
        return weight, self.linear.bias - weight @ self.centre


class Neighbours:
    """Which embeddings lie close together: a graph over which labels spread.

    Args:
        embeddings: `(n, d)`, n >= 2.
        settings: How many neighbours, in how many components.
    """

    def __init__(self, embeddings: Tensor, settings: HeadSettings) -> None:
        self._reach, count = settings.reach, len(embeddings)
        points = principal(embeddings, settings.components)
        nearest = min(settings.neighbours, count - 1)
        columns, values = [], []
        for begin in range(0, count, _BLOCK):
            likeness = points[begin : begin + _BLOCK] @ points.T
            rows = torch.arange(len(likeness), device=likeness.device)
            likeness[rows, rows + begin] = -1
            best = likeness.topk(nearest)
            columns.append(best.indices.cpu().numpy())
            values.append(best.values.clamp_min_(0).pow_(3).cpu().numpy())
        sources = np.repeat(np.arange(count), nearest)
        edges = (np.concatenate(values).ravel(), (sources, np.concatenate(columns).ravel()))
        graph = sparse.csr_array(edges, shape=(count, count))
        graph = graph + graph.T
        root = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), _TINY))
        self._graph = (sparse.diags_array(root) @ graph @ sparse.diags_array(root)).tocsr()

    def spread(self, rows: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Return what is guessed of each embedding's class, `(n, classes)`, rows of sum 1 or 0.

        Args:
            rows: Of the labelled ones, `(m,)`.
            labels: Their classes, `(m,)`.
            classes: How many there are.

        Source: Zhou et al. 2004, eq. 3, by iteration; Iscen et al. 2019 for the graph.
        """
        start = np.zeros((self._graph.shape[0], classes), np.float32)
        start[rows.numpy(), labels.numpy()] = 1
        found = start
        for _ in range(30):
            found = self._reach * (self._graph @ found) + (1 - self._reach) * start
        guess = torch.from_numpy(found.astype(np.float32))
        return guess / guess.sum(1, keepdim=True).clamp_min(_TINY)


def surest(guess: Tensor, share: float) -> Tensor:
    """Return the images whose class is guessed most surely, `(k,)`: a share of each class's.

    Args:
        guess: `(n, classes)`, see `Neighbours.spread`; rows of zeros are never sure.
        share: Of the images guessed to be of a class; taken class by class, so that a class with
            few images is not left out.
    """
    top = guess.topk(min(2, guess.shape[1]), dim=1)
    margin = top.values[:, 0] - top.values[:, -1] if guess.shape[1] > 1 else top.values[:, 0]
    label = top.indices[:, 0]
    chosen = []
    for number in label.unique().tolist():
        members = torch.nonzero((label == number) & (margin > 0)).squeeze(1)
        best = margin[members].argsort(descending=True, stable=True)
        chosen.append(members[best[: int(len(members) * share)]])
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


def fit_linear(
    embeddings: Tensor,
    labels: Tensor,
    weights: Tensor,
    settings: HeadSettings,
    layer: nn.Linear,
) -> float:
    """Fit a linear layer by multinomial logistic regression, with L-BFGS.

    Args:
        embeddings: `(n, d)`, scaled.
        labels: Classes `(n,)`.
        weights: Of each one's loss, `(n,)`.
        settings: How strong the labels are, and when to end.
        layer: Changed in place, from its present weights; a class without a label becomes
            unlikely.

    Returns:
        The labels' mean loss.
    """
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=settings.iterations,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )
    total, loss = float(weights.sum()), torch.zeros(())

    def objective() -> Tensor:
        nonlocal loss
        optimiser.zero_grad()
        each = F.cross_entropy(F.linear(embeddings, weight, bias), labels, reduction="none")
        mean = (weights * each).sum() / total
        loss = mean.detach()
        # Biases of absent classes would run away; a light pull holds them.
        norm = weight.square().sum() + 1e-3 * bias.square().sum()
        penalised = mean + norm / (2 * settings.strength * total)
        penalised.backward()
        return penalised

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return float(loss)


@dataclass(frozen=True)
class Projection:
    """The directions of embeddings from their mean, in their principal components.

    Attributes:
        mean: Of the embeddings, `(d,)`.
        centre: Of their directions from there, `(d,)`.
        axes: The components, the smallest first, `(d, components)`.
    """

    mean: Tensor
    centre: Tensor
    axes: Tensor

    @classmethod
    def over(cls, embeddings: Tensor, components: int) -> "Projection":
        """Find the largest principal components.

        Args:
            embeddings: `(n, d)` of any float type, n >= 1; few are held in float32 at a time.
            components: How many.
        """
        blocks, count = embeddings.split(_BLOCK), len(embeddings)
        mean = torch.stack([block.float().sum(0) for block in blocks]).sum(0) / count
        total, products = torch.zeros_like(mean), torch.zeros_like(mean.outer(mean))
        for block in blocks:
            points = _directions(block, mean)
            total += points.sum(0)
            products += points.T @ points
        centre = total / count
        spread = products / count - centre.outer(centre)
        try:
            vectors = torch.linalg.eigh(spread).eigenvectors
        except torch.linalg.LinAlgError:  # as of few images, most channels being the same in all
            vectors = torch.linalg.eigh(spread.double()).eigenvectors.float()
        return cls(mean, centre, vectors[:, -components:].clone())

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return embeddings `(n, d)` in these components, rows of length 1, float32."""
        blocks = (_directions(block, self.mean) for block in embeddings.split(_BLOCK))
        return torch.cat([F.normalize((b - self.centre) @ self.axes, dim=1) for b in blocks])


def _directions(embeddings: Tensor, mean: Tensor) -> Tensor:
    return F.normalize(embeddings.float() - mean, dim=1, eps=_TINY)


def principal(embeddings: Tensor, components: int) -> Tensor:
    """Return the principal components of embeddings, rows of length 1, `(n, components)` float32.

    Args:
        embeddings: `(n, d)`, see `Projection.over`.
        components: How many, the largest ones.
    """
    return Projection.over(embeddings, components)(embeddings)
