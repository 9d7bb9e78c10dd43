import math

import torch
from known_evidence import KnownEvidence, seeded

import alprune
from alprune.acquisition import snapshots_of
from alprune.acquisition.committee import qbc, qbc_vote


class Committee(KnownEvidence):
    def __init__(self, members):
        self.committee = torch.tensor(members)
        super().__init__(torch.zeros(self.committee.shape[1], 1))


def test_disagreement_equals_hand_worked_values():
    yes, no, half = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    members = Committee([[yes, yes, half, yes], [no, yes, half, [0.5, 0.5]]])
    # Last point: consensus (3/4, 1/4); KL of (1, 0) is log 4/3, of (1/2, 1/2) log 2 - log 3 / 2.
    last = (math.log(4 / 3) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    expected = torch.tensor([math.log(2), 0.0, 0.0, last])
    assert torch.allclose(qbc(members, 1, seeded()), expected, atol=1e-6)


def test_vote_entropy_equals_hand_worked_values():
    a, b, c = [0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.0, 0.1, 0.9]
    members = Committee([[a, a, a], [a, b, a], [a, c, b], [a, b, b]])
    split = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    expected = torch.tensor([0.0, split, math.log(2)])
    assert torch.allclose(qbc_vote(members, 1, seeded()), expected, atol=1e-6)


def test_a_committee_of_one_scores_by_its_entropy():
    lone = Committee([[[0.5, 0.5], [1.0, 0.0]]])
    for function in (qbc, qbc_vote):
        assert torch.allclose(function(lone, 1, seeded()), torch.tensor([math.log(2), 0.0]))


def run(tmp_path, acquisition, **changes):
    config = alprune.RunConfig(
        dataset="digits",
        model="tiny_learner:build",
        initial_epochs=changes.pop("initial_epochs", 1.0),
        epochs=0.5,
        score_subset=100,
        eval_every=100,
        device="cpu",
        precision="fp32",
        min_channels=2,
        out=str(tmp_path / "run"),
        **changes,
    )
    return alprune.run(config, acquisition=acquisition)


def test_a_run_keeps_as_many_fits_as_the_function_declares(tmp_path):
    sizes, newest_is_learner = [], []

    @alprune.acquisition.needs(snapshots=2)
    def spy(evidence, count, generator):
        sizes.append(len(evidence.committee))
        newest_is_learner.append(torch.equal(evidence.committee[-1], evidence.probabilities))
        if len(evidence.committee) > 1:
            assert not torch.equal(evidence.committee[0], evidence.committee[1])
        return qbc(evidence, count, generator)

    run(tmp_path, spy, steps=4, method="uniform")
    assert snapshots_of(qbc) == snapshots_of(qbc_vote) == 5
    assert sizes == [1, 2, 2, 2]
    assert all(newest_is_learner)


def test_a_committee_survives_pruning_in_mid_run(tmp_path):
    seen = []

    @alprune.acquisition.needs(snapshots=3)
    def spy(evidence, count, generator):
        seen.append((len(evidence.committee), evidence.embeddings.shape[1]))
        return qbc(evidence, count, generator)

    run(tmp_path, spy, steps=4, method="epi", prune_at="2", initial_epochs=1.0)
    assert [size for size, _ in seen] == [1, 2, 3, 3]
    assert seen[0][1] > seen[-1][1]  # it was pruned between two steps
