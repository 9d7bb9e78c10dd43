"""What an acquisition function may look at, computed when it is asked for and only once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.acquisition.dropout import (
    INSERTED_RATE,
    consistent_dropout,
    dropout_modules,
    keep_mask,
)
from alprune.errors import AcquisitionError
from alprune.training import BudgetSpent
from alprune.training.budget import Budget
from alprune.training.interface import Trainable

_ROWS = 4096  # candidates at a time where no images are involved


@dataclass(frozen=True)
class Predictions:
    """What the learner predicts for the candidates, in short.

    Attributes:
        entropy: Mean entropy of the softmax, in nats.
        counts: Candidates that each class is predicted for, `(classes,)`.
    """

    entropy: float
    counts: tuple[int, ...]


class Evidence:
    """The present learner's view of the candidates and of the labelled points.

    Everything is computed on first use, in chunks, on the learner's device, with its averaged
    weights, and kept: a function costs what it asks for. Whoever wants embeddings asks for them
    first: the same pass yields the probabilities.

    Args:
        learner: The learner that has just been fitted.
        candidates: Absolute indices of unlabelled points that may be acquired, `(n,)`.
        labelled: Absolute indices of the labelled points, `(m,)`.
        labels: Their classes, `(m,)`.
        classes: Number of classes.
        budget: The clock; computing evidence counts, and stops when it is spent.

    Attributes:
        candidates: As given, on the CPU.
        labelled: As given, on the CPU.
        labels: As given, on the CPU.
        classes: As given.
        device: Where the results lie.
        compute_s: Seconds the learner has spent on evidence so far.
    """

    def __init__(
        self,
        learner: Trainable,
        candidates: Tensor,
        labelled: Tensor,
        labels: Tensor,
        classes: int,
        budget: Budget | None = None,
    ) -> None:
        self.candidates, self.labelled, self.labels = candidates, labelled, labels
        self.classes, self.device = classes, learner.device
        self.compute_s = 0.0
        self._learner, self._budget = learner, budget
        self._clock = Budget(None, now=time.monotonic if budget is None else budget.now)
        self._draws = torch.empty(0, candidates.numel(), classes, device=self.device)
        self._head: nn.Linear | None = None
        self._predictions: Predictions | None = None

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax outputs for the candidates, `(n, classes)` float32: 4 n classes bytes."""
        return self._noted(self._stream(self.candidates))

    def score(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a score of each candidate's softmax output, `(n,)` float32: 4 n bytes.

        Nothing but the scores is kept, and of several processes each hands round only these: with
        many classes that is much less than `probabilities`. A second call is a second pass over the
        candidates, unless `probabilities` are known.

        Args:
            function: From softmax outputs `(b, classes)` to scores `(b,)`, row by row.
        """
        if "probabilities" in self.__dict__:
            return function(self.probabilities)
        mine = self.candidates[self._learner.team.share(self.candidates.numel())]
        scores = torch.empty(mine.numel(), device=self.device)
        seen = torch.zeros(self.classes + 1, dtype=torch.float64, device=self.device)

        def see(part: slice, probabilities: Tensor) -> None:
            scores[part] = function(probabilities)
            seen.add_(_summary(probabilities))

        finished = self._pass(mine, see)
        scores = self._learner.gathered(scores if finished else None, self.candidates.numel())
        self._see(self._learner.team.total(seen))
        return scores

    @property
    def predictions(self) -> Predictions | None:
        """What was seen of the candidates' softmax outputs; None if nothing asked for them."""
        return self._predictions

    def look(self) -> Predictions:
        """Return what the learner predicts for the candidates; a pass, if there was none yet."""
        if self._predictions is None:
            self.score(lambda probabilities: probabilities[:, 0])
        assert self._predictions is not None
        return self._predictions

    @cached_property
    def embeddings(self) -> Tensor:
        """Inputs of the last linear layer for the candidates, `(n, d)` float32: 4 n d bytes."""
        probabilities, embeddings = self._embed(self.candidates)
        self.__dict__.setdefault("probabilities", self._noted(probabilities))
        return embeddings

    @cached_property
    def labelled_probabilities(self) -> Tensor:
        """Softmax outputs for the labelled points, `(m, classes)` float32."""
        return self._stream(self.labelled)

    @cached_property
    def labelled_embeddings(self) -> Tensor:
        """Inputs of the last linear layer for the labelled points, `(m, d)` float32."""
        probabilities, embeddings = self._embed(self.labelled)
        self.__dict__.setdefault("labelled_probabilities", probabilities)
        return embeddings

    @property
    def gradient_factors(self) -> tuple[Tensor, Tensor]:
        """The factors of the candidates' gradient embeddings, `(n, classes)` and `(n, d)`.

        The gradient of the cross-entropy by the last layer's weights, the likeliest class taken
        for the label, is the outer product of the two for each candidate. Inner products need
        the factors only: `(a_i . a_j) (b_i . b_j)`. Their product, n x classes x d numbers, is
        never formed here.

        Source: Ash et al. 2020, section 3.
        """
        embeddings = self.embeddings
        residuals = self.probabilities.clone()
        likeliest = residuals.argmax(1, keepdim=True)
        residuals.scatter_add_(1, likeliest, -torch.ones_like(residuals[:, :1]))
        return residuals, embeddings

    @cached_property
    def committee(self) -> Tensor:
        """Softmax outputs of the last fits' networks, `(t, n, classes)` float32, newest last.

        They are the learner's averaged weights as each of the last fits left them, as many as
        the function declares with `@needs(snapshots=...)`, or as there have been: one in the
        first step. Costs t passes over the candidates, less those known; 4 t n classes bytes.

        Raises:
            AcquisitionError: The function declares no snapshots.
        """
        older = list(self._learner.snapshots)[:-1]  # the newest is the learner itself
        if not self._learner.snapshots:
            raise AcquisitionError(
                "evidence.committee has no members: the learner keeps the weights of past fits "
                "only for functions that say so. Decorate yours with "
                "@alprune.acquisition.needs(snapshots=5)."
            )
        known = self.probabilities
        return torch.stack([*(self._stream(self.candidates, old) for old in older), known])

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Return softmax outputs under Monte Carlo dropout, `(count, n, classes)` float32.

        Each draw is one thinned network: the same mask for all candidates. A learner with
        dropout modules is run through once a draw, with its own rates. One without gets dropout
        of rate 0.5 in front of its last linear layer, so that all draws together cost a single
        pass and `count` times the last layer. Asked again for more, the first ones are kept.

        Args:
            count: Draws, t; 4 t n classes bytes.
            generator: Draws the masks, on the CPU.

        Source: Gal and Ghahramani 2016; Kirsch et al. 2019 for consistent masks.
        """
        missing = count - len(self._draws)
        if missing > 0:
            more = self._draw(missing, generator)
            self._draws = torch.cat([self._draws, more]) if len(self._draws) else more
        return self._draws[:count]

    @property
    def _network(self) -> nn.Module:
        return self._learner.network

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        dropouts = dropout_modules(self._network)
        before: list[nn.Module] = []
        if not dropouts:
            _ = self.embeddings
            if self._head is not None:
                return self._draw_head(self._head, count, generator)
            before = [_last_linear(self._network)]
        draws = torch.empty(count, *self._draws.shape[1:], device=self.device)
        for draw in draws:
            with consistent_dropout(dropouts, before, generator):
                draw.copy_(self._stream(self.candidates))
        return draws

    def _draw_head(self, head: nn.Linear, count: int, generator: torch.Generator) -> Tensor:
        """Apply the last layer alone, with dropped inputs, to the embeddings."""
        draws = torch.empty(count, *self._draws.shape[1:], device=self.device)
        masks = keep_mask(torch.Size([count, 1, head.in_features]), INSERTED_RATE, generator)
        with self._computing(), torch.no_grad():
            weights = (head.weight * masks.to(self.device)).flatten(0, 1)  # (count * classes, d)
            bias = None if head.bias is None else head.bias.repeat(count)
            for begin in range(0, len(self.embeddings), _ROWS):
                over = self._budget is not None and self._budget.expired
                if self._learner.team.any(over):
                    raise BudgetSpent
                rows = slice(begin, begin + _ROWS)
                logits = F.linear(self.embeddings[rows], weights, bias)
                draws[:, rows] = logits.unflatten(1, (count, -1)).softmax(2).transpose(0, 1)
        return draws

    def _stream(self, indices: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return softmax outputs."""
        mine = indices[self._learner.team.share(indices.numel())]
        probabilities = torch.empty(mine.numel(), self.classes, device=self.device)
        finished = self._pass(mine, probabilities.__setitem__, network)
        return self._learner.gathered(probabilities if finished else None, indices.numel())

    def _pass(
        self,
        mine: Tensor,
        see: Callable[[slice, Tensor], None],
        network: nn.Module | None = None,
        raw: Callable[[slice, Tensor], None] | None = None,
    ) -> bool:
        """Show softmax outputs of this process's share, and what they come from, chunk by chunk.

        Returns:
            Whether there was time for all.
        """
        with self._computing():
            chunks = self._learner.predict(self._learner.x, mine, self._budget, network=network)
            try:
                for part, logits in chunks:
                    see(part, logits.softmax(1))
                    if raw is not None:
                        raw(part, logits)
            except BudgetSpent:
                return False
        return True

    def _noted(self, probabilities: Tensor) -> Tensor:
        """Note what these softmax outputs of all candidates say."""
        seen = torch.zeros(self.classes + 1, dtype=torch.float64, device=self.device)
        for rows in probabilities.split(_ROWS):
            seen += _summary(rows)
        self._see(seen)
        return probabilities

    def _see(self, seen: Tensor) -> None:
        entropy, *counts = seen.tolist()
        found = max(1.0, sum(counts))  # a few candidates are looked at by all processes
        self._predictions = Predictions(entropy / found, tuple(map(int, counts)))

    def _embed(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return softmax outputs and what enters the last linear layer."""
        layer = _last_linear(self._network)
        passed: list[tuple[Tensor, Tensor]] = []
        embeddings = torch.empty(0, device=self.device)
        mine = indices[self._learner.team.share(indices.numel())]
        probabilities = torch.empty(mine.numel(), self.classes, device=self.device)

        def keep(part: slice, logits: Tensor) -> None:
            nonlocal embeddings
            if not passed or len(passed[-1][0]) != len(logits):
                names = {module: name for name, module in self._network.named_modules()}
                raise AcquisitionError(
                    f"the last linear layer, {names[layer]!r}, does not run once on each image, so "
                    "there are no embeddings. Make it the network's classifier or remove it, or "
                    "take a function that needs none, such as margin."
                )
            entered, left = passed.pop()
            rows = entered.flatten(1)
            if not embeddings.numel():
                embeddings = torch.empty(mine.numel(), rows.shape[1], device=self.device)
                # Only where this layer's output is the network's can it be applied alone.
                self._head = layer if torch.equal(left.float(), logits) else None
            embeddings[part] = rows

        hook = layer.register_forward_hook(
            lambda module, inputs, output: passed.append((inputs[0], output))
        )
        try:
            finished = self._pass(mine, probabilities.__setitem__, raw=keep)
        finally:
            hook.remove()
        found = self._learner.gathered(probabilities if finished else None, indices.numel())
        return found, self._learner.gathered(embeddings, indices.numel())

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self._clock.start()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._clock.stop()
            self.compute_s = self._clock.elapsed_s


def _summary(probabilities: Tensor) -> Tensor:
    """Return the sum of the entropies of `(b, classes)`, then how often each class is likeliest."""
    entropy = torch.special.entr(probabilities).sum(dtype=torch.float64)
    counts = torch.zeros(probabilities.shape[1], dtype=torch.float64, device=entropy.device)
    likeliest = probabilities.argmax(1)
    counts.index_add_(0, likeliest, torch.ones_like(likeliest, dtype=torch.float64))  # no waiting
    return torch.cat([entropy[None], counts])


def _last_linear(model: nn.Module) -> nn.Linear:
    # Attention reads the weights of its last layer and never runs it.
    idle = nn.modules.linear.NonDynamicallyQuantizableLinear
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and not isinstance(m, idle)]
    if not layers:
        raise AcquisitionError("the learner has no linear layer, so it has no embeddings.")
    return layers[-1]
