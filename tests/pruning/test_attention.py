"""Attention is pruned by heads and by widths, and what is cut equals what is silenced."""

import copy
import functools
import io

import pytest
import torch
from attentions import KINDS, network
from torch import Tensor, nn
from zoo import images, random_keep

import alprune
from alprune.pruning.criteria import costs
from alprune.pruning.criteria.base import ScoreOptions
from alprune.pruning.criteria.grasp import structured_grasp
from alprune.pruning.criteria.three_sp import mask_gradients, three_sp
from alprune.pruning.graph import ChannelGraph, masked, narrow, trace
from alprune.pruning.graph.gates import gated
from alprune.pruning.plan import Target, search
from alprune.pruning.width_limits import Limits

# Groups (heads, widths, ...) of the attention's layers, by number of channels, where the
# embedding stays. A head's width may leave where the scale of the scores does not follow it.
HEADS_AND_WIDTHS = [4, 4, 4]
GROUPS = {
    "written out": [4, 4],  # one width for queries, keys and values
    "fused": [4],  # the scale is taken from the width
    "scaled": [4, 4],
    "by division": [],  # the width is that of the embedding over the heads
    "einsum": [4, 4],
    "stacked": [4, 4],
    "with table": [4, 4],
    "cosine": [4, 4],
    "talking heads": [4, 4],
    "linear": [4, 4],
    "repeated": [2, 4],
    "grouped": [2, 4],
    "one key": [4, 4],
    "multi-head": HEADS_AND_WIDTHS,
    "multi-head, sequence first": HEADS_AND_WIDTHS,
    "multi-head over others": [10, 12, *HEADS_AND_WIDTHS],
}


@functools.cache
def _graph(kind: str, normalised: str) -> ChannelGraph:
    return trace(network(kind).double(), images().double(), normalised=normalised)


def traced(kind: str, normalised: str = "pinned") -> tuple[nn.Module, ChannelGraph, Tensor]:
    return network(kind).double(), _graph(kind, normalised), images().double()


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_widths_are_groups_of_their_own(kind: str) -> None:
    _, graph, _ = traced(kind)
    found = [len(g.channels) for g in graph.groups if g.name.startswith("attention")]
    assert sorted(found) == sorted(GROUPS[kind])
    assert "up" in [g.name for g in graph.groups]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("normalised", ["pinned", "follow"])
