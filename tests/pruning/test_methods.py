"""What every entry of METHODS must do, and what `prune` refuses."""

import copy
import functools

import pytest
import torch
from torch import nn

import alprune
from alprune import models
from alprune.errors import ConfigError, PruneError
from alprune.models import cost
from alprune.models.resnet import PaddedResNet
from alprune.pruning import METHODS, Plan, prune, rebuild
from alprune.pruning.reinit import rescale
from alprune.pruning.unstructured.masks import maskable_weights

LEARNERS = {
    "plain": lambda: small_vgg(),
    "residual": lambda: small_resnet(),
}
PLAIN_OR_SLOW = ["plain", pytest.param("residual", marks=pytest.mark.slow)]


BEFORE_TRAINING = [name for name, method in METHODS.items() if not method.early]


def small_vgg():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 40), nn.ReLU(), nn.Linear(40, 10),
    )  # fmt: skip


def small_resnet():
    """ResNet-20 with one block for each stage instead of three."""
    model = PaddedResNet(3, 10, width=16, blocks_per_stage=1)
    models.he_normal_(model, torch.Generator().manual_seed(0))
    return model


def batch_of(b=12, size=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(b, 3, size, size, generator=generator)
    return x, torch.randint(10, (b,), generator=generator)


def pruned_by(name, learner="plain", **options):
    model = LEARNERS[learner]()
    generator = torch.Generator().manual_seed(2)
    return model, prune(model, name, batch=batch_of(), generator=generator, **options)


@functools.cache
def once(name, learner):
    """Prune once for several tests, which leave both networks as they are."""
    return pruned_by(name, learner, min_channels=2)


@pytest.mark.parametrize("learner", PLAIN_OR_SLOW)
@pytest.mark.parametrize("name", BEFORE_TRAINING)
def test_every_method_prunes_and_can_be_rebuilt(name, learner):
    _, pruned = once(name, learner)
    small, (x, y) = copy.deepcopy(pruned.model), batch_of()
    nn.functional.cross_entropy(small(x), y).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in small.parameters())
    plan = Plan.from_json(pruned.plan.to_json())
    assert plan == pruned.plan
    again = rebuild(LEARNERS[learner](), plan, small.state_dict())
    assert torch.allclose(again.eval()(x), small.eval()(x), atol=1e-6)


@pytest.mark.parametrize("learner", PLAIN_OR_SLOW)
@pytest.mark.parametrize("name", BEFORE_TRAINING)
def test_every_method_leaves_the_model_alone_and_repeats_by_generator(name, learner):
    _, first = once(name, learner)
    model = LEARNERS[learner]()
    before = copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(2)
    runs = [first, prune(model, name, batch=batch_of(), generator=generator, min_channels=2)]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert runs[0].plan == runs[1].plan
    pairs = zip(*(run.model.state_dict().values() for run in runs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", [n for n in BEFORE_TRAINING if n != "dense"])
def test_the_default_reduction_is_met_and_counted_right(name, learner):
    model, pruned = once(name, learner)
    entry = METHODS[name]
    example = batch_of()[0][:1]
    assert pruned.macs_before == cost.cost(model, example).macs
    assert pruned.macs_after == cost.cost(pruned.model, example).macs
    if not entry.saves_time:
        assert pruned.flops_reduction == 0
        assert pruned.plan.sparsity == entry.reductions["params"]
        return
    reached = {"flops": pruned.flops_reduction, "params": pruned.params_reduction}
    for quantity, reduction in entry.reductions.items():
        assert reached[quantity] >= reduction - 1e-9


def test_weights_are_inherited_drawn_anew_or_rescaled():
    model, inherited = pruned_by("3sp")
    _, rescaled = pruned_by("3sp", after="rescale")
    _, fresh = pruned_by("3sp", after="reinit")
    kept = list(inherited.plan.kept["0"])
    assert torch.equal(inherited.model[0].weight, model[0].weight[kept])
    ratio = (24 / len(kept)) ** 0.5
    assert torch.allclose(rescaled.model[0].weight, inherited.model[0].weight * ratio)
    assert torch.equal(rescaled.model[1].weight, inherited.model[1].weight)
    up = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 5, 1), nn.Flatten())
    up.append(nn.Linear(5, 4))
    batch, options = (torch.randn(4, 3, 1, 1), torch.arange(4)), {"ignore": ["1"]}
    narrow = prune(up, "uniform", batch=batch, channels_reduction=0.3, after="rescale", **options)
    kept = list(narrow.plan.kept["0"])
    assert len(kept) < 8  # its inputs; its outputs are all there, so it keeps its scale
    assert torch.equal(narrow.model[1].weight, up[1].weight[kept])
    fewer, more = nn.ConvTranspose2d(4, 4, 1, groups=4), nn.ConvTranspose2d(8, 8, 1, groups=8)
    before = fewer.weight.detach().clone()
    rescale(fewer, more, torch.Generator(), "he")  # whole groups have left
    torch.testing.assert_close(fewer.weight, before * 2**0.5)
    last = fresh.model[9].weight  # linear of many inputs: the spread of its draw is known
    assert last.std().item() == pytest.approx((2 / last.shape[1]) ** 0.5, rel=0.15)
    assert torch.equal(fresh.model[9].bias, torch.zeros_like(fresh.model[9].bias))


