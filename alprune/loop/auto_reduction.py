"""The network for the time there is: `--flops-reduction auto` and `--model auto`, by measurement.

A large network learns more from an image, a small one sees more images in the same time. What ends
best grows with the time as in the scaling of compute-optimal networks: the images that it sees are
in proportion to its size. `auto` prunes until that holds here, by this machine's speed, and less
where a smaller network hardly trains faster.

Source of the rule: Hoffmann et al. 2022, section 3, for language models; the proportion is ours,
see recipes/clock/README.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from alprune.errors import ConfigError, PruneError
from alprune.loop.config import RunConfig
from alprune.loop.defaults import REDUCTIONS
from alprune.loop.machine_load import OTHERS_MOST, MachineLoad
from alprune.loop.option_text import duration
from alprune.pruning import find_method

_LEAST_SAVED = 2.0  # times as fast a pruned network must be, or its channels are worth more
_ERROR_POWER = -1 / 3  # of the size and of the images seen: some 0.3 each, Hoffmann et al. 2022
_LESS_ERROR = 0.95  # of the smaller one's, that a larger network must promise
_LEAST_GAIN = 0.9  # of the whole network's error, that pruning must promise
_NEAR = 1.2  # the proportion is met within this factor
_ROUNDS = 4
_LEAST_STEPS = 3  # of the whole network

AUTO = "auto"
PLAIN = {"resnet9": 0.935}
"""What is removed of a network where measuring says nothing; it then is resnet9-small."""
_AT_ONCE = 16  # channels in a vector register of AVX-512, or a tile of a tensor core
_TRAINS_BEST = "resnet9"  # of the built-in networks, for what it learns in minutes on a processor


def with_model(config: RunConfig) -> RunConfig:
    """Fill the options that follow from `--model auto`.

    The network is ResNet-9, each of its layers narrowed by the same share, to multiples of 16,
    which processors compute at once. How much is left to `flops_reduction`, "auto" unless a
    reduction is given.

    Raises:
        ConfigError: The method does not make networks smaller before training.
    """
    if config.model != AUTO:
        return config
    if not find_method(config.method).saves_time:
        raise ConfigError(
            f"--model auto is narrowed to what the budget allows, and method {config.method!r} "
            f"leaves it as wide as it is. Choose 3sp-ca, or a model by name, {_TRAINS_BEST}-small "
            "for example."
        )
    reduced = any(getattr(config, name) is not None for name in REDUCTIONS)
    asked: dict[str, Any] = {} if reduced else {"flops_reduction": AUTO}
    if config.round_to is None:
        asked["round_to"] = _AT_ONCE
    return replace(config, model=_TRAINS_BEST, local=True, **asked)


@dataclass(frozen=True)
class Balance:
    """How small a network should be.

    Attributes:
        images_per_mac: Training images that it should see in its time for each multiply-accumulate
            of one.
        least_left: Share of the FLOPs that always stays.
        larger: Times the balanced size, tried as well: they may train hardly more slowly.
    """

    images_per_mac: float
    least_left: float
    larger: tuple[int, ...] = ()


ACROSS = Balance(3e-2, 0.04)
"""Where scores are compared across layers: with more removed, some layers become bottlenecks."""
WITHIN = Balance(4e-2, 0.01, larger=(2, 4))
"""Where all layers lose the same share: such networks may be smaller."""


@dataclass(frozen=True)
class Measured:
    """A network of some size on this machine.

    Attributes:
        macs: Multiply-accumulates for one image.
        image_s: Seconds that training on one image takes.
    """

    macs: int
    image_s: float


@dataclass(frozen=True)
class Choice:
    """How much to prune.

    Attributes:
        flops_reduction: Share of the FLOPs to remove; 0: prune nothing, None: the method's own.
        reason: Why, in a line.
        prunable: Whether the network has anything to prune.
    """

    flops_reduction: float | None
    reason: str
    prunable: bool = True


def choose(
    measure: Callable[[float], Measured],
    training_s: float,
    batch_size: int,
    local: bool = False,
    plain: float | None = None,
) -> Choice:
    """Choose the reduction with which a network sees as many images as its size asks for.

    Where that cannot be measured the choice is the plain one, and the reason says why.

    Args:
        measure: From a share of the FLOPs to the network without it; raises `PruneError` where
            that is out of reach.
        training_s: Part of the budget in which the network trains; the rest goes into scoring.
        batch_size: Of its training.
        local: Whether all layers lose the same share.
        plain: The choice where measuring says nothing; None: the method's own.
    """
    load = MachineLoad()
    try:
        whole = measure(0.0)
    except PruneError as error:
        return Choice(0.0, f"the whole network, which cannot be pruned: {error}", prunable=False)
    if training_s < _LEAST_STEPS * batch_size * whole.image_s:
        return _plain(
            measure,
            plain,
            f"{duration(round(training_s, 1))} of training are too short for a choice by "
            "measurement",
        )
    choice = _by_speed(measure, whole, training_s, WITHIN if local else ACROSS)
    share = load.ended()["others_share"]
    if share is not None and share > OTHERS_MOST:
        return _plain(
            measure,
            plain,
            f"other processes took {share:.0%} of this machine's processors while it was "
            f"measured, and that would have chosen {choice.flops_reduction:.0%}",
        )
    return choice


def _plain(measure: Callable[[float], Measured], wanted: float | None, why: str) -> Choice:
    """Choose what is wanted, or the most that the network can lose where that is less."""
    if wanted is None:
        return Choice(None, f"the method's own: {why}")
    try:
        found = round(1 - _within_reach(measure, 1 - wanted)[1], 3)
    except PruneError:
        return Choice(0.0, f"the whole network, which can hardly be pruned: {why}")
    right = "right for minutes" if found == wanted else "about the most that can be removed"
    return Choice(found, f"{found:.0%}, which is {right}: {why}")


def _by_speed(
    measure: Callable[[float], Measured], whole: Measured, training_s: float, wanted: Balance
) -> Choice:
    balance = _balance(whole, training_s, wanted)
    seen_whole = training_s / whole.image_s
    if balance >= 1:
        return Choice(
            0.0,
            f"the whole network, which will train on some {seen_whole:,.0f} images, enough for its "
            "size",
        )
    pruned, share = whole, 1.0
    for _ in range(_ROUNDS):
        share = min(1.0, max(wanted.least_left, share * balance**0.5))
        pruned, share = _within_reach(measure, share)
        balance = _balance(pruned, training_s, wanted)
        if 1 / _NEAR < balance < _NEAR:
            break
    balanced = share
    for times in wanted.larger:
        if times * balanced >= 1:
            break
        larger, kept = _within_reach(measure, times * balanced)
        if _error(larger, training_s, wanted) < _LESS_ERROR * _error(pruned, training_s, wanted):
            pruned, share = larger, kept
    faster = whole.image_s / pruned.image_s
    gain = _error(pruned, training_s, wanted) / _error(whole, training_s, wanted)
    if faster < _LEAST_SAVED or gain > _LEAST_GAIN:
        return Choice(
            0.0,
            f"the whole network: with {1 - share:.0%} of its FLOPs removed it would train only "
            f"{faster:.1f} times as fast",
        )
    return Choice(
        round(1 - share, 3),
        f"it will train on some {training_s / pruned.image_s:,.0f} images, the whole network would "
        f"on {seen_whole:,.0f}",
    )


def _balance(network: Measured, training_s: float, wanted: Balance) -> float:
    """Return the images seen as a multiple of those that the size asks for."""
    return training_s / network.image_s / (wanted.images_per_mac * network.macs)


def _error(network: Measured, training_s: float, wanted: Balance) -> float:
    """Return the error to expect, but for a factor: of the size, and of the images seen.

    Where time is in proportion to the size, it is least where `_balance` is 1.
    """
    size, seen = wanted.images_per_mac * network.macs, training_s / network.image_s
    return size**_ERROR_POWER + seen**_ERROR_POWER


def _within_reach(measure: Callable[[float], Measured], share: float) -> tuple[Measured, float]:
    """Measure the network that keeps a share of the FLOPs, or the least that can be kept."""
    while True:
        share = round(share, 3)
        try:
            return measure(1 - share), share
        except PruneError:
            if share >= 0.9:
                raise
            share = min(0.9, share * 1.3 + 0.01)
