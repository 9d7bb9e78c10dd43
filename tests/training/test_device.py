"""Devices and precisions: what is refused, and what scaled gradients are for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import options

import alprune
from alprune.errors import ConfigError
from alprune.loop.checkpoint import load_checkpoint
from alprune.loop.observers import Observer
from alprune.training.device import gpu_index, pick_device, pick_precision, scaler_for

CPU = torch.device("cpu")


def test_a_macs_gpu_which_has_no_float64_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(ConfigError, match=r"'mps' .* is not supported: it has no float64"):
        pick_device("mps")
    with pytest.raises(ConfigError, match="device 'xpu' is not supported"):
        pick_device("xpu")


def test_a_gpu_is_taken_by_its_number_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert [gpu_index(pick_device(name)) for name in ("cuda", "cuda:0", "cuda:1")] == [0, 0, 1]
    with pytest.raises(ConfigError, match="'cuda:2' was asked for, but .* cuda:0, cuda:1;"):
        pick_device("cuda:2")


def test_fp16_is_taken_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_precision("fp16", CPU) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert pick_precision("auto", torch.device("cuda")) == torch.float32
    with pytest.raises(ConfigError, match="unknown precision 'fp8'; known: auto, fp32, bf16, fp16"):
        pick_precision("fp8", CPU)


@pytest.mark.parametrize("scaled", [True, False])
def test_scaling_saves_gradients_that_fp16_rounds_to_zero(scaled: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=1e6)
    scaler = scaler_for(CPU, torch.float16 if scaled else torch.float32)
    loss = (weight.half() * torch.tensor([1e-4]).half()).float() * 1e-4  # a gradient of 1e-8
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    assert weight.item() == pytest.approx(1 - 1e6 * 1e-8 if scaled else 1, rel=1e-3)


@pytest.mark.slow
def test_a_run_in_fp16_learns_and_is_resumed_exactly(tmp_path: Path) -> None:
    class Impatient(Observer):
        def event(self, name: str, fields: dict[str, Any]) -> None:
            if name == "step" and fields["step"] == 1:
                raise KeyboardInterrupt

    def config(name: str) -> alprune.RunConfig:
        return options(tmp_path / name, precision="fp16", steps=2, initial_epochs=15.0)

    whole = alprune.run(config("whole"))
    alprune.run(config("cut"), observer=Impatient())
    state = load_checkpoint(tmp_path / "cut")
    assert state is not None and state["learner"]["scaler"]["scale"] > 1
    again = alprune.resume(tmp_path / "cut")
    assert again.test_accuracy == whole.test_accuracy and whole.test_accuracy > 0.2
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert weights[0] == weights[1]
