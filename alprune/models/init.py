"""Fresh weights for any network: He's initialisation and the others of SNIP's table 3."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from alprune.models.registry import INITS
from alprune.registry import unknown

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (*_CONVS, *_TRANSPOSED, nn.Linear)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm, SyncBatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)

Fill = Callable[[Tensor, int, int], Tensor]
"""`(empty float32 weight, fan_in, fan_out) -> the same tensor, filled`."""


@runtime_checkable
class StartsFromImages(Protocol):
    """A network, of `MODELS` or your own, that sets weights by images before it is pruned."""

    def start_from_images(self, images: Tensor, generator: torch.Generator) -> None:
        """Set weights by images of the pool, normalised, `(n, c, h, w)`, on the CPU."""


def he_normal_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from N(0, 2 / fan_in), set biases to 0 and norms to the identity.

    Covers convolutions (transposed too), linear layers, RNN / LSTM / GRU and normalisations,
    whose running statistics are reset. The fan-in of a recurrent weight is that of the whole
    cell, input + hidden, since a gate adds both products; an LSTM's forget gate starts with
    bias 1 (Jozefowicz et al. 2015). Parameters of any other layer are left as they are; see
    `reinit`, which covers them.

    Args:
        model: Changed in place.
        generator: On the CPU (same weights whatever the model's device) or on the parameters'
            device.

    Source: He et al. 2015, eq. 10; SNIP's VS-H.
    """
    _fill(model, generator, lambda w, i, o: w.normal_(0, (2 / i) ** 0.5, generator=generator))


def glorot_normal_(model: nn.Module, generator: torch.Generator) -> None:
    """As `he_normal_`, with weights from N(0, 2 / (fan_in + fan_out)).

    Source: Glorot & Bengio 2010, eq. 12; SNIP's VS-X.
    """
    _fill(model, generator, lambda w, i, o: w.normal_(0, (2 / (i + o)) ** 0.5, generator=generator))


def lecun_normal_(model: nn.Module, generator: torch.Generator) -> None:
    """As `he_normal_`, with weights from N(0, 1 / fan_in).

    Source: LeCun et al. 1998; the scale at which SNIP's published code starts.
    """
    _fill(model, generator, lambda w, i, o: w.normal_(0, i**-0.5, generator=generator))


def normal_(model: nn.Module, generator: torch.Generator, std: float = 0.1) -> None:
    """As `he_normal_`, with weights from N(0, std^2) whatever the layer's size.

    Source: SNIP's RN (table 3), which doesn't give `std`.
    """
    _fill(model, generator, lambda w, i, o: w.normal_(0, std, generator=generator))


def truncated_normal_(model: nn.Module, generator: torch.Generator, std: float = 0.1) -> None:
    """As `normal_`, cut off at two `std` on either side.

    Source: SNIP's TN (table 3), which doesn't give `std`.
    """

    def fill(weight: Tensor, fan_in: int, fan_out: int) -> Tensor:
        return nn.init.trunc_normal_(weight, 0, std, -2 * std, 2 * std, generator=generator)

    _fill(model, generator, fill)


def default_(model: nn.Module, generator: torch.Generator) -> None:
    """Let every layer initialise itself, as PyTorch's constructors do.

    Runs `reset_parameters()` wherever a layer has it, under a forked global generator seeded
    from `generator`. For linear and convolution layers that is uniform with variance
    1 / (3 fan_in), biases too: the 3SP paper's choice (appendix A).
    """
    with forked_rng(_draw_seed(generator), _cuda_devices(model)):
        for module in model.modules():
            reset = _own_reset(module)
            if reset is not None:
                reset()


