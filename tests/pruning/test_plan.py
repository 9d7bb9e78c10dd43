import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from alprune.errors import PruneError
from alprune.pruning.graph import trace
from alprune.pruning.inputs import Part
from alprune.pruning.plan import Plan, Target, search
from alprune.pruning.width_limits import Limits


@pytest.fixture
def graph():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 5),
    )  # fmt: skip
    return trace(model, torch.zeros(2, 3, 4, 4))


def scores_of(graph, seed=0):
    return torch.rand(graph.channels, generator=torch.Generator().manual_seed(seed))


def all_kept(graph):
    return torch.ones(graph.channels, dtype=torch.bool)


@pytest.mark.parametrize("quantity", ["flops", "params", "channels"])
@pytest.mark.parametrize("reduction", [0.0, 0.2, 0.5, 0.7])
def test_the_plan_is_the_first_at_or_past_the_target(graph, quantity, reduction):
    amount = {"flops": graph.macs, "params": graph.params, "channels": lambda k: int(k.sum())}
    measure = amount[quantity]
    scores = scores_of(graph)
    keep = search(graph, scores, Target(quantity, reduction, Limits(min_channels=1))).keep(graph)
    goal = (1 - reduction) * measure(all_kept(graph))
    assert measure(keep) <= goal + 1e-6
    if not keep.all():
        last = torch.nonzero(~keep)[scores[~keep].argmax()]
        one_less = keep.clone()
        one_less[last] = True
        assert measure(one_less) > goal


def test_the_lowest_scores_leave_where_the_floor_does_not_bind(graph):
    scores = scores_of(graph)
    plan = search(graph, scores, Target("channels", 0.5, Limits(min_channels=1)))
    keep = plan.keep(graph)
    assert int((~keep).sum()) == 7
    if not plan.floored:
        assert scores[~keep].max() < scores[keep].min()


def test_the_floor_keeps_the_best_of_a_group_and_is_reported(graph):
    scores = scores_of(graph)
    weak = graph.groups[0]
    scores[weak.channels] -= 10
    plan = search(graph, scores, Target("channels", 0.4, Limits(min_channels=3)))
    assert len(plan.kept[weak.name]) == 3
    assert plan.floored == (weak.name,)
    best = scores[weak.channels].topk(3).indices.sort().values
    assert list(plan.kept[weak.name]) == best.tolist()


def test_what_the_user_keeps_or_sets_is_not_reported_as_the_floor(graph):
    scores = scores_of(graph)
    scores[graph.groups[0].channels] -= 10
    for chosen in ({"ignore": ("0",)}, {"layer_reductions": {"0": 0.5}}):
        plan = search(graph, scores, Target("channels", 0.3, Limits(min_channels=3, **chosen)))
        assert plan.floored == ()


@pytest.mark.parametrize("least", [3, 8])
def test_where_nothing_leaves_no_floor_is_reported(graph, least):
    plan = search(graph, scores_of(graph), Target("flops", 0.0, Limits(min_channels=least)))
    assert plan.keep(graph).all() and plan.floored == ()


def test_a_target_out_of_reach_says_how_far_it_goes(graph):
    with pytest.raises(PruneError, match=r"0\.9 is out of reach.*the most is 0\.\d+"):
        search(graph, scores_of(graph), Target("flops", 0.9, Limits(min_channels=4)))


def test_widths_are_rounded_up_to_the_multiple(graph):
    scores = scores_of(graph)
    plan = search(graph, scores, Target("flops", 0.5, Limits(min_channels=1, round_to=4)))
    sizes = [len(kept) for kept in plan.kept.values()]
    assert all(s % 4 == 0 or s == 6 for s in sizes)
    for group, kept in zip(graph.groups, plan.kept.values(), strict=True):
        best = scores[group.channels].topk(len(kept)).indices.sort().values
        assert list(kept) == best.tolist()
    assert graph.macs(plan.keep(graph)) <= 0.5 * graph.macs(all_kept(graph))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(graph, bad):
    scores = scores_of(graph)
    scores[2] = bad
    with pytest.raises(PruneError, match="1 of 14 channel scores are not finite"):
        search(graph, scores, Target("flops", 0.5))
    with pytest.raises(PruneError, match=r"must be \(14,\)"):
        search(graph, scores[1:], Target("flops", 0.5))


@pytest.mark.parametrize("reduction", [-0.1, 1.0, 8.0, float("nan")])
def test_a_reduction_outside_0_to_1_is_refused(reduction):
    with pytest.raises(PruneError, match="0.8 removes 80%"):
        Target("flops", reduction)


