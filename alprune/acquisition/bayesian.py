"""Acquisition by what draws of Monte Carlo dropout disagree on; see `Evidence.draws`.

Draws come from dropout with one mask for all candidates: the learner's own dropout modules, or
dropout of rate 0.5 inserted before the last linear layer where it has none. With t draws, n
candidates and c classes a function computes the draws (one pass over the candidates without
dropout modules, t passes with) and, beside what is stated at each, O(t n c) time and memory.
"""

import math

import torch
from torch import Tensor

from alprune.acquisition.distances import check_finite
from alprune.acquisition.evidence import Evidence

DRAWS = 20

_LOOKED_AT = 64  # points at a time


def variation_ratios(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the share of dropout draws that do not vote for the most voted class.

    Returns:
        `(n,)` scores, 0 to 1 - 1/classes in steps of 1/20; ties are drawn at random.

    Source: Freeman 1965; Gal et al. 2017 with dropout.
    """
    draws = evidence.draws(DRAWS, generator)
    votes = draws.argmax(2).T  # (n, t)
    tally = torch.zeros_like(draws[0]).scatter_add_(1, votes, torch.ones_like(draws[:, :, 0].T))
    return 1 - tally.max(1).values / len(draws)


def bald(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the mutual information of label and dropout mask, in nats.

    Returns:
        `(n,)` scores, 0 to log(min(20, classes)).

    Source: Houlsby et al. 2011; Gal et al. 2017 with dropout.
    """
    return mutual_information(evidence.draws(DRAWS, generator))


def mutual_information(draws: Tensor) -> Tensor:
    """Return the entropy of the mean less the mean of the entropies, `(n,)` in nats.

    Args:
        draws: `(t, n, classes)` probabilities.
    """
    information = torch.special.entr(draws.mean(0)).sum(1) - _mean_entropy(draws)
    return information.clamp_min_(0)  # rounding can take it below


def batchbald(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Choose greedily the batch whose labels tell most about the dropout mask together.

    Looks only at the `max(500, 10 count)` candidates with the largest BALD. Joint entropies
    are exact while the chosen points have at most 1000 label configurations, 3 points of 10
    classes; from there on they are means over 1000 sampled ones.

    Of r candidates looked at, each pick costs O(1000 t r c) time at most; as a point gains the
    less the more are chosen, 50 picks of 500 looked at a third of that. 5 MB of temporaries at
    10 classes.

    Returns:
        `(count,)` absolute indices, the most informative first.

    Raises:
        AcquisitionError: A draw is not finite.

    Source: Kirsch et al. 2019.
    """
    draws = evidence.draws(DRAWS, generator)
    looked_at = min(draws.shape[1], max(500, 10 * count))
    information = mutual_information(draws)
    check_finite(information, "dropout draws")
    best = information.topk(looked_at).indices
    picked = greedy_batch(draws[:, best], count, generator)
    return evidence.candidates[best[picked].to("cpu")]


def greedy_batch(
    draws: Tensor, count: int, generator: torch.Generator, configurations: int = 1000
) -> Tensor:
    """Choose points one by one by the largest growth of the batch's mutual information.

    Given the points B chosen so far, point x adds `I(y_x; w | y_B) = H(y_x | y_B) - H(y_x | w)`,
    which is what BatchBALD's joint entropy grows by, less the terms all candidates share. The
    first is the mean over configurations of y_B of the entropy of y_x under the draws weighted
    by how well they explain y_B; so nothing underflows, however large the batch.

    Args:
        draws: `(t, n, classes)` probabilities, the same t networks for all points.
        count: Points to choose, at most n.
        generator: Samples configurations, on the CPU.
        configurations: Up to so many are enumerated; beyond, so many are sampled.

    Returns:
        `(count,)` distinct positions in `0..n-1`, int64 on the device of `draws`.

    Source: Kirsch et al. 2019, sections 3 and 4; lazy evaluation after Minoux 1978. Sampled
    configurations are spread evenly over the draws.
    """
    given = _mean_entropy(draws)  # H(y_x | w)
    gain = torch.special.entr(draws.mean(0)).sum(1) - given
    batch = _Configurations(draws, configurations, generator)
    picked: list[int] = []
    for _ in range(count):
        # What a point gained before is a bound on what it gains now, so most need no new look.
        best, order = -math.inf, gain.argsort(descending=True)
        for begin in range(0, len(order) - len(picked), _LOOKED_AT):
            some = order[begin : begin + _LOOKED_AT]
            if best >= gain[some[0]]:
                break
            gain[some] = torch.where(
                gain[some] > -math.inf, batch.entropy_of_next(some) - given[some], -math.inf
            )
            best = max(best, float(gain[some].max()))
        picked.append(int(gain.argmax()))
        gain[picked[-1]] = -math.inf
        batch.extend(picked)
    return torch.tensor(picked, dtype=torch.int64, device=draws.device)


class _Configurations:
    """Label configurations of the chosen points: all of them, or a sample.

    Attributes:
        weight: Probability of each configuration, `(s,)`; sums to 1.
        loglik: Log-probability of each under each draw, `(s, t)`.
    """

    def __init__(self, draws: Tensor, limit: int, generator: torch.Generator) -> None:
        self.draws, self.limit, self.generator = draws, limit, generator
        self.log_draws = draws.clamp_min(torch.finfo(draws.dtype).tiny).log()
        self.loglik = draws.new_zeros(1, len(draws))
        self.weight = draws.new_ones(1)
        self.sampled = False

    def entropy_of_next(self, points: Tensor) -> Tensor:
        """Return H(y_x | y_B) for some points x, `(k,)` positions -> `(k,)`."""
        posterior = self.loglik.softmax(1)  # (s, t): which draws explain the labels
        expected = torch.tensordot(posterior, self.draws[:, points], dims=1)  # (s, k, c)
        # Twice as fast as torch.special.entr, and nearly all of the time goes here.
        negative = expected.clamp_min(torch.finfo(expected.dtype).tiny).log_().mul_(expected)
        mean = self.weight @ negative.flatten(1)
        return -mean.unflatten(0, (len(points), -1)).sum(1)

    def extend(self, picked: list[int]) -> None:
        """Add the labels of the point picked last."""
        classes = self.draws.shape[2]
        if self.sampled:
            self.loglik += self._sample(picked[-1:])
        elif len(self.weight) * classes <= self.limit:
            added = self.log_draws[:, picked[-1]].T  # (classes, t)
            self.loglik = (self.loglik[:, None] + added).flatten(0, 1)
            joint = self.loglik.logsumexp(1) - math.log(len(self.draws))
            self.weight = joint.exp()
        else:
            self.sampled = True
            self.loglik = self._sample(picked)
            self.weight = torch.full_like(self.loglik[:, 0], 1 / self.limit)

    def _sample(self, points: list[int]) -> Tensor:
        """Draw labels for some points; return their log-probability under each draw, `(s, t)`.

        Sample s takes its labels from draw s mod t: over all samples that is the joint
        distribution, with every draw equally often.
        """
        source = torch.arange(self.limit) % len(self.draws)
        loglik = torch.zeros_like(self.loglik[:1]).repeat(self.limit, 1)
        for point in points:
            rows = self.draws[:, point].to("cpu")[source]
            labels = torch.multinomial(rows, 1, generator=self.generator).flatten()
            loglik += self.log_draws[:, point, labels.to(self.draws.device)].T
        return loglik


def _mean_entropy(draws: Tensor) -> Tensor:
    total = torch.zeros_like(draws[0, :, 0])
    for draw in draws:  # one at a time, so that temporaries stay n x classes
        total += torch.special.entr(draw).sum(1)
    return total / len(draws)
