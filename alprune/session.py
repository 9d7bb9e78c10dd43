"""The loop: fit, score, acquire, label, until the budget ends."""

import contextlib
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from alprune.acquire import Acquisition, Evidence, acquire
from alprune.clock import Budget, Stopwatch
from alprune.config import RunConfig
from alprune.data import Splits
from alprune.errors import AlpruneError, StoreError
from alprune.pool import LabelPool
from alprune.prune import Pruned
from alprune.record import Observer, Record
from alprune.store import RunFolder
from alprune.subset import ScoringShare
from alprune.train import BudgetSpent, FitReport, Learner

Oracle = Callable[[Tensor], Tensor]


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
        acquisition: Chooses points.
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
        acquisition: Acquisition,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.splits, self.pool = config, splits, pool
        self.learner = learner
        self.budget = Budget(config.budget)
        self.record = Record(folder, observer or Observer(), self.budget)
        self.step = 0
        self.reason: str | None = None
        self.test_accuracy: float | None = None
        self._acquisition = acquisition
        self._draws = torch.Generator().manual_seed(config.seed + 1)
        self._training = torch.Generator(device=learner.device).manual_seed(config.seed + 2)
        assert config.query_size is not None
        self._query_size = config.query_size
        self._share = ScoringShare(config.score_share, least=10 * config.query_size)
        self._asked: Tensor | None = None
        self._tested_step: int | None = None
        self.record.start(config, splits.train, pool, learner)
        self.record.pruned(pruned, early=learner.early is not None)

    def run(self, oracle: Oracle) -> RunResult:
        """Ask and tell until the run ends; Ctrl-C ends it with a sound record."""
        try:
            try:
                while (asked := self.ask()).numel():
                    with self.budget.paused():
                        labels = oracle(asked)
                    self.tell(asked, labels)
            except KeyboardInterrupt:
                self.reason = "interrupted"
            return self._finish_undisturbed()
        except BaseException as error:
            self._fail(error)
            raise

    def _finish_undisturbed(self) -> RunResult:
        """Write the end; Ctrl-C meanwhile waits until it is written, then ends the run as such."""
        try:
            return self.finish()
        except KeyboardInterrupt:
            self.reason = "interrupted"
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
        asked, scored = torch.empty(0, dtype=torch.int64), 0
        if not self.reason:
            asked, scored = self._acquire(watch)
        self.budget.stop()
        self.record.pruned_early(self.learner.early, self.config.method)
        self.record.step(
            step=self.step,
            labelled=self.pool.labelled_count,
            acquired=asked,
            test_accuracy=self.test_accuracy if self._tested_step == self.step else None,
            report=report,
            scored=scored,
            fitted_s=fitted_s,
            seconds=watch.seconds,
        )
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
        early = self.learner.early
        if early is not None and early.pruned_in is None:
            warnings.warn(
                f"the run ended after {early.epoch} epochs without pruning; train longer at the "
                "start (--initial-epochs) or set --prune-at to an earlier epoch.",
                stacklevel=2,
            )
        result = RunResult(
            path=self.record.folder.path,
            reason=reason,
            elapsed_s=round(self.budget.elapsed_s, 3),
            labelled=self.pool.labelled_count,
            steps=self.step,
            test_accuracy=self.test_accuracy,
        )
        self.record.state(self.learner, self.pool, self.splits.train.classes)
        self.record.end(reason, result.labelled, result.steps, result.test_accuracy)
        summary = {k: v for k, v in asdict(result).items() if k != "path"}
        self.record.folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
        self.record.folder.close()
        return result

    def _fail(self, error: BaseException) -> None:
        """Close the record of a run that an error ended; what was acquired is kept."""
        self.budget.stop()
        reason = f"error: {error}" if isinstance(error, AlpruneError) else f"error: {error!r}"
        with contextlib.suppress(StoreError):  # the folder itself may be what failed
            self.record.labels(self.pool, self.splits.train.classes)
            self.record.end(reason, self.pool.labelled_count, self.step, self.test_accuracy)
        self.record.folder.close()

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
            tick=lambda done, planned: self.record.observer.tick(
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

    def _acquire(self, watch: Stopwatch) -> tuple[Tensor, int]:
        """Choose the next points; return them and how many candidates were looked at."""
        with watch.part("acquire_s"):
            labelled = self.pool.labelled
            evidence = Evidence(
                self.learner,
                self._candidates(watch.seconds["train_s"]),
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
        watch.seconds["score_s"] = evidence.compute_s
        watch.seconds["acquire_s"] -= evidence.compute_s
        return asked, evidence.candidates.numel()

    def _candidates(self, fit_s: float) -> Tensor:
        size = self.config.score_subset
        if size is None and self.budget.limit_s is not None and self._share.share < 1:
            size = self._share.size(fit_s)  # without a budget nothing may depend on the clock
        return self.pool.unlabelled if size is None else self.pool.draw(size, self._draws)