def test_a_plan_round_trips_as_json_and_refuses_another_network(graph):
    plan = search(graph, scores_of(graph), Target("flops", 0.5, Limits(min_channels=1)))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert torch.equal(again.keep(graph), plan.keep(graph))
    other = trace(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)), torch.zeros(2, 4))
    with pytest.raises(PruneError, match="another network"):
        plan.keep(other)


def test_a_plan_of_a_network_with_one_other_width_is_refused(graph):
    plan = search(graph, scores_of(graph), Target("flops", 0.5, Limits(min_channels=1)))
    name = graph.groups[1].name
    other = replace(plan, sizes=plan.sizes | {name: plan.sizes[name] + 1})
    with pytest.raises(PruneError, match=rf"groups and sizes differ, first \[\('{name}', 9\)\]"):
        other.keep(graph)


SOUND = {"kind": "channels", "kept": {"a": [0, 1]}, "sizes": {"a": 2}, "example_shape": [3, 4, 4],
         "floored": [], "layer_widths": {}, "sparsity": 0.0}  # fmt: skip


def test_what_every_plan_holds_is_enough():
    assert Plan.from_json(json.dumps(SOUND)) == Plan(
        "channels", (3, 4, 4), kept={"a": (0, 1)}, sizes={"a": 2}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"), ("[]", "list indices"), ("{}", "'sizes'"), ("null", "NoneType"),
        ("[" * 100_000, "RecursionError"),
        ("9" * 5000, "digits"),
        (" " * 2**24 + "{}", "16,777,218 characters, and no plan has more than 16,777,216"),
    ],
    ids=repr,
)  # fmt: skip
def test_text_that_is_no_plan_is_refused(text, message):
    with pytest.raises(PruneError, match=f"not a plan.*{message}"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": {"a": [5]}}, r"outside 0\.\.1"), ({"kept": {"a": [2]}}, r"outside 0\.\.1"),
        ({"kept": {"a": [1, 0]}}, "unsorted"), ({"kept": {"a": [1, 1]}}, "unsorted"),
        ({"kept": {"a": [-1]}}, "whole numbers from 0, got -1"),
        ({"kept": {"a": [True]}}, "whole numbers from 0, got True"),
        ({"kept": {"a": "01"}}, "must be a list"), ({"kept": {}}, "KeyError: 'a'"),
        ({"kept": {"a": [0], "b": [0]}}, "different groups"),
        ({"sizes": {"a": 2**31}}, "whole numbers from 0, got 2147483648"),
        ({"example_shape": [3, 0]}, "whole numbers from 1, got 0"),
        ({"example_shape": [1.5]}, "whole numbers from 1, got 1.5"),
        ({"example_shape": [3, 2**14, 2**14]}, "too large to build"),
        ({"layer_widths": {"0": [2**15, 2**15]}}, "would be 32768 x 32768: too large to build"),
        ({"layer_widths": {"0": [0, 2]}}, "whole numbers from 1, got 0"),
        ({"layer_widths": {"0": [1, 2, 3]}}, "too many values"),
        ({"sparsity": 1.5}, "got 1.5"), ({"sparsity": float("nan")}, "got nan"),
        ({"sparsity": True}, "got True"),
        ({"kind": "cut"}, "kind 'cut' is none of"), ({"kind": ["widths"]}, "is none of"),
        ({"floored": ["b"]}, "floored group 'b' is none of"),
        ({"normalised": "no"}, "normalised 'no' is none of"),
        ({"example_dtype": "object"}, "example_dtype 'object' is none of"),
        ({"inputs": [["x", [4], "float32"]]}, "do not make an example of shape"),
        ({"inputs": [["x.y", [48], "float32"]]}, "names of arguments"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_plan_with_one_impossible_entry_is_refused(changes, message):
    with pytest.raises(PruneError, match=message):
        Plan.from_json(json.dumps(SOUND | changes))


def test_every_field_of_a_plan_is_written_and_read():
    plan = Plan(
        "channels", (6,), {"a": (1,)}, {"a": 2}, ("a",), {"b": (1, 2)}, 0.5, "float64", "follow",
        (Part("x", (2,), "int64"), Part("y", (4,), "float32")),
    )  # fmt: skip
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_of_a_backbone_keeps_its_outputs_in_the_whole_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    whole = nn.Sequential(*body, nn.ReLU(), nn.Linear(6, 3))
    part = trace(body, torch.zeros(2, 4))
    keep = part.all_kept()
    keep[part.groups[0].channels[::2]] = False
    graph = trace(whole, torch.zeros(2, 4))
    kept = Plan.of(part, keep).keep(graph)
    assert [int(kept[group.channels].sum()) for group in graph.groups] == [4, 6]
