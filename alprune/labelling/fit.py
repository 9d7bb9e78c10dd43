"""One round: learn from all labels for a while, then let an acquisition function choose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alprune.acquisition import find_acquisition
from alprune.labelling import accuracy
from alprune.labelling import queries as choosing
from alprune.labelling.images import Pictures
from alprune.labelling.journal import Journal
from alprune.labelling.network import Network, open_network
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.events import pruning_fields
from alprune.training import FitReport
from alprune.training.budget import Budget


@dataclass(frozen=True)
class Lesson:
    """What a round of learning came to.

    Attributes:
        network: Trained.
        chosen: Indices of the images to ask about, `(k,)`.
        speed: Images scored a second.
        learnt: What the learner is worth, see `accuracy.measured`.
        report: Of the fit.
        scored: Images that were chosen from.
        fit_s: Seconds that the fit took.
        round_s: Seconds that count, choosing included.
    """

    network: Network
    chosen: Tensor
    speed: float
    learnt: dict[str, Any]
    report: FitReport
    scored: int
    fit_s: float
    round_s: float

    def note(self, journal: Journal) -> None:
        """Write it down."""
        pruned = self.network.pruned
        journal.spend(self.round_s)
        if pruned is not None:
            journal.note("prune", **pruning_fields(pruned))
        journal.note(
            "fit",
            new_outputs=list(self.network.added),
            train_loss=self.report.loss,
            epochs=round(self.report.epochs, 3),
            batches=self.report.batches,
            scored=self.scored,
            fit_s=round(self.fit_s, 3),
            round_s=round(self.round_s, 3),
            **self.learnt,
        )


def learn(
    config: ResolvedLabelling,
    today: Pictures,
    state: Mapping[str, Any],
    rest: Tensor,
    count: int,
    clock: Budget,
    generator: torch.Generator,
    tick: Callable[[int, int], None],
) -> Lesson:
    """Train the learner within the budget of a round, and choose images.

    Args:
        config: Complete options.
        today: The images, at least two classes among the labels to learn from.
        state: Of the last round, empty before the first.
        rest: Images that may be chosen, `(n,)`.
        count: Images wanted.
        clock: Runs meanwhile; its limit is set here. Whoever halts it ends the fit.
        generator: Source of randomness, on the CPU.
        tick: Told the batches done and planned.

    Raises:
        KeyboardInterrupt: The clock was halted.
        AlpruneError: As from `alprune.run`.
    """
    acquisition = find_acquisition(config.acquisition)
    before = state if "plan" in state else None
    network = open_network(config, today.train, today.labelled, before, acquisition)
    clock.limit_s = (1 - config.score_share) * config.budget
    clock.start()
    report = _fit(config, network, today, clock, generator, tick)
    fit_s, clock.limit_s = clock.elapsed_s, config.budget
    scored = _scored(rest, count, state.get("scoring_speed"), clock, generator)
    chosen, speed = choosing.uncertain(
        network.learner, today, acquisition, scored, count, generator
    )
    clock.stop()
    learnt = accuracy.measured(network.learner, today)
    return Lesson(
        network, chosen, speed, learnt, report, len(scored), fit_s, round_s=clock.elapsed_s
    )


def _fit(
    config: ResolvedLabelling,
    network: Network,
    today: Pictures,
    clock: Budget,
    generator: torch.Generator,
    tick: Callable[[int, int], None],
) -> FitReport:
    learner = network.learner
    epochs = config.epochs if network.pruned is None else config.initial_epochs
    assert epochs is not None
    seed = int(torch.randint(2**62, (), generator=generator))
    report = learner.fit(
        today.labelled,
        network.train.y[today.labelled],
        epochs,
        torch.Generator(learner.device).manual_seed(seed),
        budget=clock,
        progress=lambda done: max(done, clock.fraction),
        tick=tick,
    )
    if clock.halted:
        raise KeyboardInterrupt("Interrupted; nothing that was told is lost.")
    return report


def _scored(
    rest: Tensor, count: int, speed: float | None, clock: Budget, generator: torch.Generator
) -> Tensor:
    """Draw as many images as there is time to score; few before the speed is known."""
    most = max(10 * count, int(clock.remaining_s * (speed or 0)))
    if most >= len(rest):
        return rest
    return rest[torch.randperm(len(rest), generator=generator)[:most]].sort().values


__all__ = ["Lesson", "learn"]
