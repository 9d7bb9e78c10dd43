"""Fine-tuning: what learns, at which rate, from which views."""

import pytest
import torch
from torch import nn

from alprune.models import build
from alprune.training.augment import Augment, normalise
from alprune.training.budget import Budget
from alprune.training.fine_tune import Examples, FineTuneSettings, FineTuning
from alprune.training.halves import halves
from alprune.training.settings import Diverged

MEAN, STD = torch.full((1,), 0.5), torch.full((1,), 0.25)
X = torch.randint(256, (40, 8, 8, 1), generator=torch.Generator().manual_seed(0)).byte()
ROWS = torch.arange(0, 40, 2)
LABELS = torch.arange(20) % 3


def network():
    return build("tiny_learner:build", 3, (1, 8, 8), 1).eval()


def tuning(net, **settings):
    chosen = {"batch_size": 10, "warmup_batches": 1, "weight_decay": 0.0} | settings
    augment = Augment(MEAN, STD, True, 1)
    return FineTuning(net, X, ROWS, LABELS, augment, 0, FineTuneSettings(**chosen))


def test_head_and_backbone_move_at_their_own_rates_and_the_lower_half_stays():
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    work = tuning(net, lr=1e-3, head_lr=1e-2, passes=1, frozen_share=0.5)
    work.planned = 1
    work.run(Budget(None))
    moved = {n: float((t - before[n]).abs().max()) for n, t in net.state_dict().items()}
    # The first step of Adam changes each weight by the rate, whatever its gradient.
    assert moved["4.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["9.weight"] == pytest.approx(1e-2, rel=0.01)
    assert moved["0.weight"] == moved["1.weight"] == 0
    assert moved["1.running_mean"] == moved["5.running_mean"] == moved["5.running_var"] == 0


def test_with_nothing_frozen_every_layer_learns():
    net = network()
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    tuning(net, passes=1, frozen_share=0.0).run(Budget(None))
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_it_learns_its_labels_and_stops_with_the_budget():
    work = tuning(network(), lr=0.01, head_lr=0.01, passes=150, frozen_share=0.0)
    losses = []
    work.run(Budget(None), lambda loss: losses.append(loss) if loss is not None else None)
    assert work.done == work.planned == 300 and losses[-1] < 0.5 * losses[0]
    late = Budget(1.0)
    late.halt()
    stopped = tuning(network())
    stopped.run(late)
    assert stopped.done == 0


def test_a_rate_that_is_too_high_is_an_error_that_says_so():
    with pytest.raises(Diverged, match="fine-tuning became infinite or NaN"):
        tuning(network(), lr=1e30, head_lr=1e30, passes=60).run(Budget(None))


def test_kept_views_are_what_the_lower_half_makes_of_augmented_images():
    net, augment = network(), Augment(MEAN, STD, True, 1)
    lower, _ = halves(net, normalise(X[:2], MEAN, STD), 0.5)
    kept = Examples(X, ROWS, lower, augment, 3, 7)
    raw = Examples(X, ROWS, nn.Identity(), augment, 3, 7)
    places, views = torch.tensor([4, 4, 9, 0]), torch.tensor([0, 2, 1, 2])
    wanted = lower(raw(places, views))
    for _ in range(2):  # made, then remembered
        assert torch.allclose(kept(places, views), wanted, atol=2e-2)
    assert not torch.equal(raw(places, views)[0], raw(places, views)[1])
    # Each view is a crop of its image, flipped or not.
    whole = augment.apply(X[ROWS[9]][None].expand(18, -1, -1, -1), torch.arange(18))
    assert any(torch.equal(raw(places, views)[2], view) for view in whole)
