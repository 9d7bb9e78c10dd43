import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_methods import small_resnet
from torch import nn

from alprune.errors import PruneError
from alprune.models import build
from alprune.models.cost import cost
from alprune.models.wrn import wide_resnet
from alprune.pruning import prune
from alprune.pruning.precrop.allocate import _rounded_down, precrop, synexp
from alprune.pruning.precrop.crop import at_widths

NETS = ["lenet-5-caffe", "resnet20", "resnet18", "wrn-16-1", "mobilenet-v2", "mobilenet-v3-small"]
SMALL = ["resnet20", "lenet-5-caffe"]


def instance(seed, layers=12):
    rng = np.random.default_rng(seed)
    params = np.exp(rng.uniform(0, 9, layers))
    macs = params * np.exp(rng.uniform(0, 7, layers))
    return params, macs


def by_general_solver(params, macs, params_budget, macs_budget, upper):
    """Maximise sum(log p) with SLSQP over q = log p and constraints log(cost / budget) <= 0."""
    shares = [c / b for c, b in ((params, params_budget), (macs, macs_budget)) if b is not None]
    constraints = [
        {
            "type": "ineq",
            "fun": lambda q, s=s: -np.log(np.exp(q) @ s),
            "jac": lambda q, s=s: -np.exp(q) * s / (np.exp(q) @ s),
        }
        for s in shares
    ]
    found = minimize(
        lambda q: -q.sum(),
        np.full(len(params), -np.log(max(1 / (upper or 1), *(s.sum() for s in shares), 1.0)) - 0.1),
        jac=lambda q: -np.ones_like(q),
        method="SLSQP",
        bounds=[(None, None if upper is None else np.log(upper))] * len(params),
        constraints=constraints,
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    assert found.success, found.message
    return np.exp(found.x)


@pytest.mark.parametrize("upper", [1.0, None, 0.5])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("which", ["params", "macs", "both"])
def test_densities_equal_a_general_convex_solver(seed, which, upper):
    params, macs = instance(seed)
    share = np.random.default_rng(seed).uniform(0.05, 0.6, 2)
    params_budget = share[0] * params.sum() if which != "macs" else None
    macs_budget = share[1] * macs.sum() if which != "params" else None
    found = synexp(params, macs, params_budget, macs_budget, upper)
    expected = by_general_solver(params, macs, params_budget, macs_budget, upper)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.log(found).sum() >= np.log(expected).sum() - 1e-7


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 200),
    params_share=st.floats(1e-4, 1.2),
    macs_share=st.floats(1e-4, 1.2),
    upper=st.sampled_from([1.0, None]),
)
def test_densities_meet_the_kkt_conditions(seed, layers, params_share, macs_share, upper):
    params, macs = instance(seed, layers)
    a, b = params / (params_share * params.sum()), macs / (macs_share * macs.sum())
    p = synexp(a, b, 1.0, 1.0, upper)
    assert (p > 0).all()
    assert upper is None or (p <= upper).all()
    spent = np.array([a @ p, b @ p])
    assert (spent <= 1 + 1e-9).all()
    free = np.ones(layers, bool) if upper is None else p < upper
    if not free.any():
        return
    binding = spent > 1 - 1e-9
    # 1 / p = lambda_1 a + lambda_2 b on the free layers, with lambdas >= 0 of binding budgets.
    columns = np.stack([a, b], 1)[free] * p[free, None] * binding
    multipliers = _nonnegative_least_squares(columns, np.ones(free.sum()))
    np.testing.assert_allclose(columns @ multipliers, 1, atol=1e-6)
    if upper is not None:  # capped layers would like more
        pull = (np.stack([a, b], 1)[~free] * binding) @ multipliers
        assert (1 / upper - pull >= -1e-6).all()


def _nonnegative_least_squares(columns, target):
    from scipy.optimize import nnls

    return nnls(columns, target)[0]


def test_densities_equal_a_hand_worked_example():
    # 10 and 40 parameters of 100, 800 in the others: each spends 45 but the first, which is full.
    np.testing.assert_allclose(synexp([10, 100, 800], [1, 1, 1], 100), [1, 0.45, 0.05625])


def test_a_generous_budget_keeps_everything():
    np.testing.assert_array_equal(synexp([3, 5], [1, 9], 100.0, 100.0), [1, 1])


def test_widening_spends_the_same_on_every_layer():
    p = synexp([10, 1000], [1, 1], 1010, upper=None)
    np.testing.assert_allclose(p * [10, 1000], [505, 505])


