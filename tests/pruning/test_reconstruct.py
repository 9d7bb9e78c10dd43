"""Trained networks cut after training: which channels matter, and the weights of what is left."""

import copy

import torch
from torch import nn

import alprune
from alprune.pruning import trace
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.output_change import output_change
from alprune.pruning.reconstruct import reconstruct


def images(count=64, seed=0):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def redundant():
    """Build a network whose channels 3 to 5 are sums of channels 0 to 2."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1, bias=False),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    with torch.no_grad():
        first = model[0].weight
        first[3], first[4], first[5] = first[0] + first[1], first[1] - first[2], first[:3].sum(0)
    return model


def without(model, channels):
    """Cut output channels of the first layer; return the network and what is kept."""
    graph = trace(model, images(2))
    keep = graph.all_kept()
    keep[graph.makers["0"][channels]] = False
    return alprune.pruning.narrow(model, graph, keep), {"0": graph.kept(graph.makers["0"], keep)}


def test_what_other_channels_say_is_taken_over_from_those_that_go():
    full = redundant()
    small, kept = without(full, [3, 4, 5])
    wanted, x = full(images(16, 1)), images(16, 1)
    before = (small(x) - wanted).abs().max()
    reconstruct(small, full, kept, images().split(16))
    after = (small(x) - wanted).abs().max()
    assert (
        before > 0.05 and after < 0.2 * before
    )  # a little is held back for layers with few examples


def test_where_nothing_was_cut_nothing_changes():
    full = redundant()
    small = copy.deepcopy(full)
    reconstruct(small, full, {}, images().split(16))
    for ours, theirs in zip(small.parameters(), full.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_layers_of_other_kinds_and_those_that_run_twice_stay_as_they_are():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(3, 3, 3, groups=3)
            self.mirrored = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
            self.twice = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.twice(self.twice(self.mirrored(self.depthwise(x)))).mean((2, 3))

    torch.manual_seed(0)
    full = Odd().eval()
    small = copy.deepcopy(full)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(0.5)
    halved = copy.deepcopy(small.state_dict())
    reconstruct(small, full, {}, images().split(16))
    assert all(torch.equal(tensor, halved[name]) for name, tensor in small.state_dict().items())


def test_a_channel_scores_as_its_removal_changes_the_outputs():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.Linear(6, 5, bias=False))
    with torch.no_grad():
        model[2].weight[:, 2] = 0
    x = images(512)
    graph = trace(model, x[:2])
    chosen = ScoreOptions(generator=torch.Generator().manual_seed(0))
    scores = output_change(model, graph, (x, torch.zeros(512).long()), chosen)
    scores = scores[graph.makers["1"]]
    hidden = model[1](x.flatten(1))
    # Of images and outputs together; the mean over the 8 images of a pass divides by 64.
    changes = (hidden.square().sum(0) * model[2].weight.square().sum(0)).detach() / 64
    assert scores[2] == 0 == changes[2]
    ratio = (scores / changes)[changes > 0]
    assert 0.5 < ratio.min() and ratio.max() < 2  # 64 passes, each in directions of its own
    assert model.training and all(p.grad is None for p in model.parameters())
