import copy

import pytest
import torch
from test_scores import Mixed
from torch.nn import functional as F
from zoo import images, make

from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.graph import trace
from alprune.pruning.graph.surgery import narrow


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = Mixed().double()
    batch = (torch.randn(8, 2, 5, 5).double(), torch.randint(3, (8,)))
    return model, trace(model, batch[0][:2]), batch


def flow_norm(model, graph, batch, temperature, channel=None, mask=1.0):
    """|d loss / d W|^2 by autograd, a channel's mask standing on the weights that read it."""
    model = copy.deepcopy(model).train()
    model.drop.eval()
    weights = [t.name for t in graph.tensors if t.trainable and t.places]
    weights = {name: dict(model.named_parameters())[name] for name in weights}
    masked = {}
    for tensor in graph.tensors:
        for dim, role in tensor.roles.items():
            if role == "reads" and channel is not None:
                shape = [1] * len(tensor.shape)
                shape[dim] = -1
                stands = torch.ones(tensor.shape[dim], dtype=torch.float64)
                stands[tensor.axes[dim] == channel] = mask
                masked[tensor.name] = weights[tensor.name] * stands.reshape(shape)
    logits = torch.func.functional_call(model, masked, (batch[0],))
    loss = F.cross_entropy(logits / temperature, batch[1])
    found = torch.autograd.grad(loss, list(weights.values()))
    return sum((g**2).sum() for g in found).item()


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_scores_equal_finite_differences_of_the_gradient_norm_in_float64(case, temperature):
    model, graph, batch = case
    scores = structured_grasp(model, graph, batch, ScoreOptions(temperature=temperature))
    step = 1e-5
    for channel in range(graph.channels):
        up, down = (
            flow_norm(model, graph, batch, temperature, channel, 1 + side * step)
            for side in (1, -1)
        )
        assert scores[channel].item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_a_mask_of_zero_has_the_gradient_norm_of_the_narrowed_network(case):
    model, graph, batch = case
    for channel in (0, 7):
        keep = graph.all_kept()
        keep[channel] = False
        small = narrow(model, graph, keep)
        gone = flow_norm(small, trace(small, batch[0][:2]), batch, 200.0)
        assert flow_norm(model, graph, batch, 200.0, channel, 0.0) == pytest.approx(gone, rel=1e-9)


def test_a_channel_without_gradient_flow_is_not_kept_before_one_that_carries_it(case):
    model, graph, batch = case
    inner = graph.groups[1].channels
    with torch.no_grad():  # nothing flows through this channel, whatever its mask
        model.outer.weight[:, 0] = 0
        model.inner_norm.weight[0] = 0
        model.inner_norm.bias[0] = 0
    scores = structured_grasp(model, graph, batch, ScoreOptions())
    assert scores[inner[0]] == 0
    assert (scores[inner[1:]] != 0).all()


def test_scoring_by_gradient_norm_leaves_the_model_as_it_was(case):
    model, graph, batch = case
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    structured_grasp(model, graph, batch, ScoreOptions())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["vgg", "option-a resnet", "densenet", "lstm", "gru"])
def test_every_kind_of_network_gets_finite_scores_that_differ(name):
    model, inputs = make(name), images(4)
    graph = trace(model, inputs[:2])
    scores = structured_grasp(model, graph, (inputs, torch.tensor([0, 1, 2, 3])), ScoreOptions())
    assert scores.dtype == torch.float32 and torch.isfinite(scores).all()
    several = [scores[group.channels] for group in graph.groups if len(group.channels) > 1]
    assert several and all(len(part.unique()) > 1 for part in several)
