"""How accurate the learner is so far, and what more labels are expected to bring."""

from dataclasses import asdict
from typing import Any

from alprune.labelling import Asking
from alprune.labelling.learning_curve import Measured, expected_gain
from alprune.labelling.stop_rule import progress_of, why_stop

_NEXT = 50  # labels for which the gain is expected, at least: a round of few brings little
_LITTLE = 0.01  # gain of accuracy below which more labels are hardly worth their time
_POINTS = 40  # of the curve that are shown


class Prospects:
    """Describes the accuracy of all rounds; worked out once per round.

    Args:
        asking: The folder. Its lock is held by the caller.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._rounds = -1
        self._known: dict[str, Any] = {}
        self._progress = progress_of(())

    def state(self) -> dict[str, Any]:
        """Return the accuracy so far, its curve and the gain to expect, JSON values."""
        measured = self._asking.journal.measured
        if self._rounds != len(measured):
            self._rounds, self._known = len(measured), self._worked_out()
            hold_out = self._asking.config.hold_out
            self._progress = progress_of((asked["learnt"] for asked in measured), hold_out)
        return self._known

    def why_stop(self, labelled: int) -> str:
        """Say which stop rule is met and why; empty if none is.

        Args:
            labelled: Labelled images by now.
        """
        self.state()
        return why_stop(self._asking.config, self._progress, labelled)

    def _worked_out(self) -> dict[str, Any]:
        curve, rounds = [], []
        for asked in self._asking.journal.measured:
            found = asked["learnt"].get("held_out_accuracy")
            if found:
                labels = asked["labelled"]
                rounds.append(Measured(labels - found["of"], found["right"], found["of"]))
                share = {name: found[name] for name in ("low", "high")}
                curve.append({"labels": labels, "value": found["accuracy"]} | share)
        gain = expected_gain(rounds, max(_NEXT, self._asking.config.query_size))
        little = gain is not None and gain.high < _LITTLE
        step = -(-len(curve) // _POINTS) or 1
        return {
            "stop": f"the next {gain.labels} labels are expected to bring less than "
            f"{100 * _LITTLE:g} points: it may be time to stop"
            if gain is not None and little
            else "",
            "accuracy": curve[-1] if curve else None,
            "curve": curve[::-1][::step][::-1],  # the last one is always among them
            "expected": None if gain is None else asdict(gain),
        }
