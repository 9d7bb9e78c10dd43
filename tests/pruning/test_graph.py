"""The channel graph: what it finds, what it counts, what it refuses, what it leaves alone."""

import copy
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, ResNet, conv, head, images, make, random_keep, traced, vgg19

import alprune
from alprune.errors import ModelError, PruneError
from alprune.pruning.graph import ChannelGraph, trace
from alprune.pruning.graph.surgery import masked, narrow

TORCHVISION = {  # prunable channels of the torchvision models, as Torch-Pruning finds them
    "resnet18": 2880,
    "mobilenet_v2": 9128,
    "mobilenet_v3_small": 4872,
    "densenet121": 10240,
    "resnet50": 11456,
    "efficientnet_b0": 11404,
}


def torchvision_model(name: str) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(torchvision.models, name)(num_classes=10).eval()


@pytest.fixture(scope="module")
def vgg_graph() -> ChannelGraph:
    return trace(vgg19(), torch.randn(2, 3, 32, 32))


def test_vgg19_has_the_published_size(vgg_graph: ChannelGraph) -> None:
    everything = vgg_graph.all_kept()
    assert vgg_graph.channels == 7040
    assert vgg_graph.macs(everything) == 400_757_760
    assert vgg_graph.params(everything) == 22_663_498
    assert [len(g.channels) for g in vgg_graph.groups] == (
        [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8 + [1024, 512]
    )
    assert [p.name for p in vgg_graph.pinned] == ["54.4"]
    assert vgg_graph.example_shape == (3, 32, 32)


def test_an_index_of_several_channels_stays_where_all_of_them_do(vgg_graph: ChannelGraph) -> None:
    keep = torch.zeros(vgg_graph.channels, dtype=torch.bool)
    keep[[0, 2]] = True
    grid = torch.tensor([[0, 0, 1, 1, -1], [2, 3, 2, 3, 2]])  # heads and places; -1 always stays
    assert vgg_graph.kept(grid, keep).tolist() == [True, False, False, False, True]
    assert vgg_graph.kept(grid[0], keep).tolist() == [True, True, False, False, True]


def test_removing_one_vgg19_channel_costs_what_its_rows_and_columns_cost(
    vgg_graph: ChannelGraph,
) -> None:
    everything = vgg_graph.all_kept()
    keep = everything.clone()
    keep[3] = False  # of the first convolution: a 3x3x3 filter made, 64 3x3 slices read
    gone_macs = 1024 * 27 + 1024 * 64 * 9
    gone_params = 27 + 1 + 2 + 64 * 9
    assert vgg_graph.macs(everything) - vgg_graph.macs(keep) == gone_macs
    assert vgg_graph.params(everything) - vgg_graph.params(keep) == gone_params
    assert vgg_graph.widths(keep) == {**vgg_graph.widths(everything), "0": 63}


@pytest.mark.parametrize("name", ZOO)
def test_groups_partition_the_ids_and_tensors_cover_the_state(name: str) -> None:
    model, graph = make(name), traced(name)
    ids = [i for group in graph.groups for i in group.channels.tolist()]
    assert ids == list(range(graph.channels))
    assert all(i in graph.groups[int(graph.group_of[i])].channels for i in ids)
    assert len({group.name for group in graph.groups}) == len(graph.groups)
    assert {t.name for t in graph.tensors} == set(dict(model.named_parameters())) | set(
        dict(model.named_buffers())
    )
    read: set[int] = set()
    for tensor in graph.tensors:
        for dim, axis in tensor.axes.items():
            assert axis.shape[-1] == tensor.shape[dim] and axis.dtype == torch.int64
            assert -1 <= int(axis.min()) and 0 <= int(axis.max()) < graph.channels
            if tensor.roles[dim] == "reads":
                read.update(axis.reshape(-1).tolist())
    for mix in graph.mixes:
        for axis in mix.axes.values():
            read.update(axis.reshape(-1).tolist())
    assert read >= set(ids)  # a mask stands where a channel is read: each must be read somewhere


@pytest.mark.parametrize("name", ZOO)
def test_one_channel_of_every_group_suffices(name: str) -> None:
    model, graph, x = make(name), traced(name), images()
    keep = torch.zeros(graph.channels, dtype=torch.bool)
    for group in graph.groups:
        keep[group.channels[-1]] = True
    assert narrow(model, graph, keep)(x).shape == (3, 5)
    assert min(graph.widths(keep).values()) >= 1


@pytest.mark.parametrize(
    "name", [n for n in ZOO if not any(k in n for k in ("lstm", "gru", "rnn", "attention"))]
)
def test_analytic_macs_and_params_equal_a_count_on_the_narrowed_model(name: str) -> None:
    model, graph, x = make(name), traced(name), images(3)
    for seed in range(2):
        keep = random_keep(graph, seed)
        small = narrow(model, graph, keep)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            small(x)
        assert counter.get_total_flops() == 2 * 3 * graph.macs(keep)
        assert sum(p.numel() for p in small.parameters()) == graph.params(keep)


def test_recurrent_macs_count_every_time_step() -> None:
    graph = traced("two-layer bidirectional lstm")
    keep = graph.all_kept()
    recurrent = 16 * 2 * 4 * 10 * ((48 + 10) + (20 + 10))
    assert graph.macs(keep) == recurrent + 20 * 12 + 12 * 5
    keep[graph.groups[0].channels[:3]] = False  # 7 units in every layer and direction
    assert graph.macs(keep) == 16 * 2 * 4 * 7 * ((48 + 7) + (14 + 7)) + 14 * 12 + 12 * 5


def test_macs_do_not_depend_on_the_batch_of_the_example() -> None:
    model = make("projection resnet")
    graphs = [trace(model, images(count)) for count in (1, 2, 5)]
    assert len({g.macs(g.all_kept()) for g in graphs}) == 1


def test_a_weight_used_twice_counts_twice_and_stands_once() -> None:
    graph = traced("shared weights")
    loop = next(t for t in graph.tensors if t.name == "loop.weight")
    assert loop.macs_per_element == 2 * 16 * 16
    assert torch.equal(loop.axes[0], loop.axes[1])
    assert sum(t.name.endswith(("first.weight", "second.weight")) for t in graph.tensors) == 1


def test_option_a_shortcuts_pin_the_padded_channels_and_couple_the_rest() -> None:
    graph = traced("option-a resnet")
    makers = graph.makers
    assert torch.equal(makers["stages.2.conv2.0"][4:12], makers["stem.0"])
    assert set(makers["stages.2.conv2.0"][[0, 1, 2, 3, 12, 13, 14, 15]].tolist()) == {-1}
    assert torch.equal(makers["stages.4.conv2.0"][8:24], makers["stages.3.conv2.0"])


def test_residual_additions_share_one_id() -> None:
    graph = traced("projection resnet")
    assert torch.equal(graph.makers["stem.0"], graph.makers["stages.0.conv2.0"])
    assert torch.equal(graph.makers["stages.2.shortcut.0"], graph.makers["stages.3.conv2.0"])


def test_squeeze_and_excite_and_depthwise_share_one_id() -> None:
    graph = traced("mobilenet")
    assert torch.equal(graph.makers["2.expand.0"], graph.makers["2.excite"])
    depthwise = next(t for t in graph.tensors if t.name == "2.depthwise.0.weight")
    assert torch.equal(depthwise.axes[0], graph.makers["2.expand.0"])
    assert depthwise.roles[0] == "follows"


def test_group_normalisation_groups_leave_together() -> None:
    graph = traced("groupnorm")
    assert graph.makers["0"].view(4, 3).unique(dim=1).shape == (4, 1)
    assert graph.makers["9"].tolist() == [-1] * 8
    assert "group_norm normalises" in next(p.reason for p in graph.pinned if p.name == "9")


def test_gates_of_one_lstm_unit_share_one_id() -> None:
    graph = traced("lstm")
    tensors = {t.name: t for t in graph.tensors}
    assert torch.equal(tensors["rnn.weight_ih_l0"].axes[0], graph.makers["rnn"].repeat(4))
    assert torch.equal(tensors["rnn.weight_hh_l0"].axes[1], graph.makers["rnn"])
    assert torch.equal(tensors["hidden.weight"].axes[1], graph.makers["rnn"])


def test_layer_scale_and_positional_embeddings_follow() -> None:
    graph = traced("scaled")
    tensors = {t.name: t for t in graph.tensors}
    for name, dim in (("scale", 0), ("positions", 2)):
        assert torch.equal(tensors[name].axes[dim], graph.makers["embed"])
        assert tensors[name].roles == {dim: "follows"}


def test_what_is_not_known_is_pinned_with_a_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.head = conv(3, 6), conv(6, 7), head(7)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mid(torch.special.i0e(self.stem(x))))

    graph = trace(Odd(), images())
    assert [g.name for g in graph.groups] == ["mid.0"]
    reason = next(p.reason for p in graph.pinned if p.name == "stem.0")
    assert "special_i0e" in reason and "not an operation" in reason


