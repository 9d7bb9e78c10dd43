"""`--flops-reduction auto`: how much is pruned follows the measured speed and the budget."""

import numpy as np
import pytest
import torch
from tiny_run import events_of, options
from torch import nn

import alprune
from alprune.errors import ConfigError, PruneError
from alprune.labelling.options import completed
from alprune.loop import auto_reduction, learner
from alprune.loop.auto_reduction import PLAIN, Balance, Measured, choose
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete
from alprune.pruning.latency import step_ms

MACS = 400_000_000


class Quiet:
    """A machine on which nothing else runs."""

    share = 0.0

    def ended(self):
        return {"others_share": self.share}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(auto_reduction, "MachineLoad", Quiet)


def machine(macs_per_s, macs=MACS, fixed_s=0.0, most=1.0):
    """A network whose time is in proportion to its FLOPs, after some time that stays."""

    def measure(share):
        if share > most:
            raise PruneError("out of reach")
        left = int(macs * (1 - share))
        return Measured(left, fixed_s + left / macs_per_s)

    return measure


@pytest.mark.parametrize("budget_s", [450.0, 1200.0, 3600.0])
def test_a_pruned_network_sees_the_images_that_its_size_asks_for(budget_s):
    measure = machine(25e9)
    choice = choose(measure, budget_s, 64)
    network = measure(choice.flops_reduction)
    seen = budget_s / network.image_s
    assert seen / (3e-2 * network.macs) == pytest.approx(1, rel=0.25)


def test_what_is_left_has_a_floor_that_is_lower_where_no_layer_can_become_a_bottleneck():
    across, within = (choose(machine(25e9), 5.0, 64, local=local) for local in (False, True))
    assert (across.flops_reduction, within.flops_reduction) == pytest.approx((0.96, 0.99))


def test_less_is_pruned_for_a_longer_budget_and_on_a_faster_machine():
    def cut(speed, seconds):
        return choose(machine(speed), seconds, 64).flops_reduction

    assert cut(25e9, 60) > cut(25e9, 450) > cut(25e9, 3600) > 0
    assert cut(25e9, 450) > cut(250e9, 450)
    assert cut(25e9, 1e6) == 0


def test_a_small_network_is_left_whole():
    choice = choose(machine(25e9, macs=2_000_000), 60, 64)
    assert choice.flops_reduction == 0
    assert "enough for its size" in choice.reason


def test_nothing_is_pruned_where_that_saves_too_little_time():
    # All but a tenth of the time is not a matter of the FLOPs.
    slow = machine(250e9, fixed_s=9 * MACS / 250e9)
    choice = choose(slow, 450, 64)
    assert choice.flops_reduction == 0
    assert "1." in choice.reason and "times as fast" in choice.reason
    # Layers too narrow for the processor: a twentieth of the FLOPs takes a third of the time.
    narrow = choose(machine(25e9, macs=40_000_000, fixed_s=40_000_000 / 25e9 / 2), 30, 64)
    assert narrow.flops_reduction == 0
    assert "2." in narrow.reason and "times as fast" in narrow.reason


def test_less_is_pruned_where_a_smaller_network_trains_hardly_faster():
    # ResNet-9, every layer narrowed alike, as measured on a processor with AMX.
    macs, images_per_s = [5.53e6, 20.1e6, 379e6], [2751, 2121, 150]

    def measure(share):
        left = macs[-1] * (1 - share)
        return Measured(int(left), 1 / np.interp(left, macs, images_per_s))

    minute, hour = (choose(measure, seconds, 64, local=True) for seconds in (45.0, 2700.0))
    assert 0.92 < minute.flops_reduction < 0.97  # half the size would see 1.1 times the images
    assert 0.5 < hour.flops_reduction < 0.9


def test_no_less_than_nothing_is_removed_where_a_pruned_network_is_faster_than_its_share():
    def measure(share):
        if share < 0:
            raise PruneError("the flops reduction must be at least 0")
        left = 1 - share if share == 0 else 0.9 * (1 - share)  # widths are rounded down
        return Measured(int(MACS * left), MACS * left / 25e9)

    balanced_s = 3e-2 * MACS * MACS / 25e9  # that is right for the whole network
    choice = choose(measure, 0.98 * balanced_s, 64)
    assert choice.flops_reduction == 0 and "times as fast" in choice.reason


def test_as_much_as_can_be_reached_is_removed():
    choice = choose(machine(25e9, most=0.8), 60, 64)
    assert 0.7 < choice.flops_reduction <= 0.8


def test_a_busy_machine_gets_the_plain_choice(monkeypatch):
    monkeypatch.setattr(Quiet, "share", 0.4)
    choice = choose(machine(25e9), 450, 64)
    assert choice.flops_reduction is None
    assert "40% of this machine" in choice.reason


def test_a_budget_too_short_to_measure_gets_the_plain_choice():
    choice = choose(machine(25e9), 2.0, 64)
    assert choice.flops_reduction is None
    assert "2s of training are too short" in choice.reason


def test_the_plain_choice_is_within_reach(monkeypatch):
    monkeypatch.setattr(Quiet, "share", 0.4)
    choice = choose(machine(25e9, most=0.88), 450, 64, plain=0.9)
    assert choice.flops_reduction == 0.86 and "most that can be removed" in choice.reason


