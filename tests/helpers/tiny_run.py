"""A run that takes a second or two, and what it recorded."""

from pathlib import Path

import alprune

MASKS = ("snip", "grasp", "synflow", "magnitude-weights", "random")


def options(out, **changes):
    base = {
        "dataset": "digits",
        "model": "tiny_learner:build",
        "method": "3sp",
        "steps": 3,
        "initial_epochs": 4.0,
        "epochs": 1.0,
        "device": "cpu",
        "precision": "fp32",
        "out": str(out),
    }
    chosen = base | changes
    if chosen["method"] not in MASKS:
        chosen.setdefault("min_channels", 2)
    return alprune.RunConfig(**chosen)


def events_of(path, name=None):
    return [e for e in alprune.read_events(Path(path)) if name in (None, e["event"])]
