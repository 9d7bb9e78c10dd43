import warnings

import pytest
import tape
import tiny_learner
import torch
from torch import nn
from torch.nn import functional as F

from alprune.data import load
from alprune.models import build
from alprune.training import FitSettings, Learner
from alprune.training import cuda_graphs as graphs
from alprune.training.cuda_graphs import WARM_UP, Replayed, hooked, recorder
from alprune.training.state import learner_state, restore_learner

CPU = torch.device("cpu")
GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def digits():
    return load("digits").train


@pytest.fixture
def taped(monkeypatch):
    """Let learners record on the CPU, and return the list of what they recorded."""
    made = []

    def record(work):
        made.append(work)
        return tape.record(work)

    monkeypatch.setattr("alprune.training.learner.recorder", lambda device: record)
    return made


def network(make=tiny_learner.build):
    torch.manual_seed(0)
    return make(10, (1, 8, 8))


def learner(digits, make=tiny_learner.build, device=CPU, graphs=True, **settings):
    settings = {"batch_size": 16, "warmup_batches": 5, "averaging": 0.9, "pad": 1} | settings
    settings = FitSettings(**settings)
    it = Learner(network(make), digits, settings, device, torch.float32, graphs=graphs)
    it._predictor.chunk = 100  # so that few images are many chunks
    return it


def trained(it, digits, fits=2, count=200, epochs=3.0):
    """Fit some times; return the losses and what the learner predicts afterwards."""
    draws = torch.Generator(it.device).manual_seed(0)
    points = torch.arange(count)
    losses = [
        it.fit(points, digits.y[points], epochs, draws, progress=lambda done: done / 2).loss
        for _ in range(fits)
    ]
    return losses, it.logits(digits.x)


def same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "averaging"),
    [(tiny_learner.build, 0.0), (tiny_learner.dropout, 0.9), (tiny_learner.tied, 0.9)],
)
def test_a_recorded_run_is_the_run_without_recordings(digits, taped, make, averaging):
    plain = trained(learner(digits, make, graphs=False, averaging=averaging), digits)
    assert not taped
    assert plain[0][1] < 0.95 * plain[0][0]  # rates, averages and statistics have moved on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded = trained(learner(digits, make, averaging=averaging), digits)
    assert len(taped) == 2  # training step, scoring step
    same(recorded, plain)


def test_scores_follow_the_weights_that_were_trained_after_the_recording(digits, taped):
    it, plain = learner(digits), learner(digits, graphs=False)
    for _ in range(2):
        assert torch.allclose(trained(it, digits)[1], trained(plain, digits)[1], atol=1e-3)
    assert len(taped) == 2


