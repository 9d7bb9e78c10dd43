"""The work of a round before people are asked: look, learn, choose."""

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from alprune import data
from alprune.acquisition import find_acquisition, snapshots_of
from alprune.data.duplicates import contradictions
from alprune.data.names import KnownNames
from alprune.errors import DataError, counted, shell_word
from alprune.labelling import images, queries
from alprune.labelling.accuracy import HoldOutEvaluation
from alprune.labelling.images import Changes, ImagePool
from alprune.labelling.journal import Journal, Query
from alprune.labelling.network import open_network
from alprune.labelling.options import root_of
from alprune.labelling.rounds import Prepared, RoundRecord, RoundTiming, round_learner
from alprune.loop.active_learner import ActiveLearner, Setting
from alprune.loop.checkpoint import LAYOUT, load_checkpoint, save_checkpoint
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.events import Observer
from alprune.loop.frozen import FROZEN, embed_pool
from alprune.loop.run_folder import RunFolder
from alprune.training import BudgetSpent
from alprune.training.budget import Budget


class NothingLeft(DataError):
    """All images have labels, or were skipped lately."""


class Preparation:
    """Learns from the answers so far and chooses the next images, round by round.

    Each round is a step of the active-learning loop whose pool is the folder of images as it is
    then, and whose labels are the journal's.

    Args:
        folder: Takes checkpoints and the learner.
        config: Complete options.
        journal: Of questions and answers.
        lock: Held while the journal is read or written.
        observer: Shows how far the training is.

    Attributes:
        splits: The images as they were when they were read last.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: ResolvedLabelling,
        journal: Journal,
        lock: threading.RLock,
        observer: Observer,
    ) -> None:
        self._folder, self._config, self._journal = folder, config, journal
        self._lock, self._observer, self._root = lock, observer, root_of(config)
        self._learning: ActiveLearner | None = None
        self._halted = False
        self._clock = Budget(None)  # of work between rounds, to halt it
        self._looked = False
        self._state: dict[str, Any] | None = None
        self.splits: data.Splits | None = None

    def prepare(self) -> Prepared:
        """Learn, and choose what could be asked next; other threads may take answers meanwhile.

        Raises:
            KeyboardInterrupt: `halt` was called.
            AlpruneError: As from `ask`.
        """
        config = self._config
        first, self._looked = not self._looked, True
        splits = self.splits = images.load(config, progress=first)
        state = self.checkpoint()
        with self._lock:
            known = state.get("seen"), state.get("learnt")
            today = images.look(config, self._journal, splits, *known)
            number = self._journal.round + 1
        self._warn_of(today.changes)
        named = self._named(splits.train.classes)
        kept = {"seen": today.seen(), "learnt": today.learnt(known[1]), "named": named}
        self._warn_of_names(state.get("named", ()), named)
        for message in contradictions(today.splits) if first else ():
            warnings.warn(message, stacklevel=3)
        teachable = today.train.y[today.labelled].unique().numel() > 1
        if not len(today.open) and (
            not teachable or state.get("learnt_from") == today.train.digest
        ):
            if state.get("named") != named:  # said once, not at every try
                self._state = state | {"named": named}
            raise self._nothing_left(today, teachable)
        self._embed(today)
        count = config.query_size
        if config.stop_labels is not None:
            left = config.stop_labels - images.counts(today)["labelled"]
            count = min(count, left) if left > 0 else count
        rest = today.open
        generator = torch.Generator().manual_seed((config.seed + number) % 2**63)
        drawn = queries.drawn_at_random(config, today, count, generator)
        rest, count = rest[~torch.isin(rest, drawn)], count - len(drawn)
        learner, learnt = None, {}
        if not teachable:
            chosen = {"typical": queries.typical(config, today, rest, count, generator)}
            self._state = state | {"layout": LAYOUT, "step": number} | kept
            save_checkpoint(self._folder, number + 1, self._state)
        else:
            learning, record = self._learn(today, kept, rest, count, number, generator)
            chosen, learner = {"uncertain": learning.query()}, learning.learner
            if learning.reason == "interrupted":
                raise KeyboardInterrupt("Interrupted; no answer is lost.")
            if learning.reason:  # nothing to choose from; what was learnt is kept all the same
                learning.save(number + 1)
            learning.checkpoints.wait()
            self._learning = None
            self._state = learning.state() | learning.setting.also_kept()
            if not len(today.open):
                raise self._nothing_left(today, teachable)  # and the last labels are learnt from
            learnt = learning.evaluation.of_step(number)
            if config.stop_uncertainty is not None:
                learnt["uncertainty"] = record.uncertainty
        asked = queries.described(today, {"random": drawn} | chosen, learner)
        return Prepared(today, _mixed(asked, generator), learnt, learner)

    def _embed(self, today: ImagePool) -> None:
        """Embed new images for a frozen learner: once each, so no round's budget pays for it."""
        if self._config.learner != FROZEN:
            return
        try:
            embed_pool(self._config, today.train, self._clock)
        except BudgetSpent:
            raise KeyboardInterrupt("Interrupted; what was embedded is kept.") from None

    def _learn(
        self,
        today: ImagePool,
        kept: dict[str, Any],
        rest: torch.Tensor,
        count: int,
        number: int,
        generator: torch.Generator,
    ) -> tuple[ActiveLearner, RoundRecord]:
        """Return a round's learner, ready to fit, and what it is recorded by.

        Args:
            today: The images.
            kept: Of these, for the next round.
            rest: Indices of those that may be chosen, `(n,)`.
            count: Images wanted.
            number: Of the round.
            generator: Source of randomness, on the CPU.
        """
        config, state = self._config, self.checkpoint()
        snapshots = snapshots_of(find_acquisition(config.acquisition))
        renames = self._journal.renames[: today.renames]
        network = open_network(config, today.train, today.labelled, state, snapshots, renames)
        learner, timing = network.learner, RoundTiming(config.budget, config.score_share)
        evaluation = HoldOutEvaluation(learner, today)
        seed = int(torch.randint(2**62, (), generator=generator))
        record = RoundRecord(
            self._folder, self._journal, self._lock, self._observer, network, timing.budget
        )
        setting = Setting(
            timing,
            evaluation,
            record,
            draws=generator,
            training=torch.Generator(learner.device).manual_seed(seed),
            query_size=count,
            also_kept=lambda: {
                **kept,
                "renames": today.renames,
                "learnt_from": today.train.digest,
                "temperature": evaluation.found.get("temperature"),
                # The optimiser starts from rest in every round, and so does its rate.
                "learner": learner.state() | {"optimiser": {}},
            },
        )
        learning = round_learner(config, today, rest, network, setting, state)
        learning.step = number
        self._learning = learning
        if self._halted:
            learning.interrupt()
        return learning, record

    def _nothing_left(self, today: ImagePool, teachable: bool) -> NothingLeft:
        skipped = len(today.resting)
        but = f" but {skipped:,} that were skipped" if skipped else ""
        learnt = "the learner has learnt from all of them" if teachable else "all name one class"
        return NothingLeft(
            f"all {len(today.train):,} images in {str(self._root)!r} have labels{but}: nothing is "
            f"left to ask, and {learnt}. To continue, add images; or, to try things out, begin "
            "again in another folder with --initial 50, which hides all labels but 50."
        )

    def halt(self) -> None:
        """End `prepare` within a batch, now and ever after, from another thread.

        It raises KeyboardInterrupt.
        """
        self._halted = True
        self._clock.halt()
        if self._learning is not None:
            self._learning.interrupt()

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the last round; empty before there was one."""
        if self._state is None:
            self._state = load_checkpoint(self._folder.path) or {}
        return self._state

    def _warn_of(self, changes: Changes) -> None:
        if changes.lost:
            warnings.warn(
                counted(changes.lost, "image with a label is", "images with labels are")
                + f" no longer in {str(self._root)!r}, or changed. Labels are kept, and hold again "
                "when the images are back.",
                stacklevel=4,
            )

    def _named(self, classes: Sequence[str]) -> list[str]:
        """Return the names of classes that images come with, as they are spelt here."""
        names = KnownNames(self._journal.classes)
        return [names.find(name) or name for name in classes]

    def _warn_of_names(self, before: Sequence[str], now: Sequence[str]) -> None:
        """Say that answers name a class whose folder has gone, if one of another name came."""
        new = [name for name in now if name not in before]
        for name in before:
            if new and name not in now and (count := self._journal.counts[name]):
                merge = " ".join(map(shell_word, [str(self._folder.path), "--merge", name, new[0]]))
                warnings.warn(
                    f"no image comes as class {name!r} any more, but "
                    + counted(count, "answer names", "answers name")
                    + f" it. If it is called {new[0]!r} now, merge the two: on the page, under "
                    f"Classes..., or by alprune classes {merge}",
                    stacklevel=4,
                )


def _mixed(queries: list[Query], generator: torch.Generator) -> list[Query]:
    """Put drawn images among the others: they should be labelled with the same care."""
    order = torch.randperm(len(queries), generator=generator).tolist()
    return [queries[place] for place in order]
