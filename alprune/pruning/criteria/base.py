"""What criteria share: a batch, options, the state to score in, derivatives and channel sums."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alprune.errors import AlpruneError, PruneError, failure, quoted
from alprune.models.cost import keeping_modes, keeping_state, keeping_weights
from alprune.models.init import forked_rng
from alprune.pruning.graph.channels import ChannelGraph, rows
from alprune.pruning.graph.verify import NoDropout
from alprune.pruning.option_values import check_flag, check_number, make_plain
from alprune.registry import unknown

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ScoreOptions:
    """Options of the criteria.

    Attributes:
        smoothing: lambda of 3SP+CA, added to a layer's share of the cost.
        temperature: Divides the logits in the GraSP criteria.
        generator: Source of randomness, on the CPU; None for criteria that draw nothing.
        channel_cost: What 3SP+CA divides by, a key of `CHANNEL_COSTS`.
        logits: From what the network returns to its logits `(b, classes)`; None: see `logits`.
        score_mode: How BatchNorm normalises, a key of `SCORE_MODES`.
        redraw_linear: Whether GraSP scores linear layers at weights drawn for the scoring alone.
    """

    smoothing: float = 0.05
    temperature: float = 200.0
    generator: torch.Generator | None = None
    channel_cost: str = "made"
    logits: Callable[[Any], Tensor] | None = None
    score_mode: str = "train"
    redraw_linear: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        check_number("smoothing (lambda)", self.smoothing)
        check_number("temperature", self.temperature, positive=True)
        check_flag("redraw_linear", self.redraw_linear)
        if not isinstance(self.generator, torch.Generator | None):
            raise PruneError(f"generator must be a torch.Generator, got {quoted(self.generator)}.")
        if self.logits is not None and not callable(self.logits):
            raise PruneError(
                "logits must be a function from what the network returns to its logits, got "
                f"{quoted(self.logits)}."
            )


SCORE_MODES = {
    "train": "by the mean and deviation of the batch",
    "eval": "by its running statistics, which at initialisation change nothing",
}
"""How BatchNorm may normalise while scores are computed."""

_mode: ContextVar[str] = ContextVar("mode", default="train")
_finder: ContextVar[Callable[[Any], Tensor] | None] = ContextVar("finder", default=None)

Criterion = Callable[[nn.Module, ChannelGraph, Batch, ScoreOptions], Tensor]


@contextmanager
def scoring_state(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Put a model in the state for scoring, and restore it afterwards.

    That is: train mode, but BatchNorm as `scoring_in` says; gradients on, every kind of dropout
    and stochastic depth off, and a random state of its own for what else a forward may draw; the
    global one is not moved.

    Yields:
        Its parameters by name; all but those of whole numbers require gradients.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    required = {name: p.requires_grad for name, p in parameters.items()}
    devices = sorted({p.device.index or 0 for p in parameters.values() if p.is_cuda})
    try:
        with keeping_modes(model), keeping_state(model), keeping_weights(model):
            model.train()
            _turn_dropout_off(model)
            require_gradients(parameters.values())
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                forked_rng(0, devices),
                NoDropout(),
            ):
                yield parameters
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])


def require_gradients(parameters: Iterable[Tensor]) -> None:
    """Let parameters take gradients, except for whole numbers such as a table of indices."""
    for parameter in parameters:
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())


def _turn_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        kind = type(module).__name__.lower()  # DropPath, StochasticDepth, DropBlock2d: anyone's own
        bare = next(module.parameters(), None) is None
        if (
            isinstance(module, nn.modules.dropout._DropoutNd)
            or "stochastic" in kind
            or ("drop" in kind and bare)
            or (_mode.get() == "eval" and isinstance(module, nn.modules.batchnorm._NormBase))
        ):
            module.eval()
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0  # these drop inside one operation


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Leave out the fast kernels that have no second derivative: recurrent layers', attention's."""
    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


def loss_on(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    temperature: float = 1.0,
) -> Tensor:
    """Compute the cross-entropy of a model on a batch.

    Args:
        model: From inputs to logits `(b, classes)`, in the mode for scoring.
        batch: Inputs `(b, ...)` and labels `(b,)`.
        temperature: Divides the logits; larger smooths the outputs.

    Returns:
        A scalar with its graph.

    Raises:
        PruneError: The batch does not fit the model, or the loss is not finite.
    """
    inputs, labels = batch
    try:
        out = logits(model, inputs)
        if out.dim() != 2 or len(out) != len(labels):
            raise PruneError(
                f"{type(model).__name__} returned logits of shape {tuple(out.shape)} for "
                f"{len(labels)} examples; scores need (b, classes), one column for each class, two "
                "for a yes or no. Give logits=function that makes them of the output."
            )
        loss = F.cross_entropy(out / temperature, labels)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PruneError(
            f"the model fails on the pruning batch {tuple(inputs.shape)}: {error}. The batch must "
            "have the model's input shape and, for BatchNorm, more than one example; the model "
            "must return logits (b, classes)."
        ) from error
    if not torch.isfinite(loss):
        raise PruneError(
            f"the loss on the pruning batch is {loss.item()}; scores need a finite loss. Check "
            "that inputs are normalised and weights freshly initialised."
        )
    return loss


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """Run a model and find the logits in what it returns.

    They are what `finding_logits` says. By default they are the output itself, what a dict or an
    object names "logits", or the first item of a tuple or list.

    Raises:
        PruneError: There is no such tensor `(b, classes)`.
    """
    out = model(inputs)
    found, finder = out, _finder.get()
    if finder is not None:
        try:
            found = finder(out)
        except Exception as error:
            raise PruneError(failure("the function given as logits", error)) from error
    elif isinstance(out, Mapping) and "logits" in out:
        found = out["logits"]
    elif isinstance(getattr(out, "logits", None), Tensor):
        found = out.logits
    elif isinstance(out, tuple | list) and out:
        found = out[0]
    if isinstance(found, Tensor) and (found is out or finder or found.dim() == 2):
        return found
    names = f" with {', '.join(map(repr, list(out)[:5]))}" if isinstance(out, Mapping) else ""
    raise PruneError(
        f"{type(model).__name__} returned a {type(out).__name__}{names}; scores need logits "
        "(b, classes): one tensor, the first of a tuple, or one named 'logits'. Give "
        "logits=function that finds them in the output."
    )


