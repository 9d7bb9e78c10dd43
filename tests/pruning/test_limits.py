"""What the limits of single layers keep and remove, and how a wrong one is refused."""

import importlib.metadata
from collections import Counter

import pytest
import torch
from attentions import network
from test_methods import small_resnet
from torch import nn
from zoo import images

from alprune.errors import ConfigError, PruneError
from alprune.pruning import Latency, Limits, ScoreOptions, Target, prune, search, trace
from alprune.pruning import registry as methods
from alprune.pruning.layer_limits import floors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(24, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, x):
        x = self.body(self.stem(x).relu()).mean((2, 3))
        return self.head(self.hidden(x).relu())


BEFORE = {"stem": 16, "body.0": 32, "body.3": 24, "hidden": 40, "head": 10}


def batch():
    x = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(8) % 10


def widths(method="3sp", **options):
    torch.manual_seed(0)
    return prune(Net(), method, batch=batch(), **options).widths


@pytest.mark.parametrize("ignore", [["stem", "hidden"], "stem", ["body"], ["body.*"], ["*d*n"]])
def test_ignored_layers_keep_all_their_channels(ignore):
    found = widths(flops_reduction=0.3, ignore=ignore)
    patterns = [ignore] if isinstance(ignore, str) else ignore
    names = {"stem": ["stem"], "hidden": ["hidden"], "*d*n": ["hidden"]}
    kept = [name for p in patterns for name in names.get(p, ["body.0", "body.3"])]
    assert all(found[name] == BEFORE[name] for name in kept)
    assert found != BEFORE


def test_layers_to_ignore_may_be_given_as_modules():
    torch.manual_seed(0)
    model = Net()
    pruned = prune(model, batch=batch(), flops_reduction=0.3, ignore=[model.body[0], "stem"])
    assert pruned.widths["body.0"] == 32 and pruned.widths["stem"] == 16
    pruned = prune(model, batch=batch(), flops_reduction=0.3, ignore=model.body)
    assert [pruned.widths[name] for name in ("body.0", "body.3")] == [32, BEFORE["body.3"]]
    with pytest.raises(PruneError, match="Linear that is not a layer of this network"):
        prune(model, batch=batch(), ignore=[nn.Linear(3, 3)])


def test_a_layer_that_passes_channels_on_keeps_what_it_passes():
    assert widths(flops_reduction=0.3, ignore=["body.1"])["body.0"] == 32


def test_coupled_layers_are_kept_together():
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pruned = prune(small_resnet(), batch=(x, torch.arange(4)), ignore=["blocks.0.conv2"])
    assert pruned.widths["conv"] == pruned.widths["blocks.0.conv2"] == 16
    assert pruned.widths["blocks.0.conv1"] < 16


def test_reductions_by_layer_are_met_and_other_layers_left_alone():
    found = widths(layer_reductions={"body.0": 0.5, "hidden": 0.25})
    assert found == BEFORE | {"body.0": 16, "hidden": 30}
    later_entry_holds = widths(layer_reductions={"body": 0.5, "body.3": 0.25})
    assert later_entry_holds == BEFORE | {"body.0": 16, "body.3": 18}


def test_reductions_by_layer_and_a_target_are_both_met():
    found = widths(flops_reduction=0.5, layer_reductions={"body.0": 0.25})
    assert found["body.0"] == 24
    assert prune(Net(), batch=batch(), flops_reduction=0.5, layer_reductions={"body.0": 0.25}) \
        .flops_reduction >= 0.5  # fmt: skip


def test_reductions_by_layer_round_down():
    assert widths(layer_reductions={"hidden": 0.3}, round_to=8)["hidden"] == 24


def test_floors_by_layer_hold():
    free, held = (
        widths(flops_reduction=0.8),
        widths(flops_reduction=0.8, layer_floors={"body.0": 20}),
    )
    assert free["body.0"] < 20 <= held["body.0"]


def test_local_ranking_takes_the_same_share_of_every_layer():
    found = widths(channels_reduction=0.5, local=True)
    assert found == {"stem": 8, "body.0": 16, "body.3": 12, "hidden": 20, "head": 10}
    everywhere = widths(channels_reduction=0.5)
    assert everywhere != found and sum(everywhere.values()) == sum(found.values())
    once = Counter(widths("3sp-iterative", channels_reduction=0.5, local=True, rounds=2))
    assert sum((once - Counter(found)).values()) <= 4  # shares of narrower layers are rounded


