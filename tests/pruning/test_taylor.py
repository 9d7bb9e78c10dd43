import copy

import pytest
import torch
from test_scores import Mixed
from torch import nn
from torch.nn import functional as F

from alprune.errors import PruneError
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.criteria.taylor import gate_gradients, taylor
from alprune.pruning.epi import EarlyPruner, EarlySettings
from alprune.pruning.epi.importance import Importance
from alprune.pruning.graph import trace
from alprune.pruning.plan import Target
from alprune.pruning.width_limits import Limits


def batch_of(*shape, classes=3):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(shape[0]) % classes


def slope(model, batch, change, step=1e-5):
    """Finite difference of the loss by z, where `change(model, z)` sets the gate."""
    losses = []
    for side in (1, -1):
        altered = copy.deepcopy(model).train()
        for module in altered.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        with torch.no_grad():
            change(altered, 1 + side * step)
        losses.append(F.cross_entropy(altered(batch[0]), batch[1]).item())
    return (losses[0] - losses[1]) / (2 * step)


def test_without_normalisation_the_gate_scales_the_makers_output_in_float64():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    batch = batch_of(6, 2, 6, 6)
    graph = trace(model, batch[0])
    scores = taylor(model, graph, batch, ScoreOptions())
    for group in graph.groups:
        for position, channel in enumerate(group.channels.tolist()):

            def gate(net, z, name=group.name, position=position):
                net.get_submodule(name).weight[position] *= z
                net.get_submodule(name).bias[position] *= z

            expected = slope(model, batch, gate) ** 2
            assert scores[channel].item() == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_behind_batchnorm_the_gate_scales_its_scale_and_shift_on_coupled_channels_together():
    torch.manual_seed(0)
    model = Mixed().double()
    with torch.no_grad():
        for norm in (model.norm, model.inner_norm):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    batch = batch_of(8, 2, 5, 5)
    graph = trace(model, batch[0])
    found = gate_gradients(model, graph, batch)

    def stem(net, z, at):
        net.norm.weight[at] *= z
        net.norm.bias[at] *= z
        net.outer.weight[at] *= z  # the residual's other maker, without a norm of its own
        net.outer.bias[at] *= z

    def inner(net, z, at):
        net.inner_norm.weight[at] *= z
        net.inner_norm.bias[at] *= z

    for group, change in zip(graph.groups, (stem, inner), strict=True):
        for at, channel in enumerate(group.channels.tolist()):
            expected = slope(model, batch, lambda net, z, at=at, f=change: f(net, z, at))
            # BatchNorm's epsilon lets a little of the scale in front of it through.
            assert found[channel].item() == pytest.approx(expected, rel=2e-3, abs=1e-6)
    scores = taylor(model, graph, batch, ScoreOptions())
    assert torch.allclose(scores, (found**2).float())


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(4, 4, affine=False),
    ],
)
def test_a_normalisation_of_single_channels_without_scale_is_refused_by_name(norm):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    batch = batch_of(4, 2, 6, 6)
    graph = trace(model.double(), batch[0])
    with pytest.raises(PruneError, match=r"'1' has none.*use 3sp"):
        taylor(model, graph, batch, ScoreOptions())
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    with pytest.raises(PruneError, match=r"'1' has none.*use 3sp"):
        Importance(graph, "taylor").observe(model)
    early = EarlyPruner(graph, EarlySettings(Target("channels", 0.2, Limits(1))))
    with pytest.raises(PruneError, match=r"'1' has none.*use 3sp"):
        early.check(model)  # before the first epoch


def test_gates_leave_the_model_as_it_was():
    model = Mixed().double().eval()
    batch = batch_of(8, 2, 5, 5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores = taylor(model, trace(model, batch[0]), batch, ScoreOptions())
    assert scores.dtype == torch.float32 and (scores >= 0).all()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("criterion", [taylor, structured_grasp])
def test_batches_that_cannot_be_scored_are_refused(criterion):
    model = Mixed().double()
    inputs, labels = batch_of(8, 2, 5, 5)
    graph = trace(model, inputs)
    with pytest.raises(PruneError, match="fails on the pruning batch"):
        criterion(model, graph, (inputs[:, :1], labels), ScoreOptions())
    with pytest.raises(PruneError, match="loss on the pruning batch is nan"):
        criterion(model, graph, (inputs * float("nan"), labels), ScoreOptions())
    with torch.no_grad():
        model.head.weight[0] = 1e200  # a finite loss whose gradients are not
        model.norm.weight.mul_(1e200)
    with pytest.raises(PruneError, match="not finite|loss on the pruning batch is"):
        criterion(model, graph, (inputs, labels), ScoreOptions())
