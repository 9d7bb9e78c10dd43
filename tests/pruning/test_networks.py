"""What people's networks do beyond layers in a row: followed, or refused by the name of a layer."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
from test_forwards import Net
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, Parameter
from zoo import images, random_keep

import alprune
from alprune.errors import ModelError
from alprune.pruning.graph import masked, narrow, trace

W = nn.utils.parametrizations


def tail(m: Net, x: Tensor) -> Tensor:
    return m.h(F.relu(x).mean((2, 3)))


def layers(**more: Any) -> dict[str, Any]:
    return {"a": Conv2d(3, 8, 3), "b": Conv2d(8, 12, 3), "h": Linear(12, 5), **more}


def built(function: Callable[..., Any], **attributes: Any) -> nn.Module:
    """Make two convolutions, a head and the forward `function`; integers become attributes."""
    parts = {k: v for k, v in attributes.items() if isinstance(v, nn.Module | Parameter)}
    model = Net(function, **layers(**parts))
    for name, value in attributes.items():
        if name not in parts:
            setattr(model, name, value)
    return model


def compares_a_width(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    assert x.shape[1] == m.width
    return tail(m, m.b(x))


def checks_values(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    assert x.min() >= 0, f"{x.min().item()}"
    torch._assert(x.isfinite().all(), "not finite")
    if x.abs().max() > 1e6:
        raise ValueError("too large")
    return tail(m, m.b(x))


def views_by_attributes(m: Net, x: Tensor) -> Tensor:
    x = F.adaptive_avg_pool2d(F.relu(m.b(F.relu(m.a(x)))), 2)
    return m.h2(F.relu(m.h1(x.view(-1, m.width * m.side * m.side))))


def starts_from_zeros(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    b, c, h, w = x.shape
    state = torch.zeros(b, c, h, w, dtype=x.dtype)
    for _ in range(2):
        state = torch.sigmoid(x) * state + x
    return tail(m, m.b(state))


def splits_unequally(m: Net, x: Tensor) -> Tensor:
    one, other = F.relu(m.a(x)).split([m.first, m.width - m.first], 1)
    return tail(m, m.b(torch.cat([m.c(one), other], 1)))


def functional_weights(m: Net, x: Tensor) -> Tensor:
    x = F.relu(F.conv2d(F.relu(m.a(x)), m.weight, m.shift))
    x = F.conv2d(x, m.deep, groups=x.shape[1])
    return F.relu(x).mean((2, 3)) @ m.out.t()


def einsum_weight(m: Net, x: Tensor) -> Tensor:
    x = torch.einsum("bchw,dc->bdhw", F.relu(m.a(x)), m.weight) + m.shift[:, None, None]
    return tail(m, x)


def tensordot_weight(m: Net, x: Tensor) -> Tensor:
    return tail(m, torch.tensordot(F.relu(m.a(x)), m.weight, ([1], [1])).permute(0, 3, 1, 2))


def transformers_conv1d(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x)).mean((2, 3))
    x = F.relu(torch.addmm(m.shift, x.view(-1, x.size(-1)), m.weight))
    return m.h(x.view((*x.size()[:-1], m.width)))


def standardised(m: Net, x: Tensor) -> Tensor:
    w = m.b.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return tail(m, F.conv2d(F.relu(m.a(x)), w, m.b.bias))


def low_rank(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.b(F.relu(m.a(x)))).mean((2, 3))
    return m.h(F.relu(F.linear(x, m.weight + m.up @ m.down)))


def keeps_running_means(m: Net, x: Tensor) -> Tensor:
    x = m.b(F.relu(m.a(x)))
    if m.training:
        m.centre.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
    return tail(m, x - m.centre[:, None, None])


def masks_in_training(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    if m.training:
        x = x * (torch.rand(x.shape[0], 8, 1, 1) > 0.1)
    return tail(m, m.b(x))


def leaves_a_loss(m: Net, x: Tensor) -> Tensor:
    x = m.b(F.relu(m.a(x)))
    m.penalty = x.square().mean()
    return tail(m, x)


Outputs = collections.namedtuple("Outputs", "logits aux")


def names_its_outputs(m: Net, x: Tensor) -> Outputs:
    x = F.relu(m.a(x))
    return Outputs(tail(m, m.b(x)), m.aux(x.mean((2, 3))))


def weight(*shape: int) -> Parameter:
    return Parameter(torch.randn(*shape) * 0.2)


def computed_by(computing: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            computing(Conv2d(3, 8, 3)),
            nn.ReLU(),
            computing(Conv2d(8, 12, 3)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(12, 5)),
        )

    return build


def with_buffer() -> nn.Module:
    model = built(keeps_running_means)
    model.register_buffer("centre", torch.zeros(12))
    return model


def functional_weights_net() -> nn.Module:
    parameters = {"weight": weight(12, 8, 3, 3), "shift": weight(12), "deep": weight(12, 1, 3, 3)}
    return built(functional_weights, **parameters, out=weight(5, 12))


CASES: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    # the network, the treatment of normalised channels, and how many channels can be pruned
    "a width compared": (lambda: built(compares_a_width, width=8), "pinned", 20),
    "values checked": (lambda: built(checks_values), "pinned", 20),
    "views by attributes": (
        lambda: built(views_by_attributes, h1=Linear(48, 6), h2=Linear(6, 5), width=12, side=2),
        "pinned",
        26,
    ),
    "a state of zeros": (lambda: built(starts_from_zeros), "pinned", 20),
    "unequal parts": (
        lambda: built(splits_unequally, c=Conv2d(3, 3, 3, padding=1), first=3, width=8),
        "pinned",
        8 + 3 + 12,
    ),
    "functional weights": (functional_weights_net, "pinned", 20),
    "einsum": (
        lambda: built(einsum_weight, weight=weight(12, 8), shift=weight(12)),
        "pinned",
        20,
    ),
    "tensordot": (lambda: built(tensordot_weight, weight=weight(12, 8)), "pinned", 20),
    "addmm": (
        lambda: built(transformers_conv1d, weight=weight(8, 12), shift=weight(12), width=12),
        "pinned",
        20,
    ),
    "standardised, pinned": (lambda: built(standardised), "pinned", 12),
    "standardised": (lambda: built(standardised), "follow", 20),
    "low rank": (
        lambda: built(low_rank, weight=weight(12, 12), up=weight(12, 3), down=weight(3, 12)),
        "pinned",
        8 + 12 + 12,
    ),
    "weight_norm": (computed_by(W.weight_norm), "follow", 20),
    "weight_norm, pinned": (computed_by(W.weight_norm), "pinned", 12),
    "spectral_norm": (computed_by(W.spectral_norm), "follow", 20),
    "old weight_norm": (computed_by(nn.utils.weight_norm), "follow", 20),
    "old spectral_norm": (computed_by(nn.utils.spectral_norm), "follow", 20),
    "masked weights": (
        computed_by(lambda layer: torch_prune.random_unstructured(layer, "weight", 0.3)),
        "pinned",
        20,
    ),
    "running means": (with_buffer, "pinned", 20),
    "a mask of fixed size in training": (lambda: built(masks_in_training), "pinned", 12),
    "a loss left behind": (lambda: built(leaves_a_loss), "follow", 20),
    "named outputs": (lambda: built(names_its_outputs, aux=Linear(8, 5)), "pinned", 20),
    "a compiled part": (
        lambda: nn.Sequential(
            torch.compile(Conv2d(3, 8, 3)),  # type: ignore[arg-type]
            *(nn.ReLU(), Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(12, 5)),
        ),
        "pinned",
        20,
    ),
    "a partial": (
        lambda: (
            (m := built(lambda m, x: tail(m, m.step(F.relu(m.a(x)))))).__setattr__(
                "step", functools.partial(m.b)
            )
            or m
        ),
        "pinned",
        20,
    ),
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CASES[name][0]()


def first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_what_can_be_narrowed_is_found_and_equals_masking(name: str) -> None:
    _, normalised, prunable = CASES[name]
    model, x = made(name).double().eval(), images().double()
    graph = trace(model, x, normalised=normalised)
    assert graph.channels == prunable, [(p.name, p.reason) for p in graph.pinned]
    keep = random_keep(graph)
    with torch.compiler.set_stance("force_eager"):
        small, whole = narrow(model, graph, keep), masked(model, graph, keep)
        torch.testing.assert_close(first(small(x)), first(whole(x)), rtol=0, atol=1e-9)
        first(small.train()(x)).square().sum().backward()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_pruned_network_is_rebuilt_and_leaves_the_original_alone(name: str) -> None:
    x, y = images(4), torch.arange(4)
    model, normalised = made(name), CASES[name][1]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned = alprune.prune(
        model, batch=(x, y), flops_reduction=0.3, min_channels=1, normalised=normalised
    )
    assert pruned.flops_reduction >= 0.3
    assert all(torch.equal(state[key], t) for key, t in model.state_dict().items())
    plan = alprune.Plan.from_json(pruned.plan.to_json())
    again = alprune.rebuild(made(name), plan, pruned.model.state_dict())
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = first(pruned.model.eval()(x))
        for parameter in model.parameters():
            parameter.zero_()  # the pruned network uses none of them
        torch.testing.assert_close(first(again.eval()(x)), expected)
        torch.testing.assert_close(first(pruned.model(x)), expected)


def calls_a_global_network() -> nn.Module:
    GLOBAL["model"] = model = built(lambda m, x: tail(m, m.step(F.relu(m.a(x)))))
    model.step = lambda x: GLOBAL["model"].b(x)  # type: ignore[assignment]
    return model


GLOBAL: dict[str, nn.Module] = {}


def keeps_layers_in_a_list() -> nn.Module:
    model = built(lambda m, x: tail(m, m.b(F.relu(m.more[0](F.relu(m.a(x)))))))
    model.more = [Conv2d(8, 8, 3)]  # type: ignore[assignment]
    return model


def scripts_a_part() -> nn.Module:
    return nn.Sequential(Conv2d(3, 8, 3), torch.jit.script(nn.ReLU()), Conv2d(8, 5, 3))


def branches_on_values() -> nn.Module:
    return built(lambda m, x: tail(m, m.b(m.a(x) if m.a(x).mean() > 0 else -m.a(x))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (calls_a_global_network, "layer 'b' is called through a function"),
        (scripts_a_part, "'1' is one: give the plain module"),
        (branches_on_values, "__bool__ in its forward"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        trace(build(), images())


def test_a_branch_is_accepted_on_the_users_word() -> None:
    assert trace(branches_on_values(), images(), one_path=True).channels > 0


def test_weights_that_cannot_be_followed_are_named_as_the_reason() -> None:
    model = built(
        lambda m, x: F.linear(tail(m, m.b(m.a(x))), torch.kron(m.p, m.q)),
        h=Linear(12, 6),
        p=weight(1, 2),
        q=weight(5, 3),
    )
    [reason] = [p.reason for p in trace(model, images()).pinned if p.name == "h"]
    assert "read by a linear whose weight cannot be followed" in reason


def test_layers_in_a_plain_list_are_named_as_the_reason() -> None:
    graph = trace(keeps_layers_in_a_list(), images())
    reason = next(p.reason for p in graph.pinned if p.name == "a")
    assert "plain list" in reason and [g.name for g in graph.groups] == ["b"]


def test_an_example_of_one_is_enough() -> None:
    model = made("running means")
    one, two = (trace(model, images(count)) for count in (1, 2))
    assert one.channels == two.channels == 20
    assert one.macs(one.all_kept()) == two.macs(two.all_kept())


class Doubled(nn.Module):
    """A module of one's own, whose arithmetic no rule knows: channel i twice, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.shift = width, Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.width
        out = torch.from_numpy(x.detach().numpy().repeat(2, 1)) + 0 * x.sum()
        return out + self.shift.repeat_interleave(2)[:, None, None]


