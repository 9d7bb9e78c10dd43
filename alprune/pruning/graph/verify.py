"""Try a graph out: narrow a little of every group, compare, and name what does not hold."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from alprune.errors import AlpruneError, ModelError, PruneError
from alprune.models.init import forked_rng
from alprune.models.memory import out_of_memory
from alprune.pruning.graph.attention import open_attention
from alprune.pruning.graph.channels import ChannelGraph
from alprune.pruning.graph.gates import attach
from alprune.pruning.graph.numbers import Numbers, different
from alprune.pruning.graph.place import Spot
from alprune.pruning.graph.stand_ins import noise
from alprune.pruning.graph.surgery import copied, narrow, registered, silence

LARGE = 4_000_000_000  # multiply-accumulates from which a network is tried on one example
_ROUNDING = 1e-5  # differences beyond which a number computed from a width counts


@dataclass(frozen=True)
class Verdict:
    """What trying a graph out found.

    Attributes:
        blamed: `{index of the group: what went wrong}`, empty where the graph holds.
        numbers: Whether the forward computes numbers from widths that were tried.
    """

    blamed: dict[int, str]
    numbers: bool


def try_out(
    model: nn.Module,
    example: Tensor,
    graph: ChannelGraph,
    training: bool = True,
    one: bool = False,
) -> Verdict:
    """Find the groups whose channels cannot leave, whatever the trace says.

    Half the channels of every group are removed; if the narrowed model then fails, or differs
    from the masked one, the groups at fault are found by bisection. The weights tried are noise,
    so that no vanishing or zero initialisation hides a difference.

    Args:
        model: The traced model; left untouched.
        example: `(b, ...)`.
        graph: Its graph.
        training: Also run the narrowed model in training mode.
        one: Compare the outputs for the first example only.
    """
    compared = example[:1] if one else example
    generator = torch.Generator("cpu").manual_seed(0)
    leaving = []
    for group in graph.groups:
        order = torch.randperm(len(group.channels), generator=generator, device="cpu")
        leaving.append(group.channels[order[: max(1, len(order) // 2)]])
    numbers: list[Spot] = []

    def failure(groups: Sequence[int]) -> str | None:
        keep = graph.all_kept()
        for group in groups:
            keep[leaving[group]] = False
        reason, computed = _difference(model, compared, graph, keep, example if training else None)
        numbers.extend(computed)
        return reason

    several = [g for g, group in enumerate(graph.groups) if len(group.channels) > 1]
    everyone = list(range(len(graph.groups)))
    try:
        blamed = _bisect(failure, everyone)
    except PruneError:  # a layer would be empty: leave out the groups of a single channel
        blamed = _bisect(failure, several)
    return Verdict(blamed, bool(numbers))


def faults(model: nn.Module, example: Tensor, graph: ChannelGraph, keep: Tensor) -> dict[int, str]:
    """Find the groups whose channels cannot leave as a plan says.

    A forward may take another path at some widths only, as where it adds a shortcut if two of
    them happen to be equal; `try_out` sees one width of each layer.

    Args:
        model: The traced model; left untouched.
        example: `(b, ...)`.
        graph: Its graph.
        keep: `(N,)` bool, True where the channel stays.

    Returns:
        `{index of the group: what went wrong}`, empty where the plan holds.
    """
    large = graph.macs(graph.all_kept()) > LARGE
    compared, training = (example[:1], None) if large else (example, example)

    def failure(groups: Sequence[int]) -> str | None:
        kept = graph.all_kept()
        for group in groups:
            channels = graph.groups[group].channels
            kept[channels] = keep[channels]
        return _difference(model, compared, graph, kept, training)[0]

    losing = [i for i, group in enumerate(graph.groups) if not bool(keep[group.channels].all())]
    return _bisect(failure, losing)


def _bisect(failure: Callable[[Sequence[int]], str | None], groups: list[int]) -> dict[int, str]:
    """Accept as many groups as hold together; blame the rest one by one."""
    accepted: list[int] = []
    blamed: dict[int, str] = {}

    def settle(candidates: list[int]) -> None:
        reason = failure([*accepted, *candidates]) if candidates else None
        if reason is None:
            accepted.extend(candidates)
        elif len(candidates) == 1:
            blamed[candidates[0]] = reason
        else:
            half = len(candidates) // 2
            settle(candidates[:half])
            settle(candidates[half:])

    settle(groups)
    return blamed


def _difference(
    model: nn.Module,
    example: Tensor,
    graph: ChannelGraph,
    keep: Tensor,
    training: Tensor | None,
) -> tuple[str | None, list[Spot]]:
    """Say how the narrowed forward differs from the masked one, None if it does not.

    Returns:
        The difference, and where the two compute different numbers from their widths.
    """
    for noisy in (True, False):
        whole = copied(model, _noise(model) if noisy else {}).eval()
        if noisy:
            _shake_statistics(whole)
        small = narrow(whole, graph, keep)
        open_attention(whole)
        ours: Numbers = {}
        theirs: Numbers = {}
        attach(small, (), keep, noted=theirs)
        silence(whole, graph, keep, theirs if graph.normalised == "follow" else None, ours)
        found, off, finite = _compare(whole, small, example)
        if found is not None and off < inf and _equal_in_double(whole, small, example):
            found = None  # rounding, which a deep network may amplify a billion times
        computed = different(ours, theirs)
        if computed and graph.normalised != "follow" and off > _ROUNDING:
            where = computed[0].module or type(model).__name__
            found = f"{where!r} computes a number from the width"
        if found is not None:
            return found, computed
        if finite:
            break
    if training is None:
        return None, computed
    return _in_training(whole.train(), small.train(), training), computed


def _equal_in_double(whole: nn.Module, small: nn.Module, example: Tensor) -> bool:
    """Whether the first outputs agree when all is computed in float64, as far as that runs."""
    if not example.is_floating_point():
        return False
    tensors = chain(*(registered(network).values() for network in (whole, small)))
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if kinds != {example.dtype}:  # casting back would not restore them
        whole, small = copied(whole, {}), copied(small, {})
    try:
        return _compare(whole.double(), small.double(), example[:1].double())[0] is None
    except AlpruneError:
        return False
    finally:
        for network in (whole, small):
            network.to(example.dtype)


def _compare(whole: nn.Module, small: nn.Module, example: Tensor) -> tuple[str | None, float, bool]:
    """Compare the narrowed outputs with the masked ones.

    Returns:
        What is wrong or None, by how much the outputs differ, and whether the masked are finite.
    """
    with NoDropout():
        try:
            got = _tensors(run(small, example))
        except AlpruneError as error:
            return f"the narrowed forward failed: {error.__cause__}", inf, True
        expected = _tensors(run(whole, example))
    if not all(bool(x.isfinite().all()) for x in expected):
        return None, 0.0, False
    if len(got) != len(expected):
        return "the narrowed forward returns other outputs", inf, True
    most = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            shapes = f"{tuple(a.shape)} instead of {tuple(b.shape)}"
            return f"the narrowed forward returns {shapes}", inf, True
        off = float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) if b.numel() else 0.0
        if not off <= 1e-3:  # of half precision, `_equal_in_double` decides
            return f"the narrowed outputs differ from the masked ones by {off:.2%}", off, True
        most = max(most, off)
    return None, most, True


def _in_training(whole: nn.Module, small: nn.Module, example: Tensor) -> str | None:
    """Say how the forward in training mode fails, where the masked one runs.

    Outputs are not compared: draws of random numbers differ with the number of channels.
    """
    try:
        run(whole, example)
    except AlpruneError:
        return None  # a batch of two may be too small for training
    try:
        run(small, example)
    except AlpruneError as error:
        return f"the narrowed forward failed in training mode: {error.__cause__}"
    return None


def run(model: nn.Module, example: Tensor) -> Any:
    """Run a forward pass without gradients; the global random state stays.

    Raises:
        ModelError: The forward fails.
    """
    devices = [example.get_device()] if example.is_cuda else []
    eager = torch.compiler.set_stance("force_eager")  # compiled parts run as they are written
    with torch.no_grad(), forked_rng(0, devices), eager, explained(model, example):
        return model(example)


@contextmanager
def explained(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Say of an error in a forward pass whose it is, unless memory ran out.

    Raises:
        ModelError: The forward fails.
    """
    try:
        yield
    except AlpruneError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ModelError(
            f"{type(model).__name__} fails on an example of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error


class NoDropout(TorchFunctionMode):
    """Skip dropout, also where a forward calls it as a function, whatever the mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation, or return the first argument of a dropout."""
        kwargs = dict(kwargs or {})
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        if "dropout_p" in kwargs:  # attention
            kwargs["dropout_p"] = 0.0
        elif func is F.scaled_dot_product_attention and len(args) > 4:
            args = (*args[:4], 0.0, *args[5:])
        return func(*args, **kwargs)


def outputs(out: Any) -> list[Tensor]:
    """Return the tensors in what a network returns: also those that an object's fields hold."""
    found: list[Tensor] = []
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):  # of a class of one's own, unknown to PyTorch's trees
            found += outputs(list(leaf.values()))
        elif isinstance(leaf, tuple | list):
            found += outputs(list(leaf))
        elif dataclasses.is_dataclass(leaf):
            found += outputs([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
        elif hasattr(leaf, "__dict__"):
            found += [x for x in tree_leaves(vars(leaf)) if isinstance(x, Tensor)]
    return found


def _tensors(out: Any) -> list[Tensor]:
    return [x if x.is_complex() else x.double() for x in outputs(out)]


def _noise(model: nn.Module) -> dict[int, Any]:
    """Map each parameter to noise of He's scale; single numbers keep their value."""
    memo: dict[int, Any] = {}
    for name, old in model.named_parameters():
        if old.numel() < 2 or not old.is_floating_point():
            continue
        new = noise(old.numel())
        if old.dim() > 1:
            new *= (2 * old.shape[0] / old.numel()) ** 0.5
        else:
            new = new.mul_(0.2).add_(0 if "bias" in name else 1)
        new = new.to(old.device, old.dtype).view(old.shape)
        memo[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
    return memo


def _shake_statistics(model: nn.Module) -> None:
    generator = torch.Generator("cpu").manual_seed(2)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            noise = torch.rand(buffer.shape, generator=generator, device="cpu").to(buffer)
            buffer.copy_(noise + 0.5 if name.endswith("var") else 0.2 * noise)