@contextmanager
def finding_logits(function: Callable[[Any], Tensor] | None) -> Iterator[None]:
    """Let criteria find the logits in a network's output by a function, within this context."""
    token = _finder.set(function)
    try:
        yield
    finally:
        _finder.reset(token)


@contextmanager
def scoring_in(mode: str) -> Iterator[None]:
    """Let BatchNorm normalise in scoring as a key of `SCORE_MODES` says, within this context.

    The authors of GraSP score in "train" mode. Those of SNIP score in "eval" mode, and so does the
    published code of SynFlow, for SNIP and GraSP too. It matters: with 90% of ResNet-20 masked,
    SNIP's masks in the two modes have about a third of their weights in common (three seeds).

    Raises:
        ConfigError: No such mode.
    """
    if mode not in SCORE_MODES:
        raise unknown("score mode", mode, SCORE_MODES)
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def channel_scores(
    criterion: Criterion,
    model: nn.Module,
    graph: ChannelGraph,
    batch: Batch,
    options: ScoreOptions,
) -> Tensor:
    """Ask a criterion, perhaps a user's own, for scores and check what it returns.

    Returns:
        `(channels,)` float32, on the CPU.

    Raises:
        PruneError: The criterion failed, or returned anything else.
    """
    name = getattr(criterion, "__qualname__", type(criterion).__name__)
    try:
        scores = criterion(model, graph, batch, options)
    except AlpruneError:
        raise
    except Exception as error:
        raise PruneError(
            failure(f"criterion {name!r}", error)
            + " It is called as (model, graph, batch, options)."
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (graph.channels,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise PruneError(
            f"criterion {name!r} returned {got}; it must return a tensor ({graph.channels},), one "
            "score a channel."
        )
    if scores.is_complex():
        raise PruneError(f"criterion {name!r} returned {scores.dtype}; scores must be real.")
    return scores.detach().to("cpu", torch.float32)


def gradients(
    value: Tensor, wanted: Mapping[str, Tensor], create_graph: bool = False
) -> dict[str, Tensor]:
    """Differentiate a scalar by tensors; by those it does not depend on the result is zero.

    Raises:
        PruneError: The backward pass fails, or a gradient is not finite.
    """
    try:
        found = torch.autograd.grad(
            value, list(wanted.values()), create_graph=create_graph, materialize_grads=True
        )
    except RuntimeError as error:
        raise PruneError(
            f"the backward pass of the network fails on the pruning batch, and so would training: "
            f"{str(error).partition(' Hint:')[0]}"
        ) from error
    for name, gradient in zip(wanted, found, strict=True):
        if not all_finite(gradient):
            raise PruneError(
                f"the gradient of {name!r} on the pruning batch is not finite; scores need finite "
                "gradients. Try a smaller initialisation or normalised inputs."
            )
    return dict(zip(wanted, found, strict=True))


def products(weights: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `{name: weight times its gradient}`, of half-precision networks in float32.

    Both are small, and float16 has nothing below 6e-8.
    """
    return {
        name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32)) * found[name]
        for name, weight in weights.items()
    }


def all_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite; one sum, without a mask of its size."""
    # A finite sum has finite terms; an infinite one may have overflowed.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def channel_sums(graph: ChannelGraph, values: Mapping[str, Tensor], role: str) -> Tensor:
    """Sum the elements of tensors over the channels that they play a role for.

    Args:
        graph: The channel groups.
        values: `{tensor name: tensor of its shape}`; names left out add nothing.
        role: "makes", "reads" or "follows".

    Returns:
        `(channels,)` float64, on the CPU.
    """
    total = torch.zeros(graph.channels, dtype=torch.float64)
    for tensor in graph.tensors:
        if tensor.name not in values:
            continue
        for dim in tensor.dims(role):
            others = [d for d in range(len(tensor.shape)) if d != dim]
            value = values[tensor.name]
            # summed in float64 without a copy in float64
            sums = value.sum(others, dtype=torch.float64) if others else value.double()
            sums = sums.cpu()
            for ids in rows(tensor.axes[dim]):
                total.index_add_(0, ids[ids >= 0], sums[ids >= 0])  # -1 is pinned
    return total
