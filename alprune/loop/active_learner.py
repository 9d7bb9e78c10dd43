"""The active-learning loop, a step at a time: fit, score, choose, record, save."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from alprune.acquisition import Acquisition, Evidence, acquire, snapshots_of
from alprune.data import Splits
from alprune.loop.checkpoint import LAYOUT, CheckpointWriter, load_checkpoint
from alprune.loop.defaults import Resolved
from alprune.loop.health import Alarms
from alprune.loop.observers import Observer
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import RunFolder
from alprune.loop.saved_learner import SavedLearner, saved_learner
from alprune.loop.stopping import CRITERIA, Evaluations, Progress, reason_to_stop
from alprune.loop.timing import ScoringSpeed, Timing
from alprune.pruning import Plan
from alprune.training import BudgetSpent, Diverged, FitReport
from alprune.training.budget import Budget, Stopwatch
from alprune.training.input_spec import Inputs
from alprune.training.interface import Trainable
from alprune.training.metrics import Metrics


class Evaluation(Protocol):
    """Measures a learner after a fit.

    Attributes:
        past: What the tests so far have shown, for the criteria that end a run.
        step: The step after which the latest test was; None before the first.
        metrics: What a test on labelled test images showed; None where there was none.
    """

    past: Evaluations
    step: int | None
    metrics: Metrics | None

    def due(self, step: int, budget: Budget) -> bool:
        """Return whether to test after a step that does not end the run."""

    def take(self, step: int, halt: Budget) -> None:
        """Test the learner; halting the clock `halt` ends the test with `BudgetSpent`."""

    def of_step(self, step: int) -> dict[str, Any]:
        """Return what the record of a step says about its test, JSON values."""


class StepRecord(Protocol):
    """Takes the record of each step.

    Attributes:
        folder: Takes the checkpoints.
        observer: Shows how far a fit is.
    """

    folder: RunFolder
    observer: Observer

    def step(
        self,
        *,
        step: int,
        pool: LabelPool,
        learner: Trainable,
        acquired: Tensor,
        tested: Mapping[str, Any],
        uncertainty: float | None,
        report: FitReport,
        scored: int,
        fitted_s: float,
        seconds: Mapping[str, float],
    ) -> None:
        """Record one step; see `alprune.loop.events.Record.step`."""

    def step_back(self, step: int, error: Diverged, lr: float) -> None:
        """Record that a step is repeated from its checkpoint, at a lower rate."""

    def warning(self, step: int, about: str, message: str) -> None:
        """Record a warning, and give it."""


@dataclass(frozen=True)
class Setting:
    """What differs between a run on labelled data and a round of labelling by people.

    Attributes:
        timing: How long the parts of a step may take.
        evaluation: Measures the learner.
        record: Takes what happens.
        draws: Randomness of choosing points, on the CPU.
        training: Randomness of fitting, on the learner's device.
        query_size: Points to acquire per step.
        also_kept: Returns what a checkpoint keeps beside the learner and its step.
    """

    timing: Timing
    evaluation: Evaluation
    record: StepRecord
    draws: torch.Generator
    training: torch.Generator
    query_size: int
    also_kept: Callable[[], dict[str, Any]]


class ActiveLearner:
    """A learner, its pool and an acquisition function.

    Args:
        config: Complete options.
        splits: Training and test images.
        pool: Labels known so far.
        learner: Ready to train.
        plan: The network's builder and this plan rebuild it.
        acquisition: Chooses points.
        setting: Where it works.

    Attributes:
        step: Number of the present step, from 0.
        asked: Points that wait for a label, `(k,)` absolute indices; None before a step is made.
        reason: Why no more points are asked for; None as long as there are any.
        speed: How many points are scored.
        alarms: Watch for a network that has collapsed.
        stepped_back: Whether a fit that diverged was repeated; that is done once.
    """

    def __init__(
        self,
        config: Resolved,
        splits: Splits,
        pool: LabelPool,
        learner: Trainable,
        plan: Plan,
        acquisition: Acquisition,
        setting: Setting,
    ) -> None:
        self.config, self.splits, self.pool = config, splits, pool
        self.learner, self.plan, self.team = learner, plan, learner.team
        self.acquisition, self.setting = acquisition, setting
        self.timing, self.record = setting.timing, setting.record
        self.evaluation, self.budget = setting.evaluation, setting.timing.budget
        self.step = 0
        self.asked: Tensor | None = None
        self.reason: str | None = None
        self.stepped_back = False
        self.speed = ScoringSpeed(least=10 * setting.query_size)
        self.alarms = Alarms(splits.train.classes, self._warn)
        self.checkpoints, self._save_s = CheckpointWriter(setting.record.folder), 0.0
        self._off_clock = Budget(None)  # of what is not on the clock but can be interrupted
        learner.keep_snapshots(snapshots_of(acquisition))

    def interrupt(self) -> None:
        """End the step within a batch, from a signal handler or another thread."""
        self.budget.halt()
        self._off_clock.halt()

    def query(self) -> Tensor:
        """Fit, score and choose; a second call before `label` returns the same points.

        Returns:
            Absolute indices of the points to label, `(k,)`; empty where `reason` says why.
        """
        if self.asked is not None:
            return self.asked
        self.timing.start()
        watch = Stopwatch(self.budget.now)
        with watch.part("train_s"):
            report = self._fit()
        fitted_s = self.budget.elapsed_s
        self.reason = self.team.same(self._reason_after(report))
        with self.budget.paused(), watch.part("eval_s"):
            if self.reason or self.team.same(self.evaluation.due(self.step, self.budget)):
                self.test()
        self.reason = self.team.same(self.reason or self._reason_to_stop())
        asked, scored, uncertainty = torch.empty(0, dtype=torch.int64), 0, None
        while not self.reason and self.setting.query_size and not asked.numel():
            chosen, scored, uncertainty = self._acquire(watch)
            chosen, self.reason = self.team.same((chosen, self.reason))
            asked = self._readable(chosen)
            if not self.pool.unlabelled_count:
                self.reason = self.reason or "pool empty"
        self.budget.stop()
        if self.reason == "interrupted":
            return asked  # what this step did so far is repeated when the run is resumed
        self.record.step(
            step=self.step,
            pool=self.pool,
            learner=self.learner,
            acquired=asked,
            tested=self.evaluation.of_step(self.step),
            uncertainty=uncertainty,
            report=report,
            scored=scored,
            fitted_s=fitted_s,
            seconds=watch.seconds | {"save_s": self._save_s},
        )
        self.asked = asked
        if not self.reason:  # a run that is extended repeats its last step, to the new end
            self.save(self.step + 1)
        return asked

    def label(self, indices: Tensor, labels: Tensor) -> None:
        """Enter the labels of the points asked for, `(k,)` each, and begin the next step."""
        self.pool.label(indices, labels, self.step + 1)
        self.step += 1
        self.asked = None

    def test(self) -> None:
        """Evaluate the learner; an interruption becomes the reason to end."""
        try:
            self.evaluation.take(self.step, self._off_clock)
        except BudgetSpent:
            self.reason = "interrupted"

    def save(self, number: int) -> None:
        """Begin to write a checkpoint; `checkpoints.wait` returns when it is on the disk."""
        begin = time.perf_counter()
        self.checkpoints.save(number, self.state() | self.setting.also_kept())
        self._save_s = time.perf_counter() - begin

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint from which the learner and its step are made again."""
        return {
            "layout": LAYOUT,
            "step": self.step,
            "scoring_speed": self.speed.speed,
            "stepped_back": self.stepped_back,
            "constant_steps": self.alarms.constant_steps,
            "learner": self.learner.state(),
            "plan": self.plan.to_json(),
            "inputs": Inputs.of(self.splits.train).record(),
        }

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
            self.checkpoints.wait()
            self.team.same(None)  # all read what the first process has written
            saved = self._restorable()
            if self.team.any(saved is None) or saved is None:
                return False
            self.learner.restore(saved.state)
        self.stepped_back = True
        self.learner.lr = error.lr / 2
        self.record.step_back(self.step, error, self.learner.lr)
        warnings.warn(
            f"{error} Step {self.step} is repeated from its beginning at half the rate.",
            stacklevel=2,
        )
        return True

    def _restorable(self) -> SavedLearner | None:
        """Return the learner of the last checkpoint; None if this one cannot go back to it."""
        state, early = load_checkpoint(self.record.folder.path), self.learner.early
        saved = None if state is None else saved_learner(state)
        if saved is None or saved.inputs != Inputs.of(self.splits.train):
            return None  # there was no learner yet, or it had fewer classes
        if early and not torch.equal(early.keep, saved.state["early"]["keep"]):
            return None  # what was pruned since then does not grow again
        return saved

    def _fit_labelled(self) -> FitReport:
        labelled = self.pool.trained_on
        epochs = self.config.epochs if self.learner.batches else self.config.initial_epochs
        return self.learner.fit(
            labelled,
            self.pool.label_of(labelled),
            epochs,
            self.setting.training,
            budget=self.budget,
            progress=lambda done: self.timing.progress(self.step, done),
            tick=lambda done, planned: self.record.observer.tick(
                "fit", done, planned, self.budget.elapsed_s
            ),
        )

    def _reason_after(self, report: FitReport) -> str | None:
        if reason := self.timing.over(self.step, report):
            return reason
        return self._reason_to_stop() if self.pool.unlabelled_count else "pool empty"

    def _reason_to_stop(self, uncertainty: float | None = None) -> str | None:
        progress = Progress(self.pool.labelled_count, self.evaluation.past, uncertainty)
        return reason_to_stop({name: getattr(self.config, name) for name in CRITERIA}, progress)

    def _acquire(self, watch: Stopwatch) -> tuple[Tensor, int, float | None]:
        """Choose the next points; return them, the number of candidates and their mean entropy."""
        count, uncertainty = self.setting.query_size, None
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
                asked = acquire(self.acquisition, evidence, count, self.setting.draws)
                if self.config.stop_uncertainty is not None:
                    evidence.look()
                if evidence.predictions is not None:
                    uncertainty = evidence.predictions.entropy
                self._look_for_collapse(evidence)
            except BudgetSpent:
                self.reason = "interrupted" if self.budget.halted else "budget"
                asked = torch.empty(0, dtype=torch.int64)
            else:
                self.speed.measured(evidence.candidates.numel(), evidence.compute_s)
                self.reason = self._reason_to_stop(uncertainty)
                asked = asked[:0] if self.reason else asked
        watch.seconds["score_s"] = watch.seconds.get("score_s", 0.0) + evidence.compute_s
        watch.seconds["acquire_s"] -= evidence.compute_s
        return asked, evidence.candidates.numel(), uncertainty

    def _look_for_collapse(self, evidence: Evidence) -> None:
        """Give an alarm if the learner predicts one class where it should know several."""
        warm = self.learner.batches >= (self.config.warmup_batches or 0)
        if not warm or len(evidence.labels.unique()) < 2:
            return
        predicted, tested = evidence.predictions, self.evaluation.metrics
        self.alarms.predictions(
            None if predicted is None else predicted.counts,
            None
            if tested is None or self.evaluation.step != self.step
            else tested.per_class_accuracy,
        )

    def _readable(self, chosen: Tensor) -> Tensor:
        """Return the points whose images can be read, and never choose the others again."""
        bad = self.splits.train.unreadable(chosen)
        if bad.any():
            self.pool.set_aside(chosen[bad])
            self._warn(
                "unreadable",
                f"{int(bad.sum())} of {chosen.numel()} images chosen cannot be read, point "
                f"{int(chosen[bad][0])} for example, and are not asked for.",
            )
        return chosen[~bad]

    def _candidates(self, fit_s: float) -> Tensor:
        size, seconds = self.config.score_subset, self.timing.scoring_s(fit_s)
        if size is None and seconds is not None:
            size = self.team.same(self.speed.size(seconds))
        return self.pool.unlabelled if size is None else self.pool.draw(size, self.setting.draws)

    def _warn(self, about: str, message: str) -> None:
        self.record.warning(self.step, about, message)
