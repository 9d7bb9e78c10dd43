import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import ZOO, images, make, traced

from alprune.errors import PruneError
from alprune.pruning.graph import trace
from alprune.pruning.graph.rebase import narrow_graph, narrow_optimiser
from alprune.pruning.graph.surgery import masked, narrow, registered, silence


def most(graph, seed=0):
    """Keep a random part of every group, two channels at least."""
    draw = torch.rand(graph.channels, generator=torch.Generator().manual_seed(seed))
    keep = draw > 0.4
    for group in graph.groups:
        keep[group.channels[draw[group.channels].argsort(descending=True)[:2]]] = True
    return keep


# A grouped convolution can be cut in two ways; the tracer may prefer the other one afterwards.
@pytest.mark.parametrize("name", [name for name in ZOO if name != "resnext"])
def test_narrowed_graph_equals_the_traced_graph_of_the_narrowed_model(name):
    model, graph, x = make(name), traced(name, "pinned"), images()
    keep = most(graph)
    found = narrow_graph(graph, keep)
    small = narrow(model, graph, keep)
    expected = trace(small, x, normalised="pinned")
    assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
    assert [t.shape for t in found.tensors] == [t.shape for t in expected.tensors]
    assert [g.name for g in found.groups] == [g.name for g in expected.groups]
    assert found.channels == expected.channels
    assert torch.equal(found.group_of, expected.group_of)
    again = most(found, seed=1)
    assert found.macs(again) == expected.macs(again)
    assert found.params(again) == expected.params(again)
    assert found.widths(again) == expected.widths(again)
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        assert (one.roles, one.macs_per_element) == (other.roles, other.macs_per_element)
        assert all(torch.equal(one.axes[d], other.axes[d]) for d in other.axes)
    for one, other in ((found.sizes, expected.sizes), (found.makers, expected.makers)):
        assert one.keys() == other.keys()
        assert all(torch.equal(ids, other[key]) for key, ids in one.items())
    twice = [narrow(small, graph, again).state_dict().values() for graph in (found, expected)]
    assert all(torch.equal(one, other) for one, other in zip(*twice, strict=True))


@pytest.mark.parametrize("name", ZOO)
def test_narrowing_twice_equals_narrowing_once(name):
    model, graph, x = make(name), traced(name), images()
    keep = most(graph)
    found = narrow_graph(graph, keep)
    again = most(found, seed=1)
    small = narrow(narrow(model, graph, keep), found, again)
    twice = keep.clone()
    twice[keep] = again
    torch.testing.assert_close(small(x), narrow(model, graph, twice)(x))
    assert found.params(again) == graph.params(twice)
    assert found.macs(again) == graph.macs(twice)


def test_a_group_that_is_gone_is_left_out():
    graph = traced("sliced")  # its stem is pinned, "left" and "right" may go
    keep = graph.all_kept()
    keep[graph.groups[0].channels] = False
    found = narrow_graph(graph, keep)
    assert [g.name for g in found.groups] == [g.name for g in graph.groups[1:]]
    assert found.group_of.tolist() == (graph.group_of[keep] - 1).tolist()


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "fused sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5, centered=True),
}


def step(model, optimiser, seed):
    x = images(6, seed).to(next(model.parameters()).dtype)
    y = torch.randint(5, (6,), generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimiser.step()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "sgd") for name in ("projection resnet", "mobilenet", "lstm")),
        *(("shared weights", kind) for kind in OPTIMISERS),
    ],
)
def test_narrowed_training_equals_the_training_of_the_masked_model(name, kind):
    model, graph = make(name).double().train(), traced(name)
    keep = most(graph)
    optimiser = OPTIMISERS[kind](model.parameters())
    for seed in range(3):
        step(model, optimiser, seed)

    whole = masked(model, graph, keep)
    follower = OPTIMISERS[kind](whole.parameters())
    follower.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    small = narrow(model, graph, keep)
    narrow_optimiser(optimiser, model, small, graph, keep)
    for seed in range(3, 6):
        step(small, optimiser, seed)
        step(whole, follower, seed)
        silence(whole, graph, keep)
    expected = registered(narrow(whole, graph, keep))
    for key, value in registered(small).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


def test_cut_momentum_has_the_strides_of_its_parameter():
    model = make("vgg").train().to(memory_format=torch.channels_last)
    graph = traced("vgg")
    keep = most(graph)
    optimiser = OPTIMISERS["fused sgd"](model.parameters())
    step(model, optimiser, 0)
    small = narrow(model, graph, keep)
    narrow_optimiser(optimiser, model, small, graph, keep)
    for parameter in small.parameters():
        buffer = optimiser.state[parameter]["momentum_buffer"]
        assert buffer.shape == parameter.shape
        assert buffer.stride() == parameter.stride()
        assert not buffer.requires_grad


def test_groups_schedulers_and_foreign_parameters_survive():
    model, loose = make("mlp").train(), nn.Parameter(torch.ones(3))
    graph = traced("mlp")
    keep = most(graph)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.1}, {"params": [*others, loose]}],
        lr=1.0,
        momentum=0.9,
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5)
    (loose.sum() + model(images(4)).sum()).backward()
    optimiser.step()
    small = narrow(model, graph, keep)
    narrow_optimiser(optimiser, model, small, graph, keep)
    schedule.step()
    assert [g["lr"] for g in optimiser.param_groups] == [0.5, 0.5]
    assert optimiser.param_groups[0]["weight_decay"] == 0.1
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert held[-1] == id(loose)
    assert set(held) == {id(p) for p in small.parameters()} | {id(loose)}
    assert optimiser.state[loose]["momentum_buffer"].tolist() == [1, 1, 1]
    assert len(optimiser.state) == len(held)


def test_what_does_not_belong_together_is_refused_and_left_alone():
    model, other = make("mlp"), make("mlp", seed=1)
    graph = traced("mlp")
    keep = most(graph)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    before = [id(p) for p in optimiser.param_groups[0]["params"]]
    with pytest.raises(PruneError, match="no parameter of the model"):
        narrow_optimiser(optimiser, other, narrow(other, graph, keep), graph, keep)
    with pytest.raises(PruneError, match="should have shape"):
        narrow_optimiser(optimiser, model, model, graph, keep)
    assert [id(p) for p in optimiser.param_groups[0]["params"]] == before


def test_memory_of_another_shape_is_refused():
    model = make("mlp").train()
    graph = traced("mlp")
    keep = most(graph)
    optimiser = torch.optim.Adafactor(model.parameters())
    step(model, optimiser, 0)
    with pytest.raises(PruneError, match="cannot be narrowed"):
        narrow_optimiser(optimiser, model, narrow(model, graph, keep), graph, keep)
