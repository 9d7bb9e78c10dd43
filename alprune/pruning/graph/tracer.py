"""Follow the channels through one concrete forward pass, operation by operation.

A `TorchFunctionMode` sees every operation of the forward. The rule registered for its name says
what it does to the labels of its operands; an operation without a rule pins whatever it touches,
so nothing is ever guessed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from alprune.pruning.graph.branches import only_raises
from alprune.pruning.graph.calls import (
    COMPARISONS,
    COUNTS,
    READS,
    SHAPES,
    SIZED_BY_VALUES,
    VALUELESS,
    Call,
    Mixing,
    Work,
    operation,
)
from alprune.pruning.graph.foreign import refuse_foreign, refuse_stale
from alprune.pruning.graph.labels import Axis, Couplings, Labels
from alprune.pruning.graph.place import Place, Spot
from alprune.pruning.graph.sizes import (
    Key,
    Size,
    Whole,
    counted,
    counted_dimension,
    get_size,
    sized,
)
from alprune.pruning.graph.stand_ins import stand_in

Rule = Callable[["Tracer", Call], None]


class Tracer(TorchFunctionMode):
    """Labels of activations, axes of weights and costs, gathered while a forward pass runs.

    Args:
        model: The model that will run; its parameters and buffers are recognised by identity.
        rules: `{operation name: rule}`.
        always: Names of operations whose rule runs even when no operand carries labels: those
            that make channels, or take sizes.
        foreign: `{id of a tensor: name}` of the network that `model` is a copy of.
        symmetric: How grouped convolutions are coupled; False: whole groups leave together,
            True: the i-th channels of all groups leave together.
        follow: Whether channels over which an operation normalises may leave.
        one_path: Accept forwards that read values of their input into Python.
        exact: Compute large products, in place of noise of the same shape.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[str, Rule],
        always: frozenset[str],
        foreign: Mapping[int, str],
        symmetric: bool = False,
        follow: bool = False,
        one_path: bool = False,
        exact: bool = True,
    ) -> None:
        super().__init__()
        self._exact = exact
        self.symmetric, self.follow, self.one_path = symmetric, follow, one_path
        self.model = model
        self.nodes = Couplings()
        # held, so that no id is used again when a forward replaces a buffer
        self._held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.names = {id(tensor): name for name, tensor in self._held.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._held.items()}
        self._trainable = [name for name, _ in model.named_parameters()]
        self.axes: dict[tuple[str, int], Axis] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.works: list[Work] = []
        self.multiples: list[tuple[Any, Axis]] = []  # sizes that are products of two attributes
        self.macs: Mapping[Spot, int] | None = None  # what each call costs for one example
        self.governed: dict[str, nn.Module] = {}  # modules that a rule of one's own governs
        self.makers: dict[str, list[Axis]] = {}
        self.sizes: dict[Key, Axis] = {}
        self.mixings: dict[Spot, Mixing] = {}
        self.place = Place()
        self.counting = True
        self.trains_alike = False  # whether both modes run the same operations
        self.too_few = False  # whether training fails on the example, as if it were too small
        self.grouped = False
        self.renormalised = ""  # the first layer pinned because it normalises over channels
        self.decided = ""  # where the forward first looked at a value that stems from the input
        self.sized = ""  # where it first made a tensor sized by such values, or took them out
        self.stale: Mapping[int, str] = {}  # tensors computed from parameters before the trace
        self._looked_at: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._origins: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._fixed: set[Key] = set()
        self._foreign = foreign
        self._ran: set[str] = set()
        self._owners = {n for n, module in model.named_modules() if hasattr(module, "weight")}
        self.torchs = {
            name
            for name, module in model.named_modules()
            if type(module).__module__.startswith(("torch.nn.", "torch.ao."))
        }
        self._stems: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._rules = rules
        self._always = always
        self._labels: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @property
    def module(self) -> str:
        """Name of the module that is running."""
        return self.place.module

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation, then its rule."""
        kwargs = kwargs or {}
        name = operation(func)
        self.place.count(name)
        out: Any = None if self._exact else stand_in(name, func, args, kwargs)
        out = func(*args, **kwargs) if out is None else out
        if name in SHAPES and self.carries(args[0]):
            return sized(out, self.labels(args[0]), args[1:] or tuple(kwargs.values()))
        if name in COUNTS:
            return counted(out, args[0].shape, self.labels(args[0]))
        if name in SHAPES:
            return out
        call = Call.of(name, func, args, kwargs, out)
        self._note(call)
        if call.results() or name == "__setitem__":
            self.apply(call)
        return out

    def look(self, tensor: Tensor, axis: Axis, reason: str, compared: bool = True) -> None:
        """Pin an axis once the values of a tensor are used.

        Args:
            tensor: Computed over the axis.
            axis: To be pinned.
            reason: Why.
            compared: Whether comparisons, as in an assertion, are no use.
        """
        self._looked_at.setdefault(tensor, []).append((axis, reason, compared))

    def stem(self, tensor: Tensor) -> None:
        """Remember that the values of a tensor stem from the input."""
        self._stems[tensor] = True

    def stems(self, tensor: Tensor) -> bool:
        """Whether the values of a tensor stem from the input."""
        return tensor in self._stems

    def _note(self, call: Call) -> None:
        """Note which parameters ran, and what of the forward depends on the input's values."""
        operands, results = list(call.tensors()), call.results()
        written = operands[:1] if call.name == "__setitem__" else []
        if results or written:
            for tensor in operands:
                if id(tensor) in self.names:
                    self._ran.add(self.names[id(tensor)])
                elif id(tensor) in self._foreign:
                    where = self.module or type(self.model).__name__
                    refuse_foreign(self._foreign[id(tensor)], where)
                elif id(tensor) in self.stale:
                    refuse_stale(self.stale[id(tensor)])
        for tensor in operands:
            for axis, reason, compared in self._looked_at.get(tensor, ()):
                if call.name in COMPARISONS and compared:
                    self.look(results[0], axis, reason)
                elif results or written or not compared:
                    self.nodes.pin(axis, reason)
        if not any(t in self._stems for t in operands):
            return
        if call.name in READS:
            if self.module in self.torchs or self.one_path or only_raises():
                return  # an LSTM looks up how many sequences are packed; no branch of the user's
            self.decided = self.decided or f"{call.name} in {self.module or 'its forward'}"
        elif call.name not in VALUELESS:
            for tensor in [*results, *written]:
                self.stem(tensor)
        by_mask = call.name == "__getitem__" and any(t.dtype == torch.bool for t in operands[1:])
        if by_mask or call.name in SIZED_BY_VALUES:
            self.sized = self.sized or f"{call.name} in {self.module or 'its forward'}"

    def apply(self, call: Call, rule: Rule | None = None) -> None:
        """Apply the rule of an operation; what has none pins whatever it touches."""
        sized = any(isinstance(a, Size) for a in tree_leaves(call.args))
        known = call.name in self._always or sized or any(self.carries(t) for t in call.tensors())
        if not known and rule is None:
            return
        rule = rule or self._rules.get(call.name)
        if rule is None or not isinstance(call.kwargs.get("out"), Tensor | None):
            self.give_up(call, f"{call.name} is not an operation alprune can narrow")
            return
        operands = list(call.tensors())
        if any(map(self.of_weights, operands)) and not any(map(self.stems, operands)):
            for result in call.results():
                self._origins[result] = next(filter(None, map(self.origin, operands)), "")
        try:
            rule(self, call)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            self.give_up(call, f"{call.name} is used in an unknown way ({error})")

    def give_up(self, call: Call, reason: str, besides: Sequence[Tensor] = ()) -> None:
        """Pin everything that an operation touches, some operands aside."""
        for tensor in [*call.tensors(), *call.results()]:
            if self.carries(tensor) and not any(tensor is other for other in besides):
                self.pin(tensor, reason)
        for leaf in tree_leaves((call.args, dict(call.kwargs))):
            if isinstance(leaf, Size):
                self.nodes.pin(self.size_axis(leaf), reason)

    def carries(self, tensor: Tensor) -> bool:
        """Whether a tensor has labels: neither an input nor a constant."""
        return id(tensor) in self.names or tensor in self._labels

    def labels(self, tensor: Tensor) -> Labels:
        """Return the axes of any tensor, one for each dimension."""
        if id(tensor) in self.names:
            return tuple(self.axis(tensor, dim) for dim in range(tensor.dim()))
        found: Labels | None = self._labels.get(tensor)
        return ((),) * tensor.dim() if found is None or len(found) != tensor.dim() else found

    def set(self, tensor: Tensor, labels: Sequence[Axis]) -> None:
        """Label a result: one axis for each dimension, of its size."""
        for size, axis in zip(tensor.shape, labels, strict=True):
            if axis and len(axis[0]) != size:
                raise ValueError(f"labels for {len(axis[0])} indices of {tuple(tensor.shape)}")
        if id(tensor) not in self.names:
            self._labels[tensor] = tuple(labels)
            return
        for dim, axis in enumerate(labels):  # written in place, or as `out=`
            self.nodes.unite(self.axis(tensor, dim), axis, "written into a buffer")

    def pin(self, tensor: Tensor, reason: str) -> None:
        """Never prune the channels that a tensor carries."""
        for axis in self.labels(tensor):
            self.nodes.pin(axis, reason)
        for axis, *_ in self._looked_at.get(tensor, ()):
            self.nodes.pin(axis, reason)

    def registered(self, tensor: Any) -> bool:
        """Whether this is a parameter or buffer of the model itself."""
        return id(tensor) in self.names

    def trainable(self, tensor: Any) -> bool:
        """Whether this is a parameter of the model itself, frozen ones included."""
        return self.registered(tensor) and isinstance(tensor, nn.Parameter)

    def axis(self, tensor: Tensor, dim: int, role: str = "follows") -> Axis:
        """Return the axis along one dimension of a parameter or buffer."""
        key = (self.names[id(tensor)], dim)
        if key not in self.axes:
            self.axes[key] = (self.nodes.new(tensor.shape[dim]),)
        if role != "follows":
            self.roles[key] = role if self.roles.get(key, role) == role else "makes and reads"
        return self.axes[key]

    def follow_axis(self, tensor: Tensor | None, axis: Axis, reason: str) -> None:
        """Let a vector (bias, scale, running statistic) follow the channels of an axis."""
        if tensor is not None and tensor.numel() > 1:
            self.nodes.unite(self.labels(tensor)[-1], axis, reason)

    def size_axis(self, size: Any) -> Axis:
        """Return the axis that a size counts, () for plain numbers and computed sizes."""
        source = size.source if isinstance(size, Size) else None
        if not isinstance(source, Whole):
            return ()
        if source.attribute is None:
            return source.axis
        if source.attribute not in self.sizes:
            self.sizes[source.attribute] = self._weight_axis(source.attribute, int(size))
        return self.sizes[source.attribute]

    def _weight_axis(self, key: Key, size: int) -> Axis:
        module = self.model.get_submodule(key[0])
        name, dim = counted_dimension(module, key[1]) or ("", 0)
        weight = getattr(module, name) if name else None
        if weight is not None and self.registered(weight) and weight.shape[dim] == size:
            return self.axis(weight, dim)
        return (self.nodes.new(size),)

    def fix(self, size: Any, reason: str) -> None:
        """Never change an attribute, because more than sizes depend on it."""
        if isinstance(size, Size) and isinstance(size.source, Whole) and size.source.attribute:
            self._fixed.add(size.source.attribute)
            self.nodes.pin(self.size_axis(size), reason)

    def may_change(self, size: Any) -> bool:
        """Whether a size is not a plain number, nor an attribute that must stay."""
        return isinstance(size, Size) and not (
            isinstance(size.source, Whole) and size.source.attribute in self._fixed
        )

    def resize(self, module: str, attribute: str, axis: Axis, reason: str) -> None:
        """Let an attribute of a module be the number of kept indices of an axis."""
        known = get_size(self.model.get_submodule(module), attribute)
        if not axis or known != len(axis[0]):
            return
        if (module, attribute) in self.sizes:
            self.nodes.unite(self.sizes[module, attribute], axis, reason)
        else:
            self.sizes[module, attribute] = axis

    def of_weights(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer, or is computed from nothing else."""
        return self.registered(tensor) or tensor in self._origins

    def origin(self, tensor: Tensor) -> str:
        """Return the name of the parameter that a weight is, or is computed from; "" if none."""
        if self.trainable(tensor):
            return self.names[id(tensor)]
        return str(self._origins.get(tensor, ""))

    def couple_sizes(self, compared: Sequence[tuple[Size, Size]]) -> None:
        """Couple sizes that a forward found equal, so that the narrowed one finds so, too."""
        for a, b in compared:
            keys = [s.source.attribute for s in (a, b) if isinstance(s.source, Whole)]
            changing = [key is None or key in self.sizes for key in keys]
            if len(keys) == 2 and any(changing):
                one, other = self.size_axis(a), self.size_axis(b)
                if not self.nodes.permuted(one, other):
                    self.nodes.unite(one, other, "sizes that are compared")

    def make(self, weight: Tensor, axis: Axis, whole_module: bool = False) -> None:
        """Note that a weight makes the channels of an axis, or the layer that computes it."""
        if not axis:
            return
        name = self.origin(weight)
        if self.module in self._owners and not self.registered(weight) or not name:
            name = f"{self.module}.weight".lstrip(".")
        module, _, leaf = name.rpartition(".")
        key = module if module and (leaf == "weight" or whole_module) else name
        known = self.makers.setdefault(key, [])
        if not any(_same(axis, other) for other in known):
            known.append(axis)

    def mix(self, call: Call, kind: str, axes: Mapping[int, Axis], counts: bool) -> None:
        """Note that an operation without weights mixes the channels of its first operand.

        Args:
            call: The operation.
            kind: How to run it with some channels gone, a key of `gates.KINDS`.
            axes: `{dimension of the first operand: axis}`, the dimensions mixed.
            counts: Whether the result depends on how many channels there are, so that removing
                one re-normalises the others: pinned then unless the trace follows such.
        """
        axes = {dim: axis for dim, axis in axes.items() if axis}
        if not axes:
            return
        if counts and not self.follow:
            self.renormalised = self.renormalised or (self.module or call.name)
            for axis in axes.values():
                for result in call.results():
                    self.look(result, axis, f"{call.name} normalises over channels")
            return
        spot = self.place.spot(call.name, self.model.training)
        known = self.mixings.get(spot)
        if known is None:
            self.mixings[spot] = Mixing(kind, axes)
            return
        for dim, axis in axes.items():
            if dim in known.axes:
                self.nodes.unite(known.axes[dim], axis, call.name)

    def ran(self, module: nn.Module) -> None:
        """Note that all parameters of a module take part in the forward."""
        self._ran.update(self.names[id(p)] for p in module.parameters() if id(p) in self.names)

    def idle(self) -> list[str]:
        """Return the modules none of whose own parameters took part in the passes so far."""
        ran = {name.rpartition(".")[0] for name in self._ran}
        owners = dict.fromkeys(name.rpartition(".")[0] for name in self._trainable)
        return [name for name in owners if name not in ran]

    def count(self, weight: Tensor, positions: float) -> None:
        """Add the multiply-accumulates that each element of a registered weight took part in."""
        if self.counting:
            name = self.names[id(weight)]
            macs = positions * weight.numel()
            self.works.append(Work(macs, self.place.last, name, factor=name))

    def work(self, macs: float, *axes: Axis, factor: Tensor | None = None) -> None:
        """Add the multiply-accumulates of a product whose size follows several axes.

        Args:
            macs: How many.
            *axes: The axes.
            factor: The weight that takes part; one that is computed stands for the parameter of
                its shape.
        """
        if self.counting:
            found = tuple(axis for axis in axes if axis)
            name = "" if factor is None else self.origin(factor)
            if name and self.shapes[name] != tuple(factor.shape):  # type: ignore[union-attr]
                name = ""
            self.works.append(Work(macs, self.place.last, axes=found, factor=name))


def _same(a: Axis, b: Axis) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
