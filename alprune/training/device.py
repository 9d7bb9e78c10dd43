"""Where and in which precision a run computes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from alprune.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: No such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; known: {', '.join(DEVICES)}.") from error
    if device.type == "mps":
        raise ConfigError(
            "device 'mps' (a Mac's GPU) is not supported: it has no float64, which sums are "
            "computed in; use --device cpu."
        )
    if device.type not in DEVICES:
        raise ConfigError(f"device {name!r} is not supported; known: {', '.join(DEVICES)}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but torch finds no GPU; use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        raise ConfigError(f"device {name!r} was asked for, but torch finds {there}; choose one.")
    return device


def gpu_index(device: torch.device) -> int:
    """Return the number of a GPU: that of the current one for plain `cuda`."""
    return torch.cuda.current_device() if device.index is None else device.index


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the matrix products: bf16 under `auto` only where hardware computes it.

    fp16 is for GPUs that have no bf16, those of a compute capability below 8. It has not yet been
    run on one, so `auto` does not choose it.

    Raises:
        ConfigError: Unknown precision.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}.")
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    return _TYPES[name]


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Compute in `precision` inside the block; parameters stay float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def scaler_for(device: torch.device, precision: torch.dtype) -> torch.amp.GradScaler:
    """Return what scales gradients, which fp16 would round to 0; with other types it does nothing.

    A step whose gradients overflow is left out, and the scale is halved.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == torch.float16)


def hardware(device: torch.device) -> str:
    """Say in words what computes, for the run's record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Only tile instructions make bf16 pay. With AVX-512's bf16 alone, products were measured at
    # 200 GFLOP/s against 365 in fp32; without either, bf16 is emulated.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
