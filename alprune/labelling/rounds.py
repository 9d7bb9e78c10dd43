"""A round of labelling: a step of the active-learning loop on today's images and labels."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from alprune.acquisition import find_acquisition
from alprune.data import Splits
from alprune.labelling.images import Changes, ImagePool
from alprune.labelling.journal import Journal, Query
from alprune.labelling.network import Network
from alprune.labelling.opinions import Agreement
from alprune.labelling.stop_rule import without_rules
from alprune.loop.active_learner import ActiveLearner, Setting
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.events import pruning_fields, write_learner
from alprune.loop.frozen import FROZEN, SCORED
from alprune.loop.observers import Observer
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import RunFolder
from alprune.training import Diverged, FitReport
from alprune.training.budget import Budget
from alprune.training.input_spec import INPUTS, Inputs
from alprune.training.interface import Trainable


@dataclass(frozen=True)
class Round:
    """What people are asked.

    Attributes:
        number: Of the round, from 1.
        queries: The images that are still open, most wanted first; none if there is nothing left.
        again: Whether this round was asked before.
        labelled: Labelled images, those held out included.
        in_folders: Those of them whose class is that of their folder, and that nobody labelled.
        pool: Images in the folder, test images left out.
        classes: Names of the classes so far.
        learnt: Measured accuracy of the learner, see `alprune.labelling.accuracy`; empty before
            there is one.
        changes: Of the folder since the round before.
        agreement: Of people who answered the same images; None where nobody did.
        stop: Which stop rule is met and why; empty if none is.
    """

    number: int
    queries: tuple[Query, ...]
    again: bool
    labelled: int
    in_folders: int
    pool: int
    classes: tuple[str, ...]
    learnt: Mapping[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    agreement: Agreement | None = None
    stop: str = ""

    def __iter__(self) -> Iterator[Query]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Prepared:
    """A round for which images were chosen but not asked yet.

    Attributes:
        images: Today's.
        queries: About the chosen images.
        learnt: Measured accuracy of the learner.
        learner: Fitted; None before there are labels of two classes.
    """

    images: ImagePool
    queries: list[Query]
    learnt: dict[str, Any]
    learner: Trainable | None = None


class RoundTiming:
    """A budget for one round, of which a share is kept for scoring.

    Args:
        limit_s: The budget.
        share: Share kept for scoring, in (0, 1]. What the fit leaves is added to it.
    """

    def __init__(self, limit_s: float, share: float) -> None:
        self.budget = Budget(None)
        self._limit_s, self._share = limit_s, share

    def start(self) -> None:
        """Start the clock; the fit ends when its part of the budget is spent."""
        self.budget.limit_s = (1 - self._share) * self._limit_s
        self.budget.start()

    def progress(self, step: int, done: float) -> float:
        """Return the share of the fit that is over, by batches or by the clock."""
        return max(done, self.budget.fraction)

    def over(self, step: int, report: FitReport) -> str | None:
        """Return "interrupted" if the clock was halted; a fit cut short by it is scored."""
        return "interrupted" if self.budget.halted else None

    def scoring_s(self, fit_s: float) -> float | None:
        """Return what is left of the budget; choosing is not cut short."""
        self.budget.limit_s = self._limit_s
        left_s = self.budget.remaining_s
        self.budget.limit_s = None
        return left_s


class RoundRecord:
    """Records a round's fit in the journal, and writes its learner as a run does.

    Args:
        folder: Takes the learner.
        journal: Takes the events.
        lock: Held while the journal is written.
        observer: Shows how far the fit is.
        network: The learner, and what pruning did.
        budget: The round's clock.

    Attributes:
        uncertainty: Mean entropy of the candidates, in nats; None if nothing computed it.
    """

    uncertainty: float | None = None

    def __init__(
        self,
        folder: RunFolder,
        journal: Journal,
        lock: threading.RLock,
        observer: Observer,
        network: Network,
        budget: Budget,
    ) -> None:
        self.folder, self.observer = folder, observer
        self._journal, self._lock = journal, lock
        self._network, self._budget = network, budget

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
        """Write the learner, and the events "prune" (once) and "fit"."""
        self.uncertainty = uncertainty
        self.folder.write("plan.json", self._network.plan.to_json())
        self.folder.write(INPUTS, Inputs.of(self._network.train).to_json())
        write_learner(self.folder, learner)
        with self._lock:
            self._journal.spend(self._budget.elapsed_s)
            if self._network.pruned is not None:
                self._journal.note("prune", **pruning_fields(self._network.pruned))
            self._journal.note(
                "fit",
                new_outputs=list(self._network.added),
                train_loss=report.loss,
                epochs=round(report.epochs, 3),
                batches=report.batches,
                scored=scored,
                fit_s=round(fitted_s, 3),
                round_s=round(self._budget.elapsed_s, 3),
                **tested,
            )

    def step_back(self, step: int, error: Diverged, lr: float) -> None:
        """Record that a fit is repeated at a lower rate."""
        self._note("step_back", round=step, batch=error.batch, lr=lr, why=str(error))

    def warning(self, step: int, about: str, message: str) -> None:
        """Record a warning, and give it."""
        self._note("warning", round=step, about=about, message=message)
        warnings.warn(message, stacklevel=3)

    def _note(self, name: str, **fields: Any) -> None:
        with self._lock:
            self._journal.note(name, **fields)


def round_learner(
    config: ResolvedLabelling,
    images: ImagePool,
    candidates: Tensor,
    network: Network,
    setting: Setting,
    state: Mapping[str, Any],
) -> ActiveLearner:
    """Return what fits, scores and chooses in a round.

    Args:
        config: Complete options.
        images: Today's, with two classes at least among the labels to learn from.
        candidates: Indices of those that may be chosen, `(n,)`.
        network: The learner.
        setting: Of this round.
        state: Of the last round's checkpoint; empty before there was one.
    """
    config = without_rules(config)
    train, test = network.train, images.splits.test
    splits = Splits(train, replace(test, mean=train.mean, std=train.std))
    pool = images.label_pool(candidates)
    if config.learner == FROZEN:  # it scores so fast that memory is the limit
        config = replace(config, score_subset=SCORED)
    learning = ActiveLearner(
        config,
        splits,
        pool,
        network.learner,
        network.plan,
        find_acquisition(config.acquisition),
        setting,
    )
    learning.speed.speed = state.get("scoring_speed")
    learning.alarms.constant_steps = state.get("constant_steps", 0)
    return learning
