"""A run: the active-learning loop with an oracle, until the budget or the steps are used up."""

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alprune.acquisition import Acquisition
from alprune.data import Splits, duplicates
from alprune.errors import AlpruneError, StoreError
from alprune.loop.active_learner import ActiveLearner, Setting
from alprune.loop.defaults import ResolvedRun
from alprune.loop.evaluation import TestSetEvaluation
from alprune.loop.events import Observer, Record
from alprune.loop.oracle import KnownAnswers
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import RunFolder
from alprune.loop.state import restore_run, run_state
from alprune.loop.timing import RunTiming
from alprune.pruning import Plan, Pruned
from alprune.training import Diverged
from alprune.training.interface import Trainable

Oracle = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        path: The run folder.
        reason: "budget", "steps", "pool empty", "interrupted" or a criterion's, see
            `alprune.loop.stopping`.
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

    def summary(self) -> dict[str, Any]:
        """Return it as JSON values, without the folder."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


class Session:
    """One run of the active-learning loop; `ask` and `tell` in turn, or `run` with an oracle.

    Before the first `ask` either `begin` or `restore` is called, once.

    Args:
        config: Resolved options: none that the loop reads is None but `steps`, `budget`,
            `score_subset`, `eval_every` and the stopping criteria.
        splits: Training and test set.
        pool: Labels known so far; the first points are labelled, unless a state is restored.
        learner: Ready to train, or as it was at the state to restore.
        plan: The network's builder and this plan rebuild it.
        folder: Takes the record.
        acquisition: Chooses points.
        chosen_by: What the record calls that function.
        observer: Receives events.
        now: A clock in seconds that never goes back, for the budget.

    Attributes:
        learning: The learner, its pool and its acquisition function.
        chosen_by: What the record calls that function.
    """

    def __init__(
        self,
        config: ResolvedRun,
        splits: Splits,
        pool: LabelPool,
        learner: Trainable,
        plan: Plan,
        folder: RunFolder,
        acquisition: Acquisition,
        chosen_by: str,
        observer: Observer | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        timing = RunTiming(config.budget, config.steps, config.score_share, now)
        self.config, self.budget = config, timing.budget
        self.chosen_by = chosen_by
        self.record = Record(folder, observer or Observer(), timing.budget)
        self.evaluation = TestSetEvaluation(learner, splits.test, config.eval_every)
        setting = Setting(
            timing,
            self.evaluation,
            self.record,
            draws=torch.Generator().manual_seed(config.seed + 1),
            training=torch.Generator(device=learner.device).manual_seed(config.seed + 2),
            query_size=config.query_size,
            also_kept=lambda: run_state(self),
        )
        self.learning = ActiveLearner(config, splits, pool, learner, plan, acquisition, setting)
        self._answers = KnownAnswers(pool)

    @property
    def splits(self) -> Splits:
        """Training and test set."""
        return self.learning.splits

    @property
    def pool(self) -> LabelPool:
        """The labels known so far."""
        return self.learning.pool

    @property
    def learner(self) -> Trainable:
        """The learner."""
        return self.learning.learner

    def begin(self, pruned: Pruned, reason: str | None = "") -> None:
        """Open the record of a new run.

        Args:
            pruned: What pruning did to the learner.
            reason: Why it removed so much, where the program chose; None if that is not known.
        """
        told, learner = self.chosen_by, self.learner
        self.record.start(self.config, self.splits, self.pool, learner, told, reason)
        self.record.makeup(self.splits, pruned.plan)
        self.record.pruned(pruned, self.learner.early is not None, reason)
        self.learning.alarms.labels(self.pool.label_of(self.pool.labelled))
        for message in duplicates.messages(self.splits):
            self.record.warning(0, "duplicates", message)
        self.learning.save(0)
        self.learning.checkpoints.wait()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint, as `load_checkpoint` returns it, whose learner is restored.

        Raises:
            StoreError: labels.csv or the record is not the one that belongs to it.
            PruneError, RuntimeError, KeyError, TypeError, ValueError: It belongs to another run.
        """
        restore_run(self, state)
        self._answers.read(self.record.folder.path, self.splits.train.classes)
        digest = str(state["events_digest"])
        step, learner = self.learning.step, self.learner
        self.record.resume(self.config, step, state["events_bytes"], digest, learner)
        self.learning.team.same(None)  # all have read what the first process now writes
        self.record.makeup(self.splits, self.learning.plan)  # may be missing or damaged by now
        self._write_labels()
        asked = self.learning.asked
        if asked is not None and (labels := self._answers.to(asked)) is not None:
            self.tell(asked, labels)

    def interrupt(self) -> None:
        """End the run within a batch, from a signal handler or another thread."""
        self.learning.interrupt()

    def run(self, oracle: Oracle) -> RunResult:
        """Ask and tell until the run ends; Ctrl-C ends it with a sound record."""
        try:
            try:
                while (asked := self.ask()).numel():
                    labels = self._answers.to(asked)
                    if labels is None:
                        with self.budget.paused():
                            labels = oracle(asked)
                    self.tell(asked, labels)
            except KeyboardInterrupt:
                if self.budget.halted:
                    raise  # a second one ends it at once
                self.learning.reason = "interrupted"
            return self._finish_undisturbed()
        except BaseException as error:
            self._fail(error)
            raise

    def _finish_undisturbed(self) -> RunResult:
        """Write the end; Ctrl-C meanwhile waits until it is written, then ends the run as such."""
        try:
            return self.finish()
        except KeyboardInterrupt:
            if self.budget.halted:
                raise
            self.learning.reason = "interrupted"
            return self.finish()

    def ask(self) -> Tensor:
        """Fit, score and acquire; asking again before `tell` returns the same points.

        Returns:
            Absolute indices of the points to label, `(k,)`; empty when the run is over.
        """
        return self.learning.query()

    def tell(self, indices: Tensor, labels: Tensor) -> None:
        """Enter the labels of the points asked for, `(k,)` each."""
        written = bool(self._answers.spare)  # labels.csv may contain some of these already
        self.learning.label(indices, labels)
        if written:
            self._write_labels()
        else:
            self.record.labelled(indices, labels, self.learning.step, self.splits.train.classes)

    def finish(self) -> RunResult:
        """Write the end of the record and close the folder."""
        self.budget.stop()
        if self.learning.reason != "interrupted" and self.evaluation.step != self.learning.step:
            self.learning.test()  # which may be interrupted
        early = self.learner.early
        if early is not None and early.pruned_in is None:
            warnings.warn(
                f"the run ended after {early.epoch} epochs without pruning; train longer at the "
                "start (--initial-epochs) or set --prune-at to an earlier epoch.",
                stacklevel=2,
            )
        self.learning.checkpoints.wait()
        result = self._result(self.learning.reason or "stopped")
        self.record.network(self.learner)
        self._write_labels()
        held = self.pool.held
        figures = self.evaluation.at_end(self.learning.step, held, self.pool.label_of(held))
        self.record.end(self.learner, result.summary() | figures)
        self.record.folder.close()
        return result

    def _result(self, reason: str) -> RunResult:
        return RunResult(
            path=self.record.folder.path,
            reason=reason,
            elapsed_s=round(self.budget.elapsed_s, 3),
            labelled=self.pool.labelled_count,
            steps=self.learning.step,
            test_accuracy=self.evaluation.accuracy,
        )

    def _fail(self, error: BaseException) -> None:
        """Close the record of a run that an error ended; what was acquired is kept."""
        self.budget.stop()
        if not (isinstance(error, KeyboardInterrupt) and self.budget.halted):
            why = f"error: {error}" if isinstance(error, AlpruneError) else f"error: {error!r}"
            # One by one: the folder may be what failed, or the disk too full for one of them.
            with contextlib.suppress(StoreError):
                self.learning.checkpoints.wait()
            with contextlib.suppress(StoreError):
                if not isinstance(error, Diverged):
                    self.record.network(self.learner)
            with contextlib.suppress(StoreError):
                self._write_labels()
            with contextlib.suppress(StoreError):
                self.record.end(self.learner, self._result(why).summary())
        self.record.folder.close()

    def _write_labels(self) -> None:
        self.record.labels(self.pool, self.splits.train.classes, self._answers.spare)
