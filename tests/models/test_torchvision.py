"""Networks of torchvision and of one's own, pruned before training on images of their own size."""

import pytest
import torch
from torch import nn

import alprune
from alprune import build, prune
from alprune.errors import ModelError, PruneError

NAMES = [
    "resnet18",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "squeezenet1_1",
    "densenet121",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "convnext_tiny",
]


def batch(size: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=generator), torch.arange(count)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_torchvision_are_pruned_on_their_own_size(name: str) -> None:
    size = 48
    model = build(f"torchvision:{name}", 7, (3, size, size))
    pruned = prune(model, "3sp", batch=batch(size), flops_reduction=0.3, after="inherit")
    assert pruned.flops_reduction >= 0.3
    logits = pruned.model.eval()(batch(size)[0])
    assert logits.shape == (4, 7) and logits.isfinite().all()
    rebuilt = alprune.rebuild(model, pruned.plan, pruned.model.state_dict()).eval()
    torch.testing.assert_close(rebuilt(batch(size)[0]), logits)


@pytest.mark.slow
def test_a_vision_transformer_is_built_for_the_size_of_the_images() -> None:
    model = build("torchvision:vit_b_32", 5, (3, 64, 64))
    assert model(batch(64)[0]).shape == (4, 5)
    with pytest.raises(ModelError, match="cannot be made for images of 50x50"):
        build("torchvision:vit_b_32", 5, (3, 50, 50))


def own(n: int, shape: tuple[int, int, int]) -> nn.Module:
    c, h, w = shape
    return nn.Sequential(
        nn.Conv2d(c, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * (h - 2) * (w - 2), n)
    )


def test_a_builder_may_name_its_arguments_as_it_likes() -> None:
    model = build(f"{__name__}:own", 5, (3, 20, 24))
    assert model(torch.zeros(2, 3, 20, 24)).shape == (2, 5)
    inputs = torch.randn(4, 3, 20, 24)
    pruned = prune(model, "3sp", batch=(inputs, torch.arange(4)), flops_reduction=0.5)
    assert pruned.flops_reduction >= 0.5


def pinned(n: int, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), n))


def test_a_network_without_anything_to_prune_says_why() -> None:
    model = build(f"{__name__}:pinned", 5, (3, 4, 4))
    with pytest.raises(PruneError, match="no channels that can be pruned.*Pinned: 1: "):
        prune(model, "3sp", batch=batch(4), flops_reduction=0.5)
