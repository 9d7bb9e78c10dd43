"""What pruning makes of branching forwards, wrappers, odd inputs and criteria that fail."""

import collections
import copy
import functools
import importlib
import types

import pytest
import torch
import torch.nn.functional as F
from test_methods import batch_of, small_vgg
from torch import nn

from alprune.errors import AlpruneError, ConfigError, ModelError, PruneError
from alprune.pruning import METHODS, Plan, prune, rebuild, trace
from alprune.pruning.precrop.allocate import precrop
from alprune.pruning.unstructured.masks import apply_masks, weight_masks
from alprune.pruning.unstructured.scores import magnitude

SCORED = ["3sp", "3sp-iterative", "taylor", "structured-grasp", "snip", "grasp"]


def on_mean(self, h):
    return h + F.relu(self.b(h)) if h.mean() > 100 else h


def on_item(self, h):
    return h + F.relu(self.b(h)) if h.sum().item() > 1e9 else h


def by_rows(self, h):
    chosen = (h > 1e9).flatten(1).any(1)
    rows = h[chosen]
    return h + F.relu(self.b(rows)).sum() if rows.shape[0] else h


def on_shape(self, h):
    return h + F.relu(self.b(h)) if h.shape[-1] > 1000 else h


class Branching(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        h = F.relu(self.c(self.step(self, F.relu(self.a(x)))))
        return self.head(h.mean((2, 3)))


@pytest.mark.parametrize("step", [on_mean, on_item])
def test_a_forward_that_branches_on_values_of_its_input_is_refused(step):
    with pytest.raises(ModelError, match=r"Branching's forward reads values.*torch\.where"):
        prune(Branching(step), "3sp", batch=batch_of())


def test_routing_that_skips_a_layer_on_the_example_is_refused():
    with pytest.raises(ModelError, match="and b did not run on the example"):
        prune(Branching(by_rows), "3sp", batch=batch_of())


def test_a_layer_that_never_ran_is_reported_and_left_whole():
    torch.manual_seed(0)
    model = Branching(on_shape)
    model.unused = nn.Parameter(torch.ones(3))
    pruned = prune(model, "3sp", batch=batch_of(), min_channels=2)
    assert "b: never ran on the example" in pruned.pinned
    assert "Branching: never ran on the example" in pruned.pinned  # parameters of its own
    assert pruned.model.b.weight.shape == model.b.weight.shape
    assert pruned.flops_reduction >= 0.5


def test_a_logging_hook_on_a_layer_does_not_count_as_a_branch():
    model, seen = small_vgg(), []
    model[0].register_forward_hook(lambda *args: seen.append(args[-1].mean().item()))
    assert trace(model, batch_of()[0]).channels and seen


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


def test_synflow_masks_a_network_of_integer_inputs():
    tokens = torch.arange(40).view(8, 5) % 20
    pruned = prune(Reader(), "synflow", batch=(tokens, torch.arange(8) % 3), params_reduction=0.5)
    assert pruned.plan.sparsity == 0.5
    assert pruned.model(tokens).shape == (8, 3)


def test_a_network_of_integer_inputs_is_rebuilt_from_its_plan():
    tokens = torch.arange(40).view(8, 5) % 20
    pruned = prune(Reader(), "3sp", batch=(tokens, torch.arange(8) % 3), flops_reduction=0.4)
    plan = Plan.from_json(pruned.plan.to_json())
    assert plan.example_dtype == "int64"
    again = rebuild(Reader(), plan, pruned.model.state_dict())
    assert torch.equal(again(tokens), pruned.model(tokens))


def test_a_plan_of_an_unknown_dtype_is_refused():
    plan = prune(small_vgg(), "3sp", batch=batch_of()).plan
    with pytest.raises(PruneError, match="example_dtype"):
        Plan.from_json(plan.to_json().replace('"float32"', '"nn"'))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b, self.c = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.c.weight = self.b.weight
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))


@pytest.mark.parametrize("name", ["precrop", "preconfig"])
def test_new_widths_refuse_weights_that_layers_share(name):
    with pytest.raises(PruneError, match="'b.weight' and 'c.weight' are one shared tensor"):
        prune(Tied(), name, batch=batch_of())


def test_shared_weights_stay_shared_under_masks_and_in_surgery():
    model = Tied()
    masked = apply_masks(model, weight_masks(magnitude(model, batch_of()), 0.5))
    assert masked.b.parametrizations.weight.original is masked.c.parametrizations.weight.original
    F.cross_entropy(masked(batch_of()[0]), batch_of()[1]).backward()
    torch.optim.SGD(masked.parameters(), 0.1).step()
    assert torch.equal(masked.b.weight, masked.c.weight)
    pruned = prune(model, "3sp", batch=batch_of(), flops_reduction=0.3)
    assert pruned.model.b.weight is pruned.model.c.weight


