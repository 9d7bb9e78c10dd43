import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import images, make

from alprune.errors import ConfigError, PruneError
from alprune.pruning.epi import EarlyPruner, EarlySettings
from alprune.pruning.epi.importance import EARLY_CRITERIA
from alprune.pruning.epi.indicator import (
    indicator,
    removal_schedule,
    settled,
    similarity,
    structure,
)
from alprune.pruning.graph import trace
from alprune.pruning.graph.rebase import narrow_optimiser
from alprune.pruning.graph.surgery import narrow, registered
from alprune.pruning.plan import Target
from alprune.pruning.width_limits import Limits


def counts(*values):
    return torch.tensor(values)


def test_structure_counts_the_channels_a_layer_keeps():
    graph = trace(make("projection resnet"), images())
    keep = graph.all_kept()
    for group in graph.groups:
        keep[group.channels[:3]] = False
    widths = graph.widths(keep)
    assert structure(graph, keep).tolist() == [widths[g.name] for g in graph.groups]
    assert int(structure(graph, keep).sum()) == int(keep.sum())


def test_similarity_by_hand():
    assert similarity(counts(6, 4), counts(4, 6)) == pytest.approx(1 - (2 / 10 + 2 / 10) / 2)
    assert similarity(counts(8, 2), counts(4, 6)) == pytest.approx(1 - (4 / 12 + 4 / 8) / 2)
    assert similarity(counts(5, 5, 5), counts(5, 5, 5)) == 1
    assert similarity(counts(9, 0), counts(0, 9)) == 0
    assert similarity(counts(7, 0), counts(7, 0)) == 1  # equally empty is equal


def test_indicator_is_the_mean_similarity_to_the_last_r_structures():
    history = [counts(1, 9), counts(8, 2), counts(6, 4), counts(4, 6)]
    assert indicator(history, past=2) == pytest.approx((0.8 + 1 - (4 / 12 + 4 / 8) / 2) / 2)
    assert indicator(history, past=1) == pytest.approx(0.8)
    assert indicator(history[:2], past=2) is None


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([0.90, 0.91, 0.92, 0.93, 0.94, 0.95], True),
        ([0.99, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95], True),  # the sixth last does not count
        ([0.96, 0.91, 0.92, 0.93, 0.94, 0.95], False),  # below one of the last five
        ([0.95, 0.95, 0.95, 0.95, 0.95, 0.95], True),  # equal is enough
        ([0.80, 0.81, 0.82, 0.83, 0.84, 0.943], False),  # below the threshold
        ([0.80, 0.81, 0.82, 0.83, 0.84, 0.944], True),
        ([None, 0.91, 0.92, 0.93, 0.94, 0.95], False),  # five past values must exist
        ([0.92, 0.93, 0.94, 0.95], False),
        ([], False),
    ],
)
def test_pruning_may_begin_at_the_threshold_and_at_the_top_of_the_last_five(history, expected):
    assert settled(history, 0.944) is expected


def test_the_schedule_shrinks_what_is_left_by_one_factor():
    assert removal_schedule(0.75, 2) == pytest.approx((0.5, 0.75))
    assert removal_schedule(0.5, 1) == (0.5,)
    assert removal_schedule(0.0, 3) == (0, 0, 0)


def test_the_schedule_is_forces_exponential_scheduler():
    total, left, steps = 7040, 1400, 6
    shares = removal_schedule(1 - left / total, steps)
    for step, share in enumerate(shares, start=1):
        mix = step / steps
        kept = math.exp(mix * math.log(left) + (1 - mix) * math.log(total))
        assert total * (1 - share) == pytest.approx(kept)


def test_the_thresholds_are_the_papers():
    assert EARLY_CRITERIA["magnitude"].threshold == 0.983
    assert EARLY_CRITERIA["taylor"].threshold == 0.944
    assert EarlySettings(Target("channels", 0.5)).epi_threshold == 0.944
    assert EarlySettings(Target("channels", 0.5), threshold=0.5).epi_threshold == 0.5


