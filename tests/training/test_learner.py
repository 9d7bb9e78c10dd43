"""What a fit does to the weights, checked against plain SGD by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.data import Dataset, load
from alprune.errors import ConfigError
from alprune.training import Diverged, FitSettings, Learner
from alprune.training.augment import normalise
from alprune.training.budget import Budget
from alprune.training.optimiser import follow, new_optimiser

CPU = torch.device("cpu")
PLAIN = {"batch_size": 8, "pad": 0, "flip": False, "averaging": 0.0, "schedule": "constant"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits").train


def linear(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 10))


def learner(digits: Dataset, model: nn.Module | None = None, **settings: Any) -> Learner:
    chosen = FitSettings(**{**PLAIN, **settings})
    return Learner(model or linear(), digits, chosen, CPU, torch.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(it: Learner) -> Tensor:
    return it.model[2].weight.detach().clone()  # type: ignore[index]


def inputs(it: Learner, count: int) -> Tensor:
    return normalise(it.x[:count], it.mean, it.std)


def by_hand(it: Learner, labels: Tensor, steps: int, **options: Any) -> list[Tensor]:
    """Return the weights after each step on one batch of all the points: torch's own SGD."""
    model = linear()
    settings = it.settings
    optimiser = torch.optim.SGD(
        [
            {"params": [model[2].weight], "weight_decay": settings.weight_decay},
            {"params": [model[2].bias], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=True,
    )
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        logits = model(inputs(it, len(labels)))
        F.cross_entropy(logits, labels, **options).backward()
        optimiser.step()
        found.append(model[2].weight.detach().clone())
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_fit_is_sgd_with_nesterov_momentum_and_decay_of_the_weights_only(
    digits: Dataset, smoothing: float
) -> None:
    it = learner(digits, weight_decay=0.1, label_smoothing=smoothing)
    wanted = by_hand(it, digits.y[:8], steps=3, label_smoothing=smoothing)
    report = it.fit(torch.arange(8), digits.y[:8], 3.0, generator())
    torch.testing.assert_close(weight(it), wanted[-1])
    assert (report.batches, report.epochs, report.stopped) == (3, 3.0, False)


def test_the_loss_of_a_report_is_the_mean_over_its_batches(digits: Dataset) -> None:
    it = learner(digits, lr=1e-9)  # the weights stay
    report = it.fit(torch.arange(8), digits.y[:8], 4.0, generator())
    with torch.no_grad():
        wanted = F.cross_entropy(it.model(inputs(it, 8)), digits.y[:8])
    assert report.loss == pytest.approx(float(wanted), rel=1e-4)


def test_a_fit_of_less_than_a_batch_makes_one(digits: Dataset) -> None:
    report = learner(digits).fit(torch.arange(8), digits.y[:8], 0.0, generator())
    assert report.batches == 1


def test_a_fit_that_time_cuts_short_says_so(digits: Dataset) -> None:
    budget = Budget(None)
    it = learner(digits)
    halt = lambda done, planned: budget.halt() if done == 2 else None  # noqa: E731
    report = it.fit(torch.arange(8), digits.y[:8], 5.0, generator(), budget=budget, tick=halt)
    assert (report.batches, report.stopped) == (2, True)


def test_every_point_is_dealt_once_before_any_comes_again(digits: Dataset) -> None:
    it = learner(digits)
    seen: list[int] = []
    it._images = lambda rows: seen.extend(rows.tolist()) or it.x[rows]  # type: ignore[method-assign, func-returns-value]
    it.fit(torch.arange(24), digits.y[:24], 2.0, generator())
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]


def test_the_rate_warms_up_once_and_follows_the_schedule(digits: Dataset) -> None:
    it = learner(digits, lr=0.4, warmup_batches=4, schedule="linear")
    rates: list[float] = []
    note = lambda done, planned: rates.append(it.optimiser.param_groups[0]["lr"])  # noqa: E731
    for _ in range(2):
        it.fit(torch.arange(8), digits.y[:8], 3.0, generator(), progress=lambda d: d / 2, tick=note)
    falling = [1, 5 / 6, 4 / 6] * 2
    warm = [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    assert rates == pytest.approx([0.4 * a * b for a, b in zip(falling, warm, strict=True)])


@pytest.mark.parametrize(("name", "half"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_a_schedule_ends_at_zero_unless_it_is_constant(name: str, half: float) -> None:
    from alprune.training.settings import SCHEDULES

    schedule = SCHEDULES[name]
    assert schedule(0.0) == 1.0 and schedule(0.5) == pytest.approx(half)
    assert schedule(1.0) == pytest.approx(1.0 if name == "constant" else 0.0)


def test_a_young_average_follows_closely_and_an_old_one_slowly(digits: Dataset) -> None:
    it = learner(digits, averaging=0.5)
    average = weight(it)
    for steps in by_hand(it, digits.y[:8], steps=12)[:12]:
        batch = it.batches
        it.fit(torch.arange(8), digits.y[:8], 1.0, generator())
        decay = min(0.5, (batch + 1) / (batch + 11))
        average = decay * average + (1 - decay) * steps
        torch.testing.assert_close(weight(it), steps, rtol=1e-4, atol=1e-6)
        found = it.averaged[2].weight  # type: ignore[index]
        torch.testing.assert_close(found.detach(), average, rtol=1e-4, atol=1e-6)


def test_the_average_takes_statistics_and_leaves_counts() -> None:
    old, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    new.running_mean.fill_(4.0)  # type: ignore[union-attr]
    new.num_batches_tracked.fill_(9)  # type: ignore[union-attr]
    follow(old, new, 0.25)
    assert old.running_mean.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    assert old.num_batches_tracked == 0


def test_a_snapshot_is_not_moved_by_later_fits(digits: Dataset) -> None:
    it = learner(digits)
    it.keep_snapshots(2)
    it.fit(torch.arange(8), digits.y[:8], 1.0, generator())
    kept = it.snapshots[0][2].weight.detach().clone()  # type: ignore[index]
    it.fit(torch.arange(8), digits.y[:8], 5.0, generator())
    assert torch.equal(it.snapshots[0][2].weight, kept)  # type: ignore[index]
    assert not torch.equal(it.snapshots[1][2].weight, kept)  # type: ignore[index]


def test_frozen_parameters_are_not_given_to_the_optimiser() -> None:
    model = linear()
    model[2].bias.requires_grad_(False)
    groups = new_optimiser(model, FitSettings(weight_decay=0.1)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 0]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_weights_that_are_not_finite_are_an_error_after_the_fit(
    digits: Dataset, value: float
) -> None:
    it = learner(digits)

    def spoil(done: int, planned: int) -> None:
        with torch.no_grad():
            it.model[2].bias[0] = value  # type: ignore[index]

    with pytest.raises(Diverged, match="weights became infinite or NaN in batch 1"):
        it.fit(torch.arange(8), digits.y[:8], 1.0, generator(), tick=spoil)


def test_an_infinite_loss_is_an_error_that_names_the_points(digits: Dataset) -> None:
    it = learner(digits)
    with torch.no_grad():
        it.model[2].bias[0] = -math.inf  # type: ignore[index]
    zeros = torch.nonzero(digits.y[:100] == 0)[:8, 0]
    with pytest.raises(Diverged, match="training loss became inf") as raised:
        it.fit(zeros, digits.y[zeros], 1.0, generator())
    assert sorted(raised.value.points) == zeros.tolist()


@pytest.mark.parametrize("change", [{"momentum": 1.0}, {"batch_size": 1}, {"averaging": 1.0}])
def test_settings_at_the_edge_are_refused(change: dict[str, Any]) -> None:
    FitSettings(momentum=0.0, batch_size=2, averaging=0.0, label_smoothing=0.0)
    with pytest.raises(ConfigError, match=next(iter(change))):
        FitSettings(**change)
