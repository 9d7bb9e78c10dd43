"""Networks at new widths, residual ones too: each layer uses the first channels of what it meets.

A keep vector gives all layers that write to a residual trunk one width. PreCrop does not: there
each layer has its own, reads the first channels of the trunk and adds to its first channels
(figure 4 of Cai et al. 2022). `Cropped` runs any network that way, without zero padding.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alprune.errors import PruneError
from alprune.models.copies import copy_network
from alprune.models.cost import forward_only
from alprune.models.init import he_normal_
from alprune.pruning.graph import verify

Widths = Mapping[str, tuple[int, int]]
"""`{module name: (inputs, outputs)}`; the two are equal for BatchNorm and depthwise layers."""

_CONV = nn.Conv1d | nn.Conv2d | nn.Conv3d
_NORM = nn.modules.batchnorm._BatchNorm
# Of weights at new widths: times those of the unpruned network, or this many in any case.
_GROWTH_MOST, _WEIGHTS_FREE = 4, 2**24
_ADD = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
)
_MULTIPLY = frozenset(
    {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
)


class Cropped(nn.Module):
    """A network whose layers disagree on widths: additions go to the first channels.

    Wherever the forward adds two activations that differ only in the number of channels, the
    narrower is added to the first channels of the wider. The convolutions and linear layers
    inside read the first channels of wider inputs. State-dict names gain the prefix "model.".
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Run the network; arguments and result are its own."""
        with _AddToFirst():
            return self.model(*inputs, **options)


@dataclass(frozen=True)
class Layers:
    """What `survey` found out about a network.

    Attributes:
        model: A copy without storage (on the meta device).
        example: One example, without storage.
        names: Convolution and linear layers, in the order in which they run.
        params: `{layer: weights}`, biases left out.
        outputs: Layers that make the network's output; their outputs stay.
        on_trunk: Layers that read a residual trunk.
        gates: `{layer: the layer whose output its own is multiplied with}`.
    """

    model: nn.Module
    example: Tensor
    names: tuple[str, ...]
    params: Mapping[str, int]
    outputs: frozenset[str]
    on_trunk: frozenset[str]
    gates: Mapping[str, str]


def survey(model: nn.Module, example: Tensor) -> Layers:
    """Find out which layers add to one another, which gate, and in which order they run.

    Args:
        model: Left as found.
        example: `(b, c, h, w)`; only its shape is used.

    Raises:
        PruneError: The network has layers that this method has no rule for, or does not run.
    """
    _refuse_unknown(model)
    blank = copy_network(model).to("meta")
    one = example[:1].to("meta")
    found = _Makers()
    named = {name: m for name, m in blank.named_modules() if isinstance(m, _CONV | nn.Linear)}
    handles = [m.register_forward_hook(found.hook(name, m)) for name, m in named.items()]
    with torch.device("meta"), forward_only(blank), found:
        output = _run(blank, one)
    for handle in handles:
        handle.remove()  # hooks would travel with copies
    unused = [name for name in named if name not in found.reads]
    if unused:
        raise PruneError(f"layers {', '.join(unused)} do not run on this example; remove them.")
    return Layers(
        model=blank,
        example=one,
        names=tuple(found.reads),
        params={name: named[name].weight.numel() for name in found.reads},
        outputs=frozenset().union(*map(_makers, verify.outputs(output))),
        on_trunk=frozenset(n for n, makers in found.reads.items() if makers & found.coupled),
        gates=found.gates(),
    )


def simulate(
    layers: Layers, width: Callable[[str, int], int]
) -> tuple[Widths, Mapping[str, int], int]:
    """Decide all widths by one forward pass without data, each layer as it is reached.

    Args:
        layers: From `survey`.
        width: `(layer, its channels) -> channels wanted`, for outputs and for reads of a trunk.

    Returns:
        `{module: (inputs, outputs)}`; `{layer: weights}` as `Layers.params`, at these widths; all
        parameters of the network at these widths.

    Raises:
        PruneError: The network does not run at these widths, for example because sizes are
            written down in its forward.
    """
    model = copy_network(layers.model)
    widths: dict[str, tuple[int, int]] = {}

    def decide(name: str, module: Any, actual: int) -> tuple[int, int]:
        if isinstance(module, _NORM) or is_depthwise(module):
            return actual, actual
        reads, makes = _sizes(module)
        if name in layers.on_trunk:
            actual = min(actual, width(name, reads))
        if name in layers.outputs:
            return actual, makes
        gated = layers.gates.get(name)
        return actual, widths[gated][1] if gated in widths else width(name, makes)

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def resize(module: nn.Module, inputs: Any) -> None:
            if name not in widths:
                widths[name] = decide(name, module, inputs[0].shape[1])
                _resize(module, *widths[name])

        return resize

    for name, module in model.named_modules():
        if isinstance(module, _CONV | nn.Linear | _NORM):
            module.register_forward_pre_hook(hook(name))
    cropped = _cropped(model)
    with torch.device("meta"), forward_only(cropped):
        _run(cropped, layers.example)
    modules = dict(model.named_modules())
    sizes = {name: modules[name].weight.numel() for name in layers.names}
    return widths, sizes, sum(parameter.numel() for parameter in model.parameters())


def at_widths(model: nn.Module, widths: Widths, generator: torch.Generator) -> Cropped:
    """Build a network at new widths with fresh weights, as PreCrop and PreConfig do.

    Args:
        model: The network that the widths were made for; left as found.
        widths: `Allocation.widths`. With the model's builder they rebuild any checkpoint.
        generator: Draws the weights (He normal, `alprune.models.init.he_normal_`).

    Returns:
        The network, wrapped so that residual additions work; of the modes and on the device of
        `model`.

    Raises:
        PruneError: A width names no layer of this model.
    """
    _check_size(model, widths)
    model = copy_network(model)
    modules = dict(model.named_modules())
    for name, (inputs, outputs) in widths.items():
        _resize(modules[name], inputs, outputs)
    he_normal_(model, generator)
    return _cropped(model)


def _check_size(model: nn.Module, widths: Widths) -> None:
    """Refuse widths of another network, and those whose weights would take gigabytes."""
    modules = dict(model.named_modules())
    before = sum(p.numel() for p in model.parameters())
    after = 0
    for name, (inputs, outputs) in widths.items():
        module = modules.get(name)
        if not isinstance(module, _CONV | nn.Linear | _NORM):
            raise PruneError(f"the widths belong to another network: it has no layer {name!r}.")
        per_output = 1
        if not isinstance(module, _NORM):
            per_output = math.prod(getattr(module, "kernel_size", ()))
            per_output *= inputs if getattr(module, "groups", 1) == 1 else 1  # or depthwise
        after += outputs * per_output
    most = max(_GROWTH_MOST * before, _WEIGHTS_FREE)
    if after > most:
        raise PruneError(
            f"the widths make {after:,} weights of {before:,}; at most {most:,} are built. They "
            "belong to another network, or were changed."
        )


def _cropped(model: nn.Module) -> Cropped:
    for module in model.modules():
        if isinstance(module, _CONV | nn.Linear):
            module.register_forward_pre_hook(_read_first)
    made = Cropped(model)
    made.training = model.training
    return made


def _read_first(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    size = _sizes(module)[0]
    return (inputs[0][:, :size], *inputs[1:]) if inputs[0].shape[1] > size else inputs


class _AddToFirst(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _ADD and not kwargs and _differ_in_channels(*args):
            narrow, wide = sorted(args, key=lambda part: part.shape[1])
            count = narrow.shape[1]
            return torch.cat([wide[:, :count] + narrow, wide[:, count:]], 1)
        return func(*args, **(kwargs or {}))


def _differ_in_channels(a: Any, b: Any) -> bool:
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.ndim == b.ndim > 1
        and a.shape[1] != b.shape[1]
        and a.shape[:1] + a.shape[2:] == b.shape[:1] + b.shape[2:]
    )


class _Makers(TorchFunctionMode):
    """Follow which layers made the channels of each activation, on the activation itself."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[str, frozenset[str]] = {}
        self.coupled: frozenset[str] = frozenset()
        self._products: list[tuple[frozenset[str], frozenset[str]]] = []

    def hook(self, name: str, module: nn.Module) -> Callable[..., None]:
        """Note what a layer reads, and sign what it makes."""

        def note(module: Any, inputs: Any, output: Tensor) -> None:
            if isinstance(module, nn.Linear) and inputs[0].ndim != 2:
                raise PruneError(
                    f"linear layer {name!r} reads {tuple(inputs[0].shape)}; only (b, features) is "
                    "supported here."
                )
            self.reads[name] = _makers(inputs[0])
            _sign(output, self.reads[name] if is_depthwise(module) else frozenset({name}))

        return note

    def gates(self) -> dict[str, str]:
        """Pair each layer with the earlier layer that its output is multiplied with."""
        order = {name: index for index, name in enumerate(self.reads)}
        pairs = {}
        for a, b in self._products:
            early, late = sorted((a - b, b - a), key=lambda part: max(order[n] for n in part))
            pairs.update({name: max(early, key=lambda n: order[n]) for name in late})
        return pairs

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        signed = [_makers(part) for part in _tensors(args)]
        if any(hasattr(part, "_alprune_summed") for part in _tensors(args)):
            raise PruneError(
                "an activation is added to in place, by x.add_(y), and used again under its old "
                "name. The sum may have more channels than x: write x = x + y or x += y."
            )
        result = func(*args, **(kwargs or {}))
        if func in _ADD and result is args[0]:
            result._alprune_summed = True
            result = result.view_as(result)
        if isinstance(result, tuple | list | Tensor) and any(signed):
            together: frozenset[str] = frozenset().union(*signed)
            for part in [result] if isinstance(result, Tensor) else _tensors(result):
                _sign(part, together)
            written = [makers for makers in signed if makers]
            if len(written) == 2 and written[0] != written[1]:
                if func in _ADD:
                    self.coupled |= together
                elif func in _MULTIPLY and written[0] - written[1] and written[1] - written[0]:
                    self._products.append((written[0], written[1]))
        return result