def test_the_best_channels_of_a_layer_stay_whatever_the_ranking():
    graph = trace(Net(), batch()[0])
    scores = torch.rand(graph.channels, generator=torch.Generator().manual_seed(3))
    limits = Limits(local=True, layer_reductions={"body.3": 0.5})
    keep = search(graph, scores, Target("channels", 0.3, limits)).keep(graph)
    for group in graph.groups:
        own = scores[group.channels]
        assert own[keep[group.channels]].min() > own[~keep[group.channels]].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ["steem"]}, "ignore names 'steem'.* Did you mean 'stem'"),
        ({"layer_floors": {"conv*": 4}}, "layer_floors names 'conv\\*'"),
        ({"layer_reductions": {"head": 0.5}}, "'head', where no channel can be pruned .*output"),
        ({"layer_reductions": {"stem": 0.9}}, "would leave 1 of 16 channels in 'stem'"),
        ({"layer_reductions": {"stem": 0.5}, "ignore": ["stem"]}, "other limits keep 16"),
        ({"layer_reductions": {"stem": 1.0}}, "must be a share in \\[0, 1\\), got 1.0"),
        ({"layer_reductions": {"stem": "half"}}, "must be a share"),
        ({"layer_reductions": 0.5}, "must map layer names"),
        ({"layer_floors": {"stem": 2.5}}, "whole number"),
        ({"layer_floors": {"stem": -2}}, "must be at least 0"),
        ({"ignore": 3}, "ignore must be a list of layers"),
        ({"ignore": [3]}, "ignore must be a list of layers"),
        ({"ignore": ["stem", "body", "hidden"], "flops_reduction": 0.5}, "limits of single layers"),
        ({"method": "snip", "ignore": ["stem"]}, "only methods that score channels take it"),
        ({"method": "precrop", "local": True}, "only methods that score channels take it"),
        ({"method": "3sp-iterative", "layer_reductions": {"stem": 0.5}}, "score channels once"),
        ({"round_to": 1.5}, "round_to must be a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_limit_is_refused_with_the_reason(options, message):
    options = {"method": "3sp", "flops_reduction": None, **options}
    with pytest.raises(PruneError, match=message):
        prune(Net(), batch=batch(), **options)


@pytest.mark.parametrize("method", ["dense", "3sp", "snip"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": "a"}, "smoothing \\(lambda\\) must be a number, at least 0; got 'a'"),
        ({"smoothing": -0.1}, "smoothing \\(lambda\\) must be at least 0, got -0.1"),
        ({"temperature": -1}, "temperature must be more than 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be a number, more than 0; got nan"),
        ({"latency_batch": 0}, "latency_batch must be at least 1, got 0"),
        ({"latency_step_batch": 2.5}, "latency_step_batch must be a whole number, at least 1"),
        ({"latency_aware": "yes"}, "latency_aware must be True or False, got 'yes'"),
        ({"redraw_linear": 1}, "redraw_linear must be True or False, got 1"),
        ({"one_path": None}, "one_path must be True or False, got None"),
        ({"channel_cost": "mades"}, "unknown channel cost 'mades'. Did you mean 'made'"),
        ({"score_mode": "evil"}, "unknown score mode 'evil'. Did you mean 'eval'"),
        ({"normalised": "folow"}, "unknown treatment of normalised .* Did you mean 'follow'"),
        ({"logits": "logits"}, "logits must be a function .* got 'logits'"),
        ({"generator": 3}, "generator must be a torch.Generator, got 3"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_methods_that_do_not_use_it(method, options, message):
    with pytest.raises((PruneError, ConfigError), match=message):
        prune(Net(), method, batch=batch(), **options)


def test_options_may_be_given_by_name_or_in_records():
    by_name = widths("3sp-ca", smoothing=0.01, channel_cost="step", min_channels=2, round_to=2)
    scoring, limits = ScoreOptions(smoothing=0.01, channel_cost="step"), Limits(2, 2)
    assert widths("3sp-ca", scoring=scoring, limits=limits) == by_name
    assert widths("3sp-ca", scoring=scoring, limits=Limits(7, 2), min_channels=2) == by_name
    aware = widths(latency=Latency(batch=2), channels_reduction=0.2)
    assert aware == widths(latency_batch=2, channels_reduction=0.2)
    with pytest.raises(ConfigError, match="unknown option of prune .*'flops_reduction'"):
        widths(flop_reduction=0.1)
    with pytest.raises(ConfigError, match="unknown option of prune 'smoothng'.*'smoothing'"):
        widths(smoothng=0.1)


def last_channels_stay(model, graph, batch, options):
    return torch.arange(graph.channels, dtype=torch.float32)


def offered(monkeypatch, value):
    entry = importlib.metadata.EntryPoint("mine", value, methods.ENTRY_POINTS)
    monkeypatch.setattr("alprune.registry.entry_points", lambda group: [entry])


def test_an_installed_package_offers_criteria_by_name(monkeypatch):
    expected = widths(last_channels_stay, flops_reduction=0.3)
    offered(monkeypatch, f"{__name__}:last_channels_stay")
    assert widths("mine", flops_reduction=0.3) == expected
    assert "mine" in methods.summaries()
    with pytest.raises(ConfigError, match="Did you mean 'mine'"):
        widths("mien")


def test_a_criterion_that_cannot_be_loaded_names_its_package(monkeypatch):
    offered(monkeypatch, "no_such_module:criterion")
    with pytest.raises(ConfigError, match="'mine' of an installed package cannot be loaded from"):
        widths("mine")


class Beside(nn.Module):
    """Two layers whose outputs are read beside the input, which is never pruned."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(128, 64, 1), nn.Conv2d(128, 64, 1)
        self.join, self.head = nn.Conv2d(256, 32, 1), nn.Linear(32, 5)

    def forward(self, x):
        x = self.join(torch.cat([x, self.left(x), self.right(x)], 1))
        return self.head(x.mean((2, 3)))


def test_inputs_that_stay_need_no_channel_beside_them():
    graph = trace(Beside(), torch.zeros(2, 128, 2, 2))
    scores = torch.rand(graph.channels, generator=torch.Generator().manual_seed(0))
    floor = floors(graph, scores, Limits(min_channels=0))
    kept = {group.name: int(floor[group.channels].sum()) for group in graph.groups}
    assert kept == {"left": 4, "right": 4, "join": 4}  # 16 of the 256 inputs of join would be more


def test_pinned_outputs_count_towards_the_floor_of_their_layer_but_do_not_meet_it():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.head = nn.Conv2d(3, 33, 1), nn.Linear(33, 5)

        def forward(self, x):
            x = self.make(x)
            return self.head((x * x[:, :1].sigmoid()).mean((2, 3)))

    graph = trace(Gated(), torch.zeros(2, 3, 4, 4))
    [group] = graph.groups
    assert len(group.channels) == 32  # the gate is pinned
    floor = floors(graph, torch.rand(graph.channels), Limits(min_channels=8))
    assert int(floor.sum()) == 7


class Parts(nn.Module):
    """One layer makes what three others read apart."""

    def __init__(self):
        super().__init__()
        self.sizes = [8, 8, 8]
        self.make = nn.Conv2d(3, 24, 3, padding=1)
        self.alone = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.read = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        a, b, c = self.make(x).split(self.sizes, 1)
        x = torch.cat([self.alone(a) * b, c], 1)
        return self.head(self.read(x).relu().mean((2, 3)))


@pytest.mark.parametrize("reverse", [False, True])
def test_no_part_that_a_layer_reads_alone_is_emptied(reverse):
    def one_end_first(model, graph, batch, options):
        scores = torch.arange(graph.channels, dtype=torch.float32)
        return -scores if reverse else scores

    pruned = prune(Parts(), one_end_first, batch=batch(), channels_reduction=0.7, min_channels=1)
    assert pruned.model.alone.weight.shape[0] >= 1
    assert pruned.model.sizes[2] == (0 if reverse else 1)  # `read` has inputs beside it
    assert pruned.model(batch()[0]).shape == (8, 10)


def test_in_a_grid_of_heads_and_places_within_them_the_places_have_the_floor():
    graph = trace(network("grouped"), images())  # 2 heads of keys, of 4 places each
    best = floors(graph, torch.arange(graph.channels).float(), Limits(min_channels=3))
    kept = {len(g.channels): int(best[g.channels].sum()) for g in graph.groups}
    assert kept == {2: 1, 4: 3, 24: 3}
