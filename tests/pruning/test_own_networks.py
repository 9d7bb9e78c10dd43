"""Networks of people's own: pruned right, in both modes, as checkpoints and exported."""

from typing import Any

import pytest
import torch
import unusual_networks  # noqa: F401 - adds to the cases
from own_networks import CASES, CLASSES
from torch import Tensor, nn

import alprune
from alprune.pruning.graph import masked, narrow, trace
from alprune.pruning.graph.verify import NoDropout
from alprune.pruning.methods import pinned_share

NEVER = {"AssertsShapes", "ReturnsItsOwnMapping", "KeepsWhatItComputes"}  # nor unpruned
EXPORTABLE = [name for name in CASES if name not in NEVER]
# Groups and channels that may be pruned: a graph that couples too much has fewer.
COUNTS = """
    ShufflesPixels 2 24, GatesLinearly 2 24, Squeezes 2 16, InvertsResiduals 2 48,
    ConnectsDensely 4 30, DropsPaths 2 28, Checkpoints 2 32, GoesDownAndUp 4 48, ShiftsImages 3
    38, ShiftsChannels 3 29, NormalisesGroups 3 28, ReadsRows 1 8, HasManyHeads 2 24,
    CentresByABuffer 3 34, HasAFunctionOfItsOwn 4 46, WorksInPlace 1 12, PadsItsShortcut 2 28,
    AddsAPart 2 16, RoutesByName 4 48, SharesALayer 1 12, TiesItsEmbedding 2 48, EncodesTokens 9
    104, DecodesQueries 12 116, Translates 12 116, AttendsCausally 2 68, AttendsOverChannels 1
    12, AttendsByEinsum 4 22, StandardisesWeights 3 28, ScalesByFanIn 2 28, AdaptsByLowRank 5
    50, KeepsWeightsOrthogonal 3 40, CompilesAPart 3 40, HelpsItselfInTraining 3 40,
    PullsToCentres 2 24, KeepsWeightsInLists 4 54, ChoosesKernels 3 27, ShufflesByHand 1 4,
    WeighsBranches 3 40, MixesTokens 3 50, TakesTheLarger 3 36, ComparesDirections 2 26,
    NormalisesByHand 2 28, RemembersByHand 2 24, AveragesExperts 5 54, FollowsATeacher 1 12,
    Blurs 3 40, KnowsPlaces 2 24, CutsUnequally 3 28, AssertsShapes 3 40, ReadsColumns 3 36,
    ProjectsItsState 3 34, StepsByHand 2 26, ReturnsItsOwnMapping 1 12, GeneratesItsWeights 1
    12, NamesItsArguments 2 16, RemembersFeatures 3 30, CallsFunctionsOfItsLayers 5 54,
    FiltersSpectra 3 34, WarpsFeatures 2 24, SamplesWhereItPredicts 3 40, TurnsItsFilters 3 32,
    QuantisesWeights 3 40, ExtractsFeatures 2 20, ChoosesTokens 2 32, PassesMessages 3 40,
    MeasuresDistances 2 26, UnpoolsAndFolds 3 34, FiltersByAFixedKernel 2 24,
    KeepsWhatItComputes 2 24, Involutes 3 22, SelectsStates 5 51, ModulatesItsKernel 3 38,
    ReparametrisesBranches 3 40, FiltersCheaply 2 15, PoolsByAttention 5 35,
    DecodesWithItsEncoder 2 28, CallsAttention 2 24, AddsConstants 2 24, KeepsSizesInRecords 5
    62
""".split(",")
COUNTED = {name: (int(groups), int(channels)) for name, groups, channels in map(str.split, COUNTS)}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CASES[name].build()


def batch(name: str, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if CASES[name].tokens:
        x = torch.randint(1, CLASSES, (count, 7), generator=generator)
    else:
        x = torch.randn(count, 3, 16, 16, generator=generator)
    return x, torch.arange(count) % CLASSES


def logits(out: Any) -> Tensor:
    if isinstance(out, dict):
        return out["logits"]
    return out if isinstance(out, Tensor) else out[0]


@pytest.fixture(autouse=True)
def eager():
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("name", CASES)
def test_what_is_cut_equals_what_is_silenced_in_both_modes(name: str) -> None:
    model, (x, y) = made(name).double(), batch(name)
    x = x.double() if x.is_floating_point() else x
    graph = trace(model, x, normalised=CASES[name].normalised)
    assert (len(graph.groups), graph.channels) == COUNTED[name]
    share = pinned_share(graph)
    assert share <= CASES[name].pinned, [(p.name, p.reason) for p in graph.pinned]
    keep = torch.rand(graph.channels, generator=torch.Generator().manual_seed(0)) < 0.6
    for group in graph.groups:
        keep[group.channels[0]] = True
    small, whole = narrow(model, graph, keep), masked(model, graph, keep)
    for training in (False, True):
        outs = []
        for net in (small, whole):
            torch.manual_seed(0)
            with NoDropout():
                outs.append(logits(net.train(training)(x)))
        torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-9)
    one = [logits(net.eval()(x[:1])) for net in (small, whole)]
    torch.testing.assert_close(one[0], one[1], rtol=0, atol=1e-9)
    nn.functional.cross_entropy(outs[0], y).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in small.parameters())


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].pinned < 1])
def test_a_pruned_network_comes_back_from_its_checkpoint(name: str) -> None:
    model, (x, y) = made(name), batch(name)
    pruned = alprune.prune(
        model,
        batch=(x, y),
        flops_reduction=0.1,
        min_channels=1,
        normalised=CASES[name].normalised,
    )
    assert pruned.flops_reduction >= 0.1
    nn.functional.cross_entropy(logits(pruned.model.train()(x)), y).backward()
    plan = alprune.Plan.from_json(pruned.plan.to_json())
    again = alprune.rebuild(made(name), plan, pruned.model.state_dict())
    with torch.no_grad():
        expected = logits(pruned.model.eval()(x))
        for parameter in model.parameters():
            parameter.zero_()  # the pruned network uses none of them
        torch.testing.assert_close(logits(again.eval()(x)), expected)
        torch.testing.assert_close(logits(pruned.model(x)), expected)
    assert torch.isfinite(logits(pruned.model(x[:1]))).all()


def test_numbers_from_widths_are_taken_in_whatever_type_the_network_has_by_then() -> None:
    model, (x, _) = made("ScalesByFanIn"), batch("ScalesByFanIn")
    graph = trace(model, x, normalised="follow")
    assert graph.numbers
    keep = torch.arange(graph.channels) % 2 == 0
    model, x = model.double(), x.double()
    small, whole = narrow(model, graph, keep), masked(model, graph, keep)
    torch.testing.assert_close(small(x), whole(x), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPORTABLE if CASES[name].pinned < 1])
def test_a_pruned_network_is_exported(name: str) -> None:
    model, (x, y) = made(name), batch(name)
    normalised = CASES[name].normalised
    pruned = alprune.prune(
        model, batch=(x, y), flops_reduction=0.1, min_channels=1, normalised=normalised
    ).model.eval()
    exported = torch.export.export(pruned, (x,)).module()
    torch.testing.assert_close(logits(exported(x)), logits(pruned(x)), rtol=1e-4, atol=1e-5)
