"""What a file format has to be able to do, and the labels that lie beside each file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from alprune import __version__
from alprune.runs.export.any_size import rule, takes_any_size
from alprune.runs.load import Learned

Run = Callable[[Tensor], Tensor]
"""Images `(n, h, w, c)` to probabilities `(n, classes)`."""


@dataclass(frozen=True)
class Format:
    """A way to write a learner.

    Attributes:
        write: Returns the file's content.
        run: `(file, learner as it was) -> Run`: loads the file as its users would.
        require: Raises ConfigError where a package is missing.
    """

    write: Callable[[Learned], bytes]
    run: Callable[[Path, Learned], Run]
    require: Callable[[], None] = lambda: None


def description(learned: Learned) -> dict[str, Any]:
    """Say what goes into a file and comes out of it, as JSON values."""
    classifier = learned.classifier
    c, h, w = classifier.inputs.image_shape
    values = "0 to 255" if classifier.inputs.dtype == "uint8" else "as in the training images"
    channels = {1: "grey", 3: "red, green, blue"}.get(c, f"{c}")
    return {
        "classes": list(classifier.classes),
        "input": {
            "name": "images",
            "shape": ["batch", h, w, c],
            "dtype": classifier.inputs.dtype,
            "values": values,
            "channels": channels,
        },
        "output": {
            "name": "probabilities",
            "shape": ["batch", len(classifier.classes)],
            "dtype": "float32",
        },
        "resize": rule((h, w)) if takes_any_size(classifier.inputs) else None,
        "temperature": classifier.temperature,
        "model": learned.model,
        "learner": learned.state,
        "alprune": __version__,
        **learned.details,
    }


def labels_json(learned: Learned) -> str:
    """Return the content of the file of labels."""
    return json.dumps(description(learned), indent=1, ensure_ascii=False) + "\n"
