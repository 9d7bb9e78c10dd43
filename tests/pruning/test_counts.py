"""The search counts the same multiply-accumulates as the report, which runs the network."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.models import MODELS, build
from alprune.models.cost import cost
from alprune.pruning import prune, trace
from alprune.pruning.api import _cut
from alprune.pruning.graph import narrow
from alprune.pruning.methods import Request


class Attending(nn.Module):
    """nn.MultiheadAttention, attention by hand, by einsum and by a function of torch's."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 24)
        self.mix = nn.Parameter(torch.randn(24, 20) / 5)
        self.bias = nn.Parameter(torch.zeros(12))
        self.last = nn.Parameter(torch.randn(20, 12) / 5)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.first(self.patches(x).flatten(2).mT)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q @ k.mT * 0.5).softmax(-1) @ v
        x = self.out(x.transpose(1, 2).reshape(b, n, -1)).relu()
        x = torch.einsum("bnc,cd->bnd", x, self.mix).relu().mean(1)
        return self.head(torch.addmm(self.bias, x, self.last).relu())


class Functional(nn.Module):
    """Weights used by functions only, one of them computed."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(12, 3, 3, 3) / 5)
        self.b = nn.Parameter(torch.randn(16, 12, 3, 3) / 10)
        self.hidden = nn.utils.parametrizations.weight_norm(nn.Linear(16, 20))
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        x = F.conv2d(F.conv2d(x, self.a, padding=1).relu(), self.b, padding=1).relu()
        return self.head(self.hidden(x.mean((2, 3))).relu())


class ForAnyBatch(nn.Module):
    """Work that a batch of any size costs once, and work that each example or pair costs."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.table = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 12))
        self.query = nn.Parameter(torch.randn(1, 4, 12))
        self.project = nn.Linear(12, 12)
        self.down, self.up = nn.Linear(12, 3, bias=False), nn.Linear(3, 16, bias=False)
        self.base = nn.Linear(12, 16)
        self.head = nn.Linear(16, 10)
        self.register_buffer("places", torch.rand(16, 2))

    def forward(self, x):
        x = self.patches(x).flatten(2).mT + self.table(self.places)
        query = self.project(self.query.expand(len(x), -1, -1))
        x = (query @ x.mT).softmax(-1) @ x
        x = F.linear(x, self.base.weight + self.up.weight @ self.down.weight).relu().mean(1)
        alike = (x @ x.T).softmax(-1)
        return self.head(x) + alike.sum(-1, keepdim=True)


