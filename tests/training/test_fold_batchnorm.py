import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from alprune import models
from alprune.errors import ModelError
from alprune.training.fold_batchnorm import Pair, fold


def lived_in(model, *shape):
    """Give a network statistics that no longer are those of a fresh BatchNorm, in float64."""
    draws = torch.Generator().manual_seed(1)
    model.double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=draws) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=draws))
    x = torch.randn(8, *shape, generator=draws, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng():
        model.train()(3 * x + 1)
    return model, x


def assert_same(model, folded, x):
    with torch.no_grad():
        wanted, got = model.eval()(x), folded.model(x)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


def small(norm=nn.BatchNorm2d, **conv):
    return nn.Sequential(nn.Conv2d(4, 4, 3, **conv), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize(("name", "count"), [("mobilenet-v2", 52), ("resnet20", 19)])
def test_a_folded_network_computes_what_the_network_computes(name, count):
    model, x = lived_in(models.build(name, 10), 3, 16, 16)
    folded = fold(model, x)
    assert len(folded.pairs) == count
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.model.modules())
    assert_same(model, folded, x)


def test_a_norm_before_an_activation_stays():
    block = [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    model, x = lived_in(nn.Sequential(*block, nn.Conv2d(4, 2, 3)), 4, 7, 7)
    folded = fold(model, x)
    assert folded.pairs == (Pair("2", "3"),)
    assert_same(model, folded, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_every_learner_folds_soundly(name):
    shape = models.MODELS[name].input_shape
    model, x = lived_in(models.build(name, 10), *shape)
    assert_same(model, fold(model, x), x[:3])


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2), nn.BatchNorm2d(6), (4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), (4, 9, 9)),
        (nn.Conv3d(4, 6, 2, stride=2), nn.BatchNorm3d(6), (4, 6, 6, 6)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (4,)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False), (4,)),
    ],
)
def test_each_kind_of_layer_folds(layer, norm, shape):
    model, x = lived_in(nn.Sequential(layer, norm, nn.Tanh()), *shape)
    folded = fold(model, x)
    assert folded.pairs == (Pair("0", "1"),)
    assert not any(isinstance(m, type(norm)) for m in folded.model.modules())
    assert_same(model, folded, x)


def test_a_fold_by_hand():
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0.0))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 4.0]]))
        model[0].bias.fill_(5.0)
        model[1].running_var.fill_(4.0)
        model[1].running_mean.fill_(3.0)
        model[1].weight.fill_(6.0)
        model[1].bias.fill_(7.0)
    layer = fold(model, torch.randn(2, 2)).model[0]
    assert layer.weight.tolist() == [[6.0, 12.0]]  # 6 / sqrt(4) = 3 times the weight
    assert layer.bias.tolist() == [13.0]  # (5 - 3) * 3 + 7