class Scripted:
    """Two hidden layers of 20 whose best half has a given structure each epoch, by magnitude."""

    def __init__(self, **options):
        self.model = nn.Sequential(
            *(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
        )
        graph = trace(self.model, torch.randn(2, 4))
        target = Target("channels", 0.5, Limits(min_channels=1))
        self.pruner = EarlyPruner(graph, EarlySettings(target, "magnitude", **options))

    def epoch(self, first, batches=2):
        """Live through an epoch in which `first` channels of the first layer are among the best.

        Within the epoch they differ: only the average over it has this structure.
        """
        for batch in range(batches):
            for layer, best in ((self.model[0], first), (self.model[2], 20 - first)):
                with torch.no_grad():
                    layer.weight.fill_(0.1)
                    layer.weight[:best] = 1.0
                    layer.weight[best:] += 1.5 * (batch % 2)
                    layer.weight[:best] += 1.5 * ((batch + 1) % 2)
            self.pruner.observe(self.model)
            assert self.pruner.after_batch(batches) is None
        return self.pruner.phase


def test_a_structure_at_rest_prunes_in_epoch_11():
    script = Scripted()
    phases = [script.epoch(12) for _ in range(11)]
    assert phases == ["dense"] * 10 + ["prune"]
    assert script.pruner.structures[0].tolist() == [12, 8]
    assert script.pruner.epi == [None] * 5 + [1.0] * 6
    assert script.pruner.epoch == 11


def test_costs_move_the_structure_of_which_the_indicator_speaks():
    plain, aware = Scripted(), Scripted()
    first = aware.pruner.unpruned.groups[0].channels
    aware.pruner.cost = torch.full((40,), 0.01).double()
    aware.pruner.cost[first] = 1.0  # the first layer's channels cost a hundred times as much
    for script in (plain, aware):
        script.epoch(12)
    # Of the first layer 12 of 20 matter, of the second 8: at a hundredth of the cost all 20 of the
    # second come before any of the first.
    assert plain.pruner.structures[0].tolist() == [12, 8]
    assert aware.pruner.structures[0].tolist() == [1, 19]  # one channel stays in each layer


def test_a_drifting_structure_waits_until_it_rests():
    script = Scripted()
    drift = [4, 16, 5, 15, 4, 16, 5, 15, 4, 16, 5, 15]
    assert {script.epoch(first) for first in drift} == {"dense"}
    assert script.pruner.epi[-1] < 0.8
    rest = [script.epoch(10) for _ in range(6)]
    # Five past structures must be those of rest before the mean of equation 6 is 1.
    assert rest == ["dense"] * 5 + ["prune"]


def test_an_indicator_above_the_threshold_but_falling_waits():
    script = Scripted(past=1, rising=2, threshold=0.9)
    widths = [10, 10, 10, 11, 10, 10]  # EPI: -, 1, 1, .95, .95, 1
    phases = [script.epoch(first) for first in widths]
    assert script.pruner.epi[3] == pytest.approx(1 - (1 / 21 + 1 / 19) / 2)
    assert phases == ["dense"] * 5 + ["prune"]


def train(model, pruner, batches, steps, optimiser=None, seed=0, begin=0):
    """Train on random data as a learner would; return the model and what was cut when."""
    optimiser = optimiser or torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    cuts = []
    for batch in range(begin, begin + steps):
        draw = torch.Generator().manual_seed(seed + batch)
        x, y = torch.randn(8, 3, 16, 16, generator=draw), torch.randint(5, (8,), generator=draw)
        optimiser.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        pruner.observe(model)
        optimiser.step()
        removal = pruner.after_batch(batches)
        if removal is not None:
            small = narrow(model, removal.graph, removal.keep)
            narrow_optimiser(optimiser, model, small, removal.graph, removal.keep)
            model = small
            cuts.append(batch)
    return model, cuts, optimiser


def pruner_of(model, quantity="channels", reduction=0.6, **options):
    target = Target(quantity, reduction, Limits(min_channels=2))
    return EarlyPruner(trace(model, images()), EarlySettings(target, **options))


@pytest.mark.parametrize("criterion", EARLY_CRITERIA)
@pytest.mark.parametrize("quantity", ["channels", "flops", "params"])
def test_a_fixed_epoch_is_the_epoch_in_which_the_target_is_reached(criterion, quantity):
    dense = make("densenet")
    pruner = pruner_of(dense, quantity, criterion=criterion, prune_at=1, steps=3)
    model, cuts, _ = train(dense, pruner, batches=6, steps=14)
    assert cuts == [7, 9, 11]  # two batches a step in the second epoch of six
    assert (pruner.phase, pruner.pruned_in) == ("sparse", 1)
    graph, keep = pruner.unpruned, pruner.keep
    amount = {"channels": lambda k: int(k.sum()), "flops": graph.macs, "params": graph.params}
    share = amount[quantity](keep) / amount[quantity](graph.all_kept())
    assert 0.3 < share <= 0.4
    assert sum(p.numel() for p in model.parameters()) == graph.params(keep)
    rebuilt = narrow(dense, graph, pruner.plan.keep(graph))
    rebuilt.load_state_dict(model.state_dict())
    torch.testing.assert_close(rebuilt.eval()(images()), model.eval()(images()))


def test_half_of_the_channels_is_exactly_half():
    model = make("densenet")
    pruner = pruner_of(model, reduction=0.5, prune_at=0)
    train(model, pruner, batches=5, steps=5)
    assert int(pruner.keep.sum()) == pruner.unpruned.channels // 2


def rows(layer, *sizes):
    """Give each row of a linear layer its size, equation 2's value."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(sizes)[:, None].expand_as(layer.weight))


def test_each_step_ranks_what_is_left_anew():
    model = nn.Sequential(
        *(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)),
    )
    target = Target("channels", 0.75, Limits(min_channels=1))
    settings = EarlySettings(target, "magnitude", prune_at=0, steps=2)
    pruner = EarlyPruner(trace(model, torch.randn(2, 3)), settings)
    rows(model[0], 1.0, 9.0, 2.0, 8.0, 3.0, 7.0)
    rows(model[2], 4.0, 5.0, 6.0, 10.0, 11.0, 2.5)
    pruner.observe(model)
    first = pruner.after_batch(2)
    assert first.keep.int().tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0]  # half of 12
    small = narrow(model, first.graph, first.keep)
    rows(small[0], 1.0, 3.0, 2.0)
    rows(small[2], 4.0, 0.5, 0.1)
    pruner.observe(small)
    second = pruner.after_batch(2)
    assert second.keep.int().tolist() == [0, 1, 1, 1, 0, 0]  # a quarter of 12
    assert pruner.keep.int().tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0]
    assert pruner.plan.kept == {"0": (3, 5), "2": (2,)}


@pytest.mark.parametrize("batches", [1, 2, 3, 7])
def test_an_epoch_shorter_than_the_steps_still_reaches_the_target(batches):
    model = make("mlp")
    pruner = pruner_of(model, prune_at=1)
    _, cuts, _ = train(model, pruner, batches, steps=2 * batches + 1)
    assert len(cuts) == min(5, batches)
    assert cuts[-1] == 2 * batches - 1
    assert pruner.phase == "sparse"


def test_an_epoch_that_changes_its_length_midway_still_reaches_the_target():
    model = make("mlp")
    pruner = pruner_of(model, prune_at=0)
    model, _, optimiser = train(model, pruner, 10, 8)
    assert pruner.phase == "prune"
    train(model, pruner, 3, 1, optimiser)
    assert pruner.phase == "sparse"
    assert int(pruner.keep.sum()) == int(0.4 * pruner.unpruned.channels)


def test_random_epochs_are_reproducible_and_cover_the_range():
    graph = trace(make("mlp"), images())
    settings = EarlySettings(Target("channels", 0.5), prune_at="random", random_until=3)

    def drawn(seed):
        return EarlyPruner(graph, settings, torch.Generator().manual_seed(seed)).planned

    assert [drawn(7), drawn(7)] == [drawn(7)] * 2
    assert {drawn(seed) for seed in range(40)} == {0, 1, 2, 3}


def test_a_real_training_comes_to_rest_and_is_pruned_by_epi():
    model = make("vgg")
    settings = {"criterion": "magnitude", "past": 2, "rising": 2, "threshold": 0.9}
    pruner = pruner_of(model, reduction=0.5, **settings)
    model, cuts, _ = train(model, pruner, batches=4, steps=40)
    assert pruner.phase == "sparse"
    assert pruner.pruned_in == len(pruner.epi) >= 5
    assert cuts[-1] == 4 * pruner.pruned_in + 3
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    assert bool(torch.isfinite(model.eval()(images())).all())


@pytest.mark.parametrize("stop", [3, 10, 11, 14])
def test_a_resumed_training_equals_one_that_was_not_interrupted(stop):
    def fresh():
        model = make("shared weights")
        options = {"past": 1, "rising": 0, "threshold": 0.0, "steps": 3}
        return model, pruner_of(model, **options)

    def measured(pruner):
        draw = torch.Generator().manual_seed(9)
        pruner.cost = torch.rand(pruner.unpruned.channels, generator=draw).double() + 0.1

    model, pruner = fresh()
    measured(pruner)
    whole, cuts, _ = train(model, pruner, 4, 20)
    assert cuts == [9, 10, 11]

    model, before = fresh()
    measured(before)
    model, _, optimiser = train(model, before, 4, stop)
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    dense, after = fresh()
    after.restore(torch.load(file, weights_only=True))
    resumed = narrow(dense, after.unpruned, after.plan.keep(after.unpruned))
    resumed.load_state_dict(model.state_dict())
    again = torch.optim.SGD(resumed.parameters(), 0.02, momentum=0.9)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    resumed, _, _ = train(resumed, after, 4, 20 - stop, again, begin=stop)
    assert torch.equal(after.keep, pruner.keep)
    assert after.epi == pruner.epi
    assert after.plan == pruner.plan
    for key, value in registered(whole).items():
        assert torch.equal(value, registered(resumed)[key])


def test_the_dense_phase_of_a_fixed_epoch_looks_at_nothing():
    model = make("mlp")
    pruner = pruner_of(model, prune_at=3)
    pruner.observe(make("vgg"))  # another model, without gradients: nobody looks
    assert pruner.after_batch(1) is None
    assert (pruner.epoch, pruner.epi) == (1, [])


def test_a_removal_that_was_not_made_is_noticed():
    model = make("mlp").train()
    pruner = pruner_of(model, criterion="magnitude", prune_at=0)
    pruner.observe(model)
    assert pruner.after_batch(5) is not None
    with pytest.raises(PruneError, match="Narrow the model as soon as it is asked for"):
        pruner.observe(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_at": "later"}, "'epi', 'random' or an epoch"),
        ({"prune_at": -1}, "got -1"),
        ({"criterion": "tailor"}, "Did you mean 'taylor'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"threshold": 98.3}, "from 0 to 1, got 98.3"),
        ({"past": 0}, "past must be at least 1"),
    ],
)
def test_unusable_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EarlySettings(Target("channels", 0.5), **options)


def test_what_cannot_be_reached_is_refused_before_training():
    graph = trace(make("mlp"), images())
    with pytest.raises(PruneError, match="out of reach"):
        EarlyPruner(graph, EarlySettings(Target("channels", 0.9, Limits(min_channels=10))))
    single = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    with pytest.raises(PruneError, match="no prunable channels"):
        EarlyPruner(trace(single, images()), EarlySettings(Target("channels", 0.5)))


def test_the_state_of_another_network_is_refused():
    state = pruner_of(make("mlp")).state()
    with pytest.raises(PruneError, match="channels"):
        pruner_of(make("vgg")).restore(state)
