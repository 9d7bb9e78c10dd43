"""Run a run folder's options once more and compare."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from alprune.data.atomic_io import free_path
from alprune.errors import StoreError
from alprune.loop.defaults import ResolvedRun
from alprune.loop.event_log import Fields, read_events, resume_command
from alprune.loop.events import moved_between
from alprune.loop.resume import options
from alprune.pruning.registry import MEASURED

_MEASURED = (*(f"{quantity}_reduction" for quantity in MEASURED), "latency_aware")


@dataclass(frozen=True)
class Comparison:
    """How a run and its repetition compare.

    Attributes:
        exact: Whether they have to be equal: on a CPU, without a budget or anything else that is
            measured, with the same versions and hardware.
        why_not: Why they don't have to be; empty if they do.
        equal: Whether they are: every acquired point, every accuracy and all the weights.
        changed: What is not as it was: versions, hardware, data.
        steps: Steps of the first and of the second.
        parted: The first step at which different points were acquired, None if there is none.
        labelled: Labelled points at the end of the first and of the second.
        test_accuracy: At the end, 0 to 1.
        weights: The largest difference of two weights; None if the networks differ in shape.
    """

    exact: bool
    why_not: str
    equal: bool
    changed: tuple[str, ...]
    steps: tuple[int, int]
    parted: int | None
    labelled: tuple[int, int]
    test_accuracy: tuple[float | None, float | None]
    weights: float | None


def again(path: Path, out: Path | None = None) -> ResolvedRun:
    """Return the options that repeat a run.

    Args:
        path: Of a run that has ended.
        out: Folder of the repetition; the run's own with "-rerun" and a number if None.

    Raises:
        StoreError: The run has not ended, or was chosen by a function that has no name.
    """
    events = read_events(path)
    reason = str(events[-1]["reason"]) if events and events[-1]["event"] == "end" else "killed"
    if reason.startswith(("killed", "interrupted", "error", "stopped")):
        raise StoreError(
            f"the run in {path} has not come to its end ({reason}): there is nothing to compare "
            f"with. Go on with it first: {resume_command(path)}."
        )
    config = options(path)
    used = events[0]["acquisition"]
    if used != config.acquisition:
        raise StoreError(
            f"the run chose its points by {used!r}, a function that was passed to it; only Python "
            "can run it again: alprune.run(RunConfig.from_toml(...), acquisition=...)."
        )
    place = path if path.name not in ("", "..") else path.resolve()  # such as the folder one is in
    return replace(config, out=str(out or free_path(place.with_name(f"{place.name}-rerun"))))


def compare(first: Path, second: Path) -> Comparison:
    """Compare two runs of the same options.

    Raises:
        StoreError: One of them cannot be read.
    """
    runs = [read_events(path) or [Fields()] for path in (first, second)]
    starts = [events[0] for events in runs]
    ends = [events[-1] for events in runs]
    steps = [[e for e in events if e["event"] == "step"] for events in runs]
    acquired = [[e["acquired"] for e in of] for of in steps]
    pairs = enumerate(zip(*acquired, strict=False))
    weights = _weights_apart(first, second)
    why_not = _why_not_exact(runs[0])
    if not why_not and moved_between(starts[0], starts[1]):
        why_not = "versions or hardware are not those of then"
    if not why_not and starts[0]["data_digest"] != starts[1]["data_digest"]:
        why_not = "the data are not those of then"
    told = [[(e["acquired"], e["test_accuracy"]) for e in of] for of in steps]
    return Comparison(
        exact=not why_not,
        why_not=why_not,
        equal=told[0] == told[1] and weights == 0,
        changed=tuple(
            f"{key}: {starts[0][key]} and now {starts[1][key]}"
            for key in ("versions", "hardware", "precision", "data_digest")
            if starts[0][key] != starts[1][key]
        ),
        steps=(ends[0]["steps"], ends[1]["steps"]),
        parted=next((number for number, (a, b) in pairs if a != b), None),
        labelled=(ends[0]["labelled"], ends[1]["labelled"]),
        test_accuracy=(ends[0]["test_accuracy"], ends[1]["test_accuracy"]),
        weights=weights,
    )


def _why_not_exact(events: list[dict[str, Any]]) -> str:
    config = events[0]["config"]
    resumed = [e for e in events if e["event"] == "resume"]
    if any(e["steps"] != config.get("steps") for e in resumed):
        return "it was extended while it ran"
    if any(moved_between(events[0], e) for e in resumed):
        return "it was moved to another machine, or other versions, while it ran"
    if config.get("budget") is not None:
        return "a budget is a matter of the machine's speed"
    if any(config.get(name) for name in _MEASURED):
        return "its pruning depends on measured times"
    if events[0]["device"] != "cpu":
        return "a GPU adds up in no fixed order"
    return ""


def _weights_apart(first: Path, second: Path) -> float | None:
    try:
        ours, theirs = (load_file(path / "model.safetensors") for path in (first, second))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"the weights of a run cannot be read: {error}.") from error
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return None
    largest = [torch.zeros((), dtype=torch.float64)]
    for name, tensor in ours.items():
        if tensor.numel():
            largest.append((tensor.double() - theirs[name].double()).abs().max())
    return float(torch.stack(largest).max())