class Forward(nn.Module):
    """A convolution, a BatchNorm and a forward function of a test's choice."""

    def __init__(self, forward, conv=None, norm=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 3, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(3)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def branch(self, x):
    y = self.conv(x)
    return self.norm(y) if x.mean() < 1e9 else y


def overwritten(self, x):
    y = self.conv(x)
    y[:, 0] = 0.0
    return self.norm(y)


UNFOLDABLE = {
    "output used again": lambda self, x: self.norm(y := self.conv(x)) + y,
    "output changed in place": lambda self, x: self.norm(self.conv(x).relu_()),
    "output overwritten": overwritten,
    "layer called twice": lambda self, x: self.norm(self.conv(self.conv(x))),
    "norm called twice": lambda self, x: self.norm(self.norm(self.conv(x))),
    "weight read elsewhere": lambda self, x: self.norm(self.conv(x)) * self.conv.weight.mean(),
    "statistics read elsewhere": lambda self, x: self.norm(self.conv(x)) + self.norm.bias.sum(),
    "branch on values": branch,
    "value read": lambda self, x: self.norm(self.conv(x)) * x.std().item(),
    "norm's attribute read": lambda self, x: self.norm(self.conv(x)) / self.norm.num_features,
    "norm by function": lambda self, x: F.batch_norm(
        self.conv(x), self.norm.running_mean, self.norm.running_var
    ),
}


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_what_may_not_be_folded_is_left_alone(case):
    model, x = lived_in(Forward(UNFOLDABLE[case]), 3, 6, 6)
    folded = fold(model, x)
    assert folded.pairs == ()
    assert_same(model, folded, x)


def test_an_output_that_is_returned_too_is_not_folded():
    model, x = lived_in(
        Forward(lambda self, x: {"a": self.norm(y := self.conv(x)), "b": y}), 3, 6, 6
    )
    folded = fold(model, x)
    assert folded.pairs == ()
    with torch.no_grad():
        torch.testing.assert_close(folded.model(x), model.eval()(x))


def test_layers_that_are_not_what_they_seem_are_left_alone():
    def plain(self, x):
        return self.norm(self.conv(x))

    masked = nn.Conv2d(3, 3, 3)
    parametrize.register_parametrization(masked, "weight", nn.Tanh())
    hooked = nn.Conv2d(3, 3, 3)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    tied = Forward(lambda self, x: self.norm(self.conv(x)) + self.other(x))
    tied.other = nn.Conv2d(3, 3, 3, padding=1)
    tied.other.weight = tied.conv.weight
    for model in (
        Forward(plain, norm=Doubled(3)),
        Forward(plain, norm=nn.BatchNorm2d(3, track_running_stats=False)),
        Forward(plain, conv=masked),
        Forward(plain, conv=hooked),
        tied,
    ):
        model, x = lived_in(model, 3, 6, 6)
        folded = fold(model, x)
        assert folded.pairs == ()
        assert_same(model, folded, x)


def test_a_norm_over_the_middle_of_a_linear_output_is_not_folded():
    model, x = lived_in(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), 5, 5)
    folded = fold(model, x)
    assert folded.pairs == ()
    assert_same(model, folded, x)


def test_one_bad_pair_leaves_the_others():
    good = small(padding=1)
    bad = Forward(UNFOLDABLE["norm's attribute read"], nn.Conv2d(2, 3, 1))
    model, x = lived_in(nn.Sequential(good, bad), 4, 6, 6)
    folded = fold(model, x)
    assert folded.pairs == (Pair("0.0", "0.1"),)
    assert_same(model, folded, x)


def test_refresh_follows_the_weights_and_shares_the_rest():
    model, x = lived_in(small(bias=False), 4, 6, 6)
    folded = fold(model, x)
    assert folded.model[3].weight is model[3].weight
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(x).square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        stale = folded.model(x)
    assert folded.refresh() is folded.model
    assert_same(model, folded, x)
    with torch.no_grad():
        assert not torch.allclose(stale, folded.model(x))


def test_folding_leaves_the_network_and_the_random_state_alone():
    model, x = lived_in(small(), 4, 6, 6)
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    folded = fold(model, x)
    folded.refresh()
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in folded.model.modules())


def test_memory_format_and_type_are_kept():
    model = small(padding=1).to(memory_format=torch.channels_last)
    layer = fold(model, torch.randn(2, 4, 6, 6)).model[0]
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.weight.dtype == torch.float32 and not layer.weight.requires_grad


def test_folding_inside_inference_mode_leaves_a_copy_that_can_be_refreshed():
    model = small()
    with torch.inference_mode():
        folded = fold(model, torch.randn(2, 4, 6, 6))
    folded.refresh()
    assert folded.pairs


def test_a_network_that_runs_in_one_type_only_is_folded_too():
    class Float32(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()

        def forward(self, x):
            return self.body(x.float())

    assert fold(Float32(), torch.randn(2, 4, 6, 6)).pairs


def test_an_example_that_does_not_fit_is_named():
    with pytest.raises(ModelError, match=r"Sequential fails on an input of shape \(2, 5\)"):
        fold(small(), torch.zeros(2, 5))
