"""pt2: torch.export's program, which PyTorch runs without alprune."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from alprune.errors import ModelError
from alprune.runs.export.any_size import AnySize, takes_any_size
from alprune.runs.export.formats import Run, labels_json
from alprune.runs.load import Learned
from alprune.training.input_spec import Inputs

if TYPE_CHECKING:  # it takes a while to import
    from torch.export import ExportedProgram

LABELS = "labels.json"  # in the archive


def example(inputs: Inputs) -> torch.Tensor:
    """Return three random images `(3, h, w, c)`: a batch of 1 or 2 might become a constant.

    Where images of any size are taken these are of another size than the learner's, which would
    become a constant, too.
    """
    c, h, w = inputs.image_shape
    generator = torch.Generator().manual_seed(0)
    if takes_any_size(inputs):
        h, w = h + 3, w + 5
    images = torch.randint(256, (3, h, w, c), generator=generator, dtype=torch.uint8)
    return images if inputs.dtype == "uint8" else images.to(inputs.torch_dtype) / 255


def traced(learned: Learned, in_bytes: bool = False) -> "ExportedProgram":
    """Trace a learner, ready to compute, for any number of images, of any size if they are uint8.

    Args:
        learned: The learner.
        in_bytes: How images are resized, see `AnySize`.

    Raises:
        ModelError: torch.export cannot; the message says why.
    """
    from torch.export import Dim, export

    model: torch.nn.Module = learned.classifier.plain()
    inputs, dynamic = learned.classifier.inputs, {0: Dim("batch")}
    if takes_any_size(inputs):
        model = AnySize(model, inputs.image_shape[1:], in_bytes)
        dynamic |= {1: Dim("height", min=1), 2: Dim("width", min=1)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return export(model.eval(), (example(inputs),), dynamic_shapes=(dynamic,))
    except Exception as error:  # torch.export raises whatever it meets in a forward
        raise ModelError(
            f"the network {learned.model!r} cannot be traced by torch.export: {_first(error)} "
            "Write it as safetensors instead, which alprune.load_learner reads."
        ) from error


def write(learned: Learned) -> bytes:
    """Return the file's content; the labels are in it, too, as labels.json."""
    from torch.export import save

    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(traced(learned), archive, extra_files={LABELS: labels_json(learned)})
    return archive.getvalue()


def run(path: Path, learned: Learned) -> Run:
    """Load a file that was just written, no untrusted one: torch.export.load runs its code."""
    from torch.export import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = load(path).module()

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = module(images)
            return out

    return probabilities


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
