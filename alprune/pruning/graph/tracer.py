"""Follow the channels through one concrete forward pass, operation by operation.

A `TorchFunctionMode` sees every operation of the forward. The rule registered for its name
(`rules.py`) says what it does to the labels of its operands; an operation without a rule pins
whatever it touches, so nothing is ever guessed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from alprune.pruning.graph.labels import PINNED, Couplings, along, canonical, varying

# Operations that hand values to Python, where an `if` can look at them.
_READS = frozenset("__bool__ __int__ __float__ __index__ __complex__ item tolist".split())
# Results of these do not depend on the values of their operands: only on shapes, or (the last
# three) on whether something went wrong, which is asked for the sake of an error.
_VALUELESS = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty "
    "new_full isnan isinf isfinite".split()
)
# Either what these return has a size that depends on values, or the values leave torch.
_SIZED_BY_VALUES = frozenset(
    "nonzero argwhere masked_select unique unique_consecutive bincount numpy __array__".split()
)


@dataclass(frozen=True)
class Call:
    """One operation of the forward pass, after it ran."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among the arguments."""
        return (a for a in tree_leaves((self.args, dict(self.kwargs))) if isinstance(a, Tensor))

    def results(self) -> list[Tensor]:
        """Return the tensors among the results."""
        return [t for t in tree_leaves(self.out) if isinstance(t, Tensor)]


Rule = Callable[["Tracer", Call], None]


