"""Every default that depends on other options, and what fills the options left open.

A default that holds in every run is the option's own, in `alprune.loop.config`. This file imports
nothing that computes before it is asked to fill in: help texts read their numbers here.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alprune.data.atomic_io import free_path
from alprune.loop.config import OPTIONS, RunConfig, given, is_duration
from alprune.loop.option_text import duration
from alprune.pruning.registry import TARGETS

if TYPE_CHECKING:
    from alprune.pruning import Method

# Options that `prune` knows by the same name.
REDUCTIONS = tuple(f"{quantity}_reduction" for quantity in TARGETS)
PRUNE_OPTIONS = (
    *REDUCTIONS,
    *"smoothing channel_cost temperature min_channels round_to rounds".split(),
    *"latency_batch latency_aware init ignore local normalised score_mode redraw_linear".split(),
)
_NO_DEFAULT_IN_LABELLING = ("dataset", "initial")

FROM_SCRATCH: dict[str, Any] = {"model": "patches", "method": "dense", "label_smoothing": 0.1}
"""Of labelling without pretrained weights, where no option chooses the network.

At 70 to 270 labels a layer of typical patches is right on more images than HOG, and than vgg19 and
resnet20, which have to learn their filters from the labels; see recipes/labelling/README.md.
"""

# Settings of `alprune bench`.
BENCH: dict[str, Any] = {
    "methods": ("dense", "3sp", "3sp-ca"),
    "model": "vgg19",
    "batch_size": 64,
    "dataset": "synthetic",
    "seconds": 40.0,
    "pool": 10_000,
    "seed": 0,
}
DENSE_WARMUP = 200  # batches
_MINUTES = 0.9
_AUTO = 0  # widths as `alprune.pruning.width_limits` chooses them


@dataclass(frozen=True, kw_only=True)
class Resolved(RunConfig):
    """The options of a run or of labelling, none left open whose value is always known."""

    acquisition: str
    after_pruning: str
    batch_size: int
    channel_cost: str
    epochs: float
    initial_epochs: float
    learner: str
    lr: float
    min_channels: int
    out: str
    query_size: int
    round_to: int
    smoothing: float
    start: str
    warmup_batches: int


@dataclass(frozen=True, kw_only=True)
class ResolvedRun(Resolved):
    """The options of a run."""

    initial: int


@dataclass(frozen=True, kw_only=True)
class ResolvedLabelling(Resolved):
    """The options of labelling; `initial` is None except in a trial on labelled images."""

    budget: float


@dataclass(frozen=True)
class _Facts:
    """What the cases look at.

    Attributes:
        config: The options as they were given.
        method: That these name.
        built_in: Whether the network is one of `alprune.models.MODELS`.
        listed: Whether it is one of those, of torchvision's or of timm's.
    """

    config: RunConfig
    method: "Method"
    built_in: bool
    listed: bool

    @property
    def shrinks(self) -> bool:
        """Whether a built-in network is pruned by 3sp-ca, and by how much is left open."""
        given = any(getattr(self.config, reduction) is not None for reduction in REDUCTIONS)
        return not given and unmeasured_reduction(self.config) is not None


@dataclass(frozen=True)
class Case:
    """Defaults that hold in some runs.

    Attributes:
        words: Which, for help texts; empty: all.
        holds: The same, of a run.
        values: `{option: value}`; None leaves the option open.
    """

    words: str
    holds: Callable[[_Facts], bool]
    values: Mapping[str, Any]


def _always(facts: _Facts) -> bool:
    return True


DEFAULTS: dict[str, Any] = {
    "initial": 1000,
    "query_size": 50,
    "initial_epochs": 10.0,
    "epochs": 0.5,
    "batch_size": 64,
    "lr": 0.05,
    "warmup_batches": 50,
    "smoothing": 0.05,
    "channel_cost": "made",
}
"""Of runs on data and with networks that nothing else is known of."""

# A first fit of few batches leaves a deep network far below what the labels allow, and most of all
# the narrowest: after 80 batches on the digits, VGG-19 without 96% of its FLOPs is right on 61 to
# 90% by seed, after 160 on 84 to 90%.
_FEW, _VERY_FEW = 400, 200
_FEW_LABELS = {"initial_epochs": 20.0, "batch_size": 32}
_VERY_FEW_LABELS = _FEW_LABELS | {"initial_epochs": 40.0}

# The first case that holds and has a value for an option decides.
_RUN = (
    # A pretrained network knows the typical images before any label, and needs few labels.
    Case(
        "with --learner frozen",
        lambda f: f.config.learner == "frozen",
        {"initial": 50, "start": "typiclust", "acquisition": "falcun"},
    ),
    Case("none with --steps", lambda f: f.config.steps is not None, {"budget": None}),
    # Weights that were trained would be destroyed at the rate at which random ones learn.
    Case(
        "with --pretrained",
        lambda f: f.config.pretrained is not None,
        {"lr": 0.01, "after_pruning": "inherit"},
    ),
    # The weights of a network of your own may be more than a random draw.
    Case("for your own network", lambda f: not f.listed, {"after_pruning": "inherit"}),
    # Sized for a minute on a laptop's CPU: 1297 training images instead of CIFAR-10's 50,000.
    Case(
        "for digits",
        lambda f: f.config.dataset == "digits",
        {"initial": 100, "query_size": 10, **_VERY_FEW_LABELS},
    ),
    Case(
        f"with --initial below {_VERY_FEW}",
        lambda f: (f.config.initial or _VERY_FEW) < _VERY_FEW,
        _VERY_FEW_LABELS,
    ),
    Case(
        f"with --initial below {_FEW}",
        lambda f: (f.config.initial or _FEW) < _FEW,
        _FEW_LABELS,
    ),
    # SynFlow's and GraSP's scores are of the weights that are trained; SNIP's authors take others.
    Case("for weight masks", lambda f: f.method.masks, {"after_pruning": "inherit"}),
    # The Early Pruning Indicator can decide after its eleventh epoch, see alprune.pruning.epi.
    Case("with method epi", lambda f: f.method.early, {"initial_epochs": 20.0, "prune_at": "epi"}),
    # Its filters come from the images; what is learnt is little more than a linear layer.
    Case(
        "for patches",
        lambda f: f.config.model == "patches",
        {"after_pruning": "inherit", "warmup_batches": 10},
    ),
    # A wide network with He initialisation needs more time to get up to the rate of narrow ones.
    Case(
        "where no channels are removed before training",
        lambda f: not f.method.saves_time,
        {"warmup_batches": DENSE_WARMUP, "round_to": 1, "min_channels": 4},
    ),
    # Where the models of alprune gain from other values than the paper's within a budget: as much
    # removed as the time asks for, the cost term strengthened, so that late layers keep more
    # channels and early ones fewer, and costs that are time.
    Case(
        "for 3sp-ca on a model of `alprune list`",
        lambda f: f.shrinks and (f.config.steps is None or f.config.budget is not None),
        {"flops_reduction": "auto"},
    ),
    Case("there without a budget", lambda f: f.shrinks, {"flops_reduction": _MINUTES}),
    Case(
        "for 3sp-ca on a model of `alprune list`",
        lambda f: f.built_in and f.config.method == "3sp-ca",
        {"smoothing": 0.01, "channel_cost": "step"},
    ),
    Case("for lenet-5-caffe", lambda f: f.config.model == "lenet-5-caffe", {"lr": 0.01}),
    Case("with --imbalance", lambda f: f.config.imbalance != 1, {"start": "random"}),
    # Multiples of 16 train faster, and no wide layer may become a bottleneck.
    Case(
        "",
        _always,
        DEFAULTS
        | {"learner": "trained", "budget": 3600.0, "start": "balanced", "after_pruning": "reinit"}
        | {"acquisition": "entropy"}
        | {"round_to": _AUTO, "min_channels": _AUTO},
    ),
)
# Of labelling, before those of a run.
_LABELLING = (
    # Little is forgotten between rounds by what is nearly linear: 60 more passes are enough.
    Case("for patches", lambda f: f.config.model == "patches", {"epochs": 60.0}),
    # Of a round's time only a part is spent on training, and it is not known which.
    Case(
        "for 3sp-ca on a model of `alprune list`",
        lambda f: f.shrinks,
        {"flops_reduction": _MINUTES},
    ),
    Case(
        "",
        _always,
        {"budget": 60.0, "start": "typiclust", "batch_size": 32}
        # Passes that few labels need; with many labels the budget ends a fit, and its rate falls
        # with the clock.
        | {"initial_epochs": 200.0, "epochs": 200.0},
    ),
    Case("", lambda f: f.method.saves_time, {"warmup_batches": 10}),  # rounds are short
)


def resolve(config: RunConfig) -> ResolvedRun:
    """Fill the options of a run that were left open.

    Raises:
        ConfigError: Unknown method.
    """
    return ResolvedRun(**_filled(config, _RUN))


def resolve_labelling(config: RunConfig) -> ResolvedLabelling:
    """Fill the options of labelling that were left open.

    Raises:
        ConfigError: Unknown method.
    """
    values = _filled(config, _LABELLING + _RUN)
    values["initial"] = config.initial  # the labels that a trial keeps, which has no default
    return ResolvedLabelling(**values)


def default_text(name: str, labelling: bool = False) -> str:
    """Say what the default of an option is; empty where its help text does.

    Args:
        name: Of the option.
        labelling: In labelling, not in a run.
    """
    if labelling and name in _NO_DEFAULT_IN_LABELLING:
        return ""
    entry = OPTIONS[name]
    if labelling and name in FROM_SCRATCH:
        other = _shown(name, entry.default)
        text = _shown(name, FROM_SCRATCH[name])
        text = f"{text}; {other} where another option chooses or prunes the network"
        return text + "; efficientnet-lite0 with --learner frozen" * (name == "model")
    if entry.default is not None:
        return "" if isinstance(entry.default, bool) else _shown(name, entry.default)
    general, special = entry.metadata["otherwise"], []
    named: set[str] = set()
    for case in (_LABELLING if labelling else ()) + _RUN:
        if name not in case.values:
            continue
        if case.words in named:
            break  # labelling has one of its own, after which no other holds
        named.add(case.words)
        shown = _shown(name, case.values[name])
        if case.words:
            special.append(f"{shown} {case.words}".strip())
        else:
            general = general or shown
        if case.holds is _always:
            break
    return "; ".join([general, *special] if general else special)


def unmeasured_reduction(config: RunConfig) -> float | None:
    """Return the share of the FLOPs to remove where no speed is measured; None: the method's own.

    For the models of `alprune list` and 3sp-ca it is one that is right for minutes.
    """
    from alprune.models import MODELS

    return _MINUTES if config.method == "3sp-ca" and config.model in MODELS else None


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if is_duration(name):
        return duration(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _filled(config: RunConfig, cases: tuple[Case, ...]) -> dict[str, Any]:
    from alprune.models import MODELS, is_listed
    from alprune.pruning import find_method

    model = config.model
    facts = _Facts(config, find_method(config.method), model in MODELS, is_listed(model))
    found: dict[str, Any] = {}
    for case in cases:
        if case.holds(facts):
            found = dict(case.values) | found
    if config.out is None:
        found["out"] = str(_free_folder(config))
    return given(found | given(asdict(config)))


def _free_folder(config: RunConfig) -> Path:
    name = f"{config.dataset.partition(':')[0]}-{config.method}-seed{config.seed}"
    return free_path(Path("outputs") / name.replace(":", "-").replace("/", "-"))
