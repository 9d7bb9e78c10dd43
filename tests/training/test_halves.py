"""Networks in two halves: the same outputs, shared weights, no cut where there is none."""

import pytest
import torch
from torch import nn

from alprune.models import build
from alprune.training.halves import Lower, halves
from alprune.training.resize import seeing


def images(side=32, channels=3):
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet20", "vgg19", "torchvision:mobilenet_v3_small"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_both_halves_together_are_the_network(name, wrapped):
    network = build(name, 5, (3, 32, 32)).eval()
    if wrapped:
        network = seeing(network, (28, 28))
    lower, upper = halves(network, images(), 0.5)
    assert isinstance(lower, Lower)
    kept = lower(images())
    assert kept.shape[1:] != (3, 32, 32)
    assert torch.allclose(upper(kept), network(images()), atol=1e-4)
    ours = {id(p) for p in network.parameters()}
    learns = {id(p) for p in upper.parameters()}
    assert learns < ours


def test_a_smaller_share_leaves_more_to_learn():
    network = build("resnet20", 5, (3, 32, 32)).eval()
    counts = [
        sum(p.numel() for p in halves(network, images(), share)[1].parameters())
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 4
    assert counts[-1] >= 64 * 5 + 5  # the head always learns


class Skipping(nn.Module):
    """Its head reads the images beside what the layers make of them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4 + 3, 2)

    def forward(self, x):
        y = self.second(self.first(x).relu()).relu()
        return self.head(torch.cat([y.mean((2, 3)), x.mean((2, 3))], 1))


def test_a_network_that_cannot_be_cut_learns_whole():
    network = Skipping().eval()
    lower, upper = halves(network, images(8), 0.9)
    assert upper is network
    assert torch.equal(lower(images(8)), images(8))
