"""A run of a frozen learner on a tiny backbone, to export, and what an export left."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from tiny_run import options

import alprune
from alprune.cli import main
from alprune.models import build


def frozen_run(folder: Path, name: str, **changes: Any) -> Path:
    """Make the run once in a folder; return its own."""
    path, weights = folder / name, folder / "w.safetensors"
    if not path.exists():
        save_file(build("tiny_learner:build", 10, (1, 8, 8), 9).state_dict(), weights)
        base = {
            **dict.fromkeys(["min_channels", "initial_epochs", "epochs"]),
            "learner": "frozen",
            "method": "dense",
            "pretrained": str(weights),
            "initial": 300,
            "steps": 0,
            "acquisition": "margin",
            "start": "random",
        }
        alprune.run(options(path, **base | changes))
    return path


def weights_of(made: Any) -> dict[str, list]:
    """Return the weights in an exported file; its header is in no order."""
    return {name: tensor.tolist() for name, tensor in load_file(made.path).items()}


def call(*args: object) -> Result:
    """Run a command of alprune."""
    return CliRunner().invoke(main, [str(a) for a in args])
