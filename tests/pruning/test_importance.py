import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import ZOO, images, make, traced

from alprune.errors import ConfigError, PruneError
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.magnitude import magnitude
from alprune.pruning.criteria.three_sp import three_sp
from alprune.pruning.epi.importance import EARLY_CRITERIA, Importance
from alprune.pruning.graph import trace
from alprune.pruning.graph.surgery import registered


class Mixed(nn.Module):
    """BatchNorm with a smooth activation, a residual, and linear layers without BatchNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.inner_norm = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer, self.outer_norm = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        x = x + self.outer_norm(self.outer(F.silu(self.inner_norm(self.inner(x)))))
        return self.head(torch.tanh(self.hidden(x.mean((2, 3)))))


@pytest.fixture
def case():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixed().double()
        for norm in (model.norm, model.inner_norm, model.outer_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
        batch = torch.randn(8, 2, 5, 5).double(), torch.randint(3, (8,))
    return model, trace(model, batch[0]), batch


def observed(model, graph, batch, criterion):
    model.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    importance = Importance(graph, criterion)
    importance.observe(model)
    return importance.mean()


def single(*weights):
    """Two linear layers in a row; the first has the given weights, the second is plain."""
    first = nn.Linear(len(weights[0]), len(weights), bias=False)
    first.weight.data = torch.tensor(weights)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(len(weights), 2))
    return model, trace(model, torch.randn(2, len(weights[0])))


def test_magnitude_is_the_norm_over_the_root_of_the_number_of_weights():
    model, graph = single([3.0, 4.0, 0.0, 0.0], [2.0, -2.0, 2.0, 2.0])
    importance = Importance(graph, "magnitude")
    importance.observe(model)
    assert importance.mean().tolist() == pytest.approx([5 / 2, 4 / 2])  # P = 4


def test_magnitude_of_coupled_channels_runs_over_all_their_makers():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(3, 2, bias=False)
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.a(x[:, :1]) + self.b(x))

    model = Sum()
    model.a.weight.data = torch.tensor([[2.0], [1.0]])
    model.b.weight.data = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    importance = Importance(trace(model, torch.randn(2, 3)), "magnitude")
    importance.observe(model)
    assert importance.mean().tolist() == pytest.approx([2.0, math.sqrt(1 / 4)])


def test_taylor_is_the_absolute_sum_of_gradient_times_weight():
    model, graph = single([1.0, 2.0], [3.0, 1.0])
    model[0].weight.grad = torch.tensor([[5.0, -4.0], [1.0, -0.5]])
    importance = Importance(graph, "taylor")
    importance.observe(model)
    assert importance.mean().tolist() == [3.0, 2.5]  # |5 - 8| and |3 - 0.5|


def test_taylor_takes_scale_and_shift_where_a_batchnorm_follows():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )
    graph = trace(model, torch.randn(2, 1, 2, 2))
    norm = model[1]
    norm.weight.data, norm.bias.data = torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0])
    norm.weight.grad, norm.bias.grad = torch.tensor([-1.0, 0.5]), torch.tensor([1.5, 2.0])
    model[0].weight.grad = torch.full_like(model[0].weight, 1e6)  # not looked at
    importance = Importance(graph, "taylor")
    importance.observe(model)
    assert importance.mean().tolist() == [0.5, 0.5]  # |-2 + 1.5| and |1.5 - 2|


def test_importance_is_the_average_of_each_batchs_absolute_value():
    model, graph = single([1.0, 2.0], [3.0, 1.0])
    importance = Importance(graph, "taylor")
    for sign in (1, -1, 4):
        model[0].weight.grad = sign * torch.tensor([[5.0, -4.0], [1.0, -0.5]])
        importance.observe(model)
    assert importance.mean().tolist() == pytest.approx([3 * 2, 2.5 * 2])
    importance.reset()
    model[0].weight.grad = torch.ones(2, 2)
    importance.observe(model)
    assert importance.mean().tolist() == [3.0, 4.0]


def loss_with(model, batch, names, channel, factor):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            dict(model.named_parameters())[name][channel] *= factor
        return F.cross_entropy(model(batch[0]), batch[1]).item()


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("stem", ["norm.weight", "norm.bias", "outer_norm.weight", "outer_norm.bias"]),
        ("inner", ["inner_norm.weight", "inner_norm.bias"]),
        ("hidden", ["hidden.weight"]),
    ],
)
def test_taylor_equals_finite_differences_in_float64(case, group, names):
    model, graph, batch = case
    found = observed(model, graph, batch, "taylor")
    assert found.dtype == torch.float64
    channels = next(g.channels for g in graph.groups if g.name == group)
    step = 1e-5
    for position, channel in enumerate(channels.tolist()):
        up = loss_with(model, batch, names, position, 1 + step)
        down = loss_with(model, batch, names, position, 1 - step)
        assert found[channel].item() == pytest.approx(abs(up - down) / (2 * step), abs=1e-8)


def test_taylor_equals_3sp_behind_batchnorm_and_relu():
    # There the derivative by a mask before the activation is that by one behind it.
    model = make("vgg").double().train()
    model[8].p = 0.0
    model[10].bias.data.zero_()  # equation 3 leaves biases out
    x, y = images(6).double(), torch.arange(6) % 5
    graph = trace(model, x)
    expected = three_sp(model, graph, (x, y), ScoreOptions())
    found = observed(model, graph, (x, y), "taylor")
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-6)


def test_magnitude_ranks_as_the_criterion_before_training(case):
    model, graph, batch = case
    found = observed(model, graph, batch, "magnitude")
    expected = magnitude(model, graph, batch, ScoreOptions()).sqrt()
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.parametrize("criterion", EARLY_CRITERIA)
@pytest.mark.parametrize("name", ZOO)
def test_every_network_gets_one_finite_value_a_channel(name, criterion):
    model, graph = make(name), traced(name)
    if (name, criterion) == ("groupnorm", "taylor"):  # elsewhere it is refused, having no scales
        model[4], model[7] = nn.GroupNorm(8, 8), nn.InstanceNorm2d(9, affine=True)
        graph = trace(model, images())
    before = {key: value.detach().clone() for key, value in registered(model).items()}
    found = observed(model, graph, (images(), torch.arange(3)), criterion)
    assert found.shape == (graph.channels,)
    assert bool((found >= 0).all())
    noise = 1e-6 * found.max()  # of rounding, where a norm behind the gate takes it back
    assert all(bool((found[group.channels] > noise).any()) for group in graph.groups)
    assert all(torch.equal(before[key], value) for key, value in registered(model).items())


def test_a_missing_gradient_counts_as_zero_and_no_gradient_is_refused(case):
    model, graph, _ = case
    importance = Importance(graph, "taylor")
    with pytest.raises(PruneError, match="no batch was observed"):
        importance.mean()
    with pytest.raises(PruneError, match="has a gradient"):
        importance.observe(model)
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    importance.observe(model)
    assert int((importance.mean() > 0).sum()) == 4


def test_values_that_are_not_finite_name_their_layer(case):
    model, graph, batch = case
    model.inner_norm.weight.data[2] = math.inf
    with pytest.raises(PruneError, match="'(stem|inner|hidden)' is not finite"):
        observed(model, graph, batch, "taylor")


def test_another_model_is_refused():
    graph = traced("mlp")
    with pytest.raises(PruneError, match="does not fit the graph"):
        Importance(graph, "magnitude").observe(make("vgg"))


def test_an_unknown_criterion_is_refused():
    graph = traced("mlp")
    with pytest.raises(ConfigError, match="Did you mean 'taylor'"):
        Importance(graph, "tailor")


def test_a_restored_average_goes_on_where_it_was(case):
    model, graph, batch = case
    whole = Importance(graph)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    whole.observe(model)
    resumed = Importance(graph)
    resumed.restore(whole.state())
    model.zero_grad()
    F.cross_entropy(model(-batch[0]), batch[1]).backward()
    whole.observe(model)
    resumed.observe(model)
    assert torch.equal(whole.mean(), resumed.mean())
