"""Fold BatchNorm into the layer before it, in a network of any architecture.

In eval mode a BatchNorm multiplies and shifts each channel by constants, and the convolution or
linear layer in front of it can do that just as well. It saves a pass over memory and a call for
each layer, which counts most where the layers are small: in a pruned network.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from alprune.errors import ModelError
from alprune.pruning.graph.surgery import copied, registered

# Exact types only: a subclass may compute something else.
_MAKERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Operations that ask for a tensor's form, not for its values.
_FORM = frozenset(
    "dim ndimension size stride numel element_size storage_offset __len__ is_contiguous "
    "is_floating_point is_complex".split()
)
# In what folding is checked, and how far an output may be off as a share of the largest. Some
# networks run in one type only; a float32 check on a GPU may round to TF32.
_CHECKS = {torch.float64: 1e-8, torch.float32: 1e-3}


class Pair(NamedTuple):
    """A BatchNorm and the layer whose output it alone reads, by their names in the network."""

    maker: str
    norm: str


class Folded:
    """A copy of a network in eval mode with its BatchNorms folded, which can follow its weights.

    The copy shares every parameter and buffer that folding leaves alone; those of the folded
    pairs are computed by `refresh`.

    Args:
        source: The network; left untouched.
        pairs: What to fold, see `find_pairs`.

    Attributes:
        source: As given.
        pairs: As given.
        model: The copy, without gradients; call it under `torch.no_grad` or `inference_mode`.
    """

    def __init__(self, source: nn.Module, pairs: tuple[Pair, ...]) -> None:
        self.source, self.pairs = source, pairs
        layers: list[tuple[Any, ...]] = [tuple(map(source.get_submodule, p)) for p in pairs]
        own = {id(t) for maker, _ in layers for t in (maker.weight, maker.bias)}
        shared = {id(t): t for t in registered(source).values() if id(t) not in own}
        self.model = copied(source, shared)
        self._folds = []
        for pair, (maker, norm) in zip(pairs, layers, strict=True):
            target: Any = self.model.get_submodule(pair.maker)
            if target.bias is None:
                target.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
            target.requires_grad_(False)
            self.model.set_submodule(pair.norm, nn.Identity())
            self._folds.append((maker, norm, target))
        self.model.eval()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """Fold the source's present weights and statistics into the copy, and return the copy."""
        for maker, norm, target in self._folds:
            scale = (norm.running_var + norm.eps).rsqrt_()
            if norm.weight is not None:
                scale *= norm.weight
            shift = -norm.running_mean * scale
            if norm.bias is not None:
                shift += norm.bias
            if maker.bias is not None:
                shift.addcmul_(maker.bias, scale)
            rows = scale.view(-1, *[1] * (maker.weight.dim() - 1))
            torch.mul(maker.weight, rows, out=target.weight)
            target.bias.copy_(shift)
        return self.model


@torch.inference_mode(False)
def fold(model: nn.Module, example: Tensor) -> Folded:
    """Fold each BatchNorm of a network into the convolution or linear layer whose output it reads.

    Which layer that is shows in one forward pass in eval mode: the layer's output must be the
    BatchNorm's only input and go nowhere else, and both must be called once, with weights of
    their own. The fold is then tried with statistics drawn at random and kept only where the
    outputs agree. Whatever can't be folded stays as it is, so the copy always computes what the
    network computes in eval mode.

    As for pruning, one pass shows one path: a forward that hands values of tensors to Python
    (`if x.mean() > 0`) is not folded at all.

    Args:
        model: Any network; left untouched, its mode and the random state included.
        example: `(b, ...)`, an input on the model's device; at most two examples are used.

    Returns:
        The folded copy. It shares unfolded parameters with `model`; `refresh` it after `model`
        has learned.

    Raises:
        ModelError: The model cannot be copied or fails on the example.
    """
    example = example[:2]
    pairs = find_pairs(model, example)
    if pairs and not _agrees(model, pairs, example):
        pairs = tuple(pair for pair in pairs if _agrees(model, (pair,), example))
        if not _agrees(model, pairs, example):
            pairs = ()
    return Folded(model, pairs)