def reinit(model: nn.Module, generator: torch.Generator, init: str = "he") -> tuple[str, ...]:
    """Give an arbitrary network, for example a pruned one, fresh weights in place.

    Layers without a rule here (embeddings, attention, a user's own) run their own
    `reset_parameters()`, under a forked global generator.

    Args:
        model: Changed in place.
        generator: On the CPU or on the parameters' device.
        init: A key of `INITS`.

    Returns:
        Names of the parameters that have no initialisation and stay as they were, such
        as a class token that its module owns directly.

    Raises:
        ConfigError: No initialisation of that name.
    """
    if init not in INITS:
        raise unknown("initialisation", init, INITS)
    left: list[str] = []
    with forked_rng(_draw_seed(generator), _cuda_devices(model)):
        for name, module in model.named_modules():
            keys = _without_rule(module)
            reset = _own_reset(module)
            if keys and reset is not None and not isinstance(module, (*_WEIGHTED, *_RECURRENT)):
                reset()
            else:
                left += [f"{name}.{key}".lstrip(".") for key in keys]
    INITS[init](model, generator)  # last: an attention layer's own reset touches its linear child
    return tuple(left)


@contextmanager
def forked_rng(seed: int, cuda_devices: Iterable[int] = ()) -> Iterator[None]:
    """Seed the global generators of the CPU and of `cuda_devices`; restore them on leaving."""
    devices = list(cuda_devices)
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed would also seed the devices, which are not restored.
        torch.default_generator.manual_seed(seed)
        for index in devices:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield


def _fill(model: nn.Module, generator: torch.Generator, fill: Fill) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _NORMS):
                module.reset_parameters()
            elif isinstance(module, _WEIGHTED):
                _fill_weighted(module, generator, fill)
            elif isinstance(module, _RECURRENT):
                _fill_recurrent(module, generator, fill)


def _fill_weighted(module: nn.Module, generator: torch.Generator, fill: Fill) -> None:
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is not None:
        groups = int(getattr(module, "groups", 1))
        makes, reads = (1, 0) if isinstance(module, _TRANSPOSED) else (0, 1)
        kernel = weight[0, 0].numel()
        # One of the two dimensions is already that of one group.
        fan_in = weight.shape[reads] * kernel // (groups if reads == 0 else 1)
        fan_out = weight.shape[makes] * kernel // (groups if makes == 0 else 1)
        _draw_into(weight, fan_in, fan_out, generator, fill)
    if bias is not None:
        bias.zero_()


def _fill_recurrent(module: nn.Module, generator: torch.Generator, fill: Fill) -> None:
    gates = 4 if isinstance(module, (nn.LSTM, nn.LSTMCell)) else 3
    gates = gates if isinstance(module, (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)) else 1
    own = {key: value for key, value in module._parameters.items() if value is not None}
    for key, value in own.items():
        if key.startswith("bias"):
            value.zero_()
            if gates == 4 and key.startswith("bias_ih"):
                value[value.numel() // 4 : value.numel() // 2] = 1  # gates: input, forget, ...
        elif key.startswith("weight_hr"):  # the projection of an LSTM's output
            _draw_into(value, value.shape[1], value.shape[0], generator, fill)
        else:
            layer = key.removeprefix("weight_ih").removeprefix("weight_hh")
            fan_in = own["weight_ih" + layer].shape[1] + own["weight_hh" + layer].shape[1]
            _draw_into(value, fan_in, value.shape[0] // gates, generator, fill)


def _draw_into(
    weight: Tensor, fan_in: int, fan_out: int, generator: torch.Generator, fill: Fill
) -> None:
    # Drawn contiguous and in float32: the same numbers whatever the memory format and precision.
    fresh = torch.empty(weight.shape, dtype=torch.float32, device=generator.device)
    weight.copy_(fill(fresh, max(fan_in, 1), max(fan_out, 1)))


def _without_rule(module: nn.Module) -> list[str]:
    """Keys of the parameters that `module` owns and that `_fill` doesn't cover."""
    own = [key for key, value in module._parameters.items() if value is not None]
    if isinstance(module, _RECURRENT):
        return []
    if isinstance(module, (*_WEIGHTED, *_NORMS)):
        return [key for key in own if key not in ("weight", "bias")]
    return own


def _own_reset(module: nn.Module) -> Callable[[], None] | None:
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    return reset if callable(reset) else None


def _draw_seed(generator: torch.Generator) -> int:
    drawn = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return int(drawn.item())


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