def _tensors(values: Any) -> list[Tensor]:
    flat = [v for value in values for v in (value if isinstance(value, tuple | list) else [value])]
    return [value for value in flat if isinstance(value, Tensor)]


def _makers(tensor: Any) -> frozenset[str]:
    return getattr(tensor, "_alprune_makers", frozenset())


def _sign(tensor: Tensor, makers: frozenset[str]) -> None:
    tensor._alprune_makers = makers  # type: ignore[attr-defined]


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a layer filters each channel by itself, so that it has those that it reads."""
    return isinstance(module, _CONV) and module.groups == module.in_channels > 1


def _sizes(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def _resize(module: Any, inputs: int, outputs: int) -> None:
    """Give a layer new widths, in place; its weights are zero until initialised."""
    shapes: dict[str, tuple[int, ...]]
    if isinstance(module, _NORM):
        module.num_features = outputs
        tensors = {n: t for n, t in (module._parameters | module._buffers).items() if t is not None}
        shapes = {name: (outputs,) for name, tensor in tensors.items() if tensor.ndim}
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
        shapes = {"weight": (outputs, inputs), "bias": (outputs,)}
    else:
        if is_depthwise(module):
            module.groups = inputs
        module.in_channels, module.out_channels = inputs, outputs
        kernel = module.weight.shape[2:]
        shapes = {"weight": (outputs, inputs // module.groups, *kernel), "bias": (outputs,)}
    for name, shape in shapes.items():
        old = getattr(module, name)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_zeros(shape), old.requires_grad))
        elif old is not None:
            setattr(module, name, old.new_zeros(shape))


def _refuse_unknown(model: nn.Module) -> None:
    for name, module in model.named_modules():
        owns = [p for p in module.parameters(recurse=False) if p.numel() > 1]
        known = isinstance(module, _CONV | nn.Linear | _NORM)
        if known and isinstance(module, _CONV) and module.groups > 1:
            known = module.groups == module.in_channels == module.out_channels
        if owns and not known:
            raise PruneError(
                f"layer {name!r} ({type(module).__name__}) has no rule in PreCrop, which knows "
                "plain and depthwise convolutions, linear layers and BatchNorm."
            )
    _refuse_shared(model)


def _refuse_shared(model: nn.Module) -> None:
    first: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(name, recurse=False):
            if id(parameter) in first:
                raise PruneError(
                    f"{first[id(parameter)]!r} and {key!r} are one shared tensor; PreCrop gives "
                    "every layer fresh weights at a width of its own, which would untie them. Use "
                    "3sp, which keeps them shared, or share the module instead of its weight."
                )
            first[id(parameter)] = key


def _run(model: nn.Module, example: Tensor) -> Any:
    try:
        return model(example)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise PruneError(
            f"the network does not run at these widths on {tuple(example.shape)}: {error}. Sizes "
            "written down in forward, or products of layers of different widths, cannot be cropped."
        ) from error
