from dataclasses import replace

import pytest
import torch
from torch import nn

from alprune import prune
from alprune.errors import PruneError
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete
from alprune.models import MODELS, build
from alprune.pruning.width_limits import AUTO, Limits, floor_for, multiple_for


def test_wide_layers_are_rounded_to_sixteen_and_narrow_ones_to_less():
    assert [multiple_for(n, AUTO) for n in (1, 8, 16, 31, 32, 64, 127, 128, 512)] == [
        *(1, 1, 2, 2, 4, 8, 8, 16, 16)
    ]
    assert [multiple_for(n, 3) for n in (1, 512)] == [3, 3]


def test_wide_layers_keep_a_sixteenth():
    assert [floor_for(n, AUTO) for n in (3, 64, 128, 512)] == [4, 4, 8, 32]
    assert [floor_for(n, 6) for n in (3, 512)] == [6, 6]


@pytest.mark.parametrize("name", ["min_channels", "round_to"])
def test_a_limit_that_is_no_whole_number_from_zero_is_refused(name):
    assert getattr(Limits(**{name: 0}), name) == AUTO
    for wrong in (-1, 2.0, True):
        with pytest.raises(PruneError, match=f"{name} must be .*at least 0.* got {wrong}"):
            Limits(**{name: wrong})


def test_automatic_rounding_leaves_narrow_networks_prunable():
    model = nn.Sequential(
        nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    batch = (torch.randn(8, 10), torch.arange(8) % 3)
    pruned = prune(model, "3sp", batch=batch, round_to=AUTO, flops_reduction=0.6)
    assert pruned.flops_reduction >= 0.6
    narrow, wide = pruned.widths["0"], pruned.widths["2"]
    assert narrow % 2 == 0 and wide % 8 == 0 and wide < 64


# Larger versions of networks that are among the others, which take a second or two.
LARGE = {"alexnet-b", "efficientnet-b0", "efficientnet-lite0", "gru-b", "lstm-b", "mobilenet-v2",
         "resnet34", "resnet50", "vgg-c", "vgg-d", "vgg-like", "wideresnet20", "wrn-16-8",
         "wrn-16-10", "wrn-22-8"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in sorted(MODELS)],
)
def test_what_a_run_removes_by_default_is_within_reach_of_every_model_of_ours(name):
    config = complete(RunConfig(method="3sp-ca", model=name, dataset="digits", steps=1))
    found = (config.flops_reduction, config.smoothing, config.min_channels, config.round_to)
    assert found == (0.9, 0.01, AUTO, AUTO) and config.channel_cost == "step"
    shape = MODELS[name].input_shape
    model = build(name, 10, shape, seed=0)
    batch = (torch.randn(2, *shape), torch.arange(2))
    limits = {"min_channels": AUTO, "round_to": AUTO, "smoothing": 0.01}
    limits["channel_cost"] = "step"
    pruned = prune(model, "3sp-ca", batch=batch, flops_reduction=0.9, **limits)
    assert pruned.flops_reduction >= 0.9


def test_a_network_of_ones_own_loses_what_the_paper_removed():
    config = complete(RunConfig(method="3sp-ca", model="torch.nn:Identity", dataset="digits"))
    assert (config.flops_reduction, config.smoothing, config.round_to) == (None, 0.05, AUTO)
    assert config.channel_cost == "made"
    dense = complete(RunConfig(method="dense", dataset="digits"))
    assert (dense.round_to, dense.warmup_batches, dense.lr) == (1, 200, 0.05)
    asked = complete(RunConfig(method="3sp-ca", params_reduction=0.5, dataset="digits"))
    assert asked.flops_reduction is None


def test_a_model_without_normalisation_has_a_rate_at_which_it_does_not_diverge():
    config = RunConfig(dataset="digits", model="lenet-5-caffe")
    assert complete(config).lr == 0.01
    assert complete(replace(config, lr=0.3)).lr == 0.3
