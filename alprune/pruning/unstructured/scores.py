"""One score a weight, for the unstructured baselines: larger is kept.

A scorer is a function `(model, batch, generator, sparsity) -> {weight name: tensor}`, so that
all can be called alike; each says which arguments it uses. Biases, normalisation and embeddings
are never scored, as in the papers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alprune.errors import PruneError
from alprune.models.copies import copy_network
from alprune.pruning.criteria.base import (
    Batch,
    gradients,
    logits,
    loss_on,
    products,
    require_gradients,
    scoring_state,
    twice_differentiable,
)
from alprune.pruning.unstructured.masks import check_sparsity, largest, scorable_weights

Batches = Batch | Sequence[Batch]
Scores = dict[str, Tensor]
Scorer = Callable[[nn.Module, Batches, torch.Generator | None, float], Scores]


def snip(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator | None = None,
    sparsity: float = 0.0,
) -> Scores:
    """Score each weight by its connection sensitivity, |g * w| over their sum.

    `g * w` is the derivative of the loss by a mask on the weight. Several batches count as one
    large batch would (BatchNorm aside, which sees them one by one): signed derivatives are
    averaged over the examples before the magnitude is taken.

    Args:
        model: Scored in train mode with dropout off, unless `scoring_in` says otherwise; left as
            found. The authors' code scores with BatchNorm in evaluation mode, scores and masks
            biases too, and trains weights that are drawn afresh after masking.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, or several such pairs. The
            paper takes 100 (MNIST) or 128 examples, once.
        generator: Ignored.
        sparsity: Ignored.

    Returns:
        `{weight name: tensor like the weight}`, >= 0, summing to 1 over the model.

    Raises:
        PruneError: The batch does not fit, or a loss or gradient is not finite or all zero.

    Source: Lee et al. 2019, equations 5 and 6.
    """
    with scoring_state(model):
        found = scorable_weights(model)
        derivatives = dict(zip(found, _gradients(model, found, batch), strict=True))
        sensitivity = [product.abs() for product in products(found, derivatives).values()]
    total = sum(part.double().sum().item() for part in sensitivity)
    if total == 0:
        raise PruneError(
            "every connection sensitivity is zero: no weight moves the loss on this batch. "
            "Check the initialisation and that the batch is not constant."
        )
    return {name: part / total for name, part in zip(found, sensitivity, strict=True)}


def grasp(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator | None = None,
    sparsity: float = 0.0,
    temperature: float = 200.0,
    redraw_linear: bool = False,
) -> Scores:
    """Score each weight by how much it carries of the gradient flow, w * Hg.

    The sign is turned so that larger is kept. To first order, removing a weight changes the
    squared gradient norm by `-2 w * Hg`; the paper scores `-w * Hg` and removes the LARGEST,
    those whose removal raises the gradient flow. Here `w * Hg` is scored and the smallest go:
    the same weights. Scores have both signs. The loss is that of the logits divided by the
    temperature.

    Args:
        model: Scored in train mode with dropout off, as the authors do; left as found.
        batch: Inputs and labels as for `snip`. The authors take ten examples of each class.
        generator: Draws the weights of `redraw_linear`, on the CPU; seed 0 if None.
        sparsity: Ignored.
        temperature: Divides the logits; 200 in the authors' code.
        redraw_linear: Score at linear weights that are drawn from N(0, 2 / (fan_in + fan_out))
            for the scoring alone, biases as they are. The authors' code does so by default
            (`reinit`); the paper does not mention it.

    Returns:
        `{weight name: tensor like the weight}`, signed.

    Raises:
        PruneError: As `snip`.

    Source: Wang et al. 2020, equations 7 and 8, algorithm 2.
    """
    if redraw_linear:
        model = _linear_redrawn(model, generator or torch.Generator().manual_seed(0))
    batches = _as_list(batch)
    examples = sum(len(labels) for _, labels in batches)
    with scoring_state(model), twice_differentiable():
        found = scorable_weights(model)
        flow = _gradients(model, found, batches, temperature)
        curvature = [torch.zeros_like(g) for g in flow]
        for inputs, labels in batches:
            loss = loss_on(model, (inputs, labels), temperature) * (len(labels) / examples)
            first = gradients(loss, found, create_graph=True).values()
            along = torch.stack([(g * t).sum() for g, t in zip(first, flow, strict=True)]).sum()
            for total, part in zip(curvature, gradients(along, found).values(), strict=True):
                total += part
        return products(found, dict(zip(found, curvature, strict=True)))


def synflow(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator | None = None,
    sparsity: float = 0.0,
    rounds: int = 100,
    dtype: torch.dtype | None = None,
) -> Scores:
    """Score each weight by the synaptic flow through it, re-scored while pruning in rounds.

    In round k of n the weights are cut to the share `(1 - sparsity)^(k/n)`. What returns are
    the scores before the last cut, so `weight_masks` with the same sparsity makes that one.

    The flow is that of a linear network of |w|: biases and normalisation shifts are zero,
    BatchNorm divides by its running deviation (1 at initialisation), and activations that bend
    for positive inputs (ReLU6, SiLU, GELU, tanh, ...) pass them through. Sigmoid gates, softmax,
    LayerNorm, GroupNorm and the insides of recurrent layers act as they are, so there the scores
    are not conserved from layer to layer.

    Args:
        model: Left as found.
        batch: Only the shape and device of the inputs are used, never the data.
        generator: Ignored.
        sparsity: Share of the weights that will be masked, in [0, 1).
        rounds: n, at least 1.
        dtype: Of the computation and the scores. The flow multiplies up over layers, past
            float32's range in deep wide networks; None takes float32, and float64 where that
            overflows.

    Returns:
        `{weight name: tensor like the weight}`, >= 0, but -1 where a round before the last has
        cut the weight.

    Raises:
        PruneError: The sparsity or the rounds are out of range, the flow overflows, or no path
            from input to output is left.

    Source: Tanaka et al. 2020, equation 4 and algorithm 1.
    """
    check_sparsity(sparsity)
    if rounds < 1:
        raise PruneError(f"synflow needs at least 1 round, got {rounds}.")
    scorable_weights(model)
    inputs = _as_list(batch)[0][0]
    for attempt in (torch.float32, torch.float64) if dtype is None else (dtype,):
        linear = _absolute(copy_network(model).to(attempt).eval())
        kind = attempt if inputs.is_floating_point() else inputs.dtype  # tokens stay tokens
        ones = torch.ones(1, *inputs.shape[1:], dtype=kind, device=inputs.device)
        try:
            return _flow_in_rounds(linear, ones, sparsity, rounds)
        except OverflowError:
            pass
    raise PruneError(
        f"the synaptic flow overflows {attempt}; normalise the weights or use float64."
    )


def random(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator | None = None,
    sparsity: float = 0.0,
) -> Scores:
    """Draw each weight's score from U(0, 1): every weight is masked with the same chance.

    Args:
        model: Only the names and shapes of its weights are used.
        batch: Ignored.
        generator: Makes the draw, on the CPU; seed 0 if None.
        sparsity: Ignored.

    Returns:
        `{weight name: tensor like the weight}`, float64 (ties are rare even among millions).
    """
    generator = generator or torch.Generator().manual_seed(0)
    return {
        name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        for name, weight in scorable_weights(model).items()
    }


def magnitude(
    model: nn.Module,
    batch: Batches,
    generator: torch.Generator | None = None,
    sparsity: float = 0.0,
) -> Scores:
    """Score each weight by |w|; all arguments but the model go unused.

    Returns:
        `{weight name: tensor like the weight}`, >= 0.

    Source: Han et al. 2015.
    """
    return {name: weight.detach().abs() for name, weight in scorable_weights(model).items()}


def _linear_redrawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Copy a model and draw the weights of its linear layers as Glorot and Bengio do."""
    model = copy_network(model)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                fresh = torch.empty(layer.weight.shape)
                layer.weight.copy_(nn.init.xavier_normal_(fresh, generator=generator))
    return model


