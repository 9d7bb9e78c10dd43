"""Find the channels of any model: which leave together, who makes and who reads them."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ModelError
from alprune.pruning.graph.attention import open_attention
from alprune.pruning.graph.build import assemble
from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.channels import OUTPUT, ChannelGraph, Pinned
from alprune.pruning.graph.counts import macs_by_spot, whole
from alprune.pruning.graph.rules_elementwise import ALWAYS, RULES
from alprune.pruning.graph.rules_reshape import couple_multiples
from alprune.pruning.graph.sizes import comparisons, mark_attributes
from alprune.pruning.graph.surgery import (
    computed_attributes,
    copied,
    refuse_exported,
    registered,
    unwrap,
)
from alprune.pruning.graph.tracer import Rule, Tracer
from alprune.pruning.graph.verify import LARGE, outputs, run, try_out
from alprune.registry import unknown

NORMALISED = ("auto", "pinned", "follow")


@torch.inference_mode(False)
def trace(
    model: nn.Module,
    example: Tensor,
    verify: bool = True,
    *,
    normalised: str = "auto",
    rules: Mapping[type[nn.Module] | str, Rule] | None = None,
    one_path: bool = False,
) -> ChannelGraph:
    """Find the prunable channels of a model by one forward pass in each mode.

    Grouped convolutions are coupled by whole groups, or the i-th channels of all groups,
    whichever leaves more to prune. The passes run on a copy, so parameters, mode, gradients,
    buffers and hooks of `model`, and the global random state, are left as they are.

    One pass shows one path. Branching on shapes, modes and settings is fine: the narrowed model
    takes the same path. A forward that reads values of the input or of activations into Python
    (`if x.mean() > 0`, `.item()`, `.tolist()`) may take another path on another input, and is
    refused, except where the value decides an `assert`, or an `if` that raises, and nothing else;
    PyTorch's own layers and hooks on them may read. Layers that did not run are left whole and
    reported as pinned, unless tensors are sized by values (boolean indices, `nonzero`) or go
    through numpy, as in routing: then another input may reach those layers, and the forward is
    refused as well.

    Args:
        model: Any module from one tensor to a tensor, or to a tuple, list or dict of tensors.
        example: `(b, ...)`, a small batch; its first two examples are used, or all where two are
            too few for training.
        verify: Also remove half the channels of every group and compare with the masked model,
            and run it in training mode; what fails is pinned with the reason.
        normalised: What becomes of channels over which an operation normalises (LayerNorm, a
            mean or a softmax over channels, the scale that attention takes from its width or any
            other number computed from a width, standardised weights). "pinned": they stay, and
            the narrowed model equals the masked one, in which removed channels are zeros where
            they are read. "follow": they may leave; then the narrowed model equals one in which
            they are zeros and every such operation normalises over the others only. "auto":
            pinned, unless less than half of the multiply-accumulates could be removed then.
        rules: Rules of your own, for module classes or names of operations (see `Rule`).
        one_path: Accept a forward that reads values of its input into Python, on your word that
            every input takes the path of the example.

    Returns:
        The channel graph. It may be empty; `pinned` then says why.

    Raises:
        ModelError: The model cannot be copied, fails on the example, calls a layer of the
            original from its copy, or branches on the values of its input.
    """
    if normalised not in NORMALISED:
        raise unknown("treatment of normalised channels", normalised, list(NORMALISED))
    model = unwrap(model)
    given, example = example, _checked(model, example)
    own = dict(rules or {})
    _check_rules(model, own)

    def traced(symmetric: bool, follow: bool) -> Tracer:
        if not one_path:
            with contextlib.suppress(ModelError):  # an assertion on values may refuse noise
                return _traced(model, example, own, symmetric, follow, one_path, exact=False)
        return _traced(model, example, own, symmetric, follow, one_path, exact=True)

    def build(follow: bool) -> tuple[ChannelGraph, Tracer]:
        tracers = [traced(False, follow)]
        if tracers[0].grouped:
            tracers.append(traced(True, follow))
        return _largest(tracers, model, example, verify)

    graph, tracer = build(normalised == "follow")
    if tracer.too_few and len(given) > len(example):
        example = given.detach()
        graph, tracer = build(normalised == "follow")
    if normalised == "auto" and tracer.renormalised and _removable(graph) < 0.5:
        graph, tracer = build(follow=True)
    idle = tuple(
        Pinned(name or type(model).__name__, "never ran on the example") for name in tracer.idle()
    )
    dtype = str(example.dtype).removeprefix("torch.")
    return replace(graph, pinned=graph.pinned + idle, example_dtype=dtype)


def _removable(graph: ChannelGraph) -> float:
    """Return the share of the multiply-accumulates that goes with all channels but one a group."""
    least = torch.zeros(graph.channels, dtype=torch.bool, device="cpu")
    least[[int(group.channels[0]) for group in graph.groups]] = True
    return 1 - graph.macs(least) / max(graph.macs(graph.all_kept()), 1)


def _largest(
    tracers: Sequence[Tracer], model: nn.Module, example: Tensor, check: bool
) -> tuple[ChannelGraph, Tracer]:
    """Choose the coupling of grouped convolutions that leaves most channels after verification."""
    shape, batch = tuple(example.shape[1:]), example.shape[0]
    drafts = [(*assemble(tracer, model, shape, batch), tracer) for tracer in tracers]
    drafts.sort(key=lambda draft: -draft[0].channels)
    chosen: tuple[ChannelGraph, Tracer] | None = None
    for graph, nodes, tracer in drafts:
        if chosen is not None and graph.channels <= chosen[0].channels:
            break
        blamed: dict[int, str] = {}
        if check and graph.channels:
            large = tracer.macs is not None and graph.macs(graph.all_kept()) > LARGE
            verdict = try_out(model, example, graph, not tracer.trains_alike, large)
            blamed = verdict.blamed
            graph = replace(graph, numbers=verdict.numbers)
            if verdict.numbers and not tracer.follow:
                tracer.renormalised = tracer.renormalised or "a number computed from a width"
        for group, reason in blamed.items():
            tracer.nodes.pin(nodes[graph.groups[group].channels], reason)
        if blamed:
            numbers = graph.numbers
            graph = replace(assemble(tracer, model, shape, batch)[0], numbers=numbers)
        if chosen is None or graph.channels > chosen[0].channels:
            chosen = graph, tracer
    assert chosen is not None
    return chosen


def _checked(model: nn.Module, example: Any) -> Tensor:
    if not isinstance(example, Tensor) or example.dim() < 1 or example.shape[0] < 1:
        got = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ModelError(f"the example must be a tensor (b, ...) with b >= 1, got {got}.")
    for name, tensor in registered(model).items():
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{name!r} is not initialised: run one forward pass first.")
    refuse_exported(model)
    example = example[:2].detach()
    return torch.cat([example, example]) if len(example) == 1 else example


def _check_rules(model: nn.Module, rules: Mapping[type[nn.Module] | str, Rule]) -> None:
    """Refuse a rule that would be used nowhere."""
    kinds = {type(module) for module in model.modules()}
    names = {kind.__name__ for kind in kinds}
    for key in rules:
        if isinstance(key, str) and key in names:
            raise ModelError(
                f"rules: {key!r} is the name of a class of modules, and a name stands for an "
                f"operation there. Give the class itself: rules={{{key}: ...}}."
            )
        if not isinstance(key, str) and key not in kinds:
            raise ModelError(
                f"rules: no module of {type(model).__name__} is of class {key.__name__}, and a "
                "rule does not count for subclasses. Its classes are "
                f"{', '.join(sorted(names))}."
            )


def _traced(
    model: nn.Module,
    example: Tensor,
    rules: Mapping[type[nn.Module] | str, Rule],
    symmetric: bool,
    follow: bool,
    one_path: bool,
    exact: bool,
) -> Tracer:
    """Run forward passes of a copy, and follow its channels.

    Unless `exact`, large products are noise: where channels go does not depend on their values.
    """
    aliases: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
        for p in model.parameters()  # a forward may write into them, as averages of weights do
    }
    probe = copied(model, aliases).eval()
    stale = {
        id(aliases[id(tensor)]): name
        for name, tensor in computed_attributes(model).items()
        if id(tensor) in aliases
    }
    open_attention(probe)
    mark_attributes(probe)
    foreign = {id(tensor): name for name, tensor in registered(model).items()}
    named = {name: rule for name, rule in rules.items() if isinstance(name, str)}
    tracer = Tracer(
        probe, {**RULES, **named}, ALWAYS | set(named), foreign, symmetric, follow, one_path, exact
    )
    tracer.stale = stale
    tracer.place.watch(probe)
    _apply_to_modules(tracer, probe, rules)
    _follow_forward(tracer, probe, example)
    _refuse_built(probe, foreign.values())
    in_evaluation = _written(tracer)
    tracer.counting = False  # what only runs in training costs nothing afterwards
    try:
        _follow_forward(tracer, probe.train(), example)
    except ModelError:
        if not exact:
            raise
        tracer.too_few = True
    tracer.trains_alike = _written(tracer) == in_evaluation
    _refuse_branches(tracer, type(model).__name__)
    for module in tracer.governed.values():
        del module.forward
    tracer.macs = macs_by_spot(probe, example[:1], tracer.place, tracer.governed)
    return tracer


def _written(tracer: Tracer) -> dict[tuple[str, str], int]:
    """Return how often each operation ran, those within layers of torch's left out."""
    counts = tracer.place.counts()
    return {key: times for key, times in counts.items() if key[0] not in tracer.torchs}


