"""Options that have no effect with a method, with a learner or in labelling, and why."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from alprune.errors import ConfigError, quoted
from alprune.loop.config import OPTIONS, RunConfig, given
from alprune.loop.defaults import REDUCTIONS, resolve
from alprune.pruning.registry import METHODS, Method

_WIDTHS = ("precrop", "precrop-flops", "precrop-params", "preconfig")
# What methods refuse that have no use for it; they ignore the rest.
_REFUSED = (*REDUCTIONS, "rounds", "round_to", "latency_aware", "ignore", "local")
_WITHOUT_DATA = (*_WIDTHS, "uniform", "magnitude", "magnitude-weights", "synflow", "random")


@dataclass(frozen=True)
class _Use:
    """What decides whether an option is used: the options, and the method that they name."""

    config: RunConfig
    name: str
    method: Method

    @property
    def masks(self) -> bool:
        """Whether single weights are masked."""
        return self.method.masks

    @property
    def scores_once(self) -> bool:
        """Whether channels are scored once and the least removed."""
        other = (*_WIDTHS, "3sp-iterative")
        return self.method.saves_time and self.name not in other

    @property
    def by_latency(self) -> bool:
        """Whether latency is measured."""
        return self.config.latency_aware or self.config.latency_reduction is not None


@dataclass(frozen=True)
class _Row:
    """Options, when they are used, and why not otherwise."""

    options: tuple[str, ...]
    used: Callable[[_Use], bool]
    reason: str


# Widths and batches are not refused with dense: recipes give them for it and for others alike.
_LATENCY = "only methods that score channels once take it as a target"
_AWARE = "only epi and methods that score channels once take latency into account"
_TABLE = (
    _Row(REDUCTIONS, lambda u: u.name != "dense", "it prunes nothing"),
    _Row(
        ("flops_reduction", "channels_reduction"),
        lambda u: not u.masks,
        "it masks single weights; params_reduction is the share of them",
    ),
    _Row(
        ("flops_reduction", "params_reduction", "channels_reduction"),
        lambda u: u.name not in _WIDTHS,
        "",
    ),
    _Row(("latency_reduction", "time_reduction"), lambda u: u.scores_once, _LATENCY),
    _Row(("latency_aware",), lambda u: u.scores_once or u.method.early, _AWARE),
    _Row(
        ("latency_batch",),
        lambda u: u.by_latency,
        "latency is measured only with latency_reduction or latency_aware",
    ),
    _Row(
        ("smoothing",),
        lambda u: u.name == "3sp-ca" or u.config.latency_aware,
        "only 3sp-ca and latency_aware divide scores by a cost",
    ),
    _Row(("channel_cost",), lambda u: u.name == "3sp-ca", "only 3sp-ca divides scores by it"),
    _Row(
        ("temperature",),
        lambda u: u.name in ("grasp", "structured-grasp"),
        "only grasp and structured-grasp divide logits by it",
    ),
    _Row(("redraw_linear",), lambda u: u.name == "grasp", "only grasp redraws linear layers"),
    _Row(("rounds",), lambda u: u.name == "3sp-iterative", "only 3sp-iterative prunes in rounds"),
    _Row(
        ("prune_at", "epi_criterion"),
        lambda u: u.method.early,
        "only epi prunes during training",
    ),
    _Row(
        ("epi_tau", "epi_window"),
        lambda u: u.method.early and u.config.prune_at in (None, "epi"),
        "only method epi with --prune-at epi waits for the indicator",
    ),
    _Row(("min_channels", "round_to"), lambda u: not u.masks, "it removes no channels"),
    _Row(
        ("ignore", "local"),
        lambda u: not u.masks and u.name != "dense",
        "it removes no channels",
    ),
    _Row(
        ("normalised",),
        lambda u: u.method.saves_time and u.name not in _WIDTHS,
        "it ranks no channels before training",
    ),
    _Row(("ignore", "local"), lambda u: u.name not in _WIDTHS, "it ranks no channels"),
    _Row(
        ("prune_batch", "prune_batches", "score_mode"),
        lambda u: u.name not in _WITHOUT_DATA and not u.method.early,
        "it looks at no examples before training",
    ),
)
_NOBODY_KNOWS = "nobody knows the labels to simulate with"
NOT_FOR_LABELLING = {
    "steps": "a round ends with its budget",
    "imbalance": _NOBODY_KNOWS,
    "label_noise": _NOBODY_KNOWS,
    "prune_at": "the learner is pruned with the first labels",
    "epi_criterion": "the learner is pruned with the first labels",
    "epi_tau": "the learner is pruned with the first labels",
    "epi_window": "the learner is pruned with the first labels",
    "score_subset": "score_share decides how many images are scored",
    "eval_every": "there is no test set; hold_out measures the accuracy",
    "out": "the folder is an argument",
    "sync_batchnorm": "one process does the work",
    "pretrained_digest": "it is recorded by itself",
}
"""Options of a run that labelling by people does not take, and why."""
LABELLING_OPTIONS = tuple(name for name in OPTIONS if name not in NOT_FOR_LABELLING)

# With a frozen learner, whatever the method.
_FROZEN = tuple(
    name
    for name, entry in OPTIONS.items()
    if entry.metadata["group"] in ("pruning", "training")
    and name not in ("method", "after_pruning", "sync_batchnorm")
)


def unused(config: RunConfig) -> dict[str, str]:
    """Return the options that were given and have no effect, and why: `{option: reason}`.

    An option that has the value it would have anyway is not among them: a recipe may hold all.
    """
    found: dict[str, str] = {}
    if config.learner == "frozen":
        found = dict.fromkeys(_FROZEN, "it is not pruned, and only its head is fitted")
    elif config.method in METHODS:  # a method of your own may use all of them
        use = _Use(config, config.method, METHODS[config.method])
        for row in _TABLE:
            if not row.used(use):
                found |= {name: _because(row, use, name) for name in row.options}
    return {name: reason for name, reason in found.items() if reason and _was_given(config, name)}


def refuse_unused(configs: Iterable[RunConfig]) -> None:
    """Refuse options that were given and have no effect in any of these runs.

    Raises:
        ConfigError: There are some; the message says why.
    """
    runs = list(configs)
    reasons = [unused(config) for config in runs]
    for name, reason in reasons[0].items():
        if all(name in others for others in reasons):
            of = "a frozen learner" if runs[0].learner == "frozen" else f"method {runs[0].method!r}"
            raise ConfigError(
                f"{name} ({quoted(getattr(runs[0], name))}) has no effect with {of}: {reason}. "
                f"Leave it out, or choose another {'learner' if 'frozen' in of else 'method'}."
            )


def refuse_in_labelling(options: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse options that have no effect in labelling.

    Args:
        options: Those that were given.
        config: These, and what the folder holds of others.

    Raises:
        ConfigError: There are some; the message says why.
    """
    refuse_simulated(options)
    if config.model == "auto":
        raise ConfigError(
            "--model auto sizes a network for the --budget of a whole run; labelling has rounds. "
            "Leave --model out for what few labels need, or name a network."
        )
    context = {name: getattr(config, name) for name in ("method", "model", "learner")}
    refuse_unused([RunConfig.from_mapping(given(context) | dict(options))])


