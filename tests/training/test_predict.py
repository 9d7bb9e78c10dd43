import copy

import pytest
import tiny_learner
import torch
from torch import nn

from alprune.data import load
from alprune.errors import TrainError
from alprune.models.memory import out_of_memory
from alprune.training import FitSettings, Learner
from alprune.training.budget import Budget
from alprune.training.predict import BudgetSpent, Predictor, good_chunk

CPU = torch.device("cpu")


class Rows(nn.Module):
    """Gives back each image's first value, and asks for too much memory for large batches."""

    def __init__(self, most=10**9):
        super().__init__()
        self.most, self.batches = most, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.most:
            torch.empty(2**60, dtype=torch.uint8)  # no machine has it: the allocator's own error
        return x[:, :, 0, 0]


def predictor(chunk):
    return Predictor(torch.zeros(1), torch.ones(1), CPU, torch.float32, chunk)


def numbered(count):
    return torch.arange(count, dtype=torch.float32).view(count, 1, 1, 1).expand(count, 2, 2, 1)


def gathered(stream):
    parts = list(stream)
    ends = [(part.start, part.stop) for part, _ in parts]
    return ends, torch.cat([logits for _, logits in parts]).flatten().tolist()


def test_chunks_come_in_order_and_cover_everything():
    ends, values = gathered(predictor(4).stream(Rows(), numbered(10)))
    assert ends == [(0, 4), (4, 8), (8, 10)]
    assert values == list(range(10))


def test_indices_choose_rows():
    ends, values = gathered(predictor(2).stream(Rows(), numbered(10), torch.tensor([7, 0, 7])))
    assert ends == [(0, 2), (2, 3)]
    assert values == [7, 0, 7]


def test_a_spent_budget_stops_the_stream_before_the_next_chunk():
    time = iter(range(100))
    budget = Budget(2.5, now=lambda: next(time))
    budget.start()
    network = Rows()
    with pytest.raises(BudgetSpent):
        list(predictor(1).stream(network, numbered(10), budget=budget))
    assert len(network.batches) == 2


def test_out_of_memory_halves_the_chunk_and_loses_nothing():
    streaming, network = predictor(16), Rows(most=5)
    said = "out of memory while predicting 8 images at once; continuing with 4"
    with pytest.warns(UserWarning, match=said):
        ends, values = gathered(streaming.stream(network, numbered(21)))
    assert values == list(range(21))
    assert network.batches == [16, 8, 4, 4, 4, 4, 4, 1]
    assert streaming.chunk == 4
    assert gathered(streaming.stream(network, numbered(5)))[0] == [(0, 4), (4, 5)]


def test_out_of_memory_for_one_image_says_what_to_do():
    with pytest.warns(UserWarning), pytest.raises(TrainError, match="--image-size"):
        list(predictor(4).stream(Rows(most=0), numbered(4)))


def test_other_errors_pass():
    def broken(x):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(predictor(4).stream(broken, numbered(4)))


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and out_of_memory(
        MemoryError()
    )
    assert not out_of_memory(RuntimeError("memory format option is not supported"))
    assert not out_of_memory(ValueError("DefaultCPUAllocator"))


def test_larger_images_come_in_smaller_chunks():
    sizes = [good_chunk(CPU, (3, side, side)) for side in (8, 32, 64, 224)]
    assert sizes == [512, 64, 16, 8]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def learner(digits, model=None, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model or tiny_learner.build(10, digits.train.image_shape)
    return Learner(model, digits.train, FitSettings(**settings), CPU, torch.float32)


def train(it, digits):
    it.fit(torch.arange(256), digits.train.y[:256], 1.0, torch.Generator().manual_seed(0))


def logits_of(it, network=None):
    return torch.cat([part for _, part in it.predict(it.x[:32], network=network)])


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_predictions_are_those_of_the_unfolded_average_after_every_fit(digits, averaging):
    it = learner(digits, averaging=averaging, lr=0.05)
    predictions = []
    for _ in range(2):
        train(it, digits)
        predictions.append(logits_of(it))
        whole = copy.deepcopy(it.averaged).eval()
        inputs = (it.x[:32].permute(0, 3, 1, 2) / (255 if it.x.dtype == torch.uint8 else 1)).float()
        shape = (1, -1, 1, 1)
        with torch.no_grad():
            wanted = whole((inputs - it.mean.view(shape)) / it.std.view(shape))
        torch.testing.assert_close(predictions[-1], wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*predictions)
    norms = [m for m in it.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == []


def test_predicting_leaves_the_learners_modes_alone(digits):
    it = learner(digits, averaging=0.0)
    it.model.train()
    logits_of(it)
    assert it.model.training


def test_a_snapshot_predicts_as_the_learner_did_then(digits):
    it = learner(digits)
    it.keep_snapshots(2)
    train(it, digits)
    then = logits_of(it)
    train(it, digits)
    torch.testing.assert_close(logits_of(it, it.snapshots[0]), then)
    assert not torch.allclose(logits_of(it), then)


def test_hooks_on_network_see_what_predict_computes(digits):
    it = learner(digits)
    train(it, digits)
    seen = []
    hook = it.network[-1].register_forward_hook(lambda m, i, output: seen.append(output))
    logits = logits_of(it)
    hook.remove()
    assert torch.equal(torch.cat(seen), logits)


def test_a_network_replaced_in_mid_run_is_folded_anew(digits):
    it = learner(digits, tiny_learner.build(10, digits.train.image_shape))
    train(it, digits)
    before = logits_of(it)
    other = copy.deepcopy(it.averaged)
    with torch.no_grad():
        other[-1].bias += 1.0
    it.averaged = other  # what early pruning does, but for the sizes
    torch.testing.assert_close(logits_of(it), before + 1.0)