@pytest.mark.parametrize("name", ["snip", "random"])
def test_masked_weights_are_inherited_or_fresh(name):
    model, inherited = pruned_by(name)
    _, fresh = pruned_by(name, after="reinit")
    kept, drawn = maskable_weights(inherited.model), maskable_weights(fresh.model)
    for key, weight in kept.items():
        assert torch.equal(weight != 0, drawn[key] != 0)
        assert torch.equal(weight, model.get_parameter(key) * (weight != 0))
        assert not torch.equal(weight, drawn[key])


def test_grasp_takes_its_own_options_and_other_masks_do_not():
    _, plain = pruned_by("grasp")
    _, redrawn = pruned_by("grasp", redraw_linear=True)
    _, cooler = pruned_by("grasp", temperature=1.0)
    first = maskable_weights(plain.model)["0.weight"] != 0
    for other in (redrawn, cooler):
        assert not torch.equal(maskable_weights(other.model)["0.weight"] != 0, first)
    with pytest.raises(PruneError, match="redraw_linear is True.*only grasp takes it"):
        pruned_by("snip", redraw_linear=True)


def test_the_score_mode_reaches_every_criterion_that_looks_at_data():
    for name in ("3sp", "snip", "taylor"):
        _, train = pruned_by(name)
        _, evaluated = pruned_by(name, score_mode="eval")
        pairs = zip(train.model.parameters(), evaluated.model.parameters(), strict=True)
        assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ConfigError, match="unknown score mode 'evil'. Did you mean 'eval'"):
        pruned_by("3sp", score_mode="evil")


def test_your_own_criterion_decides():
    def last_channels_stay(model, graph, batch, options):
        return torch.arange(graph.channels, dtype=torch.float32)

    model = small_vgg()
    pruned = prune(model, last_channels_stay, batch=batch_of(), flops_reduction=0.3)
    assert pruned.plan.kept["9"] == tuple(range(40))
    assert len(pruned.plan.kept["0"]) < 24
    named = prune(model, "own_criterion:keep_last", batch=batch_of(), flops_reduction=0.3)
    assert named.plan == pruned.plan


def test_pruning_twice_works():
    _, once = pruned_by("3sp", flops_reduction=0.3)
    twice = prune(once.model, "3sp", batch=batch_of(), flops_reduction=0.3)
    assert twice.macs_before == once.macs_after
    assert twice.flops_reduction >= 0.3


