"""Networks of timm by name."""

import pytest
import torch

from alprune.errors import ConfigError, ModelError
from alprune.models import build, check_name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet10t", (3, 32, 32)),  # takes any size
        ("vit_tiny_patch16_224", (1, 64, 64)),  # made for one size
        ("test_convnext.r160_in1k", (3, 64, 64)),  # the name of the weights changes nothing
    ],
)
def test_a_network_of_timm_is_built_for_the_classes_the_channels_and_the_size(name, shape):
    x = torch.randn(2, *shape)
    state = torch.random.get_rng_state()
    model = build(f"timm:{name}", 7, shape, seed=3).eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model(x).shape == (2, 7)
    assert torch.equal(model(x), build(f"timm:{name}", 7, shape, seed=3).eval()(x))


def test_an_unknown_name_of_a_library_suggests_near_ones():
    for name in ("timm:resnet10", "torchvision:resnet19"):
        with pytest.raises(ConfigError, match="unknown .* Did you mean .*resnet1"):
            check_name(name)
    with pytest.raises(ConfigError, match="unknown timm model ''"):
        build("timm:", 10)


def test_a_size_that_a_network_cannot_take_is_refused():
    with pytest.raises(ModelError, match=r"'timm:vit_tiny_patch16_224' fails.*3, 8, 8"):
        build("timm:vit_tiny_patch16_224", 10, (3, 8, 8))
