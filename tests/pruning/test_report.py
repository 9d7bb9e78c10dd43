"""What `alprune prune` and `describe` say of what went and what stayed."""

import json

import torch
from click.testing import CliRunner
from torch import nn

from alprune.cli import main
from alprune.pruning import describe, figures, prune


class Half(nn.Module):
    """A chain that can be pruned beside one whose sum goes into a softmax over all channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, padding=1)
        self.third = nn.Conv2d(24, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(self.third(x).sum((2, 3)).sort(1).values)


def pruned(**options):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return prune(Half(), batch=(x, torch.arange(4)), **options)


def test_the_share_of_channels_that_cannot_be_pruned_leaves_the_outputs_out():
    found = pruned(channels_reduction=0.3)
    assert found.pinned_share == 8 / (16 + 24 + 8)
    assert found.widths_before == {"first": 16, "second": 24, "third": 8, "head": 10}


def test_the_description_says_what_went_what_stayed_and_why():
    found = pruned(method="uniform", layer_reductions={"first": 0.5})
    text = describe(found)
    assert "narrowed: 1 of 4 layers, most first 16 to 8" in text
    assert "narrowest: first with 8 channels" in text
    assert "whole, by their scores or by what was asked: second\n" in text
    assert "cannot be pruned: 16.7% of the channels\n" in text
    assert "sort" in text and ": third" in text and "output of the model: head" in text
    assert f"{found.flops_reduction:.1%}" in text and len(text.splitlines()) <= 12
    floored = pruned(flops_reduction=0.8, min_channels=6)
    assert "at the minimum width: " in describe(floored)


def test_a_description_of_masks_says_that_they_save_no_time():
    found = pruned(method="snip")
    assert "masked: 90.0% of the weights; this saves no time" in describe(found)
    assert "channels" not in figures(found)["widths"]


def test_widths_before_are_those_of_the_network_for_every_kind_of_plan():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=False), nn.ReLU()),
        *(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10)),
    )
    for method in ("precrop", "3sp"):
        found = prune(model, method, batch=(x, torch.arange(4)))
        assert found.widths_before == {"0": 16, "3": 8, "6": 10}
        assert found.widths_before.keys() == found.widths.keys()


def test_a_network_of_a_library_is_pruned_without_data():
    options = "prune --model timm:resnet10t --image-size 32 --method 3sp --prune-batch 4".split()
    options += ["--flops-reduction", "0.3"]
    run = CliRunner().invoke(main, [*options, "--ignore", "conv1.*, layer1", "--local"])
    assert run.exit_code == 0, run.output
    assert "random images of 32x32 pixels" in run.stderr
    assert "FLOPs" in run.stdout and "narrowed: " in run.stdout
    record = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)
    assert record["flops_reduction"] >= 0.3 and record["widths_before"]["layer4.0.conv1"] == 512
    wrong = CliRunner().invoke(main, [*options, "--ignore", "layr1"])
    assert wrong.exit_code == 1 and "Did you mean" in wrong.stderr
