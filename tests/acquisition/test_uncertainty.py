import math

import torch
from known_evidence import KnownEvidence, seeded

from alprune.acquisition import acquire
from alprune.acquisition.uncertainty import entropy, least_confidence, margin, random


def test_uncertainties_equal_hand_worked_values():
    sure, even, half = [1.0, 0.0, 0.0], [1 / 3] * 3, [0.5, 0.5, 0.0]
    evidence = KnownEvidence(torch.zeros(3, 1), probabilities=[sure, even, half])
    cases = {
        entropy: [0.0, math.log(3), math.log(2)],
        margin: [-1.0, 0.0, 0.0],
        least_confidence: [0.0, 2 / 3, 0.5],
    }
    for function, expected in cases.items():
        scores = function(evidence, 1, seeded())
        assert torch.allclose(scores, torch.tensor(expected), atol=1e-6), function


def test_random_takes_every_candidate_equally_often():
    evidence, generator = KnownEvidence(torch.zeros(10, 1)), seeded()
    counts = torch.zeros(110)
    for _ in range(2000):
        counts[acquire(random, evidence, 3, generator)] += 1
    # 600 each, give or take 20
    assert (counts[100:] - 600).abs().max() < 5 * 20
