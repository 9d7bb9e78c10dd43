import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.acquisition import Evidence
from alprune.acquisition.testing import make_evidence
from alprune.data import Dataset
from alprune.errors import AcquisitionError
from alprune.models.init import forked_rng
from alprune.training import BudgetSpent, FitSettings, Learner
from alprune.training.budget import Budget

MEAN, STD = 0.5, 0.25


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def evidence_of(build, count=60, images=None, budget=None, classes=4):
    """Evidence on `count` candidates, images 4x4x1, for the network that `build()` makes."""
    if images is None:
        images = torch.rand(count + 10, 4, 4, 1, generator=seeded())
    y = torch.zeros(len(images), dtype=torch.int64)
    names = tuple(map(str, range(classes)))
    train = Dataset(images, y, names, (MEAN,), (STD,), flip=False, digest="")
    with forked_rng(0):
        network = build()
    learner = Learner(
        network, train, FitSettings(averaging=0.0), torch.device("cpu"), torch.float32
    )
    everyone = torch.arange(len(images)).flip(0)
    return Evidence(learner, everyone[:-10], everyone[-10:], y[:10], classes, budget)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def inputs_of(evidence, indices):
    return (evidence._learner.x[indices].permute(0, 3, 1, 2) - MEAN) / STD


@pytest.fixture
def passes(monkeypatch):
    """Count the passes over images."""
    seen = []
    predict = Learner.predict

    def counted(self, *args, **kwargs):
        seen.append(args)
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "predict", counted)
    return seen


def test_probabilities_and_embeddings_are_the_networks(passes):
    evidence = evidence_of(mlp)
    network = evidence._learner.averaged
    assert passes == []
    for indices, embeddings, probabilities in [
        (evidence.candidates, evidence.embeddings, evidence.probabilities),
        (evidence.labelled, evidence.labelled_embeddings, evidence.labelled_probabilities),
    ]:
        x = inputs_of(evidence, indices)
        assert torch.allclose(embeddings, network[:-1](x), atol=1e-6)
        assert torch.allclose(probabilities, network(x).softmax(1), atol=1e-6)
    assert len(passes) == 2  # embeddings bring the probabilities along


def test_gradient_factors_are_those_of_the_last_layers_gradient():
    evidence = evidence_of(mlp, count=5)
    network = evidence._learner.averaged
    residuals, embeddings = evidence.gradient_factors
    for i, index in enumerate(evidence.candidates):
        logits = network(inputs_of(evidence, index[None]))
        network.zero_grad()
        F.cross_entropy(logits, logits.argmax(1)).backward()
        gradient = torch.outer(residuals[i], embeddings[i])
        assert torch.allclose(gradient, network[-1].weight.grad, atol=1e-6)
    assert torch.allclose(evidence.probabilities.sum(1), torch.ones(5))  # left as it was


def test_a_learner_without_dropout_gets_it_before_its_last_layer_for_one_pass(passes):
    evidence = evidence_of(mlp)
    draws = evidence.draws(6, seeded(3))
    assert len(passes) == 1
    network = evidence._learner.averaged
    hidden = network[:-1](inputs_of(evidence, evidence.candidates))
    kept = torch.rand(6, 1, 12, generator=seeded(3)) >= 0.5
    for draw, mask in zip(draws, kept, strict=True):
        assert torch.allclose(draw, network[-1](hidden * mask * 2).softmax(1), atol=1e-6)


def test_more_draws_keep_the_first_and_fewer_compute_nothing(passes):
    evidence = evidence_of(mlp)
    generator = seeded()
    first = evidence.draws(3, generator).clone()
    state = generator.get_state()
    assert torch.equal(evidence.draws(2, generator), first[:2])
    assert torch.equal(generator.get_state(), state)
    more = evidence.draws(5, generator)
    assert torch.equal(more[:3], first)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(more, 2))
    assert len(passes) == 1


def identity_behind_dropout(dropout):
    """Logits are the network's inputs behind dropout: where it dropped they are 0."""

    def build():
        head = nn.Linear(16, 16)
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
        return nn.Sequential(dropout, nn.Flatten(), head)

    return build


def kept_inputs(draws):
    """Which of the 16 inputs, all ones, each draw kept, from its outputs: `(t, n, 16)`."""
    return draws > draws.amax(2, keepdim=True) / 2


