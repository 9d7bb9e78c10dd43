"""What an acquisition function may look at, computed when it is asked for and only once."""

from functools import cached_property

import torch
from torch import Tensor, nn

from alprune.clock import Budget
from alprune.errors import AcquisitionError
from alprune.train import Learner


class Evidence:
    """The present learner's view of the candidates and of the labelled points.

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
        learner: Learner,
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
        self._clock = Budget(None)

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax outputs for the candidates, `(n, classes)` float32 on the device."""
        return self._stream(self.candidates)[0]

    @cached_property
    def embeddings(self) -> Tensor:
        """Inputs of the last linear layer for the candidates, `(n, d)` float32 on the device."""
        probabilities, embeddings = self._stream(self.candidates, embed=True)
        self.__dict__.setdefault("probabilities", probabilities)
        return embeddings

    @cached_property
    def labelled_probabilities(self) -> Tensor:
        """Softmax outputs for the labelled points, `(m, classes)` float32 on the device."""
        return self._stream(self.labelled)[0]

    @cached_property
    def labelled_embeddings(self) -> Tensor:
        """Inputs of the last linear layer for the labelled points, `(m, d)` float32."""
        return self._stream(self.labelled, embed=True)[1]

    def _stream(self, indices: Tensor, embed: bool = False) -> tuple[Tensor, Tensor]:
        probabilities = torch.empty(indices.numel(), self.classes, device=self.device)
        embeddings = torch.empty(0, device=self.device)
        seen: list[Tensor] = []
        hook = _last_linear(self._learner.averaged).register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0].float()) if embed else None
        )
        self._clock.start()
        try:
            for part, logits in self._learner.predict(self._learner.x, indices, self._budget):
                probabilities[part] = logits.softmax(1)
                if embed:
                    rows = seen.pop().flatten(1)
                    if not embeddings.numel():
                        embeddings = torch.empty(indices.numel(), rows.shape[1], device=self.device)
                    embeddings[part] = rows
        finally:
            hook.remove()
            self._clock.stop()
            self.compute_s = self._clock.elapsed_s
        return probabilities, embeddings


def _last_linear(model: nn.Module) -> nn.Module:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise AcquisitionError("the learner has no linear layer, so it has no embeddings.")
    return layers[-1]
