"""Pruning during training: when the structure of the best sub-network has come to rest.

Source: "When to Prune? A Policy towards Early Structural Pruning" (Shen et al. 2022). Where the
paper contradicts itself or is silent, this is what is done, and why:

- A layer of the structure (equation 4) is a group of the channel graph. The paper wants
  `sum of n_l = k`, which holds only if coupled channels are counted once.
- r of equation 6 is not given. With r = 5, the 5 of algorithm 2's condition, and every past
  epoch that the two formulas name, epoch 10 is the first that can decide and epoch 11 the first
  in which pruning can begin: table 2's earliest start (ResNet-34, 11; ResNet-50, 13).
- Section 3.3 prunes as soon as EPI reaches the threshold and says EPI only rises; algorithm 2
  also asks that EPI is not below its last five values. Algorithm 2 is followed.
- Importance is averaged over the epoch (algorithm 2), not taken at its end (section 3.3).
- Algorithm 1 loops while `|P| <= alpha |F|`, one step too many once it is reached; algorithm 2
  prunes `alpha |F|`, and so does this. The number of steps S is not given; "several hundreds of
  batches" a step in an ImageNet epoch of 1251 make 4 to 6, so 5.
- Algorithm 1 sets pruned weights to zero; here they are cut out at each step, which is the same
  network and faster. What the optimiser remembers of the kept weights is kept.
- Latency-aware pruning (section 4.3) penalises a neuron's importance with the latency saved by
  leaving it out, by a formula that is not given. Here the importance is divided by the channel's
  share of the dense network's latency, as in 3SP+CA, wherever channels are ranked, for EPI too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ConfigError, PruneError
from alprune.pruning.epi.importance import EARLY_CRITERIA, Importance
from alprune.pruning.epi.indicator import indicator, removal_schedule, settled, structure
from alprune.pruning.graph.channels import ChannelGraph
from alprune.pruning.graph.rebase import narrow_graph
from alprune.pruning.plan import Plan, Target, search
from alprune.registry import lookup

DENSE, PRUNE, SPARSE = "dense", "prune", "sparse"


@dataclass(frozen=True)
class EarlySettings:
    """How to prune during training.

    Attributes:
        target: What to remove; the paper's alpha is a reduction of "channels".
        criterion: "taylor" or "magnitude".
        prune_at: "epi"; an epoch, counted from 0, in which pruning happens; or "random".
        threshold: tau, the EPI at which pruning may begin; None for the criterion's own, 0.983
            for magnitude and 0.944 for Taylor.
        past: r, the number of past structures that the newest is compared with.
        rising: Of how many past EPIs the newest may not be below any.
        steps: Steps in which the pruning epoch removes channels; not more than its batches.
        random_until: The last epoch that "random" may draw (30 in section 4.2).
    """

    target: Target
    criterion: str = "taylor"
    prune_at: str | int = "epi"
    threshold: float | None = None
    past: int = 5
    rising: int = 5
    steps: int = 5
    random_until: int = 30

    def __post_init__(self) -> None:
        lookup("criterion", self.criterion, EARLY_CRITERIA)
        word = str(self.prune_at)
        if word not in ("epi", "random") and not word.isdecimal():
            raise ConfigError(
                f"prune_at must be 'epi', 'random' or an epoch from 0 on, got {self.prune_at!r}."
            )
        if not 0 <= self.epi_threshold <= 1:
            raise ConfigError(f"threshold must be from 0 to 1, got {self.threshold}.")
        for name, least in (("past", 1), ("rising", 0), ("steps", 1), ("random_until", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def epi_threshold(self) -> float:
        """The threshold in force."""
        if self.threshold is not None:
            return self.threshold
        return float(EARLY_CRITERIA[self.criterion].threshold)


@dataclass(frozen=True)
class Removal:
    """What to cut out of the network now.

    Attributes:
        graph: The channels of the network as it is.
        keep: `(N,)` bool over them.
    """

    graph: ChannelGraph
    keep: Tensor


class EarlyPruner:
    """Watches a training and says what to prune when (algorithms 1 and 2).

    The training loop calls `observe` after each backward pass and `after_batch` after each
    optimiser step, and obeys what `after_batch` returns. It knows neither policy nor phase.

    Attributes:
        phase: "dense", "prune" (during the pruning epoch) or "sparse" (done).
        epoch: Epochs finished.
        pruned_in: The epoch in which pruning happened; None before it ended.
        keep: `(N,)` bool over the unpruned network's channels: what is left.
        epi: The indicator after each dense epoch, None where it is not defined; empty unless
            the policy is "epi".
        floored: Groups whose floor kept channels that the scores would have removed.

    Args:
        graph: Of the unpruned network.
        settings: How to prune.
        generator: Draws the random epoch, on the CPU; seed 0 if None.
        cost: `(N,)`, positive, what importance is divided by before channels are ranked, as from
            `alprune.pruning.latency.latency_share`; None for nothing.

    Raises:
        PruneError: The target is out of reach, or the network has no prunable channels.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        settings: EarlySettings,
        generator: torch.Generator | None = None,
        cost: Tensor | None = None,
    ) -> None:
        self.settings, self.unpruned, self.cost = settings, graph, cost
        if not graph.channels:
            reasons = "; ".join(f"{p.name}: {p.reason}" for p in graph.pinned[:3])
            raise PruneError(f"the network has no prunable channels ({reasons}).")
        # Refuse now, not epochs later. With scores that fall by id, layers that overlap share the
        # channels of their floors, which makes the floor as small as it gets.
        search(graph, -torch.arange(float(graph.channels)), settings.target)
        self.planned = _planned(settings, generator or torch.Generator().manual_seed(0))
        self.phase = PRUNE if self.planned == 0 else DENSE
        self.epoch = 0
        self.pruned_in: int | None = None
        self.keep = graph.all_kept()
        self.structures: list[Tensor] = []
        self.epi: list[float | None] = []
        self.floored: tuple[str, ...] = ()
        self._graph = graph
        self._importance = Importance(graph, settings.criterion)
        self._batch = 0
        self._done = 0.0  # share of the pruning epoch's steps

    @property
    def plan(self) -> Plan:
        """What is left of the unpruned network, to rebuild the present one."""
        return Plan.of(self.unpruned, self.keep, self.floored)

    def check(self, model: nn.Module) -> None:
        """Refuse a network that the criterion cannot rank, before it is trained.

        Raises:
            PruneError: As from the criterion.
        """
        self._importance.criterion.sites(model, self._graph)

    def observe(self, model: nn.Module) -> None:
        """Take in a batch: between its backward pass and the optimiser's step.

        Raises:
            PruneError: The model has no gradients or is not the one this pruner follows.
        """
        waiting = self.phase == DENSE and self.planned is not None
        if self.phase != SPARSE and not waiting:
            self._importance.observe(model)

    def after_batch(self, batches: int) -> Removal | None:
        """Say what to cut out now, after an optimiser step.

        Args:
            batches: Batches in an epoch, 1 or more; may change from fit to fit.

        Returns:
            What must leave before the next batch, or None.

        Raises:
            PruneError: The importance is not finite, or nothing was observed.
        """
        if self.phase == SPARSE:
            return None
        self._batch += 1
        removal = self._remove(batches) if self.phase == PRUNE else None
        if self._batch >= batches:
            self._end_epoch()
        return removal

    def state(self) -> dict[str, Any]:
        """Return all that changes, as tensors and plain values for `torch.save`."""
        return {
            "phase": self.phase,
            "epoch": self.epoch,
            "pruned_in": self.pruned_in,
            "planned": self.planned,
            "keep": self.keep.clone(),
            "structures": [s.clone() for s in self.structures],
            "epi": list(self.epi),
            "floored": list(self.floored),
            "importance": self._importance.state(),
            "cost": None if self.cost is None else self.cost.clone(),
            "batch": self._batch,
            "done": self._done,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, with the network narrowed to its plan.

        Raises:
            PruneError: The state belongs to another network.
        """
        self.keep = self.unpruned.check(state["keep"]).clone()
        self._graph = narrow_graph(self.unpruned, self.keep)
        self._importance = Importance(self._graph, self.settings.criterion)
        self._importance.restore(state["importance"])
        self.cost = state["cost"]
        self.phase, self.epoch = state["phase"], state["epoch"]
        self.pruned_in, self.planned = state["pruned_in"], state["planned"]
        self.structures, self.epi = list(state["structures"]), list(state["epi"])
        self.floored = tuple(state["floored"])
        self._batch, self._done = state["batch"], state["done"]

    def _remove(self, batches: int) -> Removal | None:
        """Cut as far as the schedule is due at this batch of the pruning epoch."""
        steps = min(self.settings.steps, batches)
        step = min(steps, self._batch * steps // batches)
        if step / steps <= self._done:
            return None
        self._done = step / steps
        share = removal_schedule(self.settings.target.reduction, steps)[step - 1]
        left, self.floored = self._best(share)
        removal = Removal(self._graph, left[self.keep])
        self.keep = self.keep & left
        self._graph = narrow_graph(removal.graph, removal.keep)
        self._importance = Importance(self._graph, self.settings.criterion)
        if step == steps:
            self.phase, self.pruned_in = SPARSE, self.epoch
        return None if bool(removal.keep.all()) else removal

    def _end_epoch(self) -> None:
        self.epoch, self._batch = self.epoch + 1, 0
        if self.phase != DENSE:
            return
        if self.planned is not None:
            due = self.epoch >= self.planned
        else:
            keep, _ = self._best(self.settings.target.reduction)
            self.structures.append(structure(self.unpruned, keep))
            self.epi.append(indicator(self.structures, self.settings.past))
            self._importance.reset()
            due = settled(self.epi, self.settings.epi_threshold, self.settings.rising)
        self.phase = PRUNE if due else DENSE

    def _best(self, reduction: float) -> tuple[Tensor, tuple[str, ...]]:
        """Find what to keep of the unpruned network, and the groups held up by the floor."""
        found = self._importance.mean()
        if self.cost is not None:
            found = (found.double() / self.cost[self.keep]).to(found)
        scores = found.new_full((self.unpruned.channels,), -1.0)  # those gone: below all others
        scores[self.keep] = found
        plan = search(self.unpruned, scores, replace(self.settings.target, reduction=reduction))
        return plan.keep(self.unpruned), plan.floored


def _planned(settings: EarlySettings, generator: torch.Generator) -> int | None:
    """Return the epoch in which pruning happens, None if EPI decides."""
    if settings.prune_at == "epi":
        return None
    if settings.prune_at == "random":
        return int(torch.randint(settings.random_until + 1, (), generator=generator))
    return int(settings.prune_at)
