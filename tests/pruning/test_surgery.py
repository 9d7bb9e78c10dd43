"""Cutting channels out equals silencing them, and what remains is an ordinary model."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, images, make, random_keep, traced, vgg19

from alprune.errors import PruneError
from alprune.pruning.graph import ChannelGraph, trace
from alprune.pruning.graph.surgery import masked, narrow

TORCHVISION = [
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
    *("densenet121", "shufflenet_v2_x0_5", "resnext50_32x4d", "vgg11_bn", "convnext_tiny"),
    *("regnet_y_400mf", "squeezenet1_0", "googlenet", "swin_t"),
]


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def prepared(name: str, seed: int = 0) -> tuple[nn.Module, ChannelGraph, Tensor]:
    return without_dropout(make(name, seed)).double(), traced(name), images().double()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ZOO)
def test_narrowed_model_equals_masked_model(name: str, training: bool) -> None:
    seed = int(training)  # another mask
    model, graph, x = prepared(name, seed)
    model.train(training)
    dense = copy.deepcopy(model)(x)
    keep = random_keep(graph, seed)
    assert not bool(keep.all())
    expected = masked(model, graph, keep)(x)
    torch.testing.assert_close(narrow(model, graph, keep)(x), expected, rtol=0, atol=1e-9)
    assert (expected - dense).abs().max() > 1e-6  # the mask does silence something


@pytest.mark.parametrize("name", ZOO)
def test_gradients_of_the_kept_weights_equal_those_of_the_masked_model(name: str) -> None:
    model, graph, x = prepared(name)
    keep = random_keep(graph, 5)
    small, reference = narrow(model.train(), graph, keep), masked(model, graph, keep)
    for net in (small, reference):
        net(x).square().sum().backward()
    narrowed, whole = dict(small.named_parameters()), dict(reference.named_parameters())
    for tensor in graph.tensors:
        if not tensor.trainable or whole[tensor.name].grad is None:
            continue
        expected = whole[tensor.name].grad
        for dim, ids in tensor.axes.items():
            expected = expected.index_select(dim, graph.kept(ids, keep).nonzero()[:, 0])
        torch.testing.assert_close(narrowed[tensor.name].grad, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ZOO)
def test_all_kept_gives_the_same_model(name: str) -> None:
    model, graph, x = prepared(name)
    small = narrow(model, graph, graph.all_kept())
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True)
    )
    assert torch.equal(model(x), small(x))


@pytest.mark.parametrize("name", ZOO)
def test_a_narrowed_model_can_be_narrowed_again(name: str) -> None:
    model, graph, x = prepared(name)
    once = narrow(model, graph, random_keep(graph, 1, 0.8))
    again = trace(once, x)
    keep = random_keep(again, 2)
    twice = narrow(once, again, keep)
    torch.testing.assert_close(twice(x), masked(once, again, keep)(x), rtol=0, atol=1e-9)
    assert again.params(again.all_kept()) == graph.params(random_keep(graph, 1, 0.8))


@pytest.mark.parametrize("name", ZOO)
def test_a_narrowed_state_dict_loads_into_a_freshly_narrowed_model(name: str) -> None:
    model, graph, x = prepared(name)
    keep = random_keep(graph, 3)
    small = narrow(model, graph, keep)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    fresh, its_graph, _ = prepared(name, seed=9)
    rebuilt = narrow(fresh, its_graph, keep)
    file.seek(0)
    rebuilt.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(rebuilt(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))


@pytest.mark.parametrize("name", ZOO)
def test_size_attributes_match_the_weights(name: str) -> None:
    model, graph, _ = prepared(name)
    for module in narrow(model, graph, random_keep(graph, 4)).modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups)
            assert module.weight.shape[:2] == shape
        elif isinstance(module, nn.ConvTranspose2d):
            assert module.weight.shape[:2] == (module.in_channels, module.out_channels)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)
        elif isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
            assert module.weight_hh_l0.shape[1] == module.hidden_size
            assert module.weight_ih_l0.shape[1] == module.input_size


def test_norms_without_weights_are_resized_too() -> None:
    model, graph, _ = prepared("groupnorm")
    keep = graph.all_kept()
    keep[graph.makers["0"][0]] = False  # one normalisation group of three channels
    keep[graph.makers["3"][:2]] = False
    keep[graph.makers["6"][0]] = False
    small = narrow(model, graph, keep)
    assert (small[1].num_groups, small[1].num_channels) == (3, 9)
    assert (small[4].num_groups, small[4].num_channels) == (6, 6)
    assert small[7].num_features == 8


def test_whole_groups_of_a_grouped_convolution_leave() -> None:
    model, graph, _ = prepared("resnext")
    keep = graph.all_kept()
    keep[graph.makers["2.0"][0]] = False
    grouped = narrow(model, graph, keep)[2][0]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (7, 21, 21)


def test_a_shared_weight_stays_shared() -> None:
    model, graph, _ = prepared("shared weights")
    small = narrow(model, graph, random_keep(graph))
    assert small.first.weight is small.second.weight


def test_dtype_layout_mode_and_requires_grad_are_kept() -> None:
    model = make("vgg").to(torch.bfloat16, memory_format=torch.channels_last).train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    graph = trace(model, images().bfloat16())
    small = narrow(model, graph, random_keep(graph))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small[4].weight.is_contiguous(memory_format=torch.channels_last)
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert all(p.grad is None and p.is_leaf for p in small.parameters())


def test_the_model_is_left_as_it_was_and_shares_nothing_with_the_copies() -> None:
    model, graph, x = prepared("projection resnet")
    model.train()
    state = copy.deepcopy(model.state_dict())
    keep = random_keep(graph)
    keep[graph.groups[-1].channels] = True
    for copied in (narrow(model, graph, keep), masked(model, graph, keep)):
        for tensor in copied.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    assert model.training


def test_emptying_a_layer_is_refused_by_name() -> None:
    model = vgg19()
    graph = trace(model, torch.randn(1, 3, 32, 32), verify=False)
    keep = graph.all_kept()
    keep[graph.groups[10].channels] = False
    with pytest.raises(PruneError, match=r"group '33' would keep 0 of 512 channels of layer '33'"):
        narrow(model, graph, keep)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(35, dtype=torch.bool), r"shape \(35,\).*36 channels"),
        (torch.ones(36), "torch.float32"),
        ([True] * 36, "list"),
    ],
    ids=["shape", "dtype", "type"],
)
def test_a_wrong_keep_vector_is_refused(keep: Tensor, message: str) -> None:
    model, graph = make("vgg"), traced("vgg")
    for cut in (narrow, masked):
        with pytest.raises(PruneError, match=message):
            cut(model, graph, keep)


def test_a_graph_of_another_model_is_refused() -> None:
    graph = traced("vgg")
    with pytest.raises(PruneError, match="belongs to another model"):
        narrow(make("mlp"), graph, graph.all_kept())
    small = narrow(make("vgg"), graph, random_keep(graph))
    with pytest.raises(PruneError, match="Trace this model"):
        narrow(small, graph, graph.all_kept())


def test_packed_sequences_are_narrowed() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.rnn = nn.GRU(8, 6, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            lengths = (tokens > 0).sum(1).cpu()
            rows = nn.utils.rnn.pack_padded_sequence(
                self.embed(tokens), lengths, batch_first=True, enforce_sorted=False
            )
            out, last = self.rnn(rows)
            padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            return self.head(padded.amax(1) + last[-1])

    tokens = torch.tensor([[3, 4, 5, 0], [7, 8, 0, 0], [1, 2, 3, 4]])
    model = Packed().double()
    graph = trace(model, tokens)
    assert [len(g.channels) for g in graph.groups] == [8, 6]
    keep = random_keep(graph)
    expected = masked(model, graph, keep)(tokens)
    torch.testing.assert_close(narrow(model, graph, keep)(tokens), expected)


def test_a_narrowed_model_exports() -> None:
    model, graph, x = prepared("mobilenet")
    small = narrow(model, graph, random_keep(graph))
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), small(x))


@pytest.mark.slow
def test_a_narrowed_model_runs_as_onnx(tmp_path: object) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, graph = make("projection resnet"), traced("projection resnet")
    small = narrow(model, graph, random_keep(graph))
    path = str(tmp_path / "small.onnx")  # type: ignore[operator]
    torch.onnx.export(small, (images(),), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(
        torch.from_numpy(out), small(images()).detach(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_narrowed_torchvision_model_equals_masked_model(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    options = {"init_weights": True} if name == "googlenet" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(num_classes=10, **options).eval().double()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    graph = trace(model, x)
    assert graph.channels > 1000
    keep = random_keep(graph)
    small, reference = narrow(model, graph, keep), masked(model, graph, keep)
    expected = reference(x)
    assert (small(x) - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert sum(p.numel() for p in small.parameters()) == graph.params(keep)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_hooks_compute_get_their_new_size_and_modes_stay() -> None:
    first, second = (nn.utils.weight_norm(nn.Conv2d(*widths, 3)) for widths in ((3, 8), (8, 6)))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    model = nn.Sequential(first, nn.ReLU(), second, nn.Dropout(), last).eval()
    model[3].train()  # as for an estimate by dropout
    graph = trace(model, images())
    small = narrow(model, graph, random_keep(graph))
    for layer, whole in zip((small[0], small[2]), (first, second), strict=True):
        assert layer.weight.shape == layer.weight_v.shape
        assert len(layer.weight) == layer.out_channels < whole.out_channels
    modes = [[module.training for module in network.modules()] for network in (model, small)]
    assert modes[0] == modes[1] and sum(modes[0]) == 1
