"""Every learner of the registry can be traced, cut, copied, saved, rebuilt and exported."""

import copy
import io

import pytest
import torch

from alprune.models import MODELS, build
from alprune.pruning import Plan, narrow, rebuild, trace
from alprune.pruning.graph.surgery import masked

# What takes more than a few seconds on one core, or is a larger version of another network.
LARGE = {"alexnet-b", "efficientnet-b0", "efficientnet-lite0", "mobilenet-v1", "mobilenet-v2",
         "resnet34", "resnet50", "vgg-c", "vgg-d", "vgg-like", "wideresnet20", "wrn-16-8",
         "wrn-16-10", "wrn-22-8"}  # fmt: skip
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in MODELS]
TORCHVISION = [
    pytest.param(f"torchvision:{name}", marks=pytest.mark.slow)
    for name in ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
                 "densenet121", "shufflenet_v2_x0_5", "convnext_tiny", "regnet_y_400mf")
]  # fmt: skip


def shape_of(name):
    """The images of a network, or smaller ones where it takes them."""
    if name not in MODELS:
        return (3, 64, 64)
    channels, *sides = MODELS[name].input_shape
    least = max(16, MODELS[name].least)
    return (channels, *(least if channels == 3 else side for side in sides))


def case(name):
    shape = shape_of(name)
    model = build(name, 10, shape, seed=1).eval()
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    graph = trace(model, example)
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(graph.channels, generator=generator) > 0.4
    for group in graph.groups:  # nothing may be emptied
        keep[group.channels[:2]] = True
    return model, example, graph, keep, shape


@pytest.fixture(scope="module", params=NAMES + TORCHVISION)
def named(request):
    """A network's name and its case, which tests leave as it is."""
    return request.param, case(request.param)


def test_the_narrowed_network_equals_the_masked_one_forward_and_backward(named):
    _, (model, example, graph, keep, _) = named
    # In float32 rounding alone can move a max-pooling's choice and with it a gradient.
    model, example = copy.deepcopy(model).double(), example.double()
    assert graph.channels > 0
    small, silent = narrow(model, graph, keep), masked(model, graph, keep)
    out, expected = small(example), silent(example)
    scale = expected.abs().max().clamp_min(1)
    assert torch.allclose(out / scale, expected / scale, atol=1e-9)
    out.square().sum().backward()
    expected.square().sum().backward()
    gradients = {n: p.grad for n, p in silent.named_parameters() if p.grad is not None}
    compared = 0
    for name_, parameter in small.named_parameters():
        tensor = next((t for t in graph.tensors if t.name == name_), None)
        if tensor is None or parameter.grad is None:
            continue
        wanted = gradients[name_]
        for dim, ids in tensor.axes.items():
            wanted = wanted.index_select(dim, torch.nonzero(graph.kept(ids, keep))[:, 0])
        size = wanted.abs().max().clamp_min(1)
        assert torch.allclose(parameter.grad / size, wanted / size, atol=1e-9), name_
        compared += 1
    assert compared > 2


def test_a_pruned_checkpoint_loads_from_name_plan_and_safe_state(named):
    name, (model, example, graph, keep, shape) = named
    small = narrow(model, graph, keep)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    plan = Plan.from_json(Plan.of(graph, keep).to_json())
    again = rebuild(build(name, 10, shape, seed=9), plan, state).eval()
    twin = copy.deepcopy(small)
    with torch.no_grad():
        expected = small(example)
        assert torch.equal(again(example), expected)
        assert torch.equal(twin(example), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18"])
def test_a_pruned_network_is_exported_by_torch_and_to_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, example, graph, keep, _ = case(name)
    small = narrow(model, graph, keep).eval()
    with torch.no_grad():
        expected = small(example)
        exported = torch.export.export(small, (example,))
        assert torch.allclose(exported.module()(example), expected, atol=1e-4)
    path = tmp_path / "pruned.onnx"
    torch.onnx.export(small, (example,), str(path), dynamo=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: example.numpy()})[0]
    scale = expected.abs().max().clamp_min(1)
    assert torch.allclose(torch.from_numpy(got) / scale, expected / scale, atol=1e-4)