def test_a_width_written_into_the_forward_is_found_by_trying() -> None:
    model, x = make("hard-coded view"), images()
    assert trace(model, x, verify=False).channels == 14
    graph = traced("hard-coded view")
    assert [g.name for g in graph.groups] == ["mid.0"]
    assert "narrowed forward failed" in next(p.reason for p in graph.pinned if p.name == "stem.0")


def test_an_opaque_step_is_found_by_trying() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.head = conv(3, 6), conv(6, 7), head(7)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            swapped = torch.from_numpy(x.detach().numpy()[:, ::-1].copy())
            return self.head(self.mid(swapped) + self.mid(x))

    graph = trace(Opaque(), images())
    assert [g.name for g in graph.groups] == ["mid.0"]


class TwoHeads(nn.Module):
    """Returns a dict, and runs an auxiliary head only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid = conv(3, 6), conv(6, 8)
        self.heads, self.aux = nn.ModuleList([head(8), head(8)]), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.stem(x)
        y = F.relu(self.mid(F.relu(a)))
        out = {"a": self.heads[0](y), "b": self.heads[1](y)}
        if self.training:
            out["aux"] = self.aux(a.mean((2, 3)))
        return out


def test_a_dict_of_outputs_and_a_head_for_training_only() -> None:
    model, x = TwoHeads(), images()
    graph = trace(model, x)
    assert graph.channels == 14
    assert {p.name for p in graph.pinned} == {"heads.0.2", "heads.1.2", "aux"}
    small = narrow(model, graph, random_keep(graph)).train()
    assert small(x)["aux"].shape == (3, 4)
    aux = next(t for t in graph.tensors if t.name == "aux.weight")
    assert aux.macs_per_element == 0


def test_control_flow_on_shapes_is_followed_as_it_runs() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.head = conv(3, 6), conv(6, 7), head(7)

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 3
            y = self.stem(x)
            y = F.relu(y) if x.shape[-1] > 1000 else F.silu(y)
            if y.isnan().any():
                raise ValueError("diverged")
            return self.head(self.mid(y))

    assert trace(Branching(), images()).channels == 13


def test_dropout_that_stays_on_does_not_stop_the_trace() -> None:
    class AlwaysDropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 6), head(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(F.relu(self.stem(x)), 0.5, training=True))

    assert trace(AlwaysDropping(), images()).channels == 6


def test_frozen_parameters_are_pruned_too() -> None:
    model = make("vgg").requires_grad_(False)
    graph = trace(model, images())
    assert graph.channels == 36
    assert not any(p.requires_grad for p in narrow(model, graph, random_keep(graph)).parameters())


@pytest.mark.parametrize(
    ("normed", "groups"),
    [
        (nn.utils.parametrizations.weight_norm, ["4", "10"]),  # each row has a norm of its own
        (nn.utils.parametrizations.spectral_norm, ["10"]),
    ],
)
def test_what_a_computed_weight_normalises_over_is_pinned_and_counted(
    normed: Callable[[nn.Module], nn.Module], groups: list[str]
) -> None:
    plain = make("vgg")
    model = copy.deepcopy(plain)
    model[4] = normed(model[4])
    graph = trace(model, images(), normalised="pinned")
    assert [g.name for g in graph.groups] == groups
    assert graph.macs(graph.all_kept()) == (g := traced("vgg")).macs(g.all_kept())
    keep = random_keep(graph)
    small, reference = narrow(model, graph, keep), masked(model, graph, keep)
    torch.testing.assert_close(small(images()), reference(images()))


@pytest.mark.parametrize("wrap", ["compile", "parallel"])
def test_wrappers_are_taken_off(wrap: str) -> None:
    model = make("vgg")
    wrapped = torch.compile(model) if wrap == "compile" else nn.DataParallel(model)
    graph = trace(wrapped, images())
    assert [g.name for g in graph.groups] == [g.name for g in traced("vgg").groups]
    assert type(narrow(wrapped, graph, random_keep(graph))) is nn.Sequential


def test_a_model_with_nothing_prunable_has_an_empty_graph_that_says_why() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    graph = trace(model, images())
    assert graph.channels == 0 and graph.groups == ()
    assert graph.pinned[0].reason == "output of the model"
    assert graph.macs(graph.all_kept()) == 768 * 5
    assert narrow(model, graph, graph.all_kept())(images()).shape == (3, 5)


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (make("vgg"), torch.randn(2, 4, 16, 16), "fails on an example of shape"),
        (make("vgg"), [1, 2], "must be a tensor"),
        (make("vgg"), torch.randn(0, 3, 16, 16), "b >= 1"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), images(), "not initialised"),
    ],
    ids=["shape", "type", "empty", "lazy"],
)
def test_unusable_input_is_refused_clearly(model: nn.Module, example: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(model, example)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_was_scripted_or_exported_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="TorchScript"):
        trace(torch.jit.trace(make("vgg"), images()), images())
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 6)), (torch.randn(2, 4),)).module()
    inside = nn.Sequential(nn.Linear(4, 4), exported, nn.Linear(6, 3))
    for model, where in ((exported, "the network"), (inside, "'1'")):
        with pytest.raises(ModelError, match=f"{where} cannot change.*was exported"):
            alprune.prune(model, batch=(torch.randn(4, 4), torch.arange(4) % 3))


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Silent(nn.Linear):
        def forward(self, x: Tensor) -> None:  # type: ignore[override]
            super().forward(x)

    with pytest.raises(ModelError, match="returned NoneType"):
        trace(Silent(3, 3), torch.randn(2, 3))


class Cached(nn.Module):
    """Keeps a tensor that was computed from a parameter before the forward."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.stem, self.mid, self.head = conv(3, 6), conv(6, 7), head(7)
        self.cached, self.used = self.stem[0].weight.sum((1, 2, 3)) * 2, used

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.mid(x * self.cached[:, None, None] if self.used else x))