def find_pairs(model: nn.Module, example: Tensor) -> tuple[Pair, ...]:
    """Find the BatchNorms that alone read a layer's output, in the order in which they ran.

    Args:
        model: Any network; a copy that shares its parameters runs.
        example: `(b, ...)`, an input on the model's device.

    Returns:
        The pairs; not verified yet.

    Raises:
        ModelError: The model cannot be copied or fails on the example.
    """
    twin = copied(model, {id(t): t for t in registered(model).values()}).eval()
    makers = {n: m for n, m in twin.named_modules() if type(m) in _MAKERS and _plain(m)}
    norms = {n: m for n, m in twin.named_modules() if type(m) in _NORMS and _plain(m)}
    made: dict[int, str] = {}  # id of an output -> who made it
    read: dict[str, Tensor] = {}  # BatchNorm -> its last input
    for name, module in makers.items():
        module.register_forward_hook(_note_output(made, name))
    for name, module in norms.items():
        module.register_forward_hook(_note_input(read, name))
    uses = _run(twin, example)
    if uses is None:
        return ()
    found = [
        (Pair(made[id(x)], norm), x)
        for norm, x in read.items()
        if id(x) in made and uses[id(x)] == 1
    ]
    return tuple(p for p, x in found if _fits(makers[p.maker], norms[p.norm], x, uses))


def _plain(module: nn.Module) -> bool:
    """Whether nothing but the module's own forward works on its own parameters."""
    registered_ones = all(
        module._parameters.get(n) is getattr(module, n) for n in ("weight", "bias")
    )
    return registered_ones and not module._forward_hooks and not module._forward_pre_hooks


def _fits(maker: Any, norm: Any, x: Tensor, uses: Mapping[int, int]) -> bool:
    if isinstance(maker, nn.Linear) and x.dim() != 2:
        return False  # a BatchNorm works on dimension 1, a linear layer on the last
    if norm.running_mean is None or norm.running_mean.dtype != maker.weight.dtype:
        return False
    tensors = [*maker.parameters(), *norm.parameters(), norm.running_mean, norm.running_var]
    once = all(uses[id(tensor)] == 1 for tensor in tensors)
    return once and norm.num_features == len(maker.weight)


def _note_output(made: dict[int, str], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        made[id(output)] = name

    return hook


def _note_input(read: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if inputs:
            read[name] = inputs[0]

    return hook


def _run(twin: nn.Module, example: Tensor) -> Counter[int] | None:
    """Run a forward pass; return how often each tensor was used, by id.

    None where values reached Python, which may send another input another way.
    """
    uses = _Uses()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), uses:
            out = twin(example)
    except Exception as error:  # whatever a stranger's forward raises
        raise ModelError(
            f"{type(twin).__name__} fails on an input of shape {tuple(example.shape)}: {error}. "
            "Give an example as the network takes it, on its device."
        ) from error
    uses.note(out)
    return None if uses.left_torch else uses.counts


class _Uses(TorchFunctionMode):
    """Counts in how many operations each tensor is an operand."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.left_torch = False
        self._alive: list[Tensor] = []  # an id is unique only as long as its object lives

    def note(self, operands: Any) -> None:
        tensors = _tensors(operands)
        self._alive += tensors
        self.counts.update({id(t) for t in tensors})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        results = _tensors(out)
        self._alive += results
        if not results and (name in _FORM or name == "__get__"):
            return out  # `__get__`: an attribute such as `shape` or `device`
        self.left_torch |= not results and out is not None
        self.note((args, kwargs))
        return out


def _agrees(model: nn.Module, pairs: tuple[Pair, ...], example: Tensor) -> bool:
    """Whether folding changes no output, with statistics unlike those of a fresh BatchNorm."""
    for dtype, tolerance in _CHECKS.items():
        odd = copied(model, {}).eval().to(dtype)
        x = example.to(dtype) if example.is_floating_point() else example
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                _disturb([odd.get_submodule(pair.norm) for pair in pairs])
                return _same(odd(x), Folded(odd, pairs).model(x), tolerance)
        except Exception:  # of another type, or the forward misses the BatchNorm
            continue
    return False


def _disturb(norms: list[Any]) -> None:
    draws = torch.Generator().manual_seed(0)
    for norm in norms:
        for tensor, by_factor in (
            (norm.running_var, True),
            (norm.weight, True),
            (norm.running_mean, False),
            (norm.bias, False),
        ):
            if tensor is not None:
                drawn = torch.rand(tensor.shape, generator=draws).to(tensor) + 0.5
                tensor.mul_(drawn) if by_factor else tensor.add_(drawn - 1)


def _same(wanted: Any, got: Any, tolerance: float) -> bool:
    pairs = zip(_tensors(wanted), _tensors(got), strict=True)
    return all(
        torch.allclose(b, a, rtol=0, atol=tolerance * float(a.abs().max()))
        if a.is_floating_point() and a.numel()
        else torch.equal(a, b)
        for a, b in pairs
    )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