def _as_list(batch: Batches) -> list[Batch]:
    batches = cast(list[Batch], [batch] if isinstance(batch[0], Tensor) else list(batch))
    for inputs, labels in batches:
        if labels.shape != inputs.shape[:1]:
            raise PruneError(
                f"a batch must be inputs (b, ...) and labels (b,), got {tuple(inputs.shape)} and "
                f"{tuple(labels.shape)}."
            )
    return batches


def _gradients(
    model: nn.Module, found: Scores, batch: Batches, temperature: float = 1.0
) -> list[Tensor]:
    """Differentiate the mean loss over all examples by every weight."""
    batches = _as_list(batch)
    examples = sum(len(labels) for _, labels in batches)
    totals = [torch.zeros_like(weight) for weight in found.values()]
    for inputs, labels in batches:
        loss = loss_on(model, (inputs, labels), temperature) * (len(labels) / examples)
        for total, part in zip(totals, gradients(loss, found).values(), strict=True):
            total += part
    return totals


def _absolute(model: nn.Module) -> nn.Module:
    """Take |w| everywhere and drop every shift, in place."""
    with torch.no_grad():
        require_gradients(model.parameters())
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.abs_()
            if name.rpartition(".")[2].startswith("bias"):
                parameter.zero_()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    return model


def _flow_in_rounds(model: nn.Module, ones: Tensor, sparsity: float, rounds: int) -> Scores:
    found = scorable_weights(model)
    alive = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in found.items()}
    total = sum(weight.numel() for weight in found.values())
    for k in range(1, rounds):
        scores = _flow_scores(model, found, ones)
        # Ranking only what is still alive makes later rounds cheap.
        rest = torch.cat([score[alive[name]] for name, score in scores.items()])
        stays = largest(rest, max(1, round(total * (1 - sparsity) ** (k / rounds))))
        parts = stays.split([int(mask.sum()) for mask in alive.values()])
        with torch.no_grad():
            for (name, mask), part in zip(alive.items(), parts, strict=True):
                alive[name] = torch.zeros_like(mask).masked_scatter_(mask, part)
                found[name].mul_(alive[name])
    last = _flow_scores(model, found, ones)
    return {name: score.masked_fill_(~alive[name], -1) for name, score in last.items()}


def _flow_scores(model: nn.Module, found: Scores, ones: Tensor) -> Scores:
    with torch.inference_mode(False), torch.enable_grad(), _Linearised():
        flow = logits(model, ones).sum()
    gradients = torch.autograd.grad(flow, list(found.values()), materialize_grads=True)
    scores = {
        name: (gradient * weight.detach()).abs()
        for (name, weight), gradient in zip(found.items(), gradients, strict=True)
    }
    total = sum(score.sum().item() for score in scores.values())
    if not math.isfinite(total):
        raise OverflowError
    if total == 0:
        raise PruneError(
            "no path from the input to the output carries synaptic flow. Lower the sparsity, or "
            "prune in more rounds."
        )
    return scores


class _Linearised(TorchFunctionMode):
    """Let positive values through activations that would bend them."""

    _bending = frozenset(
        {
            *(F.relu6, F.hardtanh, F.silu, F.hardswish, F.gelu, F.mish, F.celu, F.elu, F.selu),
            *(F.softplus, F.tanh, torch.tanh, Tensor.tanh, F.softsign),
        }
    )

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in self._bending:
            return args[0]
        return func(*args, **(kwargs or {}))