def _apply_to_modules(
    tracer: Tracer, probe: nn.Module, rules: Mapping[type[nn.Module] | str, Rule]
) -> None:
    """Let a rule of one's own say what a module does, instead of the operations inside."""

    def governed(name: str, module: nn.Module, rule: Rule) -> Any:
        inside = module.forward
        tracer.governed[name] = module

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                out = inside(*args, **kwargs)
                tracer.ran(module)
                tracer.place.last = whole(name)
                for result in Call("", inside, args, kwargs, out).results():
                    tracer.stem(result)
                tracer.apply(Call(type(module).__name__, inside, args, kwargs, out), rule)
            return out

        return forward

    for name, module in probe.named_modules():
        for kind, rule in rules.items():
            if not isinstance(kind, str) and type(module) is kind:
                module.forward = governed(name, module, rule)  # type: ignore[method-assign]


def _refuse_built(probe: nn.Module, before: Collection[str]) -> None:
    """Refuse a network whose forward builds layers: the copy's are not those of the original."""
    late = [name for name in dict(probe.named_parameters()) if name not in before]
    if late:
        raise ModelError(
            f"{type(probe).__name__} builds {late[0]!r} in its first forward pass. Run the network "
            "once, model(inputs), before it is pruned or rebuilt."
        )


def _refuse_branches(tracer: Tracer, name: str) -> None:
    if tracer.decided:
        raise ModelError(
            f"{name}'s forward reads values that stem from its input into Python "
            f"({tracer.decided}), so it may branch on them, and one pass shows only one branch. "
            "Compute both branches and choose with torch.where, or take such checks and logging "
            "(also in hooks) out while pruning; branching on shapes is fine. If every input takes "
            "the same branch, one_path=True says so, in Python."
        )
    if tracer.sized and tracer.idle():
        raise ModelError(
            f"{name}'s forward uses values that stem from its input beyond tensors of fixed size "
            f"({tracer.sized}), and {', '.join(tracer.idle()[:3])} did not run on the example: "
            "another input may reach it. Give an example that runs every layer, or run all and "
            "choose with torch.where."
        )


def _follow_forward(tracer: Tracer, probe: nn.Module, example: Tensor) -> None:
    tracer.stem(example)
    tracer.place.start()
    with comparisons() as compared, tracer:
        out = run(probe, example)
    couple_multiples(tracer)
    tracer.couple_sizes(compared)
    leaves = outputs(out)
    if not leaves:
        raise ModelError(
            f"{type(probe).__name__} returned {type(out).__name__}; expected a tensor, or a "
            "tuple, list, dict or object that holds tensors."
        )
    for leaf in leaves:
        tracer.pin(leaf, OUTPUT)