def test_a_tensor_computed_from_a_parameter_before_the_forward_is_refused_by_name() -> None:
    assert trace(Cached(used=False), images()).channels == 13
    with pytest.raises(ModelError, match="'cached' is a tensor computed from parameters"):
        trace(Cached(used=True), images())


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = make("vgg")
    model.handle = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(ModelError, match="cannot be deep-copied"):
        trace(model, images())


def test_a_keep_vector_of_another_shape_or_dtype_is_refused(vgg_graph: ChannelGraph) -> None:
    with pytest.raises(PruneError, match=r"expected \(7040,\)"):
        vgg_graph.macs(torch.ones(3, dtype=torch.bool))
    with pytest.raises(PruneError, match="torch.bool"):
        vgg_graph.params(torch.ones(7040))


@pytest.mark.parametrize("fails", [False, True])
def test_tracing_leaves_the_model_and_the_random_state_as_they_were(fails: bool) -> None:
    model = make("projection resnet")
    model.train()
    model.stem.eval()
    model(images()).sum().backward()
    model.head.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    attributes = [set(vars(p)) for p in model.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    random_state = torch.get_rng_state()
    if fails:
        with pytest.raises(ModelError):
            trace(model, torch.randn(2, 5, 16, 16, generator=torch.Generator()))
    else:
        trace(model, images())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert modes == [m.training for m in model.modules()]
    assert attributes == [set(vars(p)) for p in model.parameters()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_tracing_is_deterministic() -> None:
    a, b = (trace(make("mobilenet"), images()) for _ in range(2))
    for left, right in zip(a.tensors, b.tensors, strict=True):
        assert left.name == right.name
        assert all(torch.equal(left.axes[d], right.axes[d]) for d in left.axes)


Slot = tuple[str, str, int]


def our_slots(model: nn.Module, graph: ChannelGraph) -> dict[int, set[Slot]]:
    """Map each channel to the (module, side, index) of conv, linear and norm layers it owns."""
    modules = dict(model.named_modules())
    slots: dict[int, set[Slot]] = defaultdict(set)
    for tensor in graph.tensors:
        module, _, leaf = tensor.name.rpartition(".")
        if leaf == "weight" and not isinstance(modules[module], nn.PReLU):
            for dim, ids in tensor.axes.items():
                for index, channel in enumerate(ids.tolist()):
                    slots[channel].add((module, "out" if dim == 0 else "in", index))
    return slots


def their_slots(model: nn.Module, graph: object, name: str, index: int) -> set[Slot]:
    """Ask Torch-Pruning what leaves with output `index` of layer `name`."""
    layer = model.get_submodule(name)
    tp = pytest.importorskip("torch_pruning")
    linear = isinstance(layer, nn.Linear)
    prune = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
    names = {module: name for name, module in model.named_modules()}
    found: set[Slot] = set()
    group = graph.get_pruning_group(layer, prune, [index])  # type: ignore[attr-defined]
    for dependency, indices in group:
        module = dependency.target.module
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)):
            side = "in" if dependency.handler.__name__.endswith("in_channels") else "out"
            found |= {(names[module], side, i) for i in indices}
    return found


