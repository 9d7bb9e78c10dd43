"""ONNX, for ONNX Runtime and what else reads it."""

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from alprune import __version__
from alprune.errors import ConfigError, ModelError
from alprune.runs.export.formats import Run, description
from alprune.runs.export.pt2 import traced
from alprune.runs.load import Learned

_NEEDED = ("onnx", "onnxruntime", "onnxscript")


def require() -> None:
    """Refuse to begin without the packages.

    Raises:
        ConfigError: Some are missing; the message says how to install them.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an ONNX file needs packages that are not installed: pip install {' '.join(missing)}"
        )


def write(learned: Learned) -> bytes:
    """Return the file's content; classes and what goes in stand in its metadata."""
    program = traced(learned, in_bytes=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=["probabilities"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever it meets
        raise ModelError(
            f"the network {learned.model!r} cannot be written as ONNX: {error}. Write it as pt2 or "
            "safetensors instead."
        ) from error
    proto = made.model_proto
    proto.producer_name, proto.producer_version = "alprune", __version__
    for name, value in description(learned).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        proto.metadata_props.add(key=name, value=text)
    _name_sizes(proto.graph)
    content: bytes = proto.SerializeToString()
    return content


def _name_sizes(graph: Any) -> None:
    """Give the sizes that are open the names that people look for in a file."""
    sizes = graph.input[0].type.tensor_type.shape.dim
    names = {
        size.dim_param: name
        for size, name in zip(sizes, ("batch", "height", "width"), strict=False)
        if size.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def run(path: Path, learned: Learned) -> Run:
    """Load a file as ONNX Runtime does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
