"""The controls of the papers' recipes do what their names say."""

import importlib
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alprune.models import build
from alprune.models.cost import cost
from alprune.pruning import prune
from alprune.pruning.precrop.allocate import synexp
from alprune.pruning.unstructured.masks import maskable_weights, weight_masks
from alprune.pruning.unstructured.scores import grasp, snip

BATCH = (
    torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    torch.arange(20) % 10,
)


@pytest.fixture
def controls(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("recipes.mask_methods")


@pytest.fixture
def network() -> nn.Module:
    return build("resnet20", 10, (3, 16, 16), 0)


def kept(model: nn.Module, method, share: float = 0.9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pruned = prune(model, method, batch=BATCH, params_reduction=share, generator=generator).model
    masks = (weight.detach() != 0 for weight in maskable_weights(pruned).values())
    return dict(zip(maskable_weights(model), masks, strict=True))


def counts(masks: dict[str, Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_shuffled_masks_keep_as_many_weights_of_each_layer_elsewhere(controls, network, name):
    original, shuffled = kept(network, name), kept(network, getattr(controls, f"{name}_shuffled"))
    assert counts(original) == counts(shuffled)
    both = sum(int((original[layer] & shuffled[layer]).sum()) for layer in original)
    assert both < 0.5 * sum(counts(original))


def test_grasp_reversed_keeps_what_grasp_removes_and_unsigned_the_largest(controls, network):
    scores = grasp(network, [BATCH])
    backwards = weight_masks({name: -score for name, score in scores.items()}, 0.9)
    found = kept(network, controls.grasp_reversed)
    assert all(torch.equal(found[name], mask.bool()) for name, mask in backwards.items())
    largest = weight_masks({name: score.abs() for name, score in scores.items()}, 0.9)
    found = kept(network, controls.grasp_unsigned)
    assert all(torch.equal(found[name], mask.bool()) for name, mask in largest.items())


def test_random_weights_have_synexp_s_densities(controls, network):
    sizes = torch.tensor(
        [w.numel() for w in maskable_weights(network).values()], dtype=torch.double
    )
    wanted = synexp(sizes.numpy(), sizes.numpy(), 0.1 * sizes.sum().item())
    found = torch.tensor(counts(kept(network, controls.synexp_random))) / sizes
    assert found.numpy() == pytest.approx(wanted, abs=0.02)


def test_filters_are_masked_whole(controls, network):
    masks = list(kept(network, controls.synexp_filters).values())
    split = sum(int((0 < mask.double().mean((1, 2, 3))).sum()) for mask in masks[:-1])
    whole = sum(int((mask.double().mean((1, 2, 3)) == 1).sum()) for mask in masks[:-1])
    assert whole and split - whole <= 1  # the last filter fills the total


@pytest.mark.parametrize(("name", "share"), [("synexp_flops_6", 0.06), ("synexp_flops_12", 0.12)])
def test_a_second_limit_holds_for_the_products(controls, network, name, share):
    masks = kept(network, getattr(controls, name), 0.944)
    by_layer = cost(network, BATCH[0][:1]).by_layer
    left = sum(
        by_layer[layer.removesuffix(".weight")] * mask.double().mean().item()
        for layer, mask in masks.items()
    )
    assert left / sum(by_layer.values()) == pytest.approx(share, rel=0.05)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(counts(masks)) == total - round(0.944 * total)


def test_crops_have_the_densities_of_a_mask(controls, network):
    masks = weight_masks(snip(network, [BATCH]), 0.9)
    pruned = prune(network, controls.snip_cropped, batch=BATCH, params_reduction=0.9)
    layers = {name: m for name, m in pruned.model.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(layers) == 19
    for name, layer in layers.items():
        mask = masks[f"{name.removeprefix('model.')}.weight"]
        wanted = max(1, int(sqrt(mask.double().mean().item()) * mask.shape[0]))
        assert layer.weight.shape[0] == wanted
    pruned.model(BATCH[0])
