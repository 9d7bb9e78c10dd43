import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.errors import PruneError
from alprune.prune.channels import trace
from alprune.prune.criteria.baselines import magnitude, uniform
from alprune.prune.criteria.scoring import ScoreOptions
from alprune.prune.criteria.three_sp import channel_cost, mask_gradients, three_sp, three_sp_ca


class Mixed(nn.Module):
    """BatchNorm, a smooth activation, a residual, a depthwise convolution and dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(5)
        self.outer = nn.Conv2d(5, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        x = x + self.outer(F.silu(self.inner_norm(self.inner(x))))
        return self.head(self.drop(F.relu(self.depth(x)).mean((2, 3))))


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = Mixed().double()
    batch = (torch.randn(8, 2, 5, 5).double(), torch.randint(3, (8,)))
    return model, trace(model, batch[0][:2]), batch


def masked_loss(model, graph, batch, channel, mask):
    """The loss with a channel's mask at `mask` wherever the channel is read."""
    model = copy.deepcopy(model).train()
    model.drop.eval()
    with torch.no_grad():
        state = dict(model.named_parameters())
        for tensor in graph.tensors:
            for dim, role in tensor.roles.items():
                if role == "reads":
                    at = torch.nonzero(tensor.axes[dim] == channel).squeeze(1)
                    weight = state[tensor.name]
                    weight.index_copy_(dim, at, weight.index_select(dim, at) * mask)
        return F.cross_entropy(model(batch[0]), batch[1]).item()


def test_scores_equal_finite_differences_of_the_mask_in_float64(case):
    model, graph, batch = case
    scores = mask_gradients(model, graph, batch)
    step = 1e-5
    for channel in range(graph.channels):
        up = masked_loss(model, graph, batch, channel, 1 + step)
        down = masked_loss(model, graph, batch, channel, 1 - step)
        assert scores[channel].item() == pytest.approx((up - down) / (2 * step), abs=2e-7)
    assert torch.equal(three_sp(model, graph, batch, ScoreOptions()), scores.abs())


def test_scoring_leaves_the_model_as_it_was(case):
    model, graph, batch = case
    model.eval()
    model.norm.train()
    model.head.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    three_sp(model, graph, batch, ScoreOptions())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not model.head.weight.requires_grad
    assert torch.equal(model.stem.weight.grad, torch.ones_like(model.stem.weight))
    assert model.inner.weight.grad is None


def test_compute_aware_scores_follow_the_paper_by_hand():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 16, 2),
    ).double()  # fmt: skip
    batch = (torch.randn(4, 1, 4, 4).double(), torch.tensor([0, 1, 0, 1]))
    graph = trace(model, batch[0])
    # C_in * H * W * K^2 by layer: 1 * 16 * 9 and 2 * 16 * 9; the last linear layer's own
    # outputs are not prunable, so it has no share.
    expected = {"0": 144.0, "2": 288.0}
    cost = channel_cost(graph)
    for group in graph.groups:
        assert cost[group.channels].unique().tolist() == [expected[group.name]]
    plain = three_sp(model, graph, batch, ScoreOptions())
    for smoothing in (0.0, 0.05, 3.0):
        aware = three_sp_ca(model, graph, batch, ScoreOptions(smoothing=smoothing))
        share = torch.tensor([(1 / 3 + smoothing), (2 / 3 + smoothing)])
        share = share / share.max()
        for group, part in zip(graph.groups, share, strict=True):
            weighted = aware[group.channels] * part  # a dead channel scores 0 either way
            assert torch.allclose(weighted, plain[group.channels], rtol=1e-5)
        assert plain.max() > 0


def test_much_smoothing_leaves_the_order_of_plain_3sp(case):
    model, graph, batch = case
    plain = three_sp(model, graph, batch, ScoreOptions()).argsort()
    aware = three_sp_ca(model, graph, batch, ScoreOptions(smoothing=1e6)).argsort()
    assert torch.equal(plain, aware)


def test_uniform_repeats_by_generator_and_is_spread():
    model = nn.Sequential(nn.Linear(2, 4000), nn.ReLU(), nn.Linear(4000, 2))
    graph = trace(model, torch.ones(2, 2))
    draws = [
        uniform(None, graph, None, ScoreOptions(generator=torch.Generator().manual_seed(s)))
        for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].mean().item() == pytest.approx(0.5, abs=0.03)


def test_magnitude_is_the_mean_square_of_the_makers_weight():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = trace(model, torch.ones(2, 2))
    scores = magnitude(model, graph, None, ScoreOptions())
    assert torch.allclose(scores, (model[0].weight.detach() ** 2).mean(1))


@pytest.mark.parametrize("spoil", ["inputs", "weight"])
def test_a_loss_that_is_not_finite_is_an_error(case, spoil):
    model, graph, (inputs, labels) = case
    if spoil == "inputs":
        inputs = inputs.clone()
        inputs[0, 0, 0, 0] = float("nan")
    else:
        with torch.no_grad():
            model.head.weight.fill_(float("inf"))
    with pytest.raises(PruneError, match="not finite|loss on the pruning batch is"):
        three_sp(model, graph, (inputs, labels), ScoreOptions())


def test_a_batch_of_another_shape_is_an_error(case):
    model, graph, (inputs, labels) = case
    with pytest.raises(PruneError, match="fails on the pruning batch"):
        three_sp(model, graph, (inputs[:, :1], labels), ScoreOptions())
