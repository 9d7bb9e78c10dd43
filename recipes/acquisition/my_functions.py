"""Acquisition functions of your own, to copy: scores, indices, a class with state, a committee.

An acquisition function is `(evidence, count, generator) -> scores or indices`. It can look at

    evidence.candidates             (n,)                absolute indices of the unlabelled points
    evidence.probabilities          (n, classes)        softmax outputs
    evidence.score(function)        (n,)                of softmax outputs, which are not kept
    evidence.embeddings             (n, d)              inputs of the last linear layer
    evidence.draws(t, generator)    (t, n, classes)     softmax outputs under dropout
    evidence.gradient_factors       (n, classes), (n, d)
    evidence.committee              (t, n, classes)     of the last fits' networks; see `needs`
    evidence.labelled, .labels      (m,)                what is known; also labelled_embeddings
    evidence.classes, .device                           and labelled_probabilities

and pays for what it looks at. In the folder of this file:

    alprune run --dataset digits --budget 30 --acquisition my_functions:rare_and_uncertain
    alprune run --dataset digits --budget 30 --acquisition my_functions:far_apart
    alprune run --dataset digits --budget 30 --acquisition my_functions:Changing
    alprune run --dataset digits --budget 30 --acquisition balanced:my_functions:changed_minds

or in Python `alprune.run(config, acquisition=far_apart)`. Test yours with

    from alprune.acquisition.testing import check_acquisition
    check_acquisition(far_apart)
"""

import torch
from torch import Tensor

from alprune.acquisition import Evidence, needs


def rare_and_uncertain(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the entropy, times how rare the likeliest class is among the labels."""
    probabilities = evidence.probabilities  # (n, classes)
    known = torch.bincount(evidence.labels, minlength=evidence.classes) + 1
    rarity = (known.sum() / known).to(evidence.device)
    entropy = torch.special.entr(probabilities).sum(1)
    return entropy * rarity[probabilities.argmax(1)]  # (n,): the largest are taken


def far_apart(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Take points one by one, each the farthest from those taken before."""
    rows = evidence.embeddings  # (n, d)
    first = torch.randint(len(rows), (), generator=generator)
    taken = [int(first)]
    distance = (rows - rows[taken[0]]).norm(dim=1)
    while len(taken) < count:
        distance[taken[-1]] = -1  # never again, even among equals
        taken.append(int(distance.argmax()))
        distance = torch.minimum(distance, (rows - rows[taken[-1]]).norm(dim=1))
    return evidence.candidates[taken]  # absolute indices, not positions


class Changing:
    """Explores at random first and turns to the smallest margin, a little more each step.

    A class is made once a run, without arguments. With `state_dict` and `load_state_dict` a
    resumed run goes on where it was.
    """

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        """Mix the ranks of both scores."""
        self.step += 1
        trust = 1 - 0.9**self.step
        top = evidence.probabilities.topk(2, dim=1).values  # (n, 2)
        uncertainty = 1 - (top[:, 0] - top[:, 1])
        noise = torch.rand(len(top), generator=generator).to(evidence.device)
        return trust * uncertainty + (1 - trust) * noise

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run must know."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up the state of the run that is resumed."""
        self.step = state["step"]


@needs(snapshots=3)
def changed_minds(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by how much the prediction has moved over the last three fits."""
    committee = evidence.committee  # (t, n, classes), t <= 3, newest last
    return (committee[-1] - committee[0]).abs().sum(1)