def test_less_is_removed_where_the_default_is_out_of_reach(tmp_path):
    model = {"model": "lenet-300-100", "method": "3sp-ca", "min_channels": 60}
    with pytest.warns(UserWarning, match="60% of the FLOPs removed, not .*out of reach"):
        result = alprune.run(options(tmp_path / "run", steps=1, **model))
    assert 0.6 <= events_of(result.path, "prune")[0]["flops_reduction"] < 0.8


def nothing_to_prune(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


@pytest.fixture
def speed(monkeypatch):
    """Let a training image take a second for as many multiply-accumulates as are set here."""
    speeds = {"macs_per_s": 1e6}

    def image_s(config, model, *data):
        return sum(p.numel() for p in model.parameters()) / speeds["macs_per_s"]

    monkeypatch.setattr(learner, "image_s", image_s)
    return speeds


def run(tmp_path, **changed):
    changed = {"flops_reduction": "auto", "budget": 60.0, "steps": 0} | changed
    alprune.run(options(tmp_path / "run", **changed))
    [event] = events_of(tmp_path / "run", "prune")
    return event


def test_the_choice_is_in_the_options_of_a_run_and_in_its_record(tmp_path, speed, monkeypatch):
    monkeypatch.setattr(auto_reduction, "_LEAST_SAVED", 1.0)  # the tiny network is mostly its head
    monkeypatch.setattr(auto_reduction, "ACROSS", Balance(10.0, 0.01))
    event = run(tmp_path, method="3sp")
    kept = RunConfig.from_toml(tmp_path / "run" / "config.toml", trust_code=True)
    assert isinstance(kept.flops_reduction, float)
    assert 0 < kept.flops_reduction < 1
    assert event["flops_reduction"] >= kept.flops_reduction
    assert "images" in event["chosen_because"]


def test_a_fast_machine_leaves_the_network_whole(tmp_path, speed):
    speed["macs_per_s"] = 1e12
    event = run(tmp_path, method="3sp")
    assert event["macs_after"] == event["macs_before"]
    assert "enough for its size" in event["chosen_because"]


def test_a_network_without_prunable_channels_is_trained_as_it_is(tmp_path, speed):
    event = run(tmp_path, method="3sp", model=f"{__name__}:nothing_to_prune")
    assert event["macs_after"] == event["macs_before"]
    assert "cannot be pruned" in event["chosen_because"]


def test_on_a_busy_machine_a_network_of_ours_loses_what_is_right_for_minutes(
    tmp_path, speed, monkeypatch
):
    monkeypatch.setattr(Quiet, "share", 0.9)
    event = run(tmp_path, method="3sp-ca", model="lenet-300-100", flops_reduction=None)
    assert 0.9 <= event["flops_reduction"] < 0.95
    assert "90%, which is right for minutes: other processes took 90%" in event["chosen_because"]


def test_auto_needs_a_budget(tmp_path):
    with pytest.raises(ConfigError, match=r"--budget"):
        run(tmp_path, method="3sp", budget=None, steps=1)


@pytest.mark.parametrize("value", ["much", [], True])
def test_other_words_are_refused(value):
    with pytest.raises(ConfigError, match="a number or auto"):
        RunConfig(flops_reduction=value)


def test_step_time_is_measured_on_the_network_as_it_trains():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    assert step_ms(model, batch) > 0
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_model_auto_narrows_every_layer_of_resnet9_by_the_same_share(tmp_path, speed):
    speed["macs_per_s"] = 1.5e8
    event = run(tmp_path, method="3sp-ca", model="auto", image_size=8, budget=600.0)
    kept = RunConfig.from_toml(tmp_path / "run" / "config.toml")
    assert (kept.model, kept.local, kept.round_to) == ("resnet9", True, 16)
    assert 0 < kept.flops_reduction < 1
    assert event["flops_reduction"] >= kept.flops_reduction
    first, *between, last, _ = event["widths"].values()
    assert first / 64 == pytest.approx(last / 512, abs=0.25)
    assert all(width % 16 == 0 for width in (first, *between, last))
    assert "images" in event["chosen_because"]


def test_networks_whose_layers_all_lose_the_same_share_are_cut_further():
    across, equal = (choose(machine(25e9), 450, 64, local) for local in (False, True))
    assert 0 < across.flops_reduction < equal.flops_reduction


def test_resnet9_that_cannot_be_measured_is_as_narrow_as_its_small_version(monkeypatch):
    monkeypatch.setattr(Quiet, "share", 0.9)
    choice = choose(machine(25e9), 450, 64, local=True, plain=PLAIN["resnet9"])
    assert choice.flops_reduction == 0.935
    assert "94%, which is right for minutes: other processes took 90%" in choice.reason


def test_model_auto_needs_a_method_that_narrows():
    with pytest.raises(ConfigError, match=r"--model auto is narrowed .* method 'dense' leaves"):
        complete(RunConfig(model="auto", method="dense"))


def test_model_auto_keeps_a_reduction_that_is_given():
    whole = complete(RunConfig(model="auto", method="3sp", flops_reduction=0.5, round_to=8))
    assert (whole.model, whole.flops_reduction, whole.round_to) == ("resnet9", 0.5, 8)


def test_model_auto_is_refused_in_labelling():
    with pytest.raises(ConfigError, match="labelling has rounds"):
        completed(RunConfig(dataset="folder:photos", model="auto"))
