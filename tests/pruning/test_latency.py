import pytest
import torch
from torch import nn

from alprune.errors import PruneError
from alprune.pruning import latency, prune
from alprune.pruning.graph import trace
from alprune.pruning.latency import latency_aware, search_latency, stopwatch
from alprune.pruning.width_limits import Limits


@pytest.fixture(scope="module")
def graph():
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 40, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(40 * 16, 30), nn.ReLU(), nn.Linear(30, 5),
    )  # fmt: skip
    return trace(model, torch.zeros(2, 3, 4, 4))


@pytest.fixture
def scores(graph):
    return torch.rand(graph.channels, generator=torch.Generator().manual_seed(0))


class FakeMachine:
    """Milliseconds from the FLOPs, an overhead, noise, a drift: no clock."""

    def __init__(self, graph, overhead=1.0, noise=0.0, drift=0.0):
        self.graph, self.overhead, self.noise, self.drift = graph, overhead, noise, drift
        self.generator = torch.Generator().manual_seed(0)
        self.calls = 0

    def true_ms(self, keep):
        return self.overhead + 1e-4 * self.graph.macs(keep)

    def __call__(self, keep):
        self.calls += 1
        jitter = self.noise * torch.randn((), generator=self.generator).item()
        return self.true_ms(keep) * (1 + jitter) * (1 + self.drift * self.calls)


@pytest.mark.parametrize("reduction", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("round_to", [1, 8])
def test_on_a_quiet_machine_the_plan_is_the_first_that_meets_the_target(
    graph, scores, reduction, round_to
):
    machine = FakeMachine(graph)
    found = search_latency(graph, scores, reduction, machine, Limits(1, round_to))
    assert found.reduction >= reduction
    keep = found.plan.keep(graph)
    assert found.after_ms == machine.true_ms(keep)
    assert found.before_ms == machine.true_ms(graph.all_kept())
    assert machine.calls <= 2 + 7 + 4 * 3  # ends, bisection of 91 channels, two confirmations
    if round_to == 1:
        last = torch.nonzero(~keep)[scores[~keep].argmax()]
        keep[last] = True
        assert machine.true_ms(keep) > found.before_ms * (1 - reduction)


@pytest.mark.parametrize("drift", [0.0, 0.02])
def test_on_a_noisy_machine_that_slows_down_the_true_latency_is_near_the_target(
    graph, scores, drift
):
    machine = FakeMachine(graph, noise=0.02, drift=drift)
    found = search_latency(graph, scores, 0.5, machine, Limits(1))
    assert found.reduction >= 0.5
    true = machine.true_ms(found.plan.keep(graph)) / machine.true_ms(graph.all_kept())
    assert 0.44 < true < 0.53


@pytest.mark.parametrize("factor", [0.3, 3.0])
@pytest.mark.parametrize("disturbed", range(2, 8))
def test_one_disturbed_measurement_does_not_change_the_plan(graph, scores, disturbed, factor):
    class Hiccup(FakeMachine):
        def __call__(self, keep):
            ms = super().__call__(keep)
            return ms * factor if self.calls == disturbed else ms

    quiet = search_latency(graph, scores, 0.6, FakeMachine(graph), Limits(1))
    assert search_latency(graph, scores, 0.6, Hiccup(graph), Limits(1)).plan == quiet.plan


def test_a_machine_bound_by_overhead_says_how_far_it_goes(graph, scores):
    machine = FakeMachine(graph, overhead=100.0)
    with pytest.raises(PruneError, match=r"out of reach on this machine.*reduction of 0\.\d+"):
        search_latency(graph, scores, 0.9, machine)


def test_nothing_to_remove_measures_once(graph, scores):
    machine = FakeMachine(graph)
    found = search_latency(graph, scores, 0.0, machine)
    assert found.plan.keep(graph).all() and found.reduction == 0 and machine.calls == 1


def test_slow_channels_lose_score_in_the_ratio_of_what_they_save(graph):
    price = {"0": 4.0, "2": 1.0, "5": 0.0}  # ms a channel

    def machine(keep):
        return 10 + sum(price[g.name] * int(keep[g.channels].sum()) for g in graph.groups)

    scores = torch.full((graph.channels,), 6.0)
    for smoothing in (0.05, 2.0):
        weighted = latency_aware(graph, scores, machine, smoothing)
        share = {name: ms / 5 + smoothing for name, ms in price.items()}
        for group in graph.groups:
            expected = 6.0 * max(share.values()) / share[group.name]
            assert weighted[group.channels].tolist() == pytest.approx([expected] * len(
                group.channels
            ))  # fmt: skip
    assert torch.isfinite(latency_aware(graph, scores, machine, 0.0)).all()


def test_latency_aware_scores_refuse_signed_scores_and_a_machine_that_shows_nothing(graph):
    with pytest.raises(PruneError, match="need scores >= 0"):
        latency_aware(graph, -torch.ones(graph.channels), FakeMachine(graph))
    with pytest.raises(PruneError, match="saves a measurable time"):
        latency_aware(graph, torch.ones(graph.channels), lambda keep: 1.0)


def test_the_stopwatch_times_the_narrowed_network_at_the_batch_size(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.randn(3, 4)
    graph = trace(model, inputs)
    timed = []

    def fake(net, example, repeats):
        timed.append((net[0].out_features, tuple(example.shape), repeats))
        return 7.5

    monkeypatch.setattr(latency, "latency_ms", fake)
    keep = graph.all_kept()
    keep[:2] = False
    assert stopwatch(model, graph, inputs, batch_size=5, repeats=9)(keep) == 7.5
    assert timed == [(4, (5, 4), 9)]
    with pytest.raises(PruneError, match="batch size must be at least 1, got 0"):
        stopwatch(model, graph, inputs, batch_size=0)


def test_a_reduction_of_the_time_of_a_training_step_times_the_steps_of_a_run(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))
    batch = torch.randn(8, 6), torch.arange(8) % 3
    timed = []

    def step_ms(network, examples):
        timed.append(len(examples[1]))
        return float(sum(p.numel() for p in network.parameters()))

    monkeypatch.setattr(latency, "step_ms", step_ms)
    found = prune(model, "3sp", batch=batch, time_reduction=0.5, latency_step_batch=20)
    assert set(timed) == {20}
    assert 0.45 < found.params_after / found.params_before <= 0.5
    with pytest.raises(PruneError, match=r"time reduction of 0\.99.* out of reach"):
        prune(model, "3sp", batch=batch, time_reduction=0.99)
    with pytest.raises(PruneError, match="methods that score channels once"):
        prune(model, "3sp-iterative", batch=batch, time_reduction=0.5)
