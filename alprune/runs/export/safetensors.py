"""safetensors: weights and plan, for `alprune.load_learner`."""

from pathlib import Path

from alprune import models
from alprune.runs.export.formats import Run
from alprune.runs.load import Learned, load_learner, to_bytes


def write(learned: Learned) -> bytes:
    """Return the file's content."""
    return to_bytes(learned)


def run(path: Path, learned: Learned) -> Run:
    """Load a file that was just written."""
    inputs = learned.classifier.inputs
    fresh = models.build(learned.model, len(inputs.classes), inputs.image_shape)
    return load_learner(path, fresh).predict
