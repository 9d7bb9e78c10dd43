"""The network of patches: its filters come from the images."""

import pytest
import torch

from alprune.data import Dataset
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete, prune_learner
from alprune.models import StartsFromImages, build


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(count: int, channels: int = 3, side: int = 20) -> torch.Tensor:
    """Images of vertical stripes, each column of another random colour."""
    columns = torch.randn(count, channels, 1, side, generator=generator(1))
    return columns.expand(-1, -1, side, -1)


def started(images: torch.Tensor, seed: int = 0) -> torch.nn.Module:
    model = build("patches", 2, tuple(images.shape[1:]), seed=0)
    assert isinstance(model, StartsFromImages)
    model.start_from_images(images, generator(seed))
    return model


def test_filters_vary_as_the_images_do():
    filters = started(stripes(50)).conv.weight
    within_columns = filters.var(dim=2).sum()
    assert within_columns < 1e-6 * filters.var(dim=3).sum()


@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_brightness_and_contrast_change_nothing(channels):
    images = 30 * stripes(50, channels)
    model = started(images).eval()
    expected = model(images)
    within = {"rtol": 0, "atol": 0.01 * float(expected.std())}
    torch.testing.assert_close(model(images + 40), expected, **within)
    torch.testing.assert_close(model(images * 3), expected, **within)


def test_filters_depend_on_the_generator_alone():
    images = stripes(50)
    first, again, other = (started(images, seed).conv.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("images", [torch.ones(1, 3, 12, 12), torch.zeros(4, 1, 10, 10)])
def test_a_few_images_without_a_pattern_give_finite_weights(images):
    model = started(images).train()
    model(images.expand(4, -1, -1, -1)).sum().backward()
    assert all(p.grad.isfinite().all() and p.isfinite().all() for p in model.parameters())


def test_a_learner_starts_from_its_pool_and_pruning_keeps_some_of_the_filters():
    """All images of the pool count, though only some are labelled, and without a pattern."""
    x = (40 * stripes(60) + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    x[:20] = 128
    train = Dataset(x, torch.arange(60) % 2, ("a", "b"), (0.5,) * 3, (0.2,) * 3, False, "")
    known = torch.arange(20)
    for method in ("dense", "uniform"):
        options = {"method": method, "dataset": "digits", "model": "patches"}
        pruned = prune_learner(complete(RunConfig(**options)), train, known, train.y[known])
        filters = pruned.model.conv.weight
        assert (len(filters) == 256) == (method == "dense")
        assert filters.var(dim=2).sum() < 1e-6 * filters.var(dim=3).sum()