class Filters(nn.Module):
    """Filters that are computed, of whole groups and of single channels, and einsum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Parameter(torch.randn(24, 3, 3, 3) / 5)
        self.single = nn.Parameter(torch.randn(24, 1, 3, 3) / 3)
        self.gain = nn.Parameter(torch.rand(24) + 0.5)
        self.a, self.b = nn.Parameter(torch.randn(24, 6)), nn.Parameter(torch.randn(6, 20) / 5)
        self.last = nn.Linear(20, 10)

    def forward(self, x):
        x = F.conv2d(self.stem(x).relu(), 2 * self.grouped, padding=1, groups=4).relu()
        x = F.conv2d(x, 2 * self.single, padding=1, groups=x.shape[1]).relu()
        x = torch.einsum("bchw,c->bchw", x, self.gain).mean((2, 3))
        return self.last(torch.einsum("bc,cr,rd->bd", x, self.a, self.b).relu())


NETWORKS = {
    "attending": (Attending, (3, 16, 16)),
    "functional": (Functional, (3, 12, 12)),
    "for any batch": (ForAnyBatch, (3, 16, 16)),
    "filters": (Filters, (3, 8, 8)),
}
SMALL = ["resnet20", "lstm-s", "gru-s", "mobilenet-v3-small", "lenet-5-caffe"]
LIBRARIES = """torchvision:vit_b_32 torchvision:swin_t torchvision:maxvit_t
    torchvision:convnext_tiny
    torchvision:shufflenet_v2_x0_5 torchvision:regnet_y_400mf torchvision:googlenet
    timm:vit_tiny_patch16_224 timm:deit_tiny_distilled_patch16_224 timm:mobilevit_xxs
    timm:efficientvit_b0 timm:edgenext_xx_small timm:convnextv2_atto timm:fasternet_t0
    timm:shvit_s1 timm:mambaout_femto timm:nf_resnet26 timm:levit_128s timm:res2net50_14w_8s
    timm:xcit_nano_12_p16_224 timm:botnet26t_256 timm:mixer_s32_224 timm:pvt_v2_b0""".split()


def made(name):
    torch.manual_seed(0)
    if name in NETWORKS:
        network, shape = NETWORKS[name]
        return network(), shape
    shape = MODELS[name].input_shape if name in MODELS else (3, 64, 64)
    if name == "torchvision:maxvit_t" or "256" in name:
        shape = (3, 224, 224) if "maxvit" in name else (3, 256, 256)
    return build(name, 10, shape, seed=0), shape


@pytest.mark.parametrize(
    "name",
    [*NETWORKS, *SMALL]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in [*sorted(set(MODELS) - set(SMALL)), *LIBRARIES]
    ],
)
@pytest.mark.parametrize("normalised", ["pinned", "follow"])
def test_the_search_counts_what_the_report_counts(name, normalised):
    model, shape = made(name)
    batch = (torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)), torch.arange(4))
    graph = trace(model, batch[0], normalised=normalised)
    assert graph.macs(graph.all_kept()) == cost(model, batch[0]).macs
    if not graph.channels:  # all of them are normalised
        assert normalised == "pinned" and graph.pinned
        return
    share = min(0.3, 0.8 * removable(graph))
    # Weights that are standardised need more than one value.
    least = {"normalised": normalised, "min_channels": 4 if "nf_" in name else 1}
    pruned = prune(model, batch=batch, flops_reduction=share, **least)
    assert pruned.macs_before == graph.macs(graph.all_kept())
    assert pruned.macs_after == graph.macs(pruned.plan.keep(graph))
    assert share <= pruned.flops_reduction < share + 0.12


def removable(graph):
    """Return the share of the work that goes with all channels but one of each group."""
    keep = torch.zeros(graph.channels, dtype=torch.bool)
    keep[[int(group.channels[0]) for group in graph.groups]] = True
    return 1 - graph.macs(keep) / graph.macs(graph.all_kept())


@pytest.mark.parametrize(
    "name", [*NETWORKS, pytest.param("efficientnet-b0", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("normalised", ["pinned", "follow"])
def test_every_mask_is_counted_as_the_network_that_it_leaves(name, normalised):
    model, shape = made(name)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    graph = trace(model, x, normalised=normalised)
    for seed in range(3):
        keep = torch.rand(graph.channels, generator=torch.Generator().manual_seed(seed)) < 0.6
        for group in graph.groups:
            keep[group.channels[0]] = True
        assert graph.macs(keep) == cost(narrow(model, graph, keep), x).macs


class Fixed(nn.Module):
    """Work that does not depend on the width, though the rule below says so."""

    def forward(self, x):
        square = torch.ones(64, 64)
        return x + 0 * (square @ square).mean()


def claims_to_shrink(tracer, call):
    labels = tracer.labels(call.args[0])
    tracer.work(1, labels[1])
    tracer.set(call.out, labels)


def test_what_was_asked_is_reached_where_the_search_is_wrong_about_the_cost():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), Fixed(), nn.Conv2d(32, 32, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    batch, rules = (torch.randn(4, 3, 16, 16), torch.arange(4)), {Fixed: claims_to_shrink}
    graph = trace(model, batch[0], rules=rules)
    pruned = prune(model, batch=batch, flops_reduction=0.5, rules=rules)
    assert graph.macs(pruned.plan.keep(graph)) < pruned.macs_after <= 0.5 * pruned.macs_before


def test_a_cut_is_reached_also_where_much_of_the_computation_does_not_shrink():
    def cut(model, request):
        left = 1 - 0.6 * request.reductions["flops"]  # the search took 40% for what shrinks
        return SimpleNamespace(model=nn.Linear(8, round(1000 * left)))

    asked = Request([(torch.randn(2, 8), torch.arange(2))], {"flops": 0.5})
    _, before, left = _cut(SimpleNamespace(cut=cut), nn.Linear(8, 1000), asked)
    assert 0.49 * before.macs < left.macs <= 0.5 * before.macs


def test_large_linear_layers_whose_products_are_not_computed_are_counted():
    model = nn.Sequential(
        nn.Linear(8, 4096), nn.ReLU(), nn.Linear(4096, 4200), nn.ReLU(), nn.Linear(4200, 3)
    )
    x = torch.randn(2, 8)
    graph = trace(model, x)
    assert 4096 * 4200 > 1 << 24
    assert graph.macs(torch.ones(graph.channels, dtype=torch.bool)) == cost(model, x).macs
