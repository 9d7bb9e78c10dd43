"""A learner on a frozen backbone: images are embedded once, and each fit learns a linear head."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alprune.data import Dataset
from alprune.data.image_cache.vectors import VectorTable
from alprune.pruning.epi import EarlyPruner
from alprune.training.budget import Budget
from alprune.training.distributed import ALONE, Team
from alprune.training.embeddings import Embedder, last_linear
from alprune.training.head import Head, HeadSettings, Neighbours, fit_linear, surest
from alprune.training.metrics import Metrics, measure
from alprune.training.predict import BudgetSpent
from alprune.training.settings import FitReport

_ROWS = 1024  # embeddings that are turned into logits at a time
_SCALED_BY = 5_000  # images of the pool whose embeddings say what scale they have


class FrozenLearner:
    """A pretrained network of which only the last layer learns, over one training set.

    It is used as any learner: see `alprune.training.interface.Trainable`. A prediction for a
    training image costs no forward pass. `snapshots` are heads fitted to bootstrap samples of the
    labels, so a committee costs some further fits and no pass over images.

    Args:
        model: The whole network, pretrained; its last layer is replaced by each fit.
        embedder: Of a network with the same weights but for the last layer.
        train: The training set, scaled as the weights expect.
        settings: How the head is fitted.
        team: The processes that make the run together; each embeds a share.
        progress: Whether a bar shows how far embedding is.

    Attributes:
        embedder: As given.
        seen: The training images' embeddings.
    """

    def __init__(
        self,
        model: nn.Module,
        embedder: Embedder,
        train: Dataset,
        settings: HeadSettings | None = None,
        team: Team = ALONE,
        progress: bool = False,
    ) -> None:
        self.model = self.averaged = model.to(embedder.device).eval()
        self.early: EarlyPruner | None = None
        self.embedder, self.settings, self.team = embedder, settings or HeadSettings(), team
        self.device, self.precision = embedder.device, torch.float32
        self.x, self.lr, self.batches = train.x, 0.0, 0
        self.snapshots: deque[nn.Module] = deque(maxlen=0)
        self.seen = embedder.table(train.x, train.files)
        self._progress, self._classes = progress, len(train.classes)
        self._head: Head | None = None

    @property
    def network(self) -> nn.Module:
        """The head: embeddings in, logits out."""
        return self.head

    @property
    def head(self) -> Head:
        """What fits change; before the training images are embedded, one that knows nothing."""
        if self._head is None:
            some = self._spaced(_SCALED_BY)
            if len(self.seen.missing(some.numpy())):
                nothing = torch.zeros(self.embedder.dimensions, device=self.device)
                return Head(nothing, 1.0, self._classes)
            self._head = Head.over(self._rows(some), self._classes)
        return self._head

    def keep_snapshots(self, count: int) -> None:
        """Fit `count` - 1 heads to bootstrap samples beside each fit's own head."""
        self.snapshots = deque(self.snapshots, maxlen=count)

    def embed(self, budget: Budget | None = None) -> None:
        """Embed the training images that were not embedded before.

        Raises:
            BudgetSpent: The budget ended before; what was embedded is kept.
        """
        self._embed(self.x, self.seen, budget)

    def embeddings(self, indices: Tensor | None = None) -> Tensor:
        """Return embeddings of training images, `(k, d)` float16 on the CPU, row by `indices`."""
        rows = torch.arange(len(self.x)) if indices is None else indices.cpu()
        return torch.from_numpy(self.seen.of(rows.numpy()))

    def fit(
        self,
        indices: Tensor,
        labels: Tensor,
        epochs: float,
        generator: torch.Generator,
        budget: Budget | None = None,
        progress: Callable[[float], float] = lambda done: 0.0,
        tick: Callable[[int, int], None] | None = None,
    ) -> FitReport:
        """Fit the head to labelled points; `epochs` and `progress` have no meaning here.

        Args:
            indices: Absolute indices of the labelled points, `(n,)`.
            labels: Their classes, `(n,)`.
            epochs: Not used: a fit ends when it has converged.
            generator: Draws bootstrap samples.
            budget: Checked while images are embedded.
            progress: Not used.
            tick: Called once at the end.

        Returns:
            What was done: one batch, of all labelled points.
        """
        try:
            self.embed(budget)
        except BudgetSpent:
            return FitReport(None, 0.0, 0, stopped=True)
        indices, labels = indices.cpu(), labels.cpu()
        points = self.head.scaled(self._rows(indices))
        loss = self._learn(self.head, points, labels, self._guessed(indices, labels))
        others = [self._bootstrapped(points, labels, generator) for _ in range(self._committee)]
        self.team.align(self.head)
        self._put_into_model()
        self.snapshots.extend(others)
        if self.snapshots.maxlen:
            self.snapshots.append(copy.deepcopy(self.head))
        self.batches += 1
        if tick is not None:
            tick(1, 1)
        return FitReport(loss, 1.0, 1, stopped=False)

    def predict(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        budget: Budget | None = None,
        network: nn.Module | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Stream logits over images; of images that were embedded before, by the head alone.

        Args:
            x: Images `(n, h, w, c)`.
            indices: Rows of `x` to take, `(k,)`; all if None.
            budget: Checked before every chunk.
            network: One of `snapshots`; the present head if None.

        Yields:
            The slice of `indices` and its logits `(chunk, classes)`, float32, on the device.

        Raises:
            BudgetSpent: The budget ended before the stream did.
        """
        table = self.embedder.table(x)
        self._embed(x, table, budget)
        rows = torch.arange(len(x)) if indices is None else indices.cpu()
        head = network or self.network
        for begin in range(0, len(rows), _ROWS):
            if budget is not None and budget.expired:
                raise BudgetSpent
            part = slice(begin, min(begin + _ROWS, len(rows)))
            vectors = torch.from_numpy(table.of(rows[part].numpy()))
            with torch.inference_mode():
                yield part, head(vectors.to(self.device).float())

    def logits(
        self, x: Tensor, indices: Tensor | None = None, budget: Budget | None = None
    ) -> Tensor:
        """Return the logits that `predict` streams in one piece, `(n, classes)`, on the CPU."""
        # Made beforehand: results among the chunks keep the allocator from returning their memory.
        found = torch.empty(len(x) if indices is None else len(indices), self._classes)
        for part, logits in self.predict(x, indices, budget):
            found[part] = logits
        return found

    def evaluate(self, test: Dataset, budget: Budget | None = None) -> Metrics:
        """Measure the predictions on a test set, whose images are embedded at the first time."""
        self.embedder.table(test.x, test.files)
        return measure(self.logits(test.x, budget=budget), test.y)

    def gathered(self, rows: Tensor | None, count: int) -> Tensor:
        """Return all processes' rows; see `alprune.training.Learner.gathered`."""
        if self.team.any(rows is None):
            raise BudgetSpent
        assert rows is not None
        return self.team.gather(rows, count)

    def state(self) -> dict[str, Any]:
        """Return what fits have changed: the heads. The backbone is found by its name."""
        return {
            "lr": self.lr,
            "batches": self.batches,
            "model": None if self._head is None else _plain_state(self._head),
            "averaged": None,
            "optimiser": {},
            "snapshots": [_plain_state(head) for head in self.snapshots],
            "early": None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the heads to a state that `state` returned; what is not embedded yet waits."""
        kept, self.batches = state["model"], state["batches"]
        if kept is None:  # of before the first fit
            self._head = None
            return
        classes = len(kept["linear.weight"])
        self._head = Head(kept["centre"].to(self.device), 1.0, classes)
        self._head.load_state_dict(kept)
        self.snapshots = deque(maxlen=self.snapshots.maxlen)
        for weights in state["snapshots"]:
            self.snapshots.append(copy.deepcopy(self._head))
            self.snapshots[-1].load_state_dict(weights)
        self._put_into_model()

    def _put_into_model(self) -> None:
        """Give the whole network the head, for all who use it without this class."""
        weight, bias = self.head.plain()
        put_head(self.model, weight, bias)

    @property
    def _committee(self) -> int:
        return max(0, (self.snapshots.maxlen or 0) - 1)

    def _embed(self, x: Tensor, table: VectorTable, budget: Budget | None) -> None:
        missing = self.team.any(bool(len(table.missing())))
        if not missing:
            return
        title = "embedding" if self._progress else None
        # Its share, then what the others' caches have and this one's lacks.
        for share in ((self.team.rank, self.team.size), (0, 1)):
            spent = False
            try:
                self.embedder.complete(x, table, budget, title, share)
            except BudgetSpent:
                spent = True
            if self.team.any(spent):
                raise BudgetSpent
            table.refresh()  # what the others of the team embedded

    def _rows(self, indices: Tensor) -> Tensor:
        return self.embeddings(indices).to(self.device).float()

    def _spaced(self, most: int) -> Tensor:
        """Return the indices of up to `most` training images, evenly spaced, `(k,)`."""
        count = len(self.x)
        return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()

    def _guessed(self, indices: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return unlabelled images to learn from: embeddings, guessed classes and weights."""
        settings = self.settings
        if not settings.guesses or len(self.x) - len(indices) < 2:
            return None
        looked_at = torch.cat([indices, self._spaced(settings.pool)]).unique()
        graph = self._neighbours(looked_at)
        rows = torch.searchsorted(looked_at, indices)
        guess = graph.spread(rows, labels, self._classes)
        guess[rows] = 0
        chosen = surest(guess, settings.sure)
        if not len(chosen):
            return None
        if len(chosen) > settings.learnt_from:
            chosen = chosen[torch.linspace(0, len(chosen) - 1, settings.learnt_from).long()]
        total = settings.guesses * len(labels.unique())
        weights = torch.full((len(chosen),), total / len(chosen))
        points = self.head.scaled(self._rows(looked_at[chosen]))
        return points, guess[chosen].argmax(1), weights

    def _neighbours(self, looked_at: Tensor) -> Neighbours:
        what = self.seen.digest(looked_at.numpy()), self.settings
        known = self.embedder.neighbours
        if known is None or known[0] != what:
            made = Neighbours(self.embeddings(looked_at).to(self.device), self.settings)
            known = self.embedder.neighbours = what, made
        return known[1]

    def _learn(
        self,
        head: Head,
        points: Tensor,
        labels: Tensor,
        guessed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> float:
        weights = torch.ones(len(points))
        if guessed is not None:
            points = torch.cat([points, guessed[0]])
            labels = torch.cat([labels, guessed[1]])
            weights = torch.cat([weights, guessed[2]])
        labels, weights = labels.to(self.device), weights.to(self.device)
        return fit_linear(points, labels, weights, self.settings, head.linear)

    def _bootstrapped(self, points: Tensor, labels: Tensor, generator: torch.Generator) -> Head:
        """Fit a head to as many labels as there are, drawn with replacement."""
        count, where = len(points), generator.device
        drawn = torch.randint(count, (count,), generator=generator, device=where).cpu()
        head = copy.deepcopy(self.head)
        self._learn(head, points[drawn.to(points.device)], labels[drawn])
        return head


def put_head(model: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Make the last linear layer of a network compute `weight`, `(classes, d)`, and `bias`."""
    name, layer = last_linear(model)
    new = nn.Linear(weight.shape[1], len(weight), device=layer.weight.device)
    with torch.no_grad():
        new.weight.copy_(weight)
        new.bias.copy_(bias)
    model.set_submodule(name, new.eval())


def _plain_state(head: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}