def test_proportional_costs_with_two_budgets_reduce_to_the_tighter():
    params = np.array([3.0, 30.0, 300.0])
    both = synexp(params, 7 * params, 0.5 * params.sum(), 0.3 * 7 * params.sum())
    np.testing.assert_allclose(both, synexp(params, params, 0.3 * params.sum()))


def test_a_layer_that_costs_nothing_in_one_budget_is_limited_by_the_other():
    p = synexp([0, 10, 100], [50, 10, 0], 11, 12, upper=None)
    np.testing.assert_allclose([[0, 10, 100] @ p, [50, 10, 0] @ p], [11, 12])
    assert np.isfinite(p).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2]), "needs a budget"),
        (([1, 2], [1, 2], -1), "params_budget"),
        (([1, 2], [1, 2], 1, float("nan")), "macs_budget"),
        (([1, 2], [1], 1), "one number a layer"),
        (([1, float("inf")], [1, 2], 1), "finite"),
        (([], [], 1), "params"),
        (([0, 2], [1, 2], 1, None, None), "nothing limits"),
        (([1, 2], [1, 2], 1, None, 0), "upper"),
    ],
)
def test_unusable_budgets_are_refused(arguments, message):
    with pytest.raises(PruneError, match=message):
        synexp(*arguments)


def example(model_name):
    shapes = {"lenet-5-caffe": (1, 28, 28), "vgg-like": (3, 32, 32)}
    return torch.randn(2, *shapes.get(model_name, (3, 8, 8)))


def dense(name):
    if name == "wrn-16-1":
        return wide_resnet(16, 1, 10, (3, 32, 32))
    return build(name, 10, (1, 28, 28) if name.startswith("lenet") else (3, 32, 32))


def embedded(model, cropped):
    """The dense network with the cropped one's weights in its corners and zeros around them."""
    model = copy.deepcopy(model)
    small = dict(cropped.model.state_dict())
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim:
                value.zero_()
                value[tuple(slice(size) for size in small[name].shape)] = small[name]
            if name.endswith("running_var"):
                value[small[name].numel() :] = 1
    return model


@pytest.mark.parametrize("name", NETS)
def test_cropped_network_equals_the_dense_one_with_zeros_around(name):
    model, x = dense(name), example(name)
    allocation = precrop(model, x, flops_reduction=0.6, calibrate=False)
    cropped = at_widths(model, allocation.widths, torch.Generator().manual_seed(0)).double().eval()
    generator = torch.Generator().manual_seed(1)
    for module in cropped.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    reference = embedded(model.double(), cropped).eval()
    x = x.double()
    x.requires_grad_(True)
    found, expected = cropped(x), reference(x)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", NETS)
def test_allocation_counts_what_the_rebuilt_network_costs(name):
    model, x = dense(name), example(name)
    allocation = precrop(model, x, params_reduction=0.3, flops_reduction=0.5, calibrate=False)
    cropped = at_widths(model, allocation.widths, torch.Generator().manual_seed(0))
    counted = cost(cropped, x)
    assert (counted.macs, counted.params) == (allocation.macs_after, allocation.params_after)
    before = cost(model, x)
    assert (before.macs, before.params) == (allocation.macs_before, allocation.params_before)


