"""All that training changes in an object is in its state; the rest is listed, with reasons."""

import copy
from collections import deque
from collections.abc import Mapping

import pytest
import torch
from test_fine_tune import network, tuning
from torch import Tensor, nn

from alprune.data import load
from alprune.models import build
from alprune.pruning.epi import EarlyPruner, EarlySettings
from alprune.pruning.epi.importance import Importance
from alprune.pruning.graph import trace
from alprune.pruning.plan import Target
from alprune.pruning.width_limits import Limits
from alprune.training import FitSettings, Learner
from alprune.training.budget import Budget
from alprune.training.distil import Distillation, DistilSettings
from alprune.training.embeddings import Embedder
from alprune.training.fine_tune import FineTuning
from alprune.training.frozen import FrozenLearner

CPU = torch.device("cpu")
LEFT_OUT = {
    Learner: {
        "_folded",  # a copy that `predict` brings up to date
        "_wrapped",  # the network, as processes of a team call it
    },
    FrozenLearner: {
        "embedder",  # what it knows, it finds again on the disk
        "seen",  # likewise
    },
    EarlyPruner: {
        "_graph",  # follows from `keep`
    },
    Importance: {
        "graph",  # likewise
        "_sites",  # found again in the next network that is observed
    },
    FineTuning: {
        "_examples",  # computed again where it is needed
        "_order",  # follows from `done` and the seed
    },
    Distillation: {
        "_order",  # likewise
    },
}


@pytest.fixture(scope="module")
def digits():
    return load("digits").train


def plain(value):
    """Reduce a value to what can be compared."""
    if isinstance(value, Tensor):
        return value.dtype, value.detach().tolist()
    if isinstance(value, nn.Module | torch.amp.GradScaler):
        return plain(value.state_dict())
    if isinstance(value, torch.optim.Optimizer):  # its rates are set before each batch
        return [plain(value.state.get(p)) for group in value.param_groups for p in group["params"]]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | deque):
        return [plain(part) for part in value]
    if type(value) in LEFT_OUT:
        left_out = LEFT_OUT[type(value)]
        return {name: plain(part) for name, part in vars(value).items() if name not in left_out}
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def trained(digits, early=False, precision=torch.float32):
    model = build("tiny_learner:build", 10, (1, 8, 8), 0)
    pruner = None
    if early:
        target = Target("channels", 0.4, Limits(min_channels=13))
        graph = trace(model, torch.zeros(2, 1, 8, 8))
        pruner = EarlyPruner(graph, EarlySettings(target, prune_at=1, steps=2))
    settings = FitSettings(batch_size=8, pad=0, averaging=0.9)
    learner = Learner(model, digits, settings, CPU, precision, pruner)
    learner.keep_snapshots(2)
    return learner


def frozen(digits, folder):
    body = build("tiny_learner:build", 2, (1, 8, 8), 0).eval()
    embedder = Embedder(body, (1, 8, 8), digits.mean, digits.std, "tiny", "digest", folder)
    model = build("tiny_learner:build", 10, (1, 8, 8), 0)
    learner = FrozenLearner(model, embedder, digits)
    learner.keep_snapshots(2)
    return learner


def distillation(digits):
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    wanted = torch.randn(len(digits), 4, generator=torch.Generator().manual_seed(0))
    statistics = torch.tensor(digits.mean), torch.tensor(digits.std)
    rows, settings = torch.arange(64), DistilSettings(batch_size=8, passes=2)
    return Distillation(student, digits.x, rows, lambda r: wanted[r], *statistics, 0, settings)


def fit(learner, digits, epochs):
    labelled = torch.arange(32)
    learner.fit(labelled, digits.y[:32], epochs, torch.Generator().manual_seed(1))


def check(made, fresh, work):
    """Compare what work has changed with what an object has that took up the state."""
    before = plain(made)
    work(made)
    after = plain(made)
    assert LEFT_OUT[type(made)] <= set(vars(made))
    changed = [name for name in after if after[name] != before[name]]
    fresh.restore(copy.deepcopy(made.state()))
    found = plain(fresh)
    assert changed and [name for name in changed if found[name] != after[name]] == []


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("epochs", [1.0, 1.75])  # the second ends within the epoch that prunes
def test_a_learner(digits, early, epochs):
    def work(learner):
        fit(learner, digits, 0.5)  # of which a snapshot is left
        fit(learner, digits, epochs - 0.5)
        learner.lr /= 2  # as after a divergence

    check(trained(digits, early), trained(digits, early), work)


def test_a_learner_whose_gradients_are_scaled(digits):
    made, fresh = (trained(digits, precision=torch.float16) for _ in range(2))
    check(made, fresh, lambda learner: fit(learner, digits, 1.0))


def test_a_frozen_learner(digits, tmp_path):
    made, fresh = frozen(digits, tmp_path), frozen(digits, tmp_path)
    check(made, fresh, lambda learner: fit(learner, digits, 1.0))


@pytest.mark.parametrize("kind", ["fine-tuning", "distillation"])
def test_work_in_passes(digits, kind):
    def some(work):
        budget = Budget(None)
        work.run(budget, lambda loss: budget.halt() if work.done == 3 else None)
        assert work.done == 3

    make = (lambda: tuning(network())) if kind == "fine-tuning" else lambda: distillation(digits)
    check(make(), make(), some)
