"""Scoring borrows a model: it is given back as it was, whatever happened in between."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.errors import PruneError
from alprune.pruning.criteria.base import (
    ScoreOptions,
    all_finite,
    channel_scores,
    gradients,
    logits,
    loss_on,
    products,
    scoring_state,
)


class Counting(nn.Module):
    """Statistics, dropout of three kinds, a frozen weight, and an attribute that forwards set."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.gru = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = x.shape
        x = self.drop(self.norm(x))[:, None]
        x = self.attention(x, x, x)[0] + self.gru(x)[0]
        return self.head(F.dropout(x[:, 0], 0.5, training=True))


def snapshot(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {name: v.tolist() for name, v in model.state_dict().items()}
    found |= {f"{name} grad": p.requires_grad for name, p in model.named_parameters()}
    found |= {f"{name} mode": module.training for name, module in model.named_modules()}
    return found | {"gru": model.gru.dropout, "attention": model.attention.dropout}


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_given_back_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    model = Counting().eval()
    model.norm.train()
    x = torch.randn(6, 4)
    before, state = snapshot(model), torch.get_rng_state()
    try:
        with scoring_state(model) as parameters:
            assert all(p.requires_grad for p in parameters.values()) and model.training
            assert model.gru.dropout == model.attention.dropout == 0.0
            first, second = model(x), model(x)
            assert torch.equal(first, second)  # nothing is dropped
            torch.rand(3)
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert snapshot(model) == before
    assert model.calls == 0 and not hasattr(model, "last")
    assert torch.equal(torch.get_rng_state(), state)


class DropPath(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 * x.new_empty(len(x), 1).bernoulli_(0.5) if self.training else x


@pytest.mark.parametrize(
    "library", [None, "timm.layers:DropPath", "torchvision.ops:StochasticDepth"]
)
def test_no_branch_is_dropped_while_scoring(library: str | None) -> None:
    path: nn.Module = DropPath()
    if library is not None:
        module, _, name = library.partition(":")
        arguments = (0.5, "row") if name == "StochasticDepth" else (0.5,)
        path = getattr(pytest.importorskip(module), name)(*arguments)
    model = nn.Sequential(nn.Linear(2, 8), path)
    x = torch.ones(64, 2)
    with scoring_state(model):
        assert torch.equal(model(x), model[0](x))
    assert path.training


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_part_is_given_back_in_its_mode() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Linear(2, 2)).eval())
    with scoring_state(model):
        assert model[1].training
    assert not model[1].training


def test_a_sum_that_overflows_is_of_finite_numbers_all_the_same() -> None:
    large = torch.full((4,), 3e38)
    assert large.sum().isinf() and all_finite(large)
    assert not all_finite(torch.tensor([1.0, torch.inf]))
    assert not all_finite(torch.tensor([torch.inf, -torch.inf]))


class Fixed(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> object:
        return self.value


@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    model = Fixed(torch.tensor([[value, 0.0]] * 2))
    with pytest.raises(PruneError, match="scores need a finite loss"):
        loss_on(model, (torch.zeros(2, 1), torch.tensor([0, 0])))


def test_a_temperature_divides_the_logits() -> None:
    out, labels = torch.tensor([[2.0, 0.0], [0.0, 6.0]]), torch.tensor([0, 0])
    wanted = F.cross_entropy(out / 4, labels)
    assert loss_on(Fixed(out), (torch.zeros(2, 1), labels), 4.0) == wanted


def test_a_gradient_that_is_not_finite_is_named() -> None:
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(PruneError, match="the gradient of 'x' on the pruning batch is not finite"):
        gradients(x.sqrt().sum(), {"x": x})


@pytest.mark.parametrize("out", [torch.zeros(2, 3), (torch.zeros(2, 3), None)])
def test_logits_are_the_output_or_the_first_of_several(out: object) -> None:
    assert logits(Fixed(out), torch.zeros(2, 1)).shape == (2, 3)


@pytest.mark.parametrize("out", [(torch.zeros(2, 3, 4),), [], {"scores": torch.zeros(2, 3)}, 3])
def test_an_output_without_logits_is_refused(out: object) -> None:
    with pytest.raises(PruneError, match="scores need logits"):
        logits(Fixed(out), torch.zeros(2, 1))


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (2,)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    from alprune.pruning.graph import trace

    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = trace(model, torch.zeros(2, 2))
    assert graph.channels == 3
    batch = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(PruneError, match="it must return a tensor"):
        channel_scores(lambda *_: torch.zeros(shape), model, graph, batch, ScoreOptions())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_products_of_half_precision_do_not_vanish(dtype):
    weights, found = (
        torch.full((2,), 2.0**-10, dtype=dtype),
        torch.full((2,), 2.0**-18, dtype=dtype),
    )
    product = products({"w": weights}, {"w": found})["w"]
    assert product.tolist() == [2.0**-28] * 2  # float16 has nothing below 2^-24
    assert product.dtype == torch.promote_types(dtype, torch.float32)