def test_another_batch_size_is_another_recording(digits, taped):
    it, plain = learner(digits), learner(digits, graphs=False)
    for count in (8, 100, 8):  # batches of 8, 16, 8
        losses = [trained(each, digits, count=count, epochs=8.0)[0] for each in (it, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(taped) == 4


def test_a_restored_learner_records_anew(digits, taped):
    it = learner(digits)
    trained(it, digits)
    state = {k: v for k, v in learner_state(it).items()}
    other = learner(digits)
    trained(other, digits, fits=1, epochs=3.0)  # has a recording that moves other tensors
    restore_learner(other, state)
    recorded = len(taped)
    found = trained(other, digits)
    assert len(taped) > recorded
    same(found, trained(it, digits))


def test_a_hooked_network_is_neither_recorded_nor_replayed(digits, taped):
    it, seen = learner(digits), []
    trained(it, digits)
    recorded = len(taped)
    handle = it.network[0].register_forward_hook(lambda *_: seen.append("score"))
    other = it.model[0].register_forward_hook(lambda *_: seen.append("fit"))
    assert hooked(it.network) and hooked(it.model)
    trained(it, digits)
    assert seen.count("fit") == 76 and seen.count("score") > 1
    assert len(taped) == recorded
    handle.remove()
    other.remove()
    assert not hooked(it.network)


class Reads(nn.Module):
    """Looks at a value in Python."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x * 2 if x.mean() > 100 else x)


class Masks(Reads):
    def forward(self, x):
        x = x.flatten(1).clone()
        x[x > 1] = x[x > 1].tanh()
        return self.layer(x)


@pytest.mark.parametrize(("kind", "operation"), [(Reads, "_local_scalar_dense"), (Masks, "index")])
def test_a_network_that_reads_values_is_left_as_it_is(digits, taped, kind, operation):
    plain = trained(learner(digits, lambda *_: kind(), graphs=False), digits)
    with pytest.warns(UserWarning, match=f"no CUDA graph.*{operation}.*--no-cuda-graphs"):
        recorded = trained(learner(digits, lambda *_: kind()), digits)
    assert not taped
    same(recorded, plain)


class NoModes(Reads):
    """Fails where operations are watched."""

    def forward(self, x):
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("no rule for this mode")
        return self.layer(x.flatten(1))


def test_a_network_that_cannot_be_watched_is_left_as_it_is(digits, taped):
    with pytest.warns(UserWarning, match="NotImplementedError: no rule for this mode"):
        recorded = trained(learner(digits, lambda *_: NoModes()), digits)
    assert not taped
    same(recorded, trained(learner(digits, lambda *_: NoModes(), graphs=False), digits))


def test_a_recording_that_fails_costs_nothing_but_a_warning(digits, monkeypatch):
    def record(work):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("alprune.training.learner.recorder", lambda device: record)
    with pytest.warns(UserWarning, match="RuntimeError: CUDA error: operation not permitted when"):
        recorded = trained(learner(digits), digits)
    same(recorded, trained(learner(digits, graphs=False), digits))


def test_a_recording_that_does_something_else_is_not_used(digits, monkeypatch):
    def record(work):
        return lambda: torch.tensor(0.5)  # moves no weight

    monkeypatch.setattr("alprune.training.learner.recorder", lambda device: record)
    with pytest.warns(UserWarning, match="did not do what the work itself does"):
        recorded = trained(learner(digits, tiny_learner.dropout), digits)
    same(recorded, trained(learner(digits, tiny_learner.dropout, graphs=False), digits))


def test_work_is_done_warm_then_recorded_then_replayed():
    done, scale = [], torch.tensor(1.0)

    def work(x):
        done.append("here")
        return x * scale

    replayed = Replayed(work, tape.record)
    for step in range(WARM_UP + 4):
        scale.fill_(step + 2)
        assert replayed(torch.tensor([1.0, 3.0])).tolist() == [step + 2, 3 * (step + 2)]
        assert replayed.ready == (step >= WARM_UP)
    assert len(done) == WARM_UP + 2  # once more to compare, once to record
    assert replayed.refused is None


def test_a_number_that_changes_between_calls_would_be_repeated_by_a_recording():
    """The reason why rates stand in tensors; the check sees a number that changes at every call."""
    numbers = iter(range(100))
    replayed = Replayed(lambda x: x + next(numbers), tape.record)
    with pytest.warns(UserWarning, match="did not do what"):
        got = [float(replayed(torch.zeros(1))) for _ in range(WARM_UP + 3)]
    assert got == [0, 1, 2, 3, 5, 6]  # 4 went to the recording that was not used


@pytest.mark.parametrize(
    "name", "alexnet-s lenet-5-caffe mobilenet-v3-small resnet20 vgg19 wrn-16-8 lstm-s".split()
)
def test_training_our_models_reads_no_value(name):
    torch.manual_seed(0)
    shape = (1, 28, 28) if name.startswith(("lenet", "lstm")) else (3, 32, 32)
    model = build(name, 10, shape).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.01), fused=True)
    with graphs._Watch() as watch:
        F.cross_entropy(model(torch.randn(4, *shape)), torch.arange(4)).backward()
        optimiser.step()
    assert not watch.seen


def test_only_a_gpu_records():
    assert recorder(CPU) is None
    assert recorder(GPU) is not None


@needs_gpu
@pytest.mark.parametrize("make", [tiny_learner.build, tiny_learner.dropout])
def test_on_a_gpu_a_recorded_run_is_the_run_without_recordings(digits, make):
    plain = trained(learner(digits, make, GPU, graphs=False), digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        it = learner(digits, make, GPU)
        recorded = trained(it, digits)
    assert it._recordings.last[1].ready and it._predictor._recordings.last[1].ready
    same(recorded, plain)


@needs_gpu
def test_on_a_gpu_a_network_that_reads_values_is_left_as_it_is(digits):
    with pytest.warns(UserWarning, match="no CUDA graph"):
        recorded = trained(learner(digits, lambda *_: Reads(), GPU), digits)
    same(recorded, trained(learner(digits, lambda *_: Reads(), GPU, graphs=False), digits))


@needs_gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_on_a_gpu_vgg19_is_recorded(precision):
    train = load("digits", size=(32, 32)).train
    torch.manual_seed(0)
    vgg19 = build("vgg19", 10, (1, 32, 32))
    it = Learner(vgg19, train, FitSettings(batch_size=64), GPU, precision)
    it.fit(torch.arange(500), train.y[:500], 2.0, torch.Generator(GPU).manual_seed(0))
    assert it._recordings.last[1].ready