def ones(count):
    return torch.full((count + 10, 4, 4, 1), MEAN + STD)  # normalised: exactly 1


def test_the_learners_own_dropout_is_used_with_one_mask_for_all_candidates(passes):
    # More candidates than a chunk of `predict` holds.
    evidence = evidence_of(identity_behind_dropout(nn.Dropout(0.25)), images=ones(600), classes=16)
    draws = evidence.draws(200, seeded())
    assert len(passes) == 200
    assert torch.equal(draws, draws[:, :1].expand_as(draws))
    kept = kept_inputs(draws)[:, 0].float()
    # 3200 inputs, kept with probability 0.75: one standard deviation is 0.008.
    assert abs(kept.mean() - 0.75) < 5 * 0.008
    assert (kept.mean(0) - 0.75).abs().max() < 5 * 0.031
    # What is kept is scaled by 1 / 0.75.
    some = draws[~kept.bool().all(1)]
    ratio = (some.amax(2) / some.amin(2)).log()
    assert torch.allclose(ratio, torch.tensor(1 / 0.75), atol=1e-5)
    assert not evidence._network[0]._forward_hooks


def test_channel_dropout_drops_whole_channels():
    def build():
        spread = nn.Conv2d(1, 4, 1, bias=False)
        nn.init.ones_(spread.weight)
        pool = nn.AvgPool2d(2)  # 4 channels of 2x2
        return nn.Sequential(spread, pool, *identity_behind_dropout(nn.Dropout2d(0.5))())

    evidence = evidence_of(build, images=ones(20), classes=16)
    channels = kept_inputs(evidence.draws(50, seeded()))[:, 0].view(50, 4, 4)
    dropped_some = ~channels.all(2).all(1)
    assert dropped_some.sum() > 30
    mixed = channels.any(2) != channels.all(2)
    assert not mixed[dropped_some & channels.any(2).any(1)].any()


def test_a_learner_with_batchnorm_drops_like_the_network_that_was_trained():
    def build():
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
            nn.Linear(24, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, 4),
        )  # fmt: skip

    evidence = evidence_of(build)
    evidence._learner.fit(evidence.labelled, torch.arange(10) % 4, 20.0, seeded())
    network = evidence._learner.averaged.eval()
    hidden = network[:-2](inputs_of(evidence, evidence.candidates))
    generator = seeded(2)
    for draw in evidence.draws(3, seeded(2)):
        mask = (torch.rand(12, generator=generator) >= 0.4) / 0.6
        assert torch.allclose(draw, network[-1](hidden * mask).softmax(1), atol=1e-5)


