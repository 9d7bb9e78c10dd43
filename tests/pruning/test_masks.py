import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.errors import ConfigError, PruneError
from alprune.pruning.criteria.base import scoring_in
from alprune.pruning.reinit import reinit, rescale
from alprune.pruning.unstructured.masks import (
    apply_masks,
    bake_masks,
    load_masked,
    maskable_weights,
    masks_of,
    weight_masks,
)
from alprune.pruning.unstructured.scores import grasp, magnitude, random, snip, synflow

SCORERS = {f.__name__: f for f in (grasp, magnitude, random, snip, synflow)}


def sparsity(model):
    """Return the share of the maskable weights that are exactly zero."""
    weights = torch.cat([weight.flatten() for weight in maskable_weights(model).values()])
    return float((weights == 0).float().mean())


class Rows(nn.Module):
    """An LSTM over rows, like the papers' recurrent models."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.rnn = kind(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.rnn(x.flatten(1, 2))[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x.flatten(1))))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 3),
    )


def tiny_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def batch(shape=(1, 5, 5), examples=8, classes=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, *shape, generator=generator, dtype=dtype)
    return x, torch.randint(0, classes, (examples,), generator=generator)


NETS = {
    "conv": (conv_net, (1, 5, 5)),
    "lstm": (Rows, (1, 4, 5)),
    "gru": (lambda: Rows(nn.GRU), (1, 4, 5)),
    "tied": (Tied, (4,)),
    "cell": (lambda: Cell(), (1, 4, 5)),
}


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 6)
        for row in x.flatten(1, 2).unbind(1):
            state = self.cell(row, state)
        return self.head(state)


@pytest.fixture(params=NETS)
def net(request):
    build, shape = NETS[request.param]
    torch.manual_seed(0)
    return build(), shape


def masked_net(model, shape, share=0.7):
    masks = weight_masks(random(model, batch(shape)), share)
    return apply_masks(model, masks), masks


def train(model, shape, steps=5, optimiser=None):
    optimiser = optimiser or torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True
    )
    x, y = batch(shape)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return optimiser


def state_of(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return state, grads, [m.training for m in model.modules()], torch.get_rng_state()


@pytest.mark.parametrize("method", SCORERS)
def test_scoring_leaves_the_model_as_found(method, net):
    model, shape = net
    train(model, shape, 1)  # so that there are gradients and statistics to disturb
    model.eval()
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    scores = SCORERS[method](model, batch(shape), torch.Generator().manual_seed(0), 0.5)
    after = state_of(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert [a is None for a in before[1]] == [b is None for b in after[1]]
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True) if a is not None)
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    weights = maskable_weights(model)
    assert {n: s.shape for n, s in scores.items()} == {n: w.shape for n, w in weights.items()}


@pytest.mark.parametrize("method", SCORERS)
def test_every_method_masks_exactly_the_asked_number(method, net):
    model, shape = net
    score = SCORERS[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks = weight_masks(score(model, batch(shape), torch.Generator(), 0.613), 0.613)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.613 * total)


def test_biases_and_norms_are_never_scored():
    assert set(snip(conv_net(), batch())) == {"0.weight", "4.weight", "7.weight"}


def test_snip_equals_finite_differences_of_a_multiplicative_mask():
    torch.manual_seed(0)
    model, (x, y) = tiny_net(), batch((4,), dtype=torch.float64)
    scores = snip(model, (x, y))
    step = 1e-6
    expected = {}
    for name in scores:
        weight = dict(model.named_parameters())[name]
        original = weight.detach().clone()
        slope = torch.zeros_like(original)
        for index in range(original.numel()):
            losses = []
            for sign in (1, -1):
                changed = original.clone()
                changed.view(-1)[index] *= 1 + sign * step
                weight.data = changed
                losses.append(F.cross_entropy(model(x), y).item())
            slope.view(-1)[index] = (losses[0] - losses[1]) / (2 * step)
        weight.data = original
        expected[name] = slope.abs()
    total = sum(slope.sum() for slope in expected.values())
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name] / total, rtol=1e-6, atol=1e-9)
    assert sum(score.sum() for score in scores.values()).item() == pytest.approx(1)


@pytest.mark.parametrize("scorer", [snip, grasp])
def test_several_batches_score_as_one_large_batch(scorer):
    torch.manual_seed(0)
    model, (x, y) = tiny_net(), batch((4,), dtype=torch.float64)
    whole = scorer(model, (x, y))
    parts = scorer(model, [(x[:3], y[:3]), (x[3:], y[3:])])
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])


def test_grasp_equals_the_explicit_hessian():
    torch.manual_seed(0)
    model, (x, y) = tiny_net(), batch((4,), dtype=torch.float64)
    names = ["1.weight", "3.weight"]
    shapes = [dict(model.named_parameters())[name].shape for name in names]
    sizes = [shape.numel() for shape in shapes]

    def loss(flat):
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        changed = dict(zip(names, parts, strict=True))
        return F.cross_entropy(torch.func.functional_call(model, changed, (x,)) / 200, y)

    flat = torch.cat([dict(model.named_parameters())[name].detach().flatten() for name in names])
    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    expected = flat * (hessian @ gradient)
    found = torch.cat([score.flatten() for score in grasp(model, (x, y)).values()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-18)


def test_grasp_redraws_linear_layers_for_the_scoring_alone():
    torch.manual_seed(0)
    model = conv_net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = copy.deepcopy(model)
    nn.init.xavier_normal_(drawn[7].weight, generator=torch.Generator().manual_seed(3))
    expected = grasp(drawn, batch())
    found = grasp(model, batch(), torch.Generator().manual_seed(3), redraw_linear=True)
    assert all(torch.equal(score, expected[name]) for name, score in found.items())
    assert not torch.allclose(found["0.weight"], grasp(model, batch())["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_normalises_in_scoring_as_the_mode_says(mode):
    torch.manual_seed(0)
    model = conv_net().double()
    inputs, labels = batch(dtype=torch.float64)
    with torch.no_grad():  # as after some training
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    with scoring_in(mode):
        found = snip(model, (inputs, labels))
    own = copy.deepcopy(model)
    own[1].train(mode == "train")
    own[3].eval()
    F.cross_entropy(own(inputs), labels).backward()
    products = {name: (own.get_parameter(name) * own.get_parameter(name).grad) for name in found}
    total = sum(p.abs().sum() for p in products.values())
    for name, score in found.items():
        torch.testing.assert_close(score, products[name].detach().abs() / total)
    assert torch.equal(model[1].running_mean, own[1].running_mean) == (mode == "eval")


def test_an_unknown_score_mode_is_refused():
    with pytest.raises(ConfigError, match="unknown score mode 'test'"), scoring_in("test"):
        pass


def test_grasp_removes_the_weight_whose_removal_raises_the_gradient_norm_most():
    torch.manual_seed(0)
    model, (x, y) = tiny_net(), batch((4,), dtype=torch.float64)
    scores = grasp(model, (x, y))

    def squared_norm(shrunk=None):
        changed = copy.deepcopy(model)
        weight = dict(changed.named_parameters())["1.weight"]
        if shrunk is not None:
            weight.data.view(-1)[shrunk] *= 1 - 1e-5  # a step towards removal
        watched = [p for n, p in changed.named_parameters() if n.endswith("weight")]
        loss = F.cross_entropy(changed(x) / 200, y)
        return sum((g**2).sum() for g in torch.autograd.grad(loss, watched)).item()

    changes = torch.tensor([squared_norm(i) - squared_norm() for i in range(12)])
    assert scores["1.weight"].argmin() == changes.argmax()
    assert scores["1.weight"].argmax() == changes.argmin()


def test_synflow_equals_a_hand_worked_example():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    model[2].weight.data = torch.tensor([[-5.0, 6.0]])
    scores = synflow(model, (torch.zeros(1, 2), torch.zeros(1)), rounds=1)
    # The flow is 5 * (1 + 2) + 6 * (3 + 4) = 57; each weight's score is the part through it.
    assert scores["0.weight"].tolist() == [[5, 10], [18, 24]]
    assert scores["2.weight"].tolist() == [[15, 42]]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU])
def test_synflow_is_conserved_from_layer_to_layer(activation):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5), activation(), nn.Linear(5, 4),
    )  # fmt: skip
    scores = synflow(model, batch((3, 10, 10)), rounds=1, dtype=torch.float64)
    sums = [score.sum().item() for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-12)


def test_synflow_of_a_deep_wide_net_overflows_float32_but_not_float64():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(80)])
    x = torch.zeros(1, 64), torch.zeros(1)
    scores = synflow(model, x, rounds=1)
    assert scores["0.weight"].dtype == torch.float64
    sums = [score.sum().item() for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 80, rel=1e-12)
    with pytest.raises(PruneError, match="overflow"):
        synflow(model, x, rounds=1, dtype=torch.float32)


def test_synflow_in_rounds_keeps_every_layer_alive_where_one_round_does_not():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 4)
    )
    x = torch.zeros(1, 20), torch.zeros(1)
    kept = {}
    for rounds in (1, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            masks = weight_masks(synflow(model, x, sparsity=0.995, rounds=rounds), 0.995)
        absolute = bake_masks(apply_masks(model, masks))
        for parameter in absolute.parameters():
            parameter.data = parameter.data.abs() * (parameter.ndim > 1)
        kept[rounds] = absolute(torch.ones(1, 20)).sum().item()
    assert kept[100] > 0
    assert kept[100] > kept[1]


def test_ties_are_broken_by_position_to_one_weight():
    scores = {"a": torch.tensor([2.0, 1.0, 1.0]), "b": torch.tensor([[1.0, 0.0]])}
    with pytest.warns(UserWarning, match="every weight of b"):
        masks = weight_masks(scores, 0.4)
    assert masks["a"].tolist() == [True, True, True]
    assert masks["b"].tolist() == [[False, False]]


def test_an_emptied_layer_is_named_in_a_warning():
    with pytest.warns(UserWarning, match="every weight of b"):
        weight_masks({"a": torch.ones(4), "b": torch.zeros(4)}, 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range_is_refused(share):
    with pytest.raises(PruneError, match="sparsity"):
        weight_masks({"a": torch.ones(4)}, share)


def test_a_sparsity_that_keeps_nothing_is_refused():
    with pytest.raises(PruneError, match="keeps none"):
        weight_masks({"a": torch.ones(3)}, 0.9)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(PruneError, match="a"):
        weight_masks({"a": torch.tensor([1.0, float("nan")])}, 0.5)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_masked_weights_stay_exactly_zero_while_training(net, optimiser):
    model, shape = net
    masked, masks = masked_net(model, shape)
    before = {name: weight.detach().clone() for name, weight in maskable_weights(masked).items()}
    rates = torch.optim.AdamW(masked.parameters(), 0.01, weight_decay=0.1)
    train(masked, shape, optimiser=rates if optimiser == "adamw" else None)
    for name, weight in maskable_weights(masked).items():
        assert (weight[~masks[name]] == 0).all()
        assert (weight != before[name])[masks[name]].any()
    assert sparsity(masked) == pytest.approx(0.7, abs=0.02)


def test_stored_values_under_a_mask_change_nothing(net):
    model, shape = net
    masked, masks = masked_net(model, shape)
    x, _ = batch(shape)
    masked.eval()
    expected = masked(x)
    with torch.no_grad():
        for name, parameter in masked.named_parameters():
            key = name.replace("parametrizations.", "").replace(".original", "")
            if key in masks:
                parameter[~masks[key]] = 7.0
    torch.testing.assert_close(masked(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(bake_masks(masked)(x), expected)


def test_masked_model_equals_plain_model_with_zeros(net):
    model, shape = net
    masked, masks = masked_net(model, shape)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    x, y = batch(shape)
    torch.manual_seed(3)
    expected = plain.train()(x)
    torch.manual_seed(3)
    found = masked.train()(x)
    torch.testing.assert_close(found, expected)
    grads = [
        torch.autograd.grad(
            F.cross_entropy(out, y), [p for n, p in m.named_parameters() if "bias" in n]
        )
        for out, m in ((expected, plain), (found, masked))
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_masking_leaves_the_model_untouched(net):
    model, shape = net
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(masked_net(model, shape)[0], shape)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_trained_masked_model_deep_copies_and_the_copy_trains_masked(net):
    model, shape = net
    masked, masks = masked_net(model, shape)
    train(masked, shape, 2)
    twin = copy.deepcopy(masked)
    train(twin, shape, 2)
    for name, weight in maskable_weights(twin).items():
        assert (weight[~masks[name]] == 0).all()
        assert not torch.equal(weight, maskable_weights(masked)[name])


def test_masked_state_loads_into_a_fresh_model(net):
    model, shape = net
    masked, _ = masked_net(model, shape)
    train(masked, shape, 2)
    file = io.BytesIO()
    torch.save(masked.state_dict(), file)
    file.seek(0)
    loaded = load_masked(model, torch.load(file, weights_only=True))
    x, _ = batch(shape)
    torch.testing.assert_close(loaded.eval()(x), masked.eval()(x), rtol=0, atol=0)
    assert sparsity(loaded) == sparsity(masked)


def test_the_masks_of_a_masked_model_are_those_it_was_given(net):
    model, shape = net
    masked, masks = masked_net(model, shape)
    found = masks_of(masked)
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert masks_of(model) == {}


def test_a_masked_model_gets_fresh_weights_under_the_same_masks(net):
    model, shape = net
    masked, masks = masked_net(model, shape)
    before = {name: weight.clone() for name, weight in maskable_weights(masked).items()}
    rescale(masked, model, torch.Generator(), "he")
    assert all(torch.equal(w, before[n]) for n, w in maskable_weights(masked).items())
    reinit(masked, model, torch.Generator().manual_seed(5), "he")
    expected = copy.deepcopy(model)
    reinit(expected, expected, torch.Generator().manual_seed(5), "he")
    fresh = maskable_weights(expected)
    for name, weight in maskable_weights(masked).items():
        if name in masks:
            assert torch.equal(weight, fresh[name] * masks[name])
            assert not torch.equal(weight, before[name])
    train(masked, shape)
    now = maskable_weights(masked)
    assert all(bool((now[name][~mask] == 0).all()) for name, mask in masks.items())


def test_a_baked_model_is_plain_again(net):
    model, shape = net
    masked, _ = masked_net(model, shape)
    train(masked, shape, 2)
    baked = bake_masks(masked)
    x, _ = batch(shape)
    torch.testing.assert_close(baked.eval()(x), masked.eval()(x))
    assert list(baked.state_dict()) == list(model.state_dict())
    assert len(list(baked.parameters())) == len(list(model.parameters()))
    assert sparsity(baked) == sparsity(masked)
    model.load_state_dict(baked.state_dict())
    assert not any(module._forward_hooks for module in baked.modules())


def test_a_mask_that_fits_no_weight_is_refused():
    model = conv_net()
    with pytest.raises(PruneError, match="no weight '0.bias'"):
        apply_masks(model, {"0.bias": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(PruneError, match="must be bool"):
        apply_masks(model, {"0.weight": torch.ones(4)})


@pytest.mark.parametrize("kind", ["conv", "lstm"])
def test_a_masked_model_is_not_scored_or_masked_again(kind):
    build, shape = NETS[kind]
    masked, masks = masked_net(build(), shape)
    with pytest.raises(PruneError, match="bake_masks"):
        apply_masks(masked, masks)
    with pytest.raises(PruneError, match="bake_masks"):
        snip(masked, batch(shape))


def test_a_model_without_weights_is_refused():
    with pytest.raises(PruneError, match="no convolution"):
        snip(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), batch((4,)))


def test_a_batch_of_one_is_refused_by_batch_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(PruneError, match="more than one example"):
        snip(model, batch((4,), examples=1))


def test_a_loss_that_is_not_finite_is_refused():
    x, y = batch((4,), dtype=torch.float64)
    with pytest.raises(PruneError, match="finite"):
        grasp(tiny_net(), (x * float("inf"), y))


def test_magnitude_scores_are_absolute_weights():
    model = tiny_net()
    assert torch.equal(magnitude(model, batch((4,)))["1.weight"], model[1].weight.detach().abs())


def test_random_scores_depend_only_on_the_generator():
    first = random(tiny_net(), batch((4,)), torch.Generator().manual_seed(5))
    again = random(tiny_net(), batch((4,)), torch.Generator().manual_seed(5))
    other = random(tiny_net(), batch((4,)), torch.Generator().manual_seed(6))
    assert torch.equal(first["1.weight"], again["1.weight"])
    assert not torch.equal(first["1.weight"], other["1.weight"])