def test_new_widths_that_miss_what_they_promise_are_refused(monkeypatch):
    miscounted = precrop(small_vgg(), batch_of()[0], params_reduction=0.2)
    methods = importlib.import_module("alprune.pruning.methods")  # alprune.pruning is the function
    monkeypatch.setattr(methods, "precrop", lambda *args, **options: miscounted)
    with pytest.raises(PruneError, match=r"reduces params by 0\.2\d+, not by 0\.6"):
        prune(small_vgg(), "precrop-params", batch=batch_of(), params_reduction=0.6)


@pytest.mark.parametrize("name", ["precrop", "preconfig"])
def test_new_widths_are_multiples_of_round_to(name):
    pruned = prune(small_vgg(), name, batch=batch_of(), round_to=8)
    assert all(width % 8 == 0 for layer, width in pruned.widths.items() if layer != "11")
    for quantity, share in METHODS[name].reductions.items():
        reached = {"flops": pruned.flops_reduction, "params": pruned.params_reduction}
        assert reached[quantity] >= share


def test_a_rounding_floor_is_met_from_above():
    found = precrop(small_vgg(), batch_of()[0], flops_reduction=0.8, min_channels=5, round_to=4)
    assert min(outputs for name, (_, outputs) in found.widths.items() if name != "11") == 8


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("snip", {"round_to": 8}),
        ("snip", {"rounds": 3}),
        ("3sp", {"rounds": 3}),
        ("precrop", {"rounds": 3}),
        ("dense", {"latency_aware": True}),
        ("precrop", {"latency_aware": True}),
        ("synflow", {"latency_aware": True}),
        ("3sp-iterative", {"latency_aware": True}),
    ],
)
def test_an_option_that_a_method_would_ignore_is_refused(name, option):
    with pytest.raises(PruneError, match=f"{next(iter(option))} is .*does not use it"):
        prune(small_vgg(), name, batch=batch_of(), **option)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.5, batch_first=True)
        self.rnn = nn.LSTM(16, 16, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.dropout(F.relu(self.stem(x)), 0.5, self.training).flatten(2).mT
        x = x + F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 * self.training)
        return self.head(self.rnn(self.layer(x))[0][:, -1])


@pytest.mark.parametrize("name", SCORED)
def test_dropout_of_every_kind_is_off_while_scoring(name):
    model, state = Dropping(), torch.random.get_rng_state()
    quantity = "params" if name in ("snip", "grasp") else "flops"
    reductions = {f"{quantity}_reduction": 0.4}
    first = prune(model, name, batch=batch_of(), min_channels=1, **reductions)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    second = prune(model, name, batch=batch_of(), min_channels=1, **reductions)
    assert first.plan == second.plan
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert model.rnn.dropout == model.layer.self_attn.dropout == 0.5


