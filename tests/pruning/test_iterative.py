import pytest
import torch
from torch import nn
from zoo import images, make

from alprune.errors import PruneError
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.magnitude import magnitude, uniform
from alprune.pruning.criteria.three_sp import three_sp
from alprune.pruning.graph import trace
from alprune.pruning.iterative import search_in_rounds
from alprune.pruning.plan import Target, search
from alprune.pruning.width_limits import Limits

BATCH = (images(8), torch.arange(8) % 5)


def amount(graph, keep, quantity):
    return {"flops": graph.macs, "params": graph.params, "channels": lambda k: int(k.sum())}[
        quantity
    ](keep)


@pytest.mark.parametrize("quantity", ["flops", "params", "channels"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_rounds_end_at_the_target_and_not_far_past_it(quantity, round_to):
    model = make("vgg")
    graph = trace(model, BATCH[0][:2])
    target = Target(quantity, 0.45, Limits(min_channels=2, round_to=round_to))
    plan = search_in_rounds(model, graph, BATCH, three_sp, target, ScoreOptions(), rounds=4)
    keep = plan.keep(graph)
    left = amount(graph, keep, quantity) / amount(graph, graph.all_kept(), quantity)
    assert left <= 0.55
    assert left > 0.55 - (0.12 if round_to == 1 else 0.35)
    assert all(len(kept) % round_to == 0 for kept in plan.kept.values())


def test_one_round_is_the_one_shot_search():
    model = make("option-a resnet")
    graph = trace(model, BATCH[0][:2])
    target = Target("flops", 0.5, Limits(min_channels=1))
    scores = three_sp(model, graph, BATCH, ScoreOptions())
    once = search_in_rounds(model, graph, BATCH, three_sp, target, ScoreOptions(), rounds=1)
    assert once == search(graph, scores, target)


def test_scores_that_do_not_change_give_the_same_plan_in_any_number_of_rounds():
    model = make("vgg")
    graph = trace(model, BATCH[0][:2])
    fixed = torch.rand(graph.channels, generator=torch.Generator().manual_seed(3))
    first_weight = next(iter(model.parameters()))
    with torch.no_grad():
        # Channels carry their score in their own norm's bias, so that it survives narrowing.
        biases = {"1": graph.groups[0], "5": graph.groups[1]}
        for name, group in biases.items():
            model.get_submodule(name).bias.copy_(fixed[group.channels])

    def carried(net, part, batch, options):
        scores = torch.zeros(part.channels)
        for name, group in biases.items():
            here = next(g for g in part.groups if g.name == group.name)
            scores[here.channels] = net.get_submodule(name).bias.detach()
        linear = next(g for g in part.groups if g.name not in {b.name for b in biases.values()})
        scores[linear.channels] = 2.0 - torch.arange(len(linear.channels)) * 1e-3
        return scores

    target = Target("channels", 0.4, Limits(min_channels=1))
    plans = [
        search_in_rounds(model, graph, BATCH, carried, target, ScoreOptions(), rounds=n).kept
        for n in (1, 3, 8)
    ]
    assert plans[0] == plans[1] == plans[2]
    assert next(iter(model.parameters())) is first_weight


def test_each_round_scores_what_the_rounds_before_left_on_the_exponential_schedule():
    model = make("mlp")
    graph = trace(model, BATCH[0][:2])
    sizes, batches = [], []

    def watching(net, part, batch, options):
        sizes.append(part.channels)
        batches.append(batch)
        assert net is model or sum(p.numel() for p in net.parameters()) < sum(
            p.numel() for p in model.parameters()
        )
        return magnitude(net, part, batch, options)

    other = (images(8, seed=2), BATCH[1])
    target = Target("channels", 0.75, Limits(min_channels=1))
    search_in_rounds(model, graph, [BATCH, other], watching, target, ScoreOptions(), rounds=4)
    whole = graph.channels
    assert sizes == [int(whole * 0.25 ** (k / 4)) for k in range(4)]
    assert [b is BATCH for b in batches] == [True, False, True, False]


def test_the_floor_holds_in_every_round_and_is_reported():
    model = make("vgg")
    graph = trace(model, BATCH[0][:2])
    weak = graph.groups[1]

    def scores(net, part, batch, options):
        found = torch.rand(part.channels, generator=options.generator)
        here = next(g for g in part.groups if g.name == weak.name)
        found[here.channels] -= 5
        return found

    options = ScoreOptions(generator=torch.Generator().manual_seed(0))
    target = Target("channels", 0.6, Limits(min_channels=3))
    plan = search_in_rounds(model, graph, BATCH, scores, target, options, rounds=5)
    assert len(plan.kept[weak.name]) == 3
    assert weak.name in plan.floored
    assert min(len(kept) for kept in plan.kept.values()) >= 3


@pytest.mark.parametrize(("limits", "left"), [(Limits(0), 8), (Limits(0, round_to=0), 16)])
def test_automatic_floors_and_multiples_are_those_of_the_widths_before_the_first_round(
    limits, left
):
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 128), nn.Tanh())
    model += nn.Sequential(nn.Linear(128, 32), nn.Tanh(), nn.Linear(32, 5))
    batch = (torch.randn(8, 6), BATCH[1])
    graph = trace(model, batch[0])
    wide = max(graph.groups, key=lambda group: len(group.channels)).name

    def wide_last(model, rest, batch, options):
        return torch.tensor([1.0 - (rest.groups[g].name == wide) for g in rest.group_of])

    target = Target("channels", 0.7, limits)
    plan = search_in_rounds(model, graph, batch, wide_last, target, ScoreOptions(), rounds=10)
    assert len(plan.kept[wide]) == left
    assert wide in plan.floored


def test_a_target_out_of_reach_names_the_round():
    model = make("mlp")
    graph = trace(model, BATCH[0][:2])
    target = Target("channels", 0.95, Limits(min_channels=4))
    with pytest.raises(PruneError, match=r"round 3 of 6 towards a channels reduction of 0\.95"):
        search_in_rounds(model, graph, BATCH, magnitude, target, ScoreOptions(), rounds=6)


def test_no_rounds_at_all_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = trace(model, torch.zeros(2, 4))
    with pytest.raises(PruneError, match="at least 1 round, got 0"):
        search_in_rounds(
            model, graph, BATCH, uniform, Target("flops", 0.5), ScoreOptions(), rounds=0
        )
