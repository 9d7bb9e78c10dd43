"""Do the same work on tensors again and again with one launch: CUDA graphs, checked before use.

A GPU finishes a layer of a pruned network before Python has launched the next one, so without
graphs a pruned network takes as long as a dense one. A graph holds all launches of a step and
starts them at once.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alprune.training.device import gpu_index

Work = Callable[..., Tensor]
Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Takes work without arguments and returns what does it again, into the same tensors."""

WARM_UP = 3  # times that work is done as it is first: libraries choose and allocate at first
_DIFFERENCE = 0.1  # of what a step changes; bfloat16 and sums in another order stay far below
# What makes the host wait for a value, or decides a shape by values: a graph can't.
_READS = (
    "_local_scalar_dense is_nonzero equal nonzero masked_select unique_consecutive _unique2 "
    "unique_dim bincount"
).split()
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class Replayed:
    """Work that is recorded once, compared with itself, and replayed from then on.

    The first `WARM_UP` calls do the work as it is; the next one does, records and replays it. Only
    if the recording does what the work does is it used. Work that can't be recorded, because it
    hands values of tensors to Python, stays as it is.

    Args:
        work: From tensors of the same shapes and types in each call to one tensor. It must not
            depend on anything else that changes, other than the contents of tensors.
        record: Makes the recording, see `recorder`.
        state: All tensors that the work changes; asked for after the first calls.
        generator: What the work draws from; restored between doing it and replaying it.

    Attributes:
        refused: Why the work is not replayed; None as long as it is or may be.
    """

    def __init__(
        self,
        work: Work,
        record: Recorder,
        state: Callable[[], Sequence[Tensor]] = tuple,
        generator: torch.Generator | None = None,
    ) -> None:
        self.refused: str | None = None
        self._work, self._record, self._state = work, record, state
        self._generator = generator
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], Tensor] | None = None

    @property
    def ready(self) -> bool:
        """Whether calls are replays by now."""
        return self._replay is not None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Do the work once.

        Returns:
            Its result, which the next call overwrites.
        """
        if self._replay is not None:
            for static, given in zip(self._inputs, inputs, strict=True):
                static.copy_(given)
            return self._replay()
        if self.refused is not None:
            return self._work(*inputs)
        self._calls += 1
        if self._calls < WARM_UP:
            return self._work(*inputs)
        return self._watched(inputs) if self._calls == WARM_UP else self._recorded(inputs)

    def _watched(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do the work and find out whether it can be recorded."""
        try:
            with _Watch() as watch:
                out = self._work(*inputs)
        except Exception as error:  # operations of a stranger's network that modes don't know
            self._refuse(f"{type(error).__name__}: {_first_line(error)}")
            return self._work(*inputs)  # raises again if the reason is another one
        if watch.seen:
            self._refuse(f"it reads values of tensors ({', '.join(sorted(watch.seen))})")
        return out

    def _recorded(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do the work, record it, and keep the recording if it does the same."""
        state = list(self._state())
        with torch.no_grad():
            before = [tensor.clone() for tensor in state]
        draws = None if self._generator is None else self._generator.get_state()
        wanted = self._work(*inputs).detach().clone()
        with torch.no_grad():
            after = [tensor.clone() for tensor in state]
        drawn = None if self._generator is None else self._generator.get_state()
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        try:
            replay = self._record(lambda: self._work(*self._inputs))
        except Exception as error:  # of CUDA, of the allocator, of a stranger's network
            self._refuse(f"{type(error).__name__}: {_first_line(error)}")
            return wanted
        self._put(state, before, draws)
        got = replay()
        with torch.no_grad():
            same = _alike([wanted], [got], [torch.zeros_like(wanted)])
            same = same and _alike(after, state, before)
        if same:
            self._replay = replay
            return got
        self._put(state, after, drawn)
        self._refuse("the recording did not do what the work itself does")
        return wanted

    def _put(self, state: list[Tensor], values: list[Tensor], draws: Tensor | None) -> None:
        with torch.no_grad():
            for tensor, value in zip(state, values, strict=True):
                tensor.copy_(value)
        if self._generator is not None and draws is not None:
            self._generator.set_state(draws)

    def _refuse(self, reason: str) -> None:
        self.refused, self._inputs = reason, []
        warnings.warn(
            f"no CUDA graph of this network: {reason}. The run goes on without, which is slower "
            "where layers are small. --no-cuda-graphs leaves them out from the beginning.",
            stacklevel=3,
        )


class Recordings:
    """Keeps what was recorded last, for as long as it is asked for.

    Args:
        record: See `recorder`.
        device: Where the work is done.
    """

    def __init__(self, record: Recorder, device: torch.device) -> None:
        self._record, self._device = record, device
        self.last: tuple[tuple[object, ...], Replayed] | None = None

    def of(
        self, key: tuple[object, ...], work: Work, state: Callable[[], Sequence[Tensor]] = tuple
    ) -> Replayed:
        """Return work that is replayed.

        Args:
            key: What the recording depends on; another key is another recording, and the end of
                the one before.
            work: As for `Replayed`.
            state: As for `Replayed`.
        """
        if self.last is None or self.last[0] != key:
            self.last = None  # its memory first
            draws = global_generator(self._device)
            self.last = key, Replayed(work, self._record, state, draws)
        return self.last[1]


def recorder(device: torch.device) -> Recorder | None:
    """Return what records work on a device; None where there is nothing to gain."""
    if device.type != "cuda":
        return None

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, stream=torch.cuda.Stream(device)),
        ):
            out = work()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return record


def global_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout draws from on a device."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[gpu_index(device)]


def hooked(network: nn.Module) -> bool:
    """Whether Python code hangs on a network's modules, which a recording would leave out."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in network.modules() for kind in kinds)


class _Watch(TorchDispatchMode):
    """Notes the operations that a recording can't hold.

    Attributes:
        seen: Their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "overloadpacket", func).__name__
        if name in _READS or (name in _INDEXING and _by_mask(args[1])):
            self.seen.add(name)
        elif name in ("_to_copy", "copy_"):
            places = {t.device for t in tree_leaves((args, out)) if isinstance(t, Tensor)}
            if len(places) > 1:
                self.seen.add(f"copy between {' and '.join(sorted(map(str, places)))}")
        return out


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _by_mask(indices: Any) -> bool:
    masks = (torch.bool, torch.uint8)
    return any(isinstance(i, Tensor) and i.dtype in masks for i in tree_leaves(indices))


def _alike(wanted: Sequence[Tensor], got: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether two results changed the same tensors alike, as a share of what the first changed."""
    change, difference = 0.0, 0.0
    for a, b, old in zip(wanted, got, before, strict=True):
        if a.is_floating_point():
            change += float((a.double() - old.double()).square().sum())
            difference += float((a.double() - b.double()).square().sum())
        elif not torch.equal(a, b):
            return False
    return difference <= _DIFFERENCE**2 * change
