"""The loop: fit, score, acquire, label, until the budget ends."""

import contextlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save as to_safetensors
from torch import Tensor

from alprune import __version__
from alprune.acquire import Acquisition, Evidence, acquire, find_acquisition
from alprune.clock import Budget, Stopwatch
from alprune.config import RunConfig
from alprune.data import Splits
from alprune.device import hardware
from alprune.errors import AlpruneError, StoreError
from alprune.pool import LabelPool
from alprune.prune import Pruned
from alprune.store import RunFolder
from alprune.subset import ScoringShare
from alprune.train import BudgetSpent, FitReport, Learner

Oracle = Callable[[Tensor], Tensor]


class Observer:
    """Is told what a run does, to show it; does nothing itself."""

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Hear of an event as it is written to the run folder."""

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Hear how far a fit is."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        path: The run folder.
        reason: "budget", "steps", "pool empty" or "interrupted".
        elapsed_s: Seconds on the budget clock.
        labelled: Labelled points at the end.
        steps: Acquisition steps made.
        test_accuracy: Of the final learner, 0 to 1; None if it was never tested.
    """

    path: Path
    reason: str
    elapsed_s: float
    labelled: int
    steps: int
    test_accuracy: float | None


class Session:
    """One run of the acquisition loop; `ask` and `tell` in turn, or `run` with an oracle.

    Args:
        config: Resolved options: none that the loop reads is None but `steps`, `budget` and
            `score_subset`.
        splits: Training and test set.
        pool: Labels known so far; the first points are labelled.
        pruned: The learner to train and what pruning did.
        learner: `pruned.model`, ready to train.
        folder: Takes the record.
        acquisition: Chooses points; None for the one that `config` names.
        observer: Is told of events.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: Splits,
        pool: LabelPool,
        pruned: Pruned,
        learner: Learner,
        folder: RunFolder,
        acquisition: Acquisition | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.splits, self.pool = config, splits, pool
        self.learner, self.folder = learner, folder
        self.observer = observer or Observer()
        self.budget = Budget(config.budget)
        self.step = 0
        self.reason: str | None = None
        self.test_accuracy: float | None = None
        self._acquisition = acquisition or find_acquisition(config.acquisition)
        self._draws = torch.Generator().manual_seed(config.seed + 1)
        self._training = torch.Generator(device=learner.device).manual_seed(config.seed + 2)
        assert config.query_size is not None
        self._query_size = config.query_size
        self._share = ScoringShare(config.score_share, least=10 * config.query_size)
        self._asked: Tensor | None = None
        self._tested_step: int | None = None
        self._record_start(pruned)

    def run(self, oracle: Oracle) -> RunResult:
        """Ask and tell until the run ends; Ctrl-C ends it with a sound record."""
        try:
            while (asked := self.ask()).numel():
                with self.budget.paused():
                    labels = oracle(asked)
                self.tell(asked, labels)
        except KeyboardInterrupt:
            self.reason = "interrupted"
        except AlpruneError as error:
            self._record_failure(error)
            raise
        return self.finish()

    def ask(self) -> Tensor:
        """Fit, score and acquire; asking again before `tell` returns the same points.

        Returns:
            Absolute indices of the points to label, `(k,)`; empty when the run is over.
        """
        if self._asked is not None:
            return self._asked
        self.budget.start()
        watch = Stopwatch()
        with watch.part("train_s"):
            report = self._fit()
        fitted_s = self.budget.elapsed_s
        self.reason = self._reason_to_end(report)
        with self.budget.paused(), watch.part("eval_s"):
            if self.reason or self.step % self.config.eval_every == 0:
                self._test()
        asked, scored, score_s = torch.empty(0, dtype=torch.int64), 0, 0.0
        if not self.reason:
            with watch.part("acquire_s"):
                asked, scored, score_s = self._acquire(watch.seconds["train_s"])
        self.budget.stop()
        self._record_step(report, asked, scored, watch.seconds, score_s, fitted_s)
        self._asked = asked
        return asked

    def tell(self, indices: Tensor, labels: Tensor) -> None:
        """Enter the labels of the points asked for, `(k,)` each."""
        self.step += 1
        self.pool.label(indices, labels, self.step)
        self._asked = None

    def finish(self) -> RunResult:
        """Write the end of the record and close the folder."""
        self.budget.stop()
        reason = self.reason or "stopped"
        if reason != "interrupted" and self._tested_step != self.step:
            self._test()
        result = RunResult(
            path=self.folder.path,
            reason=reason,
            elapsed_s=round(self.budget.elapsed_s, 3),
            labelled=self.pool.labelled_count,
            steps=self.step,
            test_accuracy=self.test_accuracy,
        )
        self._event(
            "end",
            reason=reason,
            labelled=result.labelled,
            steps=result.steps,
            test_accuracy=result.test_accuracy,
        )
        self._write_state()
        summary = {k: v for k, v in asdict(result).items() if k != "path"}
        self.folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
        self.folder.close()
        return result

    def _record_failure(self, error: AlpruneError) -> None:
        self.budget.stop()
        with contextlib.suppress(StoreError):  # the folder itself may be what failed
            self._event(
                "end",
                reason=f"error: {error}",
                labelled=self.pool.labelled_count,
                steps=self.step,
                test_accuracy=self.test_accuracy,
            )
        self.folder.close()

    def _fit(self) -> FitReport:
        labelled = self.pool.labelled
        epochs = self.config.epochs if self.step else self.config.initial_epochs
        assert epochs is not None
        return self.learner.fit(
            labelled,
            self.pool.labels[labelled],
            epochs,
            self._training,
            budget=self.budget,
            progress=self._progress,
            tick=lambda done, planned: self.observer.tick(
                "fit", done, planned, self.budget.elapsed_s
            ),
        )

    def _progress(self, done: float) -> float:
        by_clock = self.budget.fraction
        if self.config.steps is None:
            return by_clock
        return max(by_clock, (self.step + done) / (self.config.steps + 1))

    def _reason_to_end(self, report: FitReport) -> str | None:
        if report.stopped or self.budget.expired:
            return "budget"
        if self.config.steps is not None and self.step >= self.config.steps:
            return "steps"
        if not self.pool.unlabelled_count:
            return "pool empty"
        return None

    def _test(self) -> None:
        self.test_accuracy = self.learner.evaluate(self.splits.test)
        self._tested_step = self.step

    def _acquire(self, fit_s: float) -> tuple[Tensor, int, float]:
        labelled = self.pool.labelled
        evidence = Evidence(
            self.learner,
            self._candidates(fit_s),
            labelled,
            self.pool.labels[labelled],
            len(self.splits.train.classes),
            self.budget,
        )
        try:
            asked = acquire(self._acquisition, evidence, self._query_size, self._draws)
        except BudgetSpent:
            self.reason = "budget"
            asked = torch.empty(0, dtype=torch.int64)
        else:
            self._share.measured(evidence.candidates.numel(), evidence.compute_s)
        return asked, evidence.candidates.numel(), evidence.compute_s

    def _candidates(self, fit_s: float) -> Tensor:
        unlabelled = self.pool.unlabelled
        size = self.config.score_subset
        if size is None and self.budget.limit_s is not None and self._share.share < 1:
            size = self._share.size(fit_s)  # without a budget nothing may depend on the clock
        if size is None or size >= unlabelled.numel():
            return unlabelled
        # Drawing with replacement and dropping doubles would bias the size; a permutation of
        # the pool costs about 1 ms in 100,000 points.
        return unlabelled[torch.randperm(unlabelled.numel(), generator=self._draws)[:size]]

    def _record_start(self, pruned: Pruned) -> None:
        self.folder.write("config.toml", self.config.to_toml())
        self.folder.write("plan.json", pruned.plan.to_json())
        self._event(
            "start",
            config={k: v for k, v in asdict(self.config).items() if v is not None},
            versions={
                "alprune": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            hardware=hardware(self.learner.device),
            precision=str(self.learner.precision).removeprefix("torch."),
            seed=self.config.seed,
            data_digest=self.splits.train.digest,
            pool=len(self.pool),
            labelled=self.pool.labelled_count,
            initial=self.pool.labelled.tolist(),
        )
        self._event(
            "prune",
            method=pruned.method,
            macs_before=pruned.macs_before,
            macs_after=pruned.macs_after,
            params_before=pruned.params_before,
            params_after=pruned.params_after,
            flops_reduction=pruned.flops_reduction,
            prune_s=round(pruned.prune_s, 4),
            widths=pruned.widths,
            floored=list(pruned.plan.floored),
            pinned=list(pruned.pinned),
        )

    def _record_step(
        self,
        report: FitReport,
        asked: Tensor,
        scored: int,
        seconds: dict[str, float],
        score_s: float,
        fitted_s: float,
    ) -> None:
        parts = {name: round(spent, 4) for name, spent in seconds.items()}
        parts["acquire_s"] = round(max(0.0, seconds.get("acquire_s", 0.0) - score_s), 4)
        self._event(
            "step",
            step=self.step,
            labelled=self.pool.labelled_count,
            acquired=asked.tolist(),
            test_accuracy=self.test_accuracy if self._tested_step == self.step else None,
            train_loss=round(report.loss, 5),
            epochs=round(report.epochs, 3),
            batches=report.batches,
            scored=scored,
            score_s=round(score_s, 4),
            fitted_s=round(fitted_s, 3),
            **parts,
        )

    def _write_state(self) -> None:
        weights = self.learner.averaged.state_dict()
        self.folder.write(
            "model.safetensors",
            to_safetensors({k: v.detach().cpu().contiguous() for k, v in weights.items()}),
        )
        classes = self.splits.train.classes
        known = self.pool.labelled.tolist()
        rows = (
            (
                i,
                int(self.pool.labels[i]),
                classes[int(self.pool.labels[i])],
                int(self.pool.step_of[i]),
            )
            for i in known
        )
        self.folder.write_labels(rows)

    def _event(self, name: str, **fields: Any) -> None:
        self.folder.event(name, self.budget.elapsed_s, **fields)
        self.observer.event(name, fields | {"elapsed_s": self.budget.elapsed_s})
