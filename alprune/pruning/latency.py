"""Prune to a latency or a time of training measured here, and scores that know what latency costs.

Everything here takes a `Stopwatch`, `(channels,) bool -> milliseconds`; `stopwatch` and
`step_stopwatch` make the real ones.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.models.cost import latency_ms
from alprune.pruning.criteria.base import Batch, loss_on, scoring_state
from alprune.pruning.graph import ChannelGraph
from alprune.pruning.graph.surgery import narrow
from alprune.pruning.option_values import check_count, check_flag, check_number, make_plain
from alprune.pruning.plan import Plan, Target, search
from alprune.pruning.width_limits import Limits

Stopwatch = Callable[[Tensor], float]

_STEP_MS = 300.0  # spent on measuring one network, about
_PROBES = 16  # networks that are measured in the bisection at most
_CONFIRM = 3  # times that the dense and the pruned network are measured in turns


@dataclass(frozen=True)
class Latency:
    """How latency enters.

    Attributes:
        batch: Examples in each forward pass that is measured.
        step_batch: Examples in each training step that is measured.
        aware: Divide scores by what a channel costs in measured latency before the search,
            whatever the target.
    """

    batch: int = 1
    step_batch: int = 64
    aware: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        check_count("latency_batch", self.batch, 1)
        check_count("latency_step_batch", self.step_batch, 1)
        check_flag("latency_aware", self.aware)


@dataclass(frozen=True)
class Timed:
    """A plan found by measuring.

    Attributes:
        plan: The channels kept.
        before_ms: Median latency of the dense network, measured in turns with the pruned one.
        after_ms: The same of the pruned network.
    """

    plan: Plan
    before_ms: float
    after_ms: float

    @property
    def reduction(self) -> float:
        """Share of the latency that is gone."""
        return 1 - self.after_ms / self.before_ms


def stopwatch(
    model: nn.Module, graph: ChannelGraph, inputs: Tensor, batch_size: int = 1, repeats: int = 20
) -> Stopwatch:
    """Make the clock that times narrowed copies of a model.

    Args:
        model: Left as found.
        graph: Its channel groups.
        inputs: `(b, ...)` on the device to measure on; repeated if `batch_size` is larger.
        batch_size: Examples in a forward pass. Latency at 1 and at 128 are different targets.
        repeats: Passes measured; their median counts.

    Returns:
        `keep -> median milliseconds` of a forward pass in evaluation mode.

    Raises:
        PruneError: A batch size below 1.
    """
    example = _repeated(inputs, batch_size)

    def measure(keep: Tensor) -> float:
        return latency_ms(narrow(model, graph, keep), example, repeats)

    return measure


def step_stopwatch(
    model: nn.Module, graph: ChannelGraph, batch: Batch, batch_size: int = 64
) -> Stopwatch:
    """Make the clock that times training steps of narrowed copies of a model.

    Args:
        model: Left as found.
        graph: Its channel groups.
        batch: Inputs `(b, ...)` and labels `(b,)` on the device to measure on; repeated if
            `batch_size` is larger.
        batch_size: Examples in a step.

    Returns:
        `keep -> milliseconds` of a forward and a backward pass, see `step_ms`.

    Raises:
        PruneError: A batch size below 1.
    """
    repeated = _repeated(batch[0], batch_size), _repeated(batch[1], batch_size)
    return lambda keep: step_ms(narrow(model, graph, keep), repeated)


def step_ms(model: nn.Module, batch: Batch) -> float:
    """Measure a forward and a backward pass in train mode: the least of some, in milliseconds.

    Three passes count of a large network, more of a small one; other processes only add time.
    What the optimiser does beside them takes hundredths of it.

    Args:
        model: Left as found, but in channels-last memory format, as learners are trained.
        batch: Inputs `(b, ...)` and labels `(b,)`, on the model's device.
    """
    model.to(memory_format=torch.channels_last)
    with scoring_state(model) as parameters:
        wanted = [p for p in parameters.values() if p.requires_grad]

        def once() -> float:
            begin = time.perf_counter()
            torch.autograd.grad(loss_on(model, batch), wanted, allow_unused=True)
            if batch[0].device.type != "cpu":
                torch.accelerator.synchronize(batch[0].device)
            return 1e3 * (time.perf_counter() - begin)

        once()
        repeats = min(20, max(3, round(_STEP_MS / once())))
        return min(once() for _ in range(repeats))


def _repeated(rows: Tensor, count: int) -> Tensor:
    if count < 1:
        raise PruneError(f"the timed batch size must be at least 1, got {count}.")
    return rows[torch.arange(count, device=rows.device) % rows.shape[0]]


def search_latency(
    graph: ChannelGraph,
    scores: Tensor,
    reduction: float,
    measure: Stopwatch,
    limits: Limits | None = None,
    quantity: str = "latency",
) -> Timed:
    """Remove the lowest scores until the measured latency has fallen by a share.

    Bisection over the number of channels removed; each probe narrows the network and times it.
    Timings are noisy and machines slow down, so where it ends both sides are confirmed: the
    network found and the last that was too slow are timed again in turns with the dense one, and
    the medians decide. If they overturn a probe the bisection resumes from there, so one
    disturbed measurement costs time but not channels. Latency is taken to fall with the channels
    removed, which holds except where the hardware prefers some widths.

    Args:
        graph: The channel groups.
        scores: `(channels,)`, larger is kept.
        reduction: Share of the latency to remove, in [0, 1).
        measure: Milliseconds of the network that keeps `(channels,)` bool; see `stopwatch`.
        limits: What must stay; multiples of 8 often run faster than a few channels less.
        quantity: What is measured, for messages.

    Returns:
        The plan with the latencies before and after.

    Raises:
        PruneError: The target is out of reach on this machine; the message says how far it goes.
    """
    path = _Path(graph, scores, limits or Limits())
    dense_ms = measure(graph.all_kept())
    if reduction == 0:
        return Timed(path.plan(0), dense_ms, dense_ms)
    bisection = _Bisection(path, reduction, measure, dense_ms, quantity)
    removed = bisection.run()
    return Timed(path.plan(removed), *bisection.confirmed[removed])


def latency_aware(
    graph: ChannelGraph, scores: Tensor, measure: Stopwatch, smoothing: float = 0.05
) -> Tensor:
    """Divide scores by the latency that a channel costs: slow channels leave first.

    "When to Prune" only says that it penalises a saliency by the latency saved; division needs no
    weight in the unit of the criterion.

    Args:
        graph: The channel groups.
        scores: `(channels,)`, >= 0, larger is kept.
        measure: As for `latency_share`.
        smoothing: As for `latency_share`.

    Returns:
        `(channels,)`, float32.

    Raises:
        PruneError: Negative scores, or as from `latency_share`.

    Source: the latency-aware pruning of Shen et al. 2022 ("When to Prune"), section 4.3, in the
    form of equations 3 and 4 of van Amersfoort et al. 2020.
    """
    if bool((scores < 0).any()):
        raise PruneError(
            "latency-aware scores need scores >= 0: a negative one divided by its cost would "
            "move the wrong way. Signed criteria such as structured-grasp cannot be weighted."
        )
    return (scores.cpu().double() / latency_share(graph, measure, smoothing)).float()


def latency_share(graph: ChannelGraph, measure: Stopwatch, smoothing: float = 0.05) -> Tensor:
    """Measure what each channel costs in latency, relative to the dearest.

    Half the channels of one group at a time are left out and the network is timed: what that
    saves, a channel, is the group's cost. Costs are shares of their sum over groups, smoothed
    and scaled to a largest of 1, as in `three_sp_ca`, so that dividing scores by them changes
    the order and not the unit.

    Args:
        graph: The channel groups.
        measure: Milliseconds of the network that keeps `(channels,)` bool; called once for
            every group and once for the dense network.
        smoothing: Added to a group's share; larger weakens the latency term.

    Returns:
        `(channels,)`, float64, in (0, 1].

    Raises:
        PruneError: Negative smoothing, or no group saves a measurable time.
    """
    check_number("smoothing", smoothing)
    dense_ms = measure(graph.all_kept())
    cost = torch.zeros(len(graph.groups), dtype=torch.float64)
    for index, group in enumerate(graph.groups):
        gone = group.channels[: len(group.channels) // 2]
        if len(gone):
            keep = graph.all_kept()
            keep[gone] = False
            cost[index] = max(0.0, dense_ms - measure(keep)) / len(gone)
    if not cost.sum() > 0:
        raise PruneError(
            "no group of channels saves a measurable time: the network is too small, or the batch "
            "too small for this device. Measure a larger batch."
        )
    share = cost / cost.sum() + smoothing
    share = share / share.max()
    if smoothing == 0:
        share = share.clamp_min(torch.finfo(torch.float32).eps)  # what saves nothing leaves last
    return share[graph.group_of]


class _Path:
    """The networks on the way from none to all removable channels removed, by score."""

    def __init__(self, graph: ChannelGraph, scores: Tensor, limits: Limits):
        self._graph, self._scores = graph, scores.detach().to("cpu", torch.float32)
        self._limits = limits
        self.length = self._most()

    def plan(self, removed: int) -> Plan:
        """Remove at least this many channels."""
        share = removed / self._graph.channels
        return search(self._graph, self._scores, Target("channels", share, self._limits))

    def all_kept(self) -> Tensor:
        return self._graph.all_kept()

    def keep(self, removed: int) -> Tensor:
        return self.plan(removed).keep(self._graph)

    def _most(self) -> int:
        self.plan(0)  # what is wrong with the scores shows here
        low, high = 0, self._graph.channels
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self.plan(middle)
                low = middle
            except PruneError:
                high = middle
        return low


class _Bisection:
    """The least number of channels whose removal meets the target, by noisy measurements."""

    def __init__(
        self,
        path: _Path,
        reduction: float,
        measure: Stopwatch,
        dense_ms: float,
        quantity: str,
    ):
        self._path, self._measure = path, measure
        self._quantity = quantity
        self._share, self._dense_ms = 1 - reduction, dense_ms
        self._meets = {0: False}
        self.seen: dict[int, float] = {}
        self.confirmed = {0: (dense_ms, dense_ms)}

    def run(self) -> int:
        self._probe(self._path.length)
        while True:
            passing = [n for n, meets in self._meets.items() if meets]
            if not passing:
                self._settle_the_end()
                continue
            high = min(passing)
            low = max(n for n in self._meets if n < high)
            if high - low > 1 and len(self.seen) < _PROBES:
                self._probe((low + high) // 2)
            elif high not in self.confirmed:
                self._settle(high)
            elif low not in self.confirmed:
                self._settle(low)
            else:
                return high

    def _probe(self, removed: int) -> None:
        self.seen[removed] = self._measure(self._path.keep(removed))
        self._meets[removed] = self.seen[removed] <= self._dense_ms * self._share

    def _settle(self, removed: int) -> None:
        everything, keep = self._path.all_kept(), self._path.keep(removed)
        pairs = [(self._measure(everything), self._measure(keep)) for _ in range(_CONFIRM)]
        before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
        self._dense_ms = before  # probes to come are compared with the machine as it is now
        self.seen[removed], self.confirmed[removed] = after, (before, after)
        self._meets[removed] = after <= before * self._share

    def _settle_the_end(self) -> None:
        most = self._path.length
        if most not in self.confirmed:
            self._settle(most)
            return
        before, after = self.confirmed[most]
        raise PruneError(
            f"a {self._quantity} reduction of {1 - self._share:g} is out of reach on this machine: "
            f"with all removable channels gone it takes {after:.3g} ms of {before:.3g} ms, a "
            f"reduction of {1 - after / before:.3f}. Ask for less, lower min_channels or "
            "round_to, or measure a larger batch."
        )
