import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alprune.models import MODELS, build
from alprune.models import cost as cost_module
from alprune.models.cost import cost, latency_ms


def example(name: str, batch: int = 1) -> torch.Tensor:
    return torch.zeros(batch, *MODELS[name].input_shape)


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {k: v.clone() for k, v in model.state_dict().items()},
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_vgg19_costs_what_the_paper_says():
    found = cost(build("vgg19", 10), example("vgg19"))
    assert found.params == 22_663_498
    assert found.macs == 400_757_760
    assert found.flops == 801_515_520


def flops_by_torch(model: nn.Module, x: torch.Tensor) -> int:
    """Count with torch's own counter, attention as the plain products that it knows."""
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False),  # its recurrent kernel is not counted
    ):
        model(x)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


class Functional(nn.Module):
    """Weights that no layer owns, and products of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 8))
        self.b = nn.Parameter(torch.randn(8, 4))
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, 5, 6)
        x = torch.einsum("bni,io->bno", x, self.a)  # 5 * 6 * 8
        x = x + torch.softmax(x @ x.transpose(1, 2), -1) @ x  # twice 5 * 5 * 8
        x = torch.baddbmm(x, torch.bmm(x, x.mT), x)  # twice 5 * 5 * 8
        x = F.scaled_dot_product_attention(x, x, x)  # twice 5 * 5 * 8
        return torch.addmm(self.bias, x.flatten(0, 1), self.b).view(-1, 20)  # 5 * 8 * 4


@pytest.mark.parametrize("name", ["lstm-s", "gru-s"])  # others are counted by it
def test_flops_of_recurrent_kernels_equal_those_of_torchs_own_counter(name):
    model = build(name, 10).eval()
    assert cost(model, example(name)).flops == flops_by_torch(model, example(name))


def test_products_that_no_layer_makes_are_counted():
    found = cost(Functional(), torch.zeros(2, 5, 6))
    assert found.macs == 5 * 6 * 8 + 6 * 5 * 5 * 8 + 5 * 8 * 4
    assert found.flops == flops_by_torch(Functional(), torch.zeros(1, 5, 6))
    assert found.by_layer == {"": found.macs}


def test_attention_counts_its_projections_and_its_products():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = cost(nn.Sequential(nn.Linear(4, 8), layer), torch.zeros(3, 7, 4))
    assert found.by_layer == {
        "0": 7 * 4 * 8,
        "1.self_attn": 7 * 8 * 24 + 2 * 7 * 7 * 8 + 7 * 8 * 8,
        "1.linear1": 7 * 8 * 16,
        "1.linear2": 7 * 16 * 8,
    }
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_bilinear_layer_counts_its_three_factors():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Bilinear(3, 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.both(x[..., :3], x[..., 3:])

    assert cost(Both(), torch.zeros(2, 6, 7)).by_layer == {"both": 6 * 3 * 4 * 5}


def test_scripted_and_compiled_parts_are_counted():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    assert cost(nn.Sequential(scripted), torch.zeros(2, 4)).macs == 4 * 6 + 6 * 3
    compiled = torch.compile(nn.Linear(4, 6))
    assert cost(nn.Sequential(compiled), torch.zeros(2, 4)).macs == 4 * 6


@pytest.mark.parametrize(("name", "gates"), [("lstm-s", 4), ("gru-b", 3)])
def test_recurrent_macs_equal_the_formula(name, gates):
    model = build(name, 10)
    hidden = model.rnn.hidden_size
    expected = 28 * (28 * hidden + gates * hidden * (hidden + hidden)) + 10 * hidden
    assert cost(model, example(name, 3)).macs == expected


def test_layers_of_every_kind_cost_what_a_hand_counts():
    cases = [
        (nn.Conv1d(4, 6, 3, groups=2), (4, 10), 8 * 6 * 2 * 3),
        (nn.Conv2d(3, 8, (3, 1), stride=2, padding=(1, 0)), (3, 8, 9), 4 * 5 * 8 * 3 * 3),
        (nn.Conv3d(2, 4, 2), (2, 3, 3, 3), 8 * 4 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 25 * 4 * 3 * 9),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.RNN(4, 6, bidirectional=True, batch_first=True), (9, 4), 9 * 2 * 6 * (4 + 6)),
        (
            nn.LSTM(4, 6, num_layers=2, proj_size=3, batch_first=True),
            (9, 4),
            9 * (4 * 6 * (4 + 3) + 6 * 3 + 4 * 6 * (3 + 3) + 6 * 3),
        ),
        (nn.GRUCell(4, 6), (4,), 3 * 6 * (4 + 6)),
    ]
    for layer, shape, expected in cases:
        for batch in (1, 5):
            assert cost(layer, torch.zeros(batch, *shape)).macs == expected, layer


def test_a_layer_used_twice_counts_twice_and_its_weights_once():
    shared = nn.Linear(6, 6)
    found = cost(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(2, 6))
    assert (found.macs, found.params) == (72, 42)
    assert found.by_layer == {"0": 72}


def test_layers_called_by_keyword_or_over_a_folded_batch_are_counted():
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            frames = self.conv(input=x.flatten(0, 1).unsqueeze(1))
            return frames.unflatten(0, x.shape[:2])

    assert cost(Folded(), torch.zeros(3, 5, 8, 8)).macs == 5 * 36 * 36


def test_the_model_is_left_as_found():
    model = build("resnet20", 10)
    model.blocks[0].eval()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    before = snapshot(model)
    cost(model, example("resnet20"))
    latency_ms(model, example("resnet20"), repeats=1, warmup=1)
    assert same(before, snapshot(model))


def test_the_model_is_left_as_found_when_its_forward_fails():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(3, 3))
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        cost(model, torch.zeros(1, 4))
    assert same(before, snapshot(model))


def test_latency_is_the_median_in_milliseconds_after_the_warmup(monkeypatch):
    seen = []
    clock = itertools.accumulate([0, 5, 100, 1, 100, 9])  # passes of 5, 1 and 9 seconds
    monkeypatch.setattr(cost_module.time, "perf_counter", lambda: next(clock))

    class Watched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, torch.is_grad_enabled(), x.shape[0]))
            return x

    assert latency_ms(Watched(), torch.zeros(4, 2), repeats=3, warmup=2) == 5000
    assert seen == [(False, False, 4)] * 5


def test_latency_needs_a_pass_to_measure():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        latency_ms(nn.Identity(), torch.zeros(1), repeats=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_latency_on_cuda_waits_for_the_work():
    x = torch.randn(4096, 4096, device="cuda")

    class Busy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(50):
                x = x @ x * 1e-3
            return x

    # 50 products of 4096 are 6.9e12 operations: 1 ms would be beyond any GPU in fp32.
    assert latency_ms(Busy(), x, repeats=3, warmup=1) > 1


class Queries(nn.Module):
    """A decoder whose first input is a parameter."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 8))
        self.read = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.read(self.queries, x)).mean(1)


def test_a_parameter_may_be_the_input_of_a_module():
    model = Queries()
    found = cost(model, torch.randn(1, 7, 8))
    attention = 2 * 5 * 5 * 8 + 4 * 5 * 8 * 8  # of the queries to themselves
    across = 2 * 5 * 7 * 8 + (2 * 5 + 2 * 7) * 8 * 8
    assert found.macs == attention + across + 2 * 5 * 8 * 16 + 5 * 8 * 3
    assert all(parameter.requires_grad for parameter in model.parameters())