class MeanOfRows(nn.Module):
    """Its last linear layer does not give the logits: they are a mean over four rows."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(x.flatten(1).unflatten(1, (4, 4))).mean(1)


def test_dropout_reaches_a_last_layer_that_is_not_the_networks_output(passes):
    evidence = evidence_of(MeanOfRows)
    draws = evidence.draws(4, seeded(1))
    assert len(passes) == 5
    network = evidence._learner.averaged
    rows = inputs_of(evidence, evidence.candidates).flatten(1).unflatten(1, (4, 4))
    generator = seeded(1)
    for draw in draws:
        mask = 2 * (torch.rand(4, 4, generator=generator) >= 0.5)
        expected = network.head(rows * mask).mean(1).softmax(1)
        assert torch.allclose(draw, expected, atol=1e-6)
    assert not network.head._forward_pre_hooks


def test_a_learner_without_dropout_or_linear_layer_has_neither_embeddings_nor_draws():
    def build():
        return nn.Sequential(nn.Conv2d(1, 4, 4), nn.Flatten())

    evidence = evidence_of(build)
    assert evidence.probabilities.shape == (60, 4)
    for ask in (lambda: evidence.embeddings, lambda: evidence.draws(2, seeded())):
        with pytest.raises(AcquisitionError, match="no linear layer"):
            ask()


class Auxiliary(nn.Module):
    """Its last layers are a head that does not run in evaluation, and attention."""

    def __init__(self, per_pixel=False):
        super().__init__()
        self.per_pixel = per_pixel
        self.head = nn.Linear(16, 4)
        self.projection = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.flatten(1).unflatten(1, (4, 4))
        if self.per_pixel:
            x = self.projection(x.flatten(0, 1)).unflatten(0, (-1, 4))
        return self.head(self.attention(x, x, x)[0].flatten(1))


@pytest.mark.parametrize("per_pixel", [False, True])
def test_a_last_layer_that_does_not_run_once_an_image_is_named(per_pixel):
    with pytest.raises(AcquisitionError, match="'projection', does not run once on each image"):
        _ = evidence_of(lambda: Auxiliary(per_pixel)).embeddings


def test_a_committee_is_the_weights_of_the_last_fits(passes):
    evidence = make_evidence(snapshots=3)
    learner = evidence._learner
    committee = evidence.committee
    assert committee.shape == (3, 40, 5)
    assert len(passes) == 3
    x = (learner.x[evidence.candidates].permute(0, 3, 1, 2) - learner.mean) / learner.std
    for member, network in zip(committee, learner.snapshots, strict=True):
        assert torch.allclose(member, network(x).softmax(1), atol=1e-6)
    assert torch.equal(committee[-1], evidence.probabilities)
    assert not torch.allclose(committee[0], committee[1])


def test_a_learner_keeps_no_snapshots_unless_told_and_a_committee_then_says_how():
    evidence = make_evidence()
    evidence._learner.fit(evidence.labelled, evidence.labels, 1.0, seeded())
    assert not evidence._learner.snapshots
    with pytest.raises(AcquisitionError, match=r"needs\(snapshots=5\)"):
        _ = evidence.committee


@pytest.mark.parametrize(
    "ask",
    [
        lambda e: e.probabilities,
        lambda e: e.embeddings,
        lambda e: e.labelled_embeddings,
        lambda e: e.draws(3, seeded()),
    ],
)
def test_nothing_goes_on_once_the_budget_is_spent(ask):
    evidence = evidence_of(mlp, budget=Budget(1.0, spent_s=2.0))
    with pytest.raises(BudgetSpent):
        ask(evidence)


def test_draws_of_the_last_layer_stop_at_the_budget_too():
    evidence = evidence_of(mlp, budget=(budget := Budget(1.0)))
    _ = evidence.embeddings
    budget._spent_s = 2.0
    with pytest.raises(BudgetSpent):
        evidence.draws(3, seeded())


def test_all_that_is_computed_is_accounted_for_and_only_once():
    evidence = evidence_of(mlp)
    # A clock that moves by 1 s each time it is read: 1 s for every block that is timed.
    evidence._clock = Budget(None, now=itertools.count().__next__)
    _ = evidence.probabilities
    assert evidence.compute_s == 1
    evidence.draws(3, seeded())  # embeddings, then the last layer
    assert evidence.compute_s == 3
    _ = evidence.embeddings, evidence.probabilities, evidence.draws(2, seeded())
    assert evidence.compute_s == 3
    _ = evidence.labelled_embeddings
    assert evidence.compute_s == 4


def test_scores_are_taken_in_a_pass_that_keeps_nothing_else(passes):
    evidence, whole = evidence_of(mlp), evidence_of(mlp)
    scores = evidence.score(lambda p: p.max(1).values)
    assert len(passes) == 1 and "probabilities" not in vars(evidence)
    assert torch.equal(scores, whole.probabilities.max(1).values)
    # Known probabilities are used, and both ways say the same of the candidates.
    passes.clear()
    assert torch.equal(whole.score(lambda p: p[:, 1]), whole.probabilities[:, 1])
    assert not passes and whole.look() == evidence.predictions
    assert sum(evidence.predictions.counts) == 60
    entropy = torch.special.entr(whole.probabilities.double()).sum(1).mean().item()
    assert evidence.predictions.entropy == pytest.approx(entropy)


def test_a_look_costs_a_pass_only_where_there_was_none(passes):
    evidence = evidence_of(mlp)
    assert evidence.predictions is None
    assert evidence.look() is evidence.look() and len(passes) == 1


def test_scores_stop_with_the_budget():
    budget = Budget(1e-9)
    budget.start()
    with pytest.raises(BudgetSpent):
        evidence_of(mlp, budget=budget).score(lambda p: p[:, 0])
