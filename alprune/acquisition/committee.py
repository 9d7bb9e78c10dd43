"""Query by committee: what the networks that the last fits left behind disagree on.

The members are the learner's averaged weights after each of the last five fits, so a committee
costs five passes over the candidates, five times the memory of the weights and O(5 n classes).
In the first step there is one member, which agrees with itself: its entropy is the score.
"""

import torch
from torch import Tensor

from alprune.acquisition.base import needs
from alprune.acquisition.bayesian import mutual_information
from alprune.acquisition.evidence import Evidence

MEMBERS = 5


@needs(snapshots=MEMBERS)
def qbc(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the members' mean divergence from their consensus, in nats.

    Returns:
        `(n,)` scores: the mean Kullback-Leibler divergence of a member from the mean.

    Source: Seung et al. 1992; McCallum and Nigam 1998 for the divergence.
    """
    committee = evidence.committee
    if len(committee) == 1:
        return torch.special.entr(committee[0]).sum(1)
    return mutual_information(committee)  # the same number by another name


@needs(snapshots=MEMBERS)
def qbc_vote(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the entropy of the members' votes, in nats.

    Returns:
        `(n,)` scores; there are few different ones, and ties are drawn at random.

    Source: Dagan and Engelson 1995.
    """
    committee = evidence.committee
    if len(committee) == 1:
        return torch.special.entr(committee[0]).sum(1)
    votes = torch.zeros_like(committee[0])
    for member in committee:
        votes.scatter_add_(1, member.argmax(1, keepdim=True), torch.ones_like(member[:, :1]))
    return torch.special.entr(votes / len(committee)).sum(1)
