"""Forwards that take another path at some widths; networks that cannot be scored as they are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alprune
from alprune.errors import AlpruneError
from alprune.pruning import Plan, masked, narrow, rebuild, trace
from alprune.pruning.graph.verify import faults


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 5


class Convs(nn.Module):
    """Three convolutions and a pooled head; subclasses say what lies between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (nn.Conv2d(i, 16, 3, padding=1) for i in (3, 16))
        self.c, self.head = nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 5)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class AddsWhereWidthsAreEqual(Convs):
    """By chance, pruning could make the widths of the last convolution equal."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        for layer in (self.b, self.c):
            y = F.relu(layer(x))
            x = x + y if layer.in_channels == layer.out_channels else y
        return x


class PoolsWideLayers(Convs):
    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        x = F.max_pool2d(x, 2) if x.shape[1] > 7 else F.avg_pool2d(x, 2)
        return F.relu(self.c(x))


def to_widths(graph: alprune.pruning.ChannelGraph, **widths: int) -> Tensor:
    keep = graph.all_kept()
    for group in graph.groups:
        keep[group.channels[widths.get(group.name, len(group.channels)) :]] = False
    return keep


@pytest.mark.parametrize(
    ("kind", "widths", "at_fault"),
    [
        (AddsWhereWidthsAreEqual, {"a": 9, "c": 9}, {"c"}),
        (AddsWhereWidthsAreEqual, {"a": 9, "c": 10}, set()),
        (PoolsWideLayers, {"a": 2, "b": 7}, {"b"}),
        (PoolsWideLayers, {"a": 2, "b": 8}, set()),
    ],
)
def test_a_plan_is_tried_at_its_own_widths(
    kind: type[Convs], widths: dict[str, int], at_fault: set[str]
) -> None:
    model, (x, _) = kind(), batch()
    graph = trace(model, x)
    found = faults(model, x, graph, to_widths(graph, **widths))
    assert {graph.groups[group].name for group in found} == at_fault


ITERATIVE = pytest.param("3sp-iterative", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", ["3sp", "magnitude", ITERATIVE])
@pytest.mark.parametrize("kind", [AddsWhereWidthsAreEqual, PoolsWideLayers])
def test_what_is_pruned_takes_the_path_of_the_whole_network(kind: type[Convs], method: str) -> None:
    for share in (0.3, 0.5, 0.7):
        model, (x, y) = kind(), batch()
        pruned = alprune.prune(model, method, batch=(x, y), flops_reduction=share, min_channels=1)
        assert pruned.flops_reduction >= share
        plan = Plan.from_json(pruned.plan.to_json())
        again = rebuild(kind(), plan, pruned.model.state_dict()).eval()
        graph = trace(model, x)
        keep = pruned.plan.keep(graph)
        for small in (again, narrow(model, graph, keep).eval(), pruned.model.eval()):
            torch.testing.assert_close(small(x), masked(model, graph, keep).eval()(x))


def test_a_layer_that_stays_for_the_path_is_reported() -> None:
    def by_place(model, graph, batch, options) -> Tensor:  # leaves 8 of 16 and of 24 channels
        scores = torch.ones(graph.channels)
        for group in graph.groups:
            scores[group.channels[8:]] = 0.01
        return scores

    pruned = alprune.prune(
        AddsWhereWidthsAreEqual(), by_place, batch=batch(), flops_reduction=0.77, min_channels=1
    )
    assert pruned.widths == {"a": 4, "b": 4, "c": 24, "head": 5}
    assert any("c: at the width planned" in text for text in pruned.pinned)


class Lazy(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(5)


class Writes(Convs):
    def body(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).sigmoid()
        x += 1  # changes a result that the backward pass needs as it was
        return F.relu(self.c(x))


class SaysYesOrNo(Convs):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


class TakesEveryOther(Convs):
    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return F.relu(self.c(self.b(x[:, ::2].repeat(1, 2, 1, 1))))


@pytest.mark.parametrize(
    ("kind", "share", "message"),
    [
        (Lazy, 0.3, r"2 weights have no shape yet, 'head.weight' first"),
        (Writes, 0.3, r"the backward pass of the network fails"),
        (SaysYesOrNo, 0.3, r"logits of shape \(8,\) for 8 examples"),
        (TakesEveryOther, 0.98, r"These layers cannot be pruned: a: sliced along channels"),
    ],
)
def test_what_cannot_be_pruned_as_asked_says_why(
    kind: type[Convs], share: float, message: str
) -> None:
    with pytest.raises(AlpruneError, match=message):
        alprune.prune(kind(), batch=batch(), flops_reduction=share, min_channels=1)


class Observed(Convs):
    """Quantised in training, by PyTorch's own observers."""

    def __init__(self) -> None:
        super().__init__()
        kinds = torch.ao.quantization
        self.weights = kinds.FakeQuantize(
            observer=kinds.MovingAveragePerChannelMinMaxObserver,
            **{"quant_min": -128, "quant_max": 127, "dtype": torch.qint8},
            qscheme=torch.per_channel_symmetric,
        )
        self.ranges = kinds.FakeQuantize(observer=kinds.MovingAverageMinMaxObserver)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(self.ranges(F.relu(self.a(x)))))
        return F.relu(F.conv2d(x, self.weights(self.c.weight), self.c.bias, padding=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_observers_of_ranges_are_named_and_left_as_they_were() -> None:
    model = Observed()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(AlpruneError, match="a: aminmax is not an operation"):
        alprune.prune(model, batch=batch(), flops_reduction=0.2, min_channels=1)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


class Counts(Convs):
    """What it computes stays on the network: a list, a dict, a tensor, a buffer of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []
        self.maps: dict[str, Tensor] = {}
        self.register_buffer("last", torch.zeros(1))

    def body(self, x: Tensor) -> Tensor:
        x = super().body(x)
        self.means.append(0.0)
        self.maps["x"] = self.feature = x
        self.last = x.detach().amax((1, 2, 3))
        return x


def test_nothing_that_a_forward_leaves_behind_stays_on_the_network() -> None:
    model = Counts()
    alprune.prune(model, batch=batch(), flops_reduction=0.5, min_channels=1)
    assert not model.means and not model.maps and not hasattr(model, "feature")
    assert model.last.shape == (1,)


class Teaches(Convs):
    """Averages its weights into a teacher's, into buffers that predict, and clips its own."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.b).requires_grad_(False)
        self.register_buffer("average", self.c.weight.detach().clone())

    def body(self, x: Tensor) -> Tensor:
        self.a.weight.data.clamp_(-0.1, 0.1)
        x = self.a(x)
        with torch.no_grad():
            if self.training:
                self.teacher.weight.mul_(0.9).add_(self.b.weight, alpha=0.1)
                self.average.mul_(0.9).add_(self.c.weight, alpha=0.1)
            taught = self.teacher(x)
        x = F.relu(self.b(x) + taught)
        return F.conv2d(x, self.c.weight if self.training else self.average)


@pytest.mark.parametrize("method", ["3sp", "3sp-ca", "taylor", "magnitude"])
def test_what_a_forward_writes_into_weights_is_undone_and_averages_are_pruned(method: str) -> None:
    torch.manual_seed(0)
    model = Teaches()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruned = alprune.prune(model, method, batch=batch(), flops_reduction=0.5, min_channels=1)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.average.requires_grad
    assert pruned.model.average.shape == pruned.model.c.weight.shape != model.average.shape


class BuildsALayer(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def body(self, x: Tensor) -> Tensor:
        x = super().body(x)
        if self.last is None:
            self.last = nn.Conv2d(x.shape[1], x.shape[1], 1)
        return x + self.last(x)


def test_layers_that_the_first_forward_builds_stay_and_are_pruned() -> None:
    model, (x, _) = BuildsALayer(), batch()
    with pytest.raises(AlpruneError, match=r"builds 'last.weight' in its first.*model\(inputs\)"):
        trace(model, x)
    pruned = alprune.prune(model, batch=batch(), flops_reduction=0.5, min_channels=1)
    assert model.last is not None and not any("last" in pin for pin in pruned.pinned)
    assert pruned.model.last.out_channels == pruned.model.c.out_channels < 24
    with pytest.raises(AlpruneError, match="before it is pruned or rebuilt"):
        alprune.rebuild(BuildsALayer(), pruned.plan)
    torch.testing.assert_close(
        alprune.rebuild(model, pruned.plan, pruned.model.state_dict()).eval()(x),
        pruned.model.eval()(x),
    )


class RunsAPartWithoutGradients(Convs):
    def body(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.b(F.relu(self.a(x))))
        return F.relu(self.c(x))


def test_layers_that_no_gradient_reaches_are_named() -> None:
    with pytest.warns(UserWarning, match=r"the channels of a apart .*: ignore=\['a'\]"):
        alprune.prune(RunsAPartWithoutGradients(), batch=batch(), flops_reduction=0.3)


class TrainsOnFours(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(24))

    def body(self, x: Tensor) -> Tensor:
        x = super().body(x)
        if self.training:
            fours = x.mean((2, 3)).view(-1, 4, x.shape[1]).mean(1).detach()
            self.centre = 0.9 * self.centre + 0.1 * fours.mean(0)
        return x


def test_what_runs_in_training_is_followed_where_two_examples_are_too_few() -> None:
    pruned = alprune.prune(TrainsOnFours(), batch=batch(), flops_reduction=0.5, min_channels=1)
    assert pruned.widths["c"] < 24
    expected = pruned.model.train()(batch()[0])
    assert len(pruned.model.centre) == pruned.widths["c"]
    again = alprune.rebuild(TrainsOnFours(), pruned.plan, pruned.model.state_dict())
    torch.testing.assert_close(again.train()(batch()[0]), expected)