def assert_agrees_with_torch_pruning(model: nn.Module, x: Tensor, samples: int) -> None:
    tp = pytest.importorskip("torch_pruning")
    graph = trace(model, x)
    theirs = tp.DependencyGraph().build_dependency(copy.deepcopy(model).eval(), x)
    reference = theirs.model
    slots = our_slots(model, graph)
    generator = torch.Generator().manual_seed(0)
    for group in graph.groups:
        for _ in range(samples):
            pick = int(torch.randint(len(group.channels), (), generator=generator))
            channel = int(group.channels[pick])
            name = group.name.partition("#")[0]
            index = int((graph.makers[name] == channel).nonzero()[0])
            assert their_slots(reference, theirs, name, index) == slots[channel]


@pytest.mark.parametrize(
    "name", ["vgg", "projection resnet", "wide resnet", "densenet", "mobilenet"]
)
def test_channels_agree_with_torch_pruning(name: str) -> None:
    assert_agrees_with_torch_pruning(make(name), images(), samples=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_channels_agree_with_torch_pruning(name: str) -> None:
    model, x = torchvision_model(name), torch.randn(2, 3, 64, 64)
    assert trace(model, x).channels == TORCHVISION[name]
    assert_agrees_with_torch_pruning(model, x, samples=1)


def test_a_deeper_resnet_has_the_channels_of_torch_pruning() -> None:
    resnet20 = ResNet("project", blocks=3, width=16)
    assert trace(resnet20, images()).channels == 448


@pytest.mark.parametrize("name", ["vgg", "option-a resnet", "gru"])
@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: torch.inference_mode(),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["inference", "autocast", "another default device"],
)
def test_the_surroundings_of_the_call_do_not_matter(
    name: str, surroundings: Callable[[], AbstractContextManager[object]]
) -> None:
    model, x = make(name), images()
    if name == "gru":
        x = x.requires_grad_()
    plain = traced(name)
    keep = random_keep(plain)
    with surroundings():
        graph = trace(model, x)
        small = narrow(model, graph, keep)
        assert graph.macs(keep) == plain.macs(keep)
    for left, right in zip(graph.tensors, plain.tensors, strict=True):
        assert all(torch.equal(left.axes[d], right.axes[d]) for d in left.axes)
    torch.testing.assert_close(small(x), masked(model, plain, keep)(x))