class Tracer(TorchFunctionMode):
    """Labels of activations, axes of weights and costs, gathered while a forward pass runs.

    Args:
        model: The model that will run; its parameters and buffers are recognised by identity.
        rules: `{operation name: rule}`.
        always: Names of operations whose rule runs even when no operand carries labels: those
            that make channels.
        symmetric: How grouped convolutions are coupled; False: whole groups leave together,
            True: the i-th channels of all groups leave together.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[str, Rule],
        always: frozenset[str],
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.nodes = Couplings()
        # held, so that no id is used again when a forward replaces a buffer
        self._held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.names = {id(tensor): name for name, tensor in self._held.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._held.items()}
        self._trainable = [name for name, _ in model.named_parameters()]
        self.axes: dict[tuple[str, int], Tensor] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.elements: dict[str, Tensor] = {}
        self.positions: dict[str, float] = {}
        self.makers: dict[str, list[Tensor]] = {}
        self.sizes: dict[tuple[str, str], Tensor] = {}
        self.module = ""  # of the module that is running
        self.counting = True
        self.grouped = False
        self.decided = ""  # where the forward first looked at a value that stems from the input
        self.sized = ""  # where it first made a tensor sized by such values, or took them out
        self._ran: set[str] = set()
        self._torchs = {
            name
            for name, module in model.named_modules()
            if type(module).__module__.startswith("torch.nn.")
        }
        self._stems: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._rules = rules
        self._always = always
        self._labels: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation, then its rule."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = Call(_name(func), func, args, kwargs, out)
        self._note(call)
        if call.results() or call.name == "__setitem__":
            self._follow(call)
        return out

    def stem(self, tensor: Tensor) -> None:
        """Remember that the values of a tensor stem from the input."""
        self._stems[tensor] = True

    def _note(self, call: Call) -> None:
        """Note which parameters ran, and what of the forward depends on the input's values."""
        operands, results = list(call.tensors()), call.results()
        written = operands[:1] if call.name == "__setitem__" else []
        if results or written:
            self._ran.update(self.names[id(t)] for t in operands if id(t) in self.names)
        if not any(t in self._stems for t in operands):
            return
        if call.name in _READS:
            if self.module in self._torchs:
                return  # an LSTM looks up how many sequences are packed; no branch of the user's
            self.decided = self.decided or f"{call.name} in {self.module or 'its forward'}"
        elif call.name not in _VALUELESS:
            for tensor in [*results, *written]:
                self.stem(tensor)
        by_mask = call.name == "__getitem__" and any(t.dtype == torch.bool for t in operands[1:])
        if by_mask or call.name in _SIZED_BY_VALUES:
            self.sized = self.sized or f"{call.name} in {self.module or 'its forward'}"

    def _follow(self, call: Call) -> None:
        if call.name not in self._always and not any(self.carries(t) for t in call.tensors()):
            return
        rule = self._rules.get(call.name)
        if rule is None or call.kwargs.get("out") is not None:
            self.give_up(call, f"{call.name} is not an operation alprune can narrow")
            return
        try:
            rule(self, call)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            self.give_up(call, f"{call.name} is used in an unknown way ({error})")

    def give_up(self, call: Call, reason: str) -> None:
        """Pin everything that an operation touches."""
        for tensor in [*call.tensors(), *call.results()]:
            if self.carries(tensor):
                self.pin(tensor, reason)

    def carries(self, tensor: Tensor) -> bool:
        """Whether a tensor has labels: neither an input nor a constant."""
        return id(tensor) in self.names or tensor in self._labels

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the canonical labels of any tensor, in its shape."""
        if id(tensor) in self.names:
            return self._registered(tensor)
        found = self._labels.get(tensor)
        if found is None or found.shape != tensor.shape:
            return torch.full((1,) * tensor.dim(), PINNED, device="cpu").expand(tensor.shape)
        return found

    def set(self, tensor: Tensor, labels: Tensor) -> None:
        """Label a result; `labels` must have its shape."""
        if labels.shape != tensor.shape:
            raise ValueError(f"labels {tuple(labels.shape)} for {tuple(tensor.shape)}")
        if id(tensor) not in self.names:
            self._labels[tensor] = canonical(labels)

    def pin(self, tensor: Tensor, reason: str) -> None:
        """Never prune the channels that a tensor carries."""
        if id(tensor) in self.names:
            for dim in range(tensor.dim()):
                self.nodes.pin(self.axis(tensor, dim, "follows"), reason)
        else:
            self.nodes.pin(self.labels(tensor), reason)

    def registered(self, tensor: Any) -> bool:
        """Whether this is a parameter or buffer of the model itself."""
        return id(tensor) in self.names

    def axis(self, tensor: Tensor, dim: int, role: str) -> Tensor:
        """Return the nodes along one dimension of a parameter or buffer, `(shape[dim],)`."""
        key = (self.names[id(tensor)], dim)
        if key not in self.axes:
            self.axes[key] = self.nodes.new(tensor.shape[dim])
        if role != "follows":
            self.roles[key] = role
        return self.axes[key]

    def _registered(self, tensor: Tensor) -> Tensor:
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) < 2 and tensor.dim():
            dim = long[0] if long else 0
            return along(self.axis(tensor, dim, "follows"), dim, tensor.shape)
        if not tensor.dim():
            return torch.full(tensor.shape, PINNED, device="cpu")
        name = self.names[id(tensor)]
        if name not in self.elements:
            self.elements[name] = self.nodes.new(tensor.numel()).view(tensor.shape)
        return self.elements[name]

    def channel(self, tensor: Tensor, dim: int, reason: str) -> Tensor:
        """Return the nodes along `dim`, `(shape[dim],)`, coupling what the other dims hold."""
        labels = self.labels(tensor)
        dim %= labels.dim()
        others = [d for d in range(labels.dim()) if d != dim]
        self.nodes.tie(labels, others, reason)
        return labels.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0]

    def follow(self, tensor: Tensor | None, nodes: Tensor, reason: str) -> None:
        """Let a vector (bias, scale, running statistic) follow the channels `nodes`."""
        if tensor is not None:
            self.nodes.unite(self.labels(tensor), nodes, reason)

    def make(self, weight: Tensor, nodes: Tensor, whole_module: bool = False) -> None:
        """Note that a layer makes the channels `nodes`."""
        name = self.names[id(weight)]
        module, _, leaf = name.rpartition(".")
        key = module if module and (leaf == "weight" or whole_module) else name
        known = self.makers.setdefault(key, [])
        if not any(torch.equal(nodes, other) for other in known):
            known.append(nodes)

    def makers_parts(self) -> list[Tensor]:
        """Return the nodes of every maker, layer by layer."""
        return [nodes for found in self.makers.values() for nodes in found]

    def untouched(self) -> bool:
        """Whether some parameter took no part in the forward passes so far."""
        return not self._ran.issuperset(self._trainable)

    def idle(self) -> list[str]:
        """Return the modules none of whose own parameters took part in the passes so far."""
        ran = {name.rpartition(".")[0] for name in self._ran}
        owners = dict.fromkeys(name.rpartition(".")[0] for name in self._trainable)
        return [name for name in owners if name not in ran]

    def owner(self, weight: Tensor) -> str:
        """Return the name of the module that holds a registered tensor."""
        return self.names[id(weight)].rpartition(".")[0]

    def count(self, weight: Tensor, positions: float) -> None:
        """Add the multiply-accumulates that each element of `weight` took part in."""
        if not self.counting:
            return
        name = self.names[id(weight)]
        self.positions[name] = self.positions.get(name, 0) + positions

    def count_computed(self, weight: Tensor, positions: float) -> None:
        """Charge a computed weight (a parametrised one) to the parameter it stems from."""
        inside = f"{self.module}." if self.module else ""
        for name in self._trainable:
            if name.startswith(inside) and self.shapes[name] == tuple(weight.shape):
                if self.counting:
                    self.positions[name] = self.positions.get(name, 0) + positions
                return

    def combine(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        """Return the labels of an elementwise operation on operands labelled `a` and `b`.

        An operand of size 1 along a dimension where the other one's labels change (a spatial
        attention map, a scalar gate) reaches every channel: it is pinned instead of coupled.
        """
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a = a.reshape((1,) * (len(shape) - a.dim()) + tuple(a.shape)) if a.dim() < len(shape) else a
        b = b.reshape((1,) * (len(shape) - b.dim()) + tuple(b.shape)) if b.dim() < len(shape) else b
        a, b = canonical(a), canonical(b)
        a_gates = any(a.shape[d] == 1 for d in varying(b))
        b_gates = any(b.shape[d] == 1 for d in varying(a))
        if a_gates:
            self.nodes.pin(a, f"a factor of all channels ({reason})")
        if b_gates:
            self.nodes.pin(b, f"a factor of all channels ({reason})")
        if a_gates and b_gates:
            self.nodes.pin(a, f"an outer product ({reason})")
            return torch.full((1,) * len(shape), PINNED, device="cpu").expand(shape)
        if not a_gates and not b_gates:
            self.nodes.unite(a, b, reason)
        # united labels mean the same: the simpler ones keep later operations simple
        simpler = a if b_gates or (not a_gates and len(varying(a)) <= len(varying(b))) else b
        return canonical(simpler.expand(shape))


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as Tensor.T
        return "get " + str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name
