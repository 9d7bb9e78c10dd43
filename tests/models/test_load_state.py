"""State dicts from files that keep no metadata."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from alprune import Plan, prune, rebuild
from alprune.models import build
from alprune.models.load_state import load_state


class Versioned(nn.Linear):
    """A layer that refuses a state dict of an unknown version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError(f"version should be 2, got {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_layer_finds_its_own_version_in_a_plain_dict():
    made, other = nn.Sequential(Versioned(3, 4)), nn.Sequential(Versioned(3, 4))
    plain = dict(made.state_dict())
    with pytest.raises(ValueError, match="got None"):
        other.load_state_dict(plain)
    load_state(other, plain)
    assert all(
        torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True)
    )
    assert not isinstance(plain, OrderedDict)


def test_names_that_do_not_fit_are_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="Missing key"):
        load_state(nn.Linear(3, 4), {})


def test_a_pruned_mnasnet_is_rebuilt_from_its_tensors_alone():
    model = build("torchvision:mnasnet0_5", 10, (3, 32, 32))
    x = torch.randn(4, 3, 32, 32)
    pruned = prune(model, batch=(x, torch.arange(4)))
    plan = Plan.from_json(pruned.plan.to_json())
    fresh = build("torchvision:mnasnet0_5", 10, (3, 32, 32), seed=5)
    again = rebuild(fresh, plan, dict(pruned.model.state_dict()))
    assert torch.equal(again.eval()(x), pruned.model.eval()(x))
