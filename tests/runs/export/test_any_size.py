"""The resize in exported files, value by value against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alprune.runs.export.any_size import AnySize

SIZES = [(160, 160), (32, 32), (97, 201), (300, 225), (96, 128), (128, 300), (3, 500), (128, 96)]
TARGET = (128, 96)


def photo(size):
    """Draw smooth stripes and noise, `(1, h, w, 3)` uint8."""
    h, w = size
    draws = np.random.default_rng(0)
    wave = 90 * np.sin(np.arange(h)[:, None, None] / 7 + np.arange(w)[None, :, None] / 11)
    return np.uint8(128 + wave + draws.integers(-30, 31, (h, w, 3)))[None]


def by_pillow(images):
    resized = Image.fromarray(images[0]).resize(TARGET[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(int)[None]


@pytest.mark.parametrize("size", SIZES)
def test_floating_point_is_pillows_resize_but_for_values_halfway_between(size):
    images = photo(size)
    found = AnySize(nn.Identity(), TARGET, in_bytes=False)(torch.from_numpy(images)).numpy()
    apart = np.abs(found.astype(int) - by_pillow(images))
    assert apart.max() <= 2 and (apart > 0).mean() < 0.08


def test_onnx_runtime_resizes_bytes_as_pillow_does_to_a_step(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = AnySize(nn.Identity(), TARGET, in_bytes=True), tmp_path / "resize.onnx"
    shapes = ({1: torch.export.Dim("height", min=1), 2: torch.export.Dim("width", min=1)},)
    example = (torch.zeros(1, 20, 30, 3, dtype=torch.uint8),)
    program = torch.export.export(model, example, dynamic_shapes=shapes)
    torch.onnx.export(program, input_names=["images"], dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in SIZES:
        images = photo(size)
        [found] = session.run(None, {"images": images})
        apart = np.abs(found.astype(int) - by_pillow(images))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.06
