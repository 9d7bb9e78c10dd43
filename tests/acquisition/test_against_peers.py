"""The same numbers and choices as baal's and scikit-activeml's on the same probabilities."""

import numpy as np
import pytest
import torch
from known_evidence import KnownEvidence, seeded

from alprune.acquisition.bayesian import greedy_batch, mutual_information, variation_ratios
from alprune.acquisition.committee import qbc, qbc_vote
from alprune.acquisition.uncertainty import entropy, least_confidence, margin


class Drawn(KnownEvidence):
    """Evidence whose committee and dropout draws are the same 20 members."""

    def __init__(self):
        logits = torch.randn(20, 300, 6, generator=seeded(), dtype=torch.float64)
        common = torch.randn(300, 6, generator=seeded(1), dtype=torch.float64)
        self.committee = (logits + 2 * common).softmax(2)
        super().__init__(torch.zeros(300, 1), classes=6)
        self.probabilities = self.committee[0]

    def draws(self, count, generator):
        assert count == len(self.committee)
        return self.committee


def test_scores_equal_scikit_activemls():
    pytest.importorskip("skactiveml")
    from skactiveml.pool import average_kl_divergence, uncertainty_scores, vote_entropy
    from skactiveml.pool._query_by_committee import variation_ratios as their_ratios

    evidence = Drawn()
    members, probabilities = evidence.committee.numpy(), evidence.probabilities.numpy()
    votes = members.argmax(2).T
    cases = [
        (entropy, uncertainty_scores(probabilities, method="entropy")),
        (margin, uncertainty_scores(probabilities, method="margin_sampling") - 1),
        (least_confidence, uncertainty_scores(probabilities, method="least_confident")),
        (qbc, average_kl_divergence(members)),
        (qbc_vote, vote_entropy(votes, np.arange(6))),
        (variation_ratios, their_ratios(votes)),
    ]
    for function, theirs in cases:
        ours = function(evidence, 1, seeded()).numpy()
        assert np.allclose(ours, theirs, atol=1e-6), function.__name__


def test_batchbald_picks_what_scikit_activemls_exact_one_picks():
    pytest.importorskip("skactiveml")
    from skactiveml.pool import batch_bald

    members = Drawn().committee
    utilities = batch_bald(members.numpy().copy(), 4, n_MC_samples=6**4, random_state=0)
    theirs = np.nanargmax(utilities, axis=1)
    assert greedy_batch(members, 4, seeded(), configurations=6**4).tolist() == theirs.tolist()


def test_bald_equals_baals():
    heuristics = pytest.importorskip("baal.active.heuristics")
    members = Drawn().committee
    predictions = members.permute(1, 2, 0).numpy()  # (n, classes, t)
    theirs = heuristics.BALD().compute_score(predictions)
    assert np.allclose(mutual_information(members), theirs, atol=1e-9)
