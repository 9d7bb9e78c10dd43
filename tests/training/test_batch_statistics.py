"""The statistics of the network that scores are those of its weights."""

import copy

import pytest
import torch
from torch import nn

import alprune
from alprune.data import load
from alprune.training import FitSettings, Learner
from alprune.training.augment import normalise
from alprune.training.batch_statistics import estimate_statistics, updated_norms, young_batches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return load("digits").train


def deep():
    """A network deep enough to lose what it knows when its statistics are outdated."""
    torch.manual_seed(0)
    layers = []
    for inputs in (1, *[12] * 7):
        layers += [nn.Conv2d(inputs, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(12 * 64, 10))


def learner(digits, model=None, **settings):
    settings = {"batch_size": 64, "pad": 0, "flip": False} | settings
    return Learner(model or deep(), digits, FitSettings(**settings), CPU, torch.float32)


def fit(it, digits, count=64, epochs=20.0, seed=0):
    draws = torch.Generator().manual_seed(seed)
    it.fit(torch.arange(count), digits.y[:count], epochs, draws)
    return draws


def statistics(network):
    return [t for norm in updated_norms(network) for t in (norm.running_mean, norm.running_var)]


def inputs(it, count):
    return normalise(it.x[:count], it.mean, it.std)


@pytest.mark.parametrize("averaging", [0.99, 0.0])
def test_a_young_learners_statistics_are_those_of_its_weights(digits, averaging):
    it = learner(digits, averaging=averaging)
    fit(it, digits)
    wanted = copy.deepcopy(it.averaged)
    for dropout in (m for m in wanted if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    torch.optim.swa_utils.update_bn([inputs(it, 64)], wanted)
    torch.testing.assert_close(statistics(it.averaged), statistics(wanted), rtol=1e-4, atol=1e-5)


def test_an_old_network_keeps_its_running_averages(digits):
    it, twin = learner(digits), learner(digits)
    for each in (it, twin):
        each.batches = 401
    twin._young = 0.0
    fit(it, digits, epochs=3.0)
    fit(twin, digits, epochs=3.0)
    torch.testing.assert_close(statistics(it.averaged), statistics(twin.averaged), rtol=0, atol=0)


def test_a_network_without_batchnorm_pays_nothing(digits):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    it = learner(digits, plain)
    calls = []
    it.averaged.register_forward_hook(lambda *args: calls.append(args))
    fit(it, digits)
    assert young_batches(plain) == 0
    assert not calls


def test_how_long_a_network_is_young_follows_from_the_slowest_average():
    slow = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=0.01))
    assert young_batches(slow) == pytest.approx(2000)
    assert young_batches(nn.BatchNorm2d(3)) == pytest.approx(200)
    assert young_batches(nn.BatchNorm2d(3, momentum=None)) == float("inf")
    assert young_batches(nn.BatchNorm2d(3, track_running_stats=False)) == 0


class Frozen(nn.BatchNorm2d):
    """A BatchNorm that stays in eval mode."""

    def train(self, mode=True):
        return super().train(False)


def test_only_the_statistics_of_norms_that_train_are_replaced():
    network = nn.Sequential(
        Frozen(3), nn.BatchNorm2d(3), nn.Dropout(0.9), nn.BatchNorm2d(3, momentum=0.0)
    )
    network[1].train(False)
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 5
    estimate_statistics(network, [x[:4], x[4:]])
    assert [module.training for module in network.modules()] == modes
    assert network[1].momentum == 0.1
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.running_mean", "1.running_var"}
    frozen = (x / (1 + network[0].eps) ** 0.5).double()
    means = [part.mean((0, 2, 3)) for part in (frozen[:4], frozen[4:])]
    variances = [part.transpose(0, 1).flatten(1).var(1) for part in (frozen[:4], frozen[4:])]
    torch.testing.assert_close(network[1].running_mean.double(), sum(means) / 2)
    torch.testing.assert_close(network[1].running_var.double(), sum(variances) / 2)


def test_estimates_draw_only_from_the_fits_generator(digits):
    results = []
    for seed in (0, 1):
        it = learner(digits)
        torch.manual_seed(seed)
        fit(it, digits, count=300, epochs=2.0)
        results.append(statistics(it.averaged))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.slow
def test_the_first_test_of_a_pruned_vgg_shows_what_it_learnt(tmp_path):
    config = alprune.RunConfig(dataset="digits", steps=0, device="cpu", out=str(tmp_path / "run"))
    alprune.run(config)
    events = alprune.read_events(tmp_path / "run")
    first = next(event for event in events if event["event"] == "step")
    assert first["test_accuracy"] > 0.7
    assert not [event for event in events if event["event"] == "warning"]


def test_a_single_image_is_learnt_from_with_the_statistics_of_those_before(digits):
    """Its values per channel are one each, of which no statistics can be computed."""
    torch.manual_seed(0)
    body = nn.Flatten(), nn.Linear(64, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU()
    it = learner(digits, nn.Sequential(*body, nn.Linear(12, 10)), averaging=0.0)
    fit(it, digits)
    norm, weight = copy.deepcopy(it.model[2]), it.model[1].weight.detach().clone()
    fit(it, digits, count=1, epochs=3.0)
    torch.testing.assert_close(statistics(it.model), statistics(norm), rtol=0, atol=0)
    assert not torch.equal(it.model[1].weight, weight)
    fit(it, digits, epochs=1.0)
    assert not torch.equal(it.model[2].running_mean, norm.running_mean)
