"""The loop: fit, score, acquire, label, until the budget ends."""

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from alprune.acquisition import Acquisition, Evidence, acquire, snapshots_of
from alprune.acquisition.base import name_of
from alprune.data import Splits, duplicates
from alprune.errors import AlpruneError, StoreError
from alprune.loop.answers import Answers
from alprune.loop.checkpoint import CheckpointWriter, load_checkpoint
from alprune.loop.config import RunConfig
from alprune.loop.evaluation import Exam
from alprune.loop.events import Observer, Record
from alprune.loop.health import Alarms
from alprune.loop.pool import LabelPool, held_out, trained_on
from alprune.loop.result import RunResult
from alprune.loop.run_folder import RunFolder
from alprune.loop.state import restore_session, session_state
from alprune.loop.stopping import CRITERIA, Progress, reason_to_stop
from alprune.loop.subset import ScoringShare
from alprune.pruning import Plan, Pruned
from alprune.training import BudgetSpent, Diverged, FitReport
from alprune.training.budget import Budget, Stopwatch
from alprune.training.interface import Trainable

Oracle = Callable[[Tensor], Tensor]


class Session:
    """One run of the acquisition loop; `ask` and `tell` in turn, or `run` with an oracle.

    Before the first `ask` either `begin` or `restore` is called, once.

    Args:
        config: Resolved options: none that the loop reads is None but `steps`, `budget`,
            `score_subset`, `eval_every` and those of when to stop.
        splits: Training and test set.
        pool: Labels known so far; the first points are labelled, unless a state is restored.
        learner: Ready to train.
        plan: From which the learner's network is made again.
        folder: Takes the record.
        acquisition: Chooses points.
        observer: Is told of events.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: Splits,
        pool: LabelPool,
        learner: Trainable,
        plan: Plan,
        folder: RunFolder,
        acquisition: Acquisition,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.splits, self.pool = config, splits, pool
        self.learner, self.plan, self.team = learner, plan, learner.team
        self.budget = Budget(config.budget)
        self.record = Record(folder, observer or Observer(), self.budget)
        self.step = 0
        self.reason: str | None = None
        self.exam = Exam(learner, splits.test, config.eval_every)
        self.acquisition = acquisition
        self.draws = torch.Generator().manual_seed(config.seed + 1)
        self.training = torch.Generator(device=learner.device).manual_seed(config.seed + 2)
        assert config.query_size is not None
        self._query_size = config.query_size
        self.share = ScoringShare(config.score_share, least=10 * config.query_size)
        self.alarms = Alarms(splits.train.classes, self._warn)
        self._off_clock = Budget(None)  # of what isn't on the clock but can be interrupted
        self.asked: Tensor | None = None
        self.stepped_back = False
        self._checkpoints, self._save_s = CheckpointWriter(folder), 0.0
        self._answers = Answers(pool)
        learner.keep_snapshots(snapshots_of(acquisition))

    def begin(self, pruned: Pruned) -> None:
        """Open the record of a new run.

        Args:
            pruned: What pruning did to the learner.
        """
        name = name_of(self.acquisition)
        self.record.start(self.config, self.splits, self.pool, self.learner, name)
        self.record.pruned(pruned, early=self.learner.early is not None)
        self.alarms.labels(self.pool.label_of(self.pool.labelled))
        for message in duplicates.messages(self.splits):
            self.record.warning(0, "duplicates", message)
        self._save(0)
        self._checkpoints.wait()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, as `load_checkpoint` returns it.

        Raises:
            PruneError, RuntimeError, KeyError, TypeError, ValueError: It belongs to another run.
        """
        restore_session(self, state)
        digest = str(state["events_digest"])
        self.record.resume(self.config, self.step, state["events_bytes"], digest, self.learner)
        self._answers.read(self.record.folder.path)
        self.team.same(None)  # all have read what one now writes
        self._write_labels()
        if self.asked is not None and (labels := self._answers.to(self.asked)) is not None:
            self.tell(self.asked, labels)

    def interrupt(self) -> None:
        """End the run within a batch, from a signal handler or another thread."""
        self.budget.halt()
        self._off_clock.halt()

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
                    raise  # it was asked to end already, and now at once
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
            if self.budget.halted:
                raise
            self.reason = "interrupted"
            return self.finish()

    def ask(self) -> Tensor:
        """Fit, score and acquire; asking again before `tell` returns the same points.

        Returns:
            Absolute indices of the points to label, `(k,)`; empty when the run is over.
        """
        if self.asked is not None:
            return self.asked
        self.budget.start()
        watch = Stopwatch()
        with watch.part("train_s"):
            report = self._fit()
        fitted_s = self.budget.elapsed_s
        self.reason = self.team.same(self._reason_to_end(report))
        with self.budget.paused(), watch.part("eval_s"):
            if self.reason or self.team.same(self.exam.due(self.step, self.budget)):
                self._test()
        self.reason = self.team.same(self.reason or self._reason_to_stop())
        asked, scored, uncertainty = torch.empty(0, dtype=torch.int64), 0, None
        while not self.reason and not asked.numel():
            chosen, scored, uncertainty = self._acquire(watch)
            chosen, self.reason = self.team.same((chosen, self.reason))
            asked = self._readable(chosen)
            if not self.pool.unlabelled_count:
                self.reason = self.reason or "pool empty"
        self.budget.stop()
        if self.reason == "interrupted":
            return asked  # what this step did so far is done again when the run goes on
        self.record.pruned_early(self.learner.early, self.config.method)
        self.record.step(
            step=self.step,
            pool=self.pool,
            acquired=asked,
            tested=self.exam.of_step(self.step),
            uncertainty=uncertainty,
            report=report,
            scored=scored,
            fitted_s=fitted_s,
            seconds=watch.seconds | {"save_s": self._save_s},
        )
        self.asked = asked
        if not self.reason:  # a run that is extended does its last step again, to the new end
            self._save(self.step + 1)
        return asked

    def tell(self, indices: Tensor, labels: Tensor) -> None:
        """Enter the labels of the points asked for, `(k,)` each."""
        written = bool(self._answers.spare)  # some of these may stand in the file already
        self.pool.label(indices, labels, self.step + 1)
        self.step += 1
        self.asked = None
        if written:
            self._write_labels()
        else:
            self.record.told(indices, labels, self.step, self.splits.train.classes)

    def finish(self) -> RunResult:
        """Write the end of the record and close the folder."""
        self.budget.stop()
        if self.reason != "interrupted" and self.exam.step != self.step:
            self._test()  # which may be interrupted
        early = self.learner.early
        if early is not None and early.pruned_in is None:
            warnings.warn(
                f"the run ended after {early.epoch} epochs without pruning; train longer at the "
                "start (--initial-epochs) or set --prune-at to an earlier epoch.",
                stacklevel=2,
            )
        self._checkpoints.wait()
        result = self._result(self.reason or "stopped")
        self.record.network(self.learner)
        self._write_labels()
        held = held_out(self.pool, self.config.hold_out, self.config.seed)
        figures = self.exam.at_end(self.step, held, self.pool.label_of(held))
        self.record.end(self.learner, result.summary() | figures)
        self.record.folder.close()
        return result

    def _result(self, reason: str) -> RunResult:
        return RunResult(
            path=self.record.folder.path,
            reason=reason,
            elapsed_s=round(self.budget.elapsed_s, 3),
            labelled=self.pool.labelled_count,
            steps=self.step,
            test_accuracy=self.exam.accuracy,
        )

    def _fail(self, error: BaseException) -> None:
        """Close the record of a run that an error ended; what was acquired is kept."""
        self.budget.stop()
        if not (isinstance(error, KeyboardInterrupt) and self.budget.halted):
            said = f"error: {error}" if isinstance(error, AlpruneError) else f"error: {error!r}"
            # Each for itself: the folder may be what failed, or the disk too full for one of them.
            with contextlib.suppress(StoreError):
                self._checkpoints.wait()
            with contextlib.suppress(StoreError):
                if not isinstance(error, Diverged):
                    self.record.network(self.learner)
            with contextlib.suppress(StoreError):
                self._write_labels()
            with contextlib.suppress(StoreError):
                self.record.end(self.learner, self._result(said).summary())
        self.record.folder.close()

    def _save(self, number: int) -> None:
        begin = time.perf_counter()
        self._checkpoints.save(number, session_state(self))
        self._save_s = time.perf_counter() - begin

    def _write_labels(self) -> None:
        self.record.labels(self.pool, self.splits.train.classes, self._answers.spare)

    def _warn(self, about: str, message: str) -> None:
        self.record.warning(self.step, about, message)

    def _fit(self) -> FitReport:
        try:
            return self._fit_labelled()
        except Diverged as error:
            if self.stepped_back or not self._step_back(error):
                raise
            return self._fit_labelled()

    def _step_back(self, error: Diverged) -> bool:
        """Bring the learner back to the last checkpoint, at half the rate; once in a run."""
        with self.budget.paused():
            self._checkpoints.wait()
            state = load_checkpoint(self.record.folder.path)
            early = self.learner.early
            if state is None:
                return False
            if early and not torch.equal(early.keep, state["learner"]["early"]["keep"]):
                return False  # what was pruned since then does not grow again
            self.learner.restore(state["learner"])
        self.stepped_back = True
        self.learner.lr = error.lr / 2
        self.record.step_back(self.step, error, self.learner.lr)
        warnings.warn(
            f"{error} Step {self.step} is done again from its beginning at half the rate.",
            stacklevel=2,
        )
        return True

    def _fit_labelled(self) -> FitReport:
        labelled = trained_on(self.pool, self.config.hold_out, self.config.seed)
        epochs = self.config.epochs if self.step else self.config.initial_epochs
        assert epochs is not None
        return self.learner.fit(
            labelled,
            self.pool.label_of(labelled),
            epochs,
            self.training,
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
            return self._out_of_time
        if self.config.steps is not None and self.step >= self.config.steps:
            return "steps"
        if not self.pool.unlabelled_count:
            return "pool empty"
        return self._reason_to_stop()

    def _reason_to_stop(self, uncertainty: float | None = None) -> str | None:
        progress = Progress(self.pool.labelled_count, self.exam.past, uncertainty)
        return reason_to_stop({name: getattr(self.config, name) for name in CRITERIA}, progress)

    @property
    def _out_of_time(self) -> str:
        return "interrupted" if self.budget.halted else "budget"

    def _test(self) -> None:
        try:
            self.exam.take(self.step, self._off_clock)
        except BudgetSpent:
            self.reason = "interrupted"

    def _acquire(self, watch: Stopwatch) -> tuple[Tensor, int, float | None]:
        """Choose the next points; return them, the candidates looked at and their mean entropy."""
        count, uncertainty = self._query_size, None
        if self.config.stop_labels is not None:
            count = min(count, self.config.stop_labels - self.pool.labelled_count)
        with watch.part("acquire_s"):
            labelled = self.pool.labelled
            evidence = Evidence(
                self.learner,
                self._candidates(watch.seconds["train_s"]),
                labelled,
                self.pool.label_of(labelled),
                len(self.splits.train.classes),
                self.budget,
            )
            try:
                asked = acquire(self.acquisition, evidence, count, self.draws)
                if self.config.stop_uncertainty is not None:
                    evidence.look()
                if evidence.predictions is not None:
                    uncertainty = evidence.predictions.entropy
                    self.alarms.predictions(evidence.predictions.counts)
                elif self.exam.metrics is not None and self.exam.step == self.step:
                    self.alarms.tested(self.exam.metrics.per_class_accuracy)
            except BudgetSpent:
                self.reason = self._out_of_time
                asked = torch.empty(0, dtype=torch.int64)
            else:
                self.share.measured(evidence.candidates.numel(), evidence.compute_s)
                self.reason = self._reason_to_stop(uncertainty)
                asked = asked[:0] if self.reason else asked
        watch.seconds["score_s"] = evidence.compute_s
        watch.seconds["acquire_s"] -= evidence.compute_s
        return asked, evidence.candidates.numel(), uncertainty

    def _readable(self, chosen: Tensor) -> Tensor:
        """Return the points whose images can be read, and never choose the others again."""
        bad = self.splits.train.unreadable(chosen)
        if bad.any():
            self.pool.set_aside(chosen[bad])
            self._warn(
                "unreadable",
                f"{int(bad.sum())} of {chosen.numel()} images chosen cannot be read, point "
                f"{int(chosen[bad][0])} for one, and are not asked for.",
            )
        return chosen[~bad]

    def _candidates(self, fit_s: float) -> Tensor:
        size = self.config.score_subset
        if size is None and self.budget.limit_s is not None and self.share.share < 1:
            # Without a budget nothing may depend on the clock.
            size = self.team.same(self.share.size(fit_s))
        return self.pool.unlabelled if size is None else self.pool.draw(size, self.draws)
