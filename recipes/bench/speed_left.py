"""Ways to train and score faster, each as a ratio to what alprune does, in turns.

    python recipes/bench/speed_left.py                  # two minutes, downloads nothing
    python recipes/bench/speed_left.py --model resnet9-small --method dense --threads 2

Scoring: the network with its BatchNorm folded, channels-last, 64 images at a time, in the precision
that runs take here (`--precision auto`); against it the network frozen by TorchScript, ONNX Runtime
in fp32 and in int8 (static, per channel, calibrated on one chunk), other precisions,
channels-first, larger chunks, and the network before folding. Training: steps of 64 images,
channels-last; against them channels-first, the other precision, other batches and, where there is a
C++ compiler, torch.compile, by images per second. `agreement` is the rank correlation of the
entropies with those of fp32: a score needs only the ranking.
"""

import argparse
import copy
import logging
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import alprune
from alprune.models import MODELS, build
from alprune.training.device import autocast, pick_precision
from alprune.training.fold_batchnorm import fold

CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNK = 64
ROUNDS = 7


def entropy(logits: Tensor) -> Tensor:
    """Return the entropies `(b,)` in nats."""
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def in_onnx_runtime(network: nn.Module, x: Tensor, quantised: bool) -> Callable[[Tensor], Tensor]:
    """Return the network as a session of ONNX Runtime."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class OneChunk(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": x.numpy()}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (x,), path, input_names=["x"], dynamo=True, verbose=False)
        if quantised:
            small = path.with_name("int8.onnx")
            quantize_static(path, small, OneChunk(), per_channel=True, weight_type=QuantType.QInt8)
            path = small
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options)
    return lambda images: torch.from_numpy(session.run(None, {"x": images.numpy()})[0])


def in_precision(network: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """Return the network as it computes in a precision."""

    def call(images: Tensor) -> Tensor:
        with autocast(CPU, PRECISIONS[name]):
            return network(images)

    return call


def scorers(model: nn.Module, x: Tensor, usual: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways to score; the first is alprune's, in its usual precision."""
    folded = fold(model, x[:2]).model.to(memory_format=torch.channels_last)
    first = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)
    cast = copy.deepcopy(folded).to(PRECISIONS[usual])
    traced = torch.jit.trace(cast, x.to(PRECISIONS[usual]))
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return {
        "folded": in_precision(folded, usual),
        "not folded": in_precision(model, usual),
        "channels-first": in_precision(lambda images: first(images.contiguous()), usual),
        "TorchScript, frozen": lambda images: frozen(images.to(PRECISIONS[usual])),
        "ONNX Runtime, fp32": in_onnx_runtime(first, x, quantised=False),
        "ONNX Runtime, int8": in_onnx_runtime(first, x, quantised=True),
    } | {name: in_precision(folded, name) for name in PRECISIONS if name != usual}


def step_of(
    model: nn.Module, layout: torch.memory_format, precision: str, compiled: bool = False
) -> Callable[[Tensor], None]:
    """Return a training step on images."""
    own = copy.deepcopy(model).train().to(memory_format=layout)
    forward = torch.compile(own) if compiled else own
    optimiser = torch.optim.SGD(own.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)

    def step(images: Tensor) -> None:
        with autocast(CPU, PRECISIONS[precision]):
            logits = forward(images.to(memory_format=layout))
            loss = nn.functional.cross_entropy(logits, torch.arange(len(images)) % 10)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def compare(ways: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Time ways `{name: (call, images in it)}` in turns; return how often as fast as the first."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        speeds = {}
        for name, (call, images) in ways.items():
            begin = time.perf_counter()
            call()
            speeds[name] = images / (time.perf_counter() - begin)
        base = next(iter(speeds.values()))
        if round_:
            for name, speed in speeds.items():
                ratios[name].append(speed / base)
    return {name: statistics.median(found) for name, found in ratios.items()}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--method", default="3sp-ca")
    parser.add_argument("--flops-reduction", type=float, default=0.9, help="not with dense")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    usual = "bf16" if pick_precision("auto", CPU) == torch.bfloat16 else "fp32"
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    shape = MODELS[args.model].input_shape
    network = build(args.model, 10, shape)
    batch = torch.randn(32, *shape), torch.arange(32) % 10
    asked: dict[str, Any] = {}
    if args.method != "dense":
        asked = {"flops_reduction": args.flops_reduction, "round_to": 0, "min_channels": 0}
    model = alprune.prune(network, args.method, batch=batch, after="reinit", **asked).model

    images = torch.randn(4 * CHUNK, *shape).to(memory_format=torch.channels_last)
    chunks = images.split(CHUNK)
    with torch.inference_mode():
        for _ in range(5):
            model.train()(images)  # statistics, so that folding has something to fold
        model.eval()
        ways = scorers(model, chunks[0], usual)
        truth = entropy(model(images))
        scoring = {
            name: (lambda score=score: [score(chunk) for chunk in chunks], len(images))
            for name, score in ways.items()
        }
        scoring["chunks of 256"] = (lambda: ways["folded"](images), len(images))
        print(f"scoring, times as fast as the folded network in chunks of 64, {usual}")
        for name, ratio in compare(scoring).items():
            found = entropy(torch.cat([ways.get(name, ways["folded"])(c) for c in chunks]))
            print(f"  {name:24}{ratio:6.2f}   agreement {spearmanr(truth, found)[0]:.4f}")

    other = "fp32" if usual == "bf16" else "bf16"
    step = step_of(model, torch.channels_last, usual)
    steps = {
        "channels-last": (step, CHUNK),
        "channels-first": (step_of(model, torch.contiguous_format, usual), CHUNK),
        other: (step_of(model, torch.channels_last, other), CHUNK),
        "batches of 32": (step, CHUNK // 2),
        "batches of 256": (step, 4 * CHUNK),
    }
    if shutil.which("c++"):
        compiled = step_of(model, torch.channels_last, usual, compiled=True)
        steps["torch.compile"] = (compiled, CHUNK)
    training = {
        name: (lambda step=step, size=size: [step(images[:size]) for _ in range(3)], 3 * size)
        for name, (step, size) in steps.items()
    }
    print(f"training, images a second, times as many as in batches of 64, channels-last, {usual}")
    for name, ratio in compare(training).items():
        print(f"  {name:24}{ratio:6.2f}")


if __name__ == "__main__":
    main()
