import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alprune.errors import ConfigError, PruneError
from alprune.models import build
from alprune.pruning.criteria import costs
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.criteria.magnitude import magnitude, uniform
from alprune.pruning.criteria.three_sp import mask_gradients, three_sp, three_sp_ca
from alprune.pruning.graph import trace
from alprune.pruning.registry import CHANNEL_COSTS
from alprune.pruning.unstructured.scores import snip


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
    cost = costs.made(graph)
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


def test_a_channel_costs_a_step_what_it_takes_where_it_is_made_and_where_it_is_read():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5),
    )  # fmt: skip
    graph = trace(model, torch.randn(2, 1, 4, 4))
    value, weight = costs.AN_ACTIVATION, costs.A_WEIGHT
    expected = {
        # 9 weights at 16 places make it; 3 * 9 at 4 places read it.
        "0": 9 * (16 + weight) + 16 * value + 27 * (4 + weight),
        # Each of its 4 values is read by 5 weights of the linear layer.
        "4": 18 * (4 + weight) + 4 * value + 4 * 5 * (1 + weight),
    }
    found = costs.step(graph)
    for group in graph.groups:
        assert found[group.channels].unique().tolist() == [expected[group.name]]


def test_channels_that_are_added_up_cost_a_step_all_their_makers_and_readers():
    graph = trace(build("resnet20", 10, (3, 32, 32)).eval(), torch.randn(2, 3, 32, 32))
    cost = costs.step(graph)
    assert bool((cost > costs.made(graph)).all())
    by_group = {group.name: float(cost[group.channels].mean()) for group in graph.groups}
    stream, inner = by_group[graph.groups[0].name], by_group[graph.groups[1].name]
    assert stream > 3 * inner  # seven layers of 16 channels make the first stream, one an inner


@pytest.mark.parametrize("cost", ["made", "step"])
def test_the_cost_is_chosen_by_name(case, cost):
    model, graph, batch = case
    plain = three_sp(model, graph, batch, ScoreOptions())
    aware = three_sp_ca(model, graph, batch, ScoreOptions(smoothing=0.0, channel_cost=cost))
    price = CHANNEL_COSTS[cost](graph)
    ratio = (aware.double() * price)[plain > 0] / plain.double()[plain > 0]
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)


def test_an_unknown_cost_is_refused(case):
    model, graph, batch = case
    with pytest.raises(ConfigError, match="unknown channel cost 'steps'.*Did you mean 'step'"):
        three_sp_ca(model, graph, batch, ScoreOptions(channel_cost="steps"))


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


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_computed_weight_costs_what_a_stored_one_does_and_is_scored(norm):
    def network(wrap):
        torch.manual_seed(0)
        return nn.Sequential(
            wrap(nn.Conv2d(2, 6, 3)), nn.ReLU(), wrap(nn.Conv2d(6, 8, 3)), nn.ReLU(),
            nn.Flatten(), wrap(nn.Linear(8, 3)),
        )  # fmt: skip

    batch = torch.randn(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])
    plain, model = trace(network(lambda layer: layer), batch[0]), network(norm)
    graph = trace(model, batch[0])
    assert torch.equal(costs.made(graph), costs.made(plain))
    for score in (three_sp_ca, structured_grasp, magnitude):
        scores = score(model, graph, batch, ScoreOptions())
        assert scores.isfinite().all() and all(
            len(scores[group.channels].unique()) > 1 for group in graph.groups
        )
    with pytest.raises(PruneError, match="parametrised already|computed from 2 parameters"):
        snip(model, batch)


def test_where_no_cost_is_known_channels_are_scored_by_the_loss_alone(case):
    model, graph, batch = case
    free = replace(graph, tensors=tuple(replace(t, places=0.0) for t in graph.tensors))
    plain = three_sp(model, free, batch, ScoreOptions())
    assert torch.equal(three_sp_ca(model, free, batch, ScoreOptions(smoothing=0.0)), plain)
    with pytest.raises(PruneError, match="Mixed multiplies by none that is a parameter"):
        structured_grasp(model, free, batch, ScoreOptions())