def refuse_simulated(options: Mapping[str, Any]) -> None:
    """Refuse options of simulated runs, whatever learns.

    Raises:
        ConfigError: There are some; the message says why.
    """
    for name in options:
        if name in NOT_FOR_LABELLING and options[name] != OPTIONS[name].default:
            raise ConfigError(
                f"{name} has no effect in labelling: {NOT_FOR_LABELLING[name]}. Leave it out."
            )


def without_refused(config: RunConfig, keep: Container[str] = ()) -> RunConfig:
    """Leave the options at their defaults that the method would refuse, except those to keep."""
    names = [name for name in unused(config) if name in _REFUSED and name not in keep]
    defaults: dict[str, Any] = {name: OPTIONS[name].default for name in names}
    return replace(config, **defaults)


def _because(row: _Row, use: _Use, name: str) -> str:
    """Return why an option is not used; empty if it is."""
    if row.reason:
        return row.reason
    allowed = [f"{quantity}_reduction" for quantity in use.method.reductions]
    return "" if name in allowed else f"it takes {' and '.join(allowed)}"


def _was_given(config: RunConfig, name: str) -> bool:
    value, default = getattr(config, name), OPTIONS[name].default
    if value == default or (name in REDUCTIONS and value == 0):
        return False
    options: dict[str, Any] = given(asdict(config))
    del options[name]
    return bool(value != getattr(resolve(RunConfig.from_mapping(options)), name))