@pytest.mark.parametrize("kind", KINDS)
def test_narrowed_model_equals_masked_model(kind: str, normalised: str, training: bool) -> None:
    model, graph, x = traced(kind, normalised)
    for seed in range(2):
        keep = random_keep(graph, seed)
        small, whole = (cut(model.train(training), graph, keep) for cut in (narrow, masked))
        torch.testing.assert_close(small(x), whole(x), rtol=0, atol=1e-9)
        assert sum(p.numel() for p in small.parameters()) == graph.params(keep)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_output_is_pinned_where_normalised_channels_follow(kind: str) -> None:
    _, graph, _ = traced(kind, "follow")
    usual = ("never ran", "another size is divided")
    pinned = {p.name for p in graph.pinned if not any(why in p.reason for why in usual)}
    assert pinned == {"head"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_norm_the_embedding_leaves_through_the_residual_stream(kind: str) -> None:
    model, x = network(kind, normed=False).double(), images().double()
    graph = trace(model, x, normalised="pinned")
    assert "patches" in [g.name for g in graph.groups]
    keep = random_keep(graph)
    torch.testing.assert_close(
        narrow(model, graph, keep)(x), masked(model, graph, keep)(x), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrowed_model_trains_round_trips_and_is_narrowed_again(kind: str) -> None:
    model, graph, x = traced(kind, "follow")
    small = narrow(model, graph, keep := random_keep(graph, 1, 0.8)).train()
    small(x).square().sum().backward()
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    fresh = narrow(network(kind, seed=3).double(), graph, keep)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(fresh.eval()(x), small.eval()(x))
    again = trace(small, x, normalised="follow")
    keep = random_keep(again, 2)
    expected = masked(small, again, keep)(x)
    torch.testing.assert_close(narrow(small, again, keep)(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["grouped", "stacked", "multi-head over others", "with table"])
def test_prune_and_rebuild_give_the_same_network(kind: str) -> None:
    x, y = images(6), torch.arange(6) % 5
    made = alprune.prune(
        network(kind), batch=(x, y), flops_reduction=0.4, min_channels=1, normalised="follow"
    )
    assert made.flops_reduction >= 0.4
    plan = alprune.Plan.from_json(made.plan.to_json())
    again = alprune.rebuild(network(kind, seed=5), plan, made.model.state_dict())
    torch.testing.assert_close(again.eval()(x), made.model.eval()(x))


@pytest.mark.parametrize("normalised", ["pinned", "follow"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_over_tokens_cost_what_they_multiply_at_each(kind: str, normalised: str) -> None:
    _, graph, _ = traced(kind, normalised)
    places = {t.name: t.places for t in graph.tensors}
    assert (places["up.weight"], places["down.weight"], places["head.weight"]) == (17, 17, 1)
    up = next(group for group in graph.groups if group.name == "up")
    assert costs.made(graph)[up.channels].tolist() == [16 * 17] * len(up.channels)
    # 16 weights make such a channel and 16 read it, each at 17 places.
    price = 2 * 16 * (17 + costs.A_WEIGHT) + 17 * costs.AN_ACTIVATION
    assert costs.step(graph)[up.channels].tolist() == [price] * len(up.channels)


def loss_with_gates(
    model: nn.Module, graph: ChannelGraph, batch: tuple[Tensor, Tensor], gates: Tensor
) -> Tensor:
    """The loss of a network whose channels are multiplied by gates wherever they are read."""
    readers = {t.name: t for t in graph.tensors if "reads" in t.roles.values()}
    padded = torch.cat([gates, gates.new_ones(1)])
    gone: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for dim, ids in readers[name].axes.items() if name in readers else ():
            if readers[name].roles[dim] == "reads":
                view = [1] * parameter.dim()
                view[dim] = -1
                factor = padded[ids].view(-1, ids.shape[-1]).prod(0)
                gone[name] = gone.get(name, parameter) * factor.view(view)
    with gated(model, graph.mixes, gates):
        out = torch.func.functional_call(model, gone, (batch[0],))
    return nn.functional.cross_entropy(out, batch[1])


@pytest.mark.parametrize("criterion", ["3sp", "grasp"])
def test_a_score_is_the_derivative_by_what_removing_a_channel_does(criterion: str) -> None:
    """Checked against finite differences of the gates, re-normalisation included."""
    model, graph, x = traced("fused", "follow")
    batch = x, torch.tensor([0, 1, 2])
    whole = copy.deepcopy(model).train()
    weights = {t.name for t in graph.tensors if t.trainable and t.places}

    def value(channel: int, gate: float) -> float:
        gates = torch.ones(graph.channels, dtype=torch.float64)
        gates[channel] = gate
        loss = loss_with_gates(whole, graph, batch, gates)
        if criterion == "3sp":
            return loss.item()
        chosen = [p for name, p in whole.named_parameters() if name in weights]
        return sum((g**2).sum().item() for g in torch.autograd.grad(loss, chosen))

    if criterion == "3sp":
        scores = mask_gradients(model, graph, batch)
        assert torch.equal(three_sp(model, graph, batch, ScoreOptions()), scores.abs())
    else:
        scores = structured_grasp(model, graph, batch, ScoreOptions(temperature=1.0))
    assert graph.mixes
    for group in graph.groups:
        channel = int(group.channels[0])
        slope = (value(channel, 1 + 1e-5) - value(channel, 1 - 1e-5)) / 2e-5
        assert float(scores[channel]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_a_multi_head_attention_written_out_computes_what_pytorch_computes() -> None:
    from alprune.pruning.graph.attention import open_attention

    attention = nn.MultiheadAttention(16, 4, batch_first=True).double().eval()
    opened = copy.deepcopy(attention)
    open_attention(opened)
    x, y = torch.randn(2, 3, 7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[:, 5:] = True
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    for args in ({}, {"key_padding_mask": padding}, {"attn_mask": causal}, {"need_weights": False}):
        for a, b in zip(attention(x, y, y, **args), opened(x, y, y, **args), strict=True):
            assert (a is b is None) or torch.allclose(a, b)
    a, b = attention(x[0], y[0], y[0]), opened(x[0], y[0], y[0])
    assert all(torch.allclose(left, right) for left, right in zip(a, b, strict=True))
    assert list(opened.state_dict()) == list(attention.state_dict())


@pytest.mark.parametrize("more", [0.0, 0.4])
@pytest.mark.parametrize("share", [0.5, 0.0])
@pytest.mark.parametrize("kind", ["written out", "grouped", "fused", "talking heads"])
def test_a_layers_own_reduction_takes_that_share_of_its_outputs_not_of_heads_and_of_places(
    kind, share, more
):
    _, graph, _ = traced(kind)
    layer = next(name for name in graph.makers if name.rpartition(".")[2] in ("qkv", "q"))
    pattern = "attention" if kind == "talking heads" else layer  # with what mixes the heads
    limits = Limits(min_channels=1, layer_reductions={pattern: share})
    scores = torch.rand(graph.channels)
    for group in graph.groups:
        if group.name.startswith("attention"):
            scores[group.channels] = 0.0  # whatever else has to leave, these are not asked for
    plan = search(graph, scores, Target("channels", more, limits))
    whole = graph.widths(graph.all_kept())[layer]
    assert graph.widths(plan.keep(graph))[layer] == whole * (1 - share)
