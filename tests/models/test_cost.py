import copy
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alprune.models import MODELS, build
from alprune.models import cost as cost_module
from alprune.models.cost import cost, latency_ms

CONVOLUTIONAL = sorted(set(MODELS) - {"lstm-s", "lstm-b", "gru-s", "gru-b"})


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
    assert round(found.bytes / 1e6, 1) == 90.7
    assert round(found.bytes / 2**20, 1) == 86.5  # table 2's "87 MB"


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_flops_equal_those_of_torchs_own_counter(name):
    model = build(name, 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example(name))
    found = cost(model, example(name))
    assert found.flops == counter.get_total_flops()
    assert found.uncounted == ()


def nothing(module: nn.Module, x: object, y: object) -> None:
    """Tell thop that this kind of layer is free."""


@pytest.mark.parametrize("name", ["vgg19", "resnet20", "mobilenet-v2", "alexnet-s", "wrn-16-8"])
def test_macs_equal_those_of_thop_without_its_norms_and_pooling(name):
    thop = pytest.importorskip("thop")
    model = build(name, 10)
    free = {kind: nothing for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)}
    macs, params = thop.profile(
        copy.deepcopy(model), (example(name),), custom_ops=free, verbose=False
    )
    found = cost(model, example(name))
    assert (found.macs, found.params) == (macs, params)


def test_thops_extras_on_vgg19_are_batchnorm_and_average_pooling():
    thop = pytest.importorskip("thop")
    model = build("vgg19", 10)
    macs, _ = thop.profile(copy.deepcopy(model), (example("vgg19"),), verbose=False)
    normed = sum(
        width * size * size * count
        for width, size, count in [(64, 32, 2), (128, 16, 2), (256, 8, 4), (512, 4, 4), (512, 2, 4)]
    )
    assert macs - cost(model, example("vgg19")).macs == 4 * normed + 2 * 512 * 2 * 2


@pytest.mark.parametrize(
    ("name", "gates", "extras"),
    [("lstm-s", 4, 4 * 3 + 4), ("gru-b", 3, 3 * 3 + 4)],  # biases and elementwise work a unit
)
def test_recurrent_macs_equal_the_formula_and_thop_without_its_extras(name, gates, extras):
    model = build(name, 10)
    hidden = model.rnn.hidden_size
    expected = 28 * (28 * hidden + gates * hidden * (hidden + hidden)) + 10 * hidden
    found = cost(model, example(name, 3))
    assert found.macs == expected
    thop = pytest.importorskip("thop")
    macs, _ = thop.profile(copy.deepcopy(model), (example(name),), verbose=False)
    assert macs - expected == 28 * extras * hidden


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
    assert (found.macs, found.params, found.bytes) == (72, 42, 168)
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


def test_weights_that_no_rule_counts_are_named():
    model = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    found = cost(model, torch.zeros(1, 3, 4))
    assert "1.self_attn" in found.uncounted
    assert "0" not in found.uncounted


def test_bytes_are_those_of_the_saved_state(tmp_path: Path):
    model = build("resnet20", 10).bfloat16()
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    found = cost(model, example("resnet20").bfloat16())
    assert found.bytes == path.stat().st_size - 8 - header


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
