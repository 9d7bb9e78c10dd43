"""Batches that a score alone does not give: balanced over classes, or spread out.

Both go around any function that returns scores, also by name: `balanced:entropy`.
"""

import heapq

import torch
from torch import Tensor

from alprune.acquisition.base import Acquisition, ranked, scores, top, wrap
from alprune.acquisition.distances import make_points
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import k_means

FILTER = 10  # candidates kept by score for each that is acquired


def class_balanced(score: Acquisition) -> Acquisition:
    """Take the highest scores so that labelled and acquired points balance over the classes.

    Again and again the class with the fewest points, the labelled ones and those just taken by
    their predicted class, gets its candidate with the highest score. Costs the score and the
    probabilities, and O(n log n + count log classes) time and O(n) memory beside.

    Source: the aim of Bengar et al. 2022, reached greedily instead of by a linear programme.
    """

    def balanced(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        predicted = evidence.probabilities.argmax(1).to("cpu")  # first: the score can use them
        values = scores(score, evidence, count, generator)
        order = ranked(values, generator)
        queues: list[list[int]] = [[] for _ in range(evidence.classes)]
        for position in reversed(order.tolist()):
            queues[int(predicted[position])].append(position)
        have = torch.bincount(evidence.labels, minlength=evidence.classes).tolist()
        heap = [(have[label], label) for label, queue in enumerate(queues) if queue]
        heapq.heapify(heap)
        taken: list[int] = []
        while len(taken) < count:
            points, label = heapq.heappop(heap)
            taken.append(queues[label].pop())
            if queues[label]:
                heapq.heappush(heap, (points + 1, label))
        return evidence.candidates[taken]

    return wrap("balanced", balanced, score)


def diverse(score: Acquisition) -> Acquisition:
    """Spread the batch over clusters of the ten times as many candidates with the best scores.

    The `10 count` highest scores are grouped by k-means of their embeddings into `count`
    clusters, and of each the point nearest the centre is taken; should there be fewer clusters,
    because points coincide, the highest scores left fill up. Costs the score and the embeddings,
    O(250 count^2 d) time at most and O(30 count d) memory beside.

    Source: Zhdanov 2019, Diverse mini-batch active learning (without weights).
    """

    def spread(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        embeddings = evidence.embeddings  # first: the same pass yields the probabilities
        values = scores(score, evidence, count, generator)
        kept = top(values, min(values.numel(), FILTER * count), generator)
        nearest = _nearest_to_centres(embeddings[kept.to(embeddings.device)], count, generator)
        rest = torch.arange(kept.numel())
        rest = rest[~torch.isin(rest, nearest)]
        return evidence.candidates[kept[torch.cat([nearest, rest])[:count]]]

    return wrap("diverse", spread, score)


def _nearest_to_centres(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the positions nearest to the centres of at most `count` clusters, on the CPU."""
    points = make_points(rows - rows.mean(0))
    centres = k_means(points, count, generator)
    nearest = torch.empty(len(centres), dtype=torch.int64, device=rows.device)
    for part, squared in centres.blocks(points):
        nearest[part] = squared.argmin(1)
    return nearest.unique().to("cpu")