def test_precrop_takes_two_limits():
    _, pruned = pruned_by("precrop", flops_reduction=0.3, params_reduction=0.6)
    assert pruned.flops_reduction >= 0.3 and pruned.params_reduction >= 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dense", "flops_reduction": 0.5}, "'dense' prunes nothing"),
        ({"method": "3sp", "flops_reduction": 0.5, "params_reduction": 0.5}, "takes one"),
        ({"method": "snip", "flops_reduction": 0.5}, "a weight mask removes no flops"),
        ({"method": "epi"}, "prunes during training"),
        ({"method": "precrop-flops", "params_reduction": 0.5}, "limits flops, not params"),
        ({"method": "3sp", "flops_reduction": 1.0}, "less than 1"),
        ({"method": "3sp", "min_channels": -1}, "min_channels must be at least 0"),
        ({"method": "3sp-ca", "smoothing": -1.0}, "smoothing"),
    ],
)
def test_an_impossible_request_is_refused(options, message):
    with pytest.raises(PruneError, match=message):
        prune(small_vgg(), batch=batch_of(), **options)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean '3sp'"):
        prune(small_vgg(), "3ps", batch=batch_of())
    with pytest.raises(ConfigError, match="Did you mean 'reinit'"):
        prune(small_vgg(), "3sp", batch=batch_of(), after="re-init")


def test_a_network_without_prunable_channels_is_refused():
    with pytest.raises(PruneError, match="no channels that can be pruned"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), "3sp", batch=batch_of())


@pytest.mark.parametrize("b", [0, 1])
def test_a_batch_that_is_too_small_is_refused(b):
    with pytest.raises(PruneError, match="b >= 2"):
        prune(small_vgg(), "3sp", batch=batch_of(b))


@pytest.mark.slow
def test_vgg19_prunes_to_the_sizes_measured_for_table_2():
    """87 MiB of parameters dense, and the reductions of table 2 to within one channel."""
    model = models.build("vgg19", 10, (3, 32, 32), seed=0)
    models.INITS["default"](model, torch.Generator().manual_seed(0))
    batch = batch_of(32, 32)
    dense = alprune.prune(model, "dense", batch=batch)
    assert dense.params_after == 22_663_498
    assert dense.macs_after == 400_757_760
    for name, reduction in (("3sp", 0.5), ("3sp-ca", 0.8)):
        pruned = alprune.prune(model, name, batch=batch)
        assert reduction <= pruned.flops_reduction < reduction + 0.002
        assert not pruned.plan.floored


@pytest.mark.parametrize("name", ["3sp", "snip"])
def test_several_batches_are_accumulated(name):
    x, y = batch_of(24)
    halves = [(x[:12], y[:12]), (x[12:], y[12:])]
    model = small_vgg()
    both, first, second = (prune(model, name, batch=b) for b in (halves, *halves))
    if name == "3sp":
        assert both.plan != first.plan and both.plan != second.plan
        return
    masks = [{n: w != 0 for n, w in maskable_weights(p.model).items()} for p in (both, first)]
    masks.append({n: w != 0 for n, w in maskable_weights(second.model).items()})
    assert all(any((masks[0][n] != other[n]).any() for n in other) for other in masks[1:])
    gradients = {}
    for inputs, labels in halves:
        loss = nn.functional.cross_entropy(model.train()(inputs), labels)
        names = list(masks[0])
        found = torch.autograd.grad(loss, [model.get_parameter(n) for n in names])
        for n, gradient in zip(names, found, strict=True):
            gradients[n] = gradients.get(n, 0) + gradient
    scores = {n: (model.get_parameter(n).detach() * g).abs() for n, g in gradients.items()}
    least = min(float(score[masks[0][n]].min()) for n, score in scores.items())
    assert all(bool((score[~masks[0][n]] <= least * 1.001).all()) for n, score in scores.items())


@pytest.mark.parametrize("batch", [[], [(torch.zeros(4, 3, 8, 8),)], (torch.zeros(4, 3), "a")])
def test_what_is_no_batch_is_refused(batch):
    with pytest.raises(PruneError, match="or several such pairs"):
        prune(small_vgg(), "3sp", batch=batch)
