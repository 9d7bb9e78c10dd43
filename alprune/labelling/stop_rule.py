"""Whether labelling has reached what the `stop_*` options ask for, as in a simulated run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from alprune.errors import counted
from alprune.loop.defaults import ResolvedLabelling
from alprune.loop.stopping import CRITERIA, Evaluations, Progress

_LEAST = 50  # held-out images: the accuracy on fewer is a matter of luck
_NEVER_MET = 1e-300  # nats: has the uncertainty computed without ending the round

_SAYINGS: dict[str, Callable[[Any, Progress], str]] = {
    "stop_labels": lambda limit, now: counted(now.labelled, "image is", "images are") + " labelled",
    "stop_accuracy": lambda limit, now: f"the accuracy is {now.evaluations.last:.1%}",
    "stop_uncertainty": lambda limit, now: (
        f"the mean entropy of the images without a label is {now.uncertainty:.3g} nats"
    ),
    "stop_plateau": lambda limit, now: (
        counted(now.evaluations.since_best, "round", "rounds")
        + f" brought no better accuracy than {now.evaluations.best:.1%}"
    ),
}


def progress_of(rounds: Iterable[Mapping[str, Any]], hold_out: int = 0) -> Progress:
    """Gather what the rounds have measured.

    An accuracy on held-out images counts once there are `hold_out` of them, or 50 if that is less;
    the best one is sought anew whenever there are more of them than before.

    Args:
        rounds: What was measured in each, in their order, see `alprune.labelling.accuracy`.
        hold_out: Number of images that are to be held out.

    Returns:
        The progress, with no labelled images yet.
    """
    tests, uncertainty, images = Evaluations(), None, 0
    for learnt in rounds:
        held = learnt.get("held_out_accuracy") or {}
        accuracy = learnt.get("test_accuracy")
        if accuracy is None and (of := held.get("of", 0)) >= least_held(hold_out):
            accuracy = held.get("accuracy")
            tests.best = None if of > images else tests.best  # of other images
            images = max(images, of)
        if accuracy is not None:
            tests.note(accuracy, 0.0)
        uncertainty = learnt.get("uncertainty")
    return Progress(0, tests, uncertainty)


def why_stop(config: ResolvedLabelling, progress: Progress, labelled: int) -> str:
    """Say which stop rule is met and why; empty if none is.

    Args:
        config: Complete options.
        progress: Of the rounds so far.
        labelled: Labelled images by now.
    """
    now = replace(progress, labelled=labelled)
    for name, criterion in CRITERIA.items():
        limit = getattr(config, name)
        if limit is not None and criterion.met(limit, now):
            return f"{_SAYINGS[name](limit, now)} (--{name.replace('_', '-')} {limit:g})"
    return ""


def least_held(hold_out: int) -> int:
    """Return how many held-out images it takes, of `hold_out`, for their accuracy to count."""
    return min(hold_out or _LEAST, _LEAST)  # 0: what was held out before is measured all the same


def unmeasured(config: ResolvedLabelling, progress: Progress, held: int = 0) -> str:
    """Say that a rule cannot be met because no accuracy is measured; empty if it can.

    Args:
        config: Complete options.
        progress: Of the rounds so far.
        held: Held-out images by now.
    """
    rules = [
        name for name in ("stop_accuracy", "stop_plateau") if getattr(config, name) is not None
    ]
    if not rules or progress.evaluations.last is not None:
        return ""
    why = "no accuracy is measured. --hold-out 50 draws images for that."
    if config.hold_out:
        least = least_held(config.hold_out)
        why = f"{held} held-out images have labels, and their accuracy counts from {least} on."
    return f"{' and '.join(rules)} cannot be met yet: {why}"


def without_rules(config: ResolvedLabelling) -> ResolvedLabelling:
    """Return options with which a round chooses images whatever it finds."""
    computed = None if config.stop_uncertainty is None else _NEVER_MET
    return replace(
        config,
        stop_labels=None,
        stop_accuracy=None,
        stop_plateau=None,
        stop_uncertainty=computed,
    )