def doubled(tracer: Any, call: Any) -> None:
    """Let the two copies of a channel, and its shift, leave together."""
    [x], module = call.args, call.func.__self__
    [batch, channels, *rest] = tracer.labels(x)
    tracer.nodes.unite(tracer.labels(module.shift)[0], channels, "doubled")
    tracer.resize(tracer.module, "width", channels, "doubled")
    twice = tuple(column.repeat_interleave(2) for column in channels)
    tracer.set(call.out, [batch, twice, *rest])


def test_a_rule_of_ones_own_says_what_a_module_does_to_channels() -> None:
    model = nn.Sequential(
        *(Conv2d(3, 6, 3), Doubled(6), Conv2d(12, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), Linear(8, 5)),
    ).eval()
    assert [g.name for g in trace(model, images()).groups] == ["2"]
    graph = trace(model, images(), rules={Doubled: doubled})
    assert [(g.name, len(g.channels)) for g in graph.groups] == [("0", 6), ("2", 8)]
    keep = random_keep(graph)
    small = narrow(model, graph, keep)
    assert small[1].width == small[0].out_channels == len(small[1].shift) < 6
    with torch.no_grad():
        torch.testing.assert_close(small(images()), masked(model, graph, keep)(images()))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({Doubled: doubled}, "no module of Sequential is of class Doubled.*Conv2d, Flat"),
        ({"Conv2d": doubled}, "'Conv2d' is the name of a class.*rules={Conv2d: ...}"),
    ],
)
def test_a_rule_that_would_be_used_nowhere_is_refused(rules: Any, message: str) -> None:
    model = nn.Sequential(Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(6, 5))
    with pytest.raises(ModelError, match=message):
        trace(model, images(), rules=rules)
