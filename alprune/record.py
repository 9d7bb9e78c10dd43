"""What each event of a run says, written to the run folder and told to the observer."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torchvision
from safetensors.torch import save as to_safetensors
from torch import Tensor

from alprune import __version__
from alprune.clock import Budget
from alprune.config import RunConfig
from alprune.data import Dataset
from alprune.device import hardware
from alprune.pool import LabelPool
from alprune.prune import Pruned
from alprune.prune.early import EarlyPruner
from alprune.store import RunFolder
from alprune.train import FitReport, Learner


class Observer:
    """Is told what a run does, to show it; does nothing itself."""

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Hear of an event as it is written to the run folder."""

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Hear how far a fit is."""


class Record:
    """Writes a run's events, plan, labels and learner.

    Args:
        folder: Takes the files.
        observer: Is told of the events.
        budget: The clock whose `elapsed_s` stands in every event.
    """

    def __init__(self, folder: RunFolder, observer: Observer, budget: Budget) -> None:
        self.folder, self.observer, self.budget = folder, observer, budget
        self._pruned_early = False
        self._ended = False

    def start(self, config: RunConfig, train: Dataset, pool: LabelPool, learner: Learner) -> None:
        """Write down everything that the run depends on."""
        self.folder.write("config.toml", config.to_toml())
        self._event(
            "start",
            config={k: v for k, v in asdict(config).items() if v is not None},
            versions={
                "alprune": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            hardware=hardware(learner.device),
            precision=str(learner.precision).removeprefix("torch."),
            seed=config.seed,
            data_digest=train.digest,
            pool=len(pool),
            labelled=pool.labelled_count,
            initial=pool.labelled.tolist(),
        )

    def pruned(self, pruned: Pruned, early: bool) -> None:
        """Write down what pruning before training did."""
        self.folder.write("plan.json", pruned.plan.to_json())
        if early:
            return  # `pruned_early` tells, once it is done
        self._event(
            "prune",
            method=pruned.method,
            macs_before=pruned.macs_before,
            macs_after=pruned.macs_after,
            params_before=pruned.params_before,
            params_after=pruned.params_after,
            flops_reduction=pruned.flops_reduction,
            sparsity=pruned.plan.sparsity,
            prune_s=round(pruned.prune_s, 4),
            widths=pruned.widths,
            floored=list(pruned.plan.floored),
            pinned=list(pruned.pinned),
        )

    def pruned_early(self, early: EarlyPruner | None, method: str) -> None:
        """Write down, once, what pruning during training did, when it is done."""
        if early is None or early.pruned_in is None or self._pruned_early:
            return
        self._pruned_early = True
        graph, everything = early.unpruned, early.unpruned.all_kept()
        self._event(
            "prune",
            method=method,
            macs_before=graph.macs(everything),
            macs_after=graph.macs(early.keep),
            params_before=graph.params(everything),
            params_after=graph.params(early.keep),
            flops_reduction=1 - graph.macs(early.keep) / graph.macs(everything),
            sparsity=0.0,
            prune_s=None,
            widths=graph.widths(early.keep),
            floored=list(early.floored),
            pinned=[f"{p.name}: {p.reason}" for p in graph.pinned],
            epoch=early.pruned_in,
            epi=early.epi,
        )

    def step(
        self,
        step: int,
        labelled: int,
        acquired: Tensor,
        test_accuracy: float | None,
        report: FitReport,
        scored: int,
        fitted_s: float,
        seconds: Mapping[str, float],
    ) -> None:
        """Write down one step.

        Args:
            step: Its number; 0 fits the first points.
            labelled: Points that the fit had.
            acquired: `(k,)` absolute indices that will be labelled next.
            test_accuracy: After the fit; None if it was not tested.
            report: Of the fit.
            scored: Candidates that were looked at.
            fitted_s: The clock when the fit ended.
            seconds: What the parts of the step took, by name.
        """
        self._event(
            "step",
            step=step,
            labelled=labelled,
            acquired=acquired.tolist(),
            test_accuracy=test_accuracy,
            train_loss=None if report.loss is None else round(report.loss, 5),
            epochs=round(report.epochs, 3),
            batches=report.batches,
            scored=scored,
            fitted_s=round(fitted_s, 3),
            **{name: round(spent, 4) for name, spent in seconds.items()},
        )

    def end(self, reason: str, labelled: int, steps: int, test_accuracy: float | None) -> None:
        """Write the last event; the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._event(
            "end", reason=reason, labelled=labelled, steps=steps, test_accuracy=test_accuracy
        )

    def state(self, learner: Learner, pool: LabelPool, classes: tuple[str, ...]) -> None:
        """Write the learner, its plan if training changed it, and the labels."""
        if learner.early is not None:
            self.folder.write("plan.json", learner.early.plan.to_json())
        weights = {k: v.cpu().contiguous() for k, v in learner.averaged.state_dict().items()}
        self.folder.write("model.safetensors", to_safetensors(weights))
        self.labels(pool, classes)

    def labels(self, pool: LabelPool, classes: tuple[str, ...]) -> None:
        """Write the labels known so far."""
        known = pool.labelled
        columns = (known.tolist(), pool.labels[known].tolist(), pool.step_of[known].tolist())
        rows = ((i, y, classes[y], step) for i, y, step in zip(*columns, strict=True))
        self.folder.write_labels(rows)

    def _event(self, name: str, **fields: Any) -> None:
        elapsed_s = self.budget.elapsed_s
        self.folder.event(name, elapsed_s, **fields)
        self.observer.event(name, fields | {"elapsed_s": elapsed_s})