class Indexed(nn.Module):
    """A bias per position, looked up by a table of indices that is a parameter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)
        self.bias = nn.Parameter(torch.full((5,), 0.1))
        self.places = nn.Parameter(torch.arange(4) % 3, requires_grad=False)

    def forward(self, x):
        return self.head(F.relu(self.stem(x) + self.bias[self.places].sum()).mean((2, 3)))


@pytest.mark.parametrize("name", [*SCORED, "synflow"])
def test_a_parameter_of_whole_numbers_is_left_as_it_is(name):
    model = Indexed()
    quantity = "params" if name in ("snip", "grasp", "synflow") else "flops"
    pruned = prune(model, name, batch=batch_of(), min_channels=1, **{f"{quantity}_reduction": 0.4})
    for network in (model, pruned.model):
        assert network.places.tolist() == [0, 1, 2, 0] and not network.places.requires_grad


@functools.cache
def plain(name):
    """Prune the plain network once; the tests compare with it and leave it as it is."""
    return prune(small_vgg(), name, batch=batch_of())


@pytest.mark.parametrize("name", ["3sp", "snip", "taylor", "synflow", "precrop"])
def test_a_wrapped_network_is_pruned_as_the_one_inside(name):
    model = small_vgg()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        pruned = prune(wrapped, name, batch=batch_of())
        assert pruned.plan == plain(name).plan
        state = pruned.model.state_dict()
        again = rebuild(wrapped, pruned.plan, state).state_dict()
        assert all(torch.equal(again.pop(key), value) for key, value in state.items()) and not again


def test_masks_of_another_network_are_refused():
    masked = plain("snip")
    with pytest.raises(PruneError, match="the state dict belongs to another network"):
        rebuild(nn.Sequential(small_vgg()), masked.plan, masked.model.state_dict())


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("3sp", torch.no_grad),
        *((name, torch.inference_mode) for name in ("3sp", "grasp", "synflow", "precrop")),
    ],
)
def test_pruning_works_where_gradients_are_off(name, context):
    model = small_vgg()
    with context():
        pruned = prune(model, name, batch=batch_of())
    assert pruned.plan == plain(name).plan
    F.cross_entropy(pruned.model(batch_of()[0]), batch_of()[1]).backward()


class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = small_vgg(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    "name",
    [
        *("3sp", "synflow", "preconfig"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("precrop", *SCORED[1:])),
    ],
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, y),
        lambda y: {"logits": y, "features": y},
        lambda y: types.SimpleNamespace(logits=y),
        lambda y: collections.namedtuple("Outputs", "logits aux")(y, y),
    ],
    ids=["tuple", "dict", "object", "named tuple"],
)
def test_logits_are_found_in_what_a_network_returns(name, wrap):
    pruned = prune(Returning(wrap), name, batch=batch_of())
    assert list(pruned.widths.values()) == list(plain(name).widths.values())
    inside = pruned.model.model if name.startswith("pre") else pruned.model
    assert inside.net[-1].out_features == 10


@pytest.mark.parametrize("name", [*SCORED, "synflow"])
def test_a_function_finds_the_logits_where_no_name_says_so(name):
    model = Returning(lambda y: {"aux": y.mean(1), "scores": y})
    pruned = prune(model, name, batch=batch_of(), logits=lambda out: out["scores"])
    assert list(pruned.widths.values()) == list(plain(name).widths.values())
    with pytest.raises(PruneError, match="function given as logits"):
        prune(model, name, batch=batch_of(), logits=lambda out: out["missing"])


@pytest.mark.parametrize("name", [*SCORED, "synflow"])
@pytest.mark.parametrize("wrap", [lambda y: {"a": y, "b": y}, lambda y: (y[..., None], y)])
def test_outputs_without_logits_are_refused(name, wrap):
    with pytest.raises(PruneError, match=r"returned a (tuple|dict).*scores need logits"):
        prune(Returning(wrap), name, batch=batch_of())


def test_dense_refuses_the_reductions_of_single_layers():
    with pytest.raises(PruneError, match="layer_reductions is .* does not use it"):
        prune(small_vgg(), "dense", batch=batch_of(), layer_reductions={"0": 0.5})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named_before_anything_runs(bad):
    x, y = batch_of()
    x[0, 0, 0, 0] = bad
    with pytest.raises(PruneError, match="1 of 9216 numbers in the pruning batch's inputs"):
        prune(small_vgg(), "3sp", batch=(x, y))
    model = small_vgg()
    with torch.no_grad():
        model[4].weight[0, 0] = bad
    with pytest.raises(PruneError, match=r"'4\.weight' holds numbers that are not finite"):
        prune(model, "3sp", batch=batch_of())


def returns_nothing(model, graph, batch, options):
    return None


def fails(model, graph, batch, options):
    raise KeyError("oh")


def takes_too_little(model):
    return torch.ones(3)


def misses_one(model, graph, batch, options):
    return torch.ones(graph.channels - 1)


@pytest.mark.parametrize("criterion", [returns_nothing, fails, takes_too_little, misses_one])
def test_a_criterion_that_does_not_work_is_named(criterion):
    with pytest.raises(PruneError, match=f"criterion '{criterion.__name__}'"):
        prune(small_vgg(), criterion, batch=batch_of())


@pytest.mark.parametrize(
    "options",
    [
        {"batch": None},
        {"batch": 3},
        {"batch": [None]},
        {"model": nn.Linear},
        {"model": "vgg19"},
        {"flops_reduction": "0.5"},
        {"min_channels": 2.5},
        {"local": "yes"},
        {"one_path": 1},
        {"limits": {"min_channels": 2}},
        {"tracing": 3},
        {"rules": [1]},
        {"rules": {nn.ReLU: 3}},
        {"rules": {int: print}},
        {"batch": ({1: torch.zeros(2, 3, 16, 16)}, torch.arange(2))},
        {"round_to": "8"},
        {"init": "bogus"},
    ],
)
@pytest.mark.parametrize("method", ["3sp", "precrop-flops"])
def test_arguments_of_the_wrong_kind_are_refused_as_such(options, method):
    with pytest.raises(AlpruneError) as caught:
        prune(**{"model": small_vgg(), "method": method, "batch": batch_of(), **options})
    assert isinstance(caught.value, ConfigError) == ("init" in options)


def test_a_target_out_of_reach_names_the_rounding_that_is_in_the_way():
    with pytest.raises(PruneError, match=r"lower round_to \(now 16\) or min_channels \(now 1\)"):
        prune(small_vgg(), batch=batch_of(), flops_reduction=0.95, min_channels=1, round_to=16)


def test_frozen_weights_are_not_drawn_anew():
    model = small_vgg()
    model[4].weight.requires_grad_(False)
    inherited, fresh = (
        prune(copy.deepcopy(model), "3sp", batch=batch_of(), after=after).model
        for after in ("inherit", "reinit")
    )
    assert torch.equal(fresh[4].weight, inherited[4].weight)
    assert not torch.equal(fresh[0].weight, inherited[0].weight)


def test_every_treatment_works_on_new_widths():
    drawn, fresh, scaled = (
        prune(small_vgg(), "precrop", batch=batch_of(), after=after).model.model[4].weight
        for after in ("inherit", "reinit", "rescale")
    )
    torch.testing.assert_close(scaled, drawn * (32 / len(drawn)) ** 0.5)
    assert fresh.isfinite().all() and not torch.equal(fresh, drawn)