@pytest.mark.parametrize("widen", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_calibrated_allocation_meets_its_targets(name, widen):
    model, x = dense(name), example(name)
    allocation = precrop(model, x, params_reduction=0.2, flops_reduction=0.4, widen=widen)
    assert allocation.params_reduction >= 0.2
    assert allocation.flops_reduction >= 0.4
    assert min(allocation.params_reduction - 0.2, allocation.flops_reduction - 0.4) < 0.05


def test_preconfig_widens_some_layers_at_the_same_flops():
    model, x = small_resnet(), example("resnet20")
    allocation = precrop(model, x, params_reduction=0, flops_reduction=0, widen=True)
    sizes = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert any(allocation.widths[name][1] > size for name, size in sizes.items())
    assert any(allocation.widths[name][1] < size for name, size in sizes.items())
    assert max(allocation.densities.values()) > 1
    cropped = at_widths(model, allocation.widths, torch.Generator().manual_seed(0))
    assert cropped(x).shape == (2, 10)


def test_plain_layers_are_cropped_by_the_square_root_of_the_density():
    model, x = dense("vgg-like"), example("vgg-like")
    allocation = precrop(model, x, params_reduction=0.5, calibrate=False)
    reads = 3
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            kept = int(allocation.densities[name] ** 0.5 * module.out_channels + 1e-9)
            assert allocation.widths[name] == (reads, kept)
            reads = kept


def test_residual_layers_meet_their_own_density():
    model, x = dense("resnet18"), example("resnet18")
    allocation = precrop(model, x, flops_reduction=0.5, calibrate=False)
    name = "layer1.0.conv1"  # reads the trunk and makes the block's inner channels
    reads, makes = allocation.widths[name]
    root = allocation.densities[name] ** 0.5
    trunk = allocation.widths["conv1"][1]
    assert (reads, makes) == (min(trunk, int(root * 64 + 1e-9)), int(root * 64 + 1e-9))


def test_rebuilding_and_allocating_leave_the_model_untouched():
    model, x = small_resnet(), example("resnet20")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    widths = precrop(model, x, flops_reduction=0.5).widths
    at_widths(model, widths, torch.Generator().manual_seed(0))(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class Stored(nn.Module):
    """Calls a layer through a function that it holds."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)
        self.classify = lambda x: self.head(x)

    def forward(self, x):
        return self.classify(self.stem(x).relu().mean((2, 3)))


def test_functions_and_modes_of_a_cropped_network_are_its_own():
    model = Stored()
    model.stem.eval()
    batch = torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
    small = prune(model, "precrop", batch=batch, flops_reduction=0.5).model
    assert small(batch[0]).shape == (4, 10) and small.model.head.in_features < 8
    assert small.training and small.model.head.training and not small.model.stem.training


def test_a_cropped_network_trains_copies_and_reloads():
    model, x = small_resnet(), example("resnet20")
    widths = precrop(model, x, flops_reduction=0.5, calibrate=False).widths
    cropped = at_widths(model, widths, torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(cropped(x), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in cropped.parameters())
    twin = copy.deepcopy(cropped).eval()
    fresh = at_widths(model, widths, torch.Generator().manual_seed(9))
    fresh.load_state_dict(cropped.state_dict())
    torch.testing.assert_close(fresh.eval()(x), twin(x))


class Bare(nn.Module):
    """Adds in place and goes on under the old name: a wider sum would be lost."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x)
        y.add_(x)
        return self.c(y).mean((2, 3))


class Reshaping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 8 * 16))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Bare(), "add_"),
        (Reshaping(), "written down"),
        (nn.Sequential(nn.Flatten(2), nn.LSTM(16, 4)), "LSTM"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)), "plain and depthwise"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(16, 4)), "only \\(b, features\\)"),
    ],
)
def test_networks_beyond_the_method_are_refused(model, message):
    with pytest.raises(PruneError, match=message):
        precrop(model, torch.randn(2, 3, 4, 4), flops_reduction=0.5, min_channels=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs params_reduction"),
        ({"flops_reduction": 1.0}, "less than 1"),
        ({"flops_reduction": 0.5, "min_channels": -1}, "min_channels"),
        ({"flops_reduction": 0.999, "min_channels": 16}, "floor"),
    ],
)
def test_unusable_targets_are_refused(options, message):
    with pytest.raises(PruneError, match=message):
        precrop(small_resnet(), example("resnet20"), **options)


@pytest.mark.parametrize(
    ("wanted", "channels", "floor", "multiple", "width"),
    [
        (13, 64, 4, 8, 8),  # down, so that no budget is exceeded
        (16, 64, 4, 8, 16),
        (5, 64, 4, 8, 8),  # the least multiple that the floor allows
        (13, 64, 9, 8, 16),
        (13, 64, 4, 1, 13),
        (3, 6, 4, 8, 4),  # too narrow to be rounded
        (9, 10, 9, 8, 9),  # 16 would be wider than the layer
    ],
)
def test_widths_are_rounded_down_where_the_floor_allows(wanted, channels, floor, multiple, width):
    assert _rounded_down(wanted, channels, floor, multiple) == width


def test_widths_of_many_more_weights_than_the_network_has_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    generator = torch.Generator()
    at_widths(model, {"0": (3, 4000), "1": (4000, 400)}, generator)  # 14 million weights
    with pytest.raises(PruneError, match="the widths make 18,108,000 weights of 516; at most"):
        at_widths(model, {"0": (3, 4000), "1": (4000, 500)}, generator)
