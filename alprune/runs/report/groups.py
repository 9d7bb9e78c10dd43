"""Runs that differ only in their seed belong together, under a name that says what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alprune.errors import ConfigError, printable
from alprune.loop.defaults import REDUCTIONS
from alprune.runs.report.runs import Run, option_defaults

# Options that change neither what is learnt nor how long it takes on the clock.
_ASIDE = {"seed", "out", "data_root", "cache", "eval_every"}
# What runs are mostly compared by comes first, and appears in names without its own name.
_BARE = ("method", "acquisition", "model", "dataset", "start")
_NAME_CHARACTERS = 60


@dataclass(frozen=True, eq=False)
class Group:
    """Runs with the same options but for the seed.

    Attributes:
        name: What tells it from the other groups, short.
        options: The options in which any two groups differ, by name.
        runs: One or more, by seed.
    """

    name: str
    options: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[Run, ...]:
        """One run of each seed, the first one that has ended; if none has, the first."""
        first: dict[int, Run] = {}
        for run in sorted(self.runs, key=lambda run: not run.ended):
            first.setdefault(run.seed, run)
        return tuple(sorted(first.values(), key=_by_seed))

    @property
    def sound(self) -> tuple[Run, ...]:
        """Those of which means are taken: the ones that have ended; if none has, all."""
        return self.ended or self.seeds

    @property
    def ended(self) -> tuple[Run, ...]:
        """Those that have ended."""
        return tuple(run for run in self.seeds if run.ended)

    @property
    def method(self) -> str:
        """The pruning method."""
        return str(self.runs[0].config["method"])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Sort runs into groups, those of the dense learner first, the others as they come."""
    members: dict[tuple[str, ...], list[Run]] = {}
    names = sorted({name for run in runs for name in run.config} - _ASIDE)
    for run in runs:
        members.setdefault(tuple(_of(run.config, name) for name in names), []).append(run)
    ordered = sorted(members.values(), key=lambda group: group[0].config["method"] != "dense")
    configs = [group[0].config for group in ordered]
    differing = [n for n in names if len({_of(config, n) for config in configs}) > 1]
    first = [*_BARE, *REDUCTIONS, "budget", "steps"]
    differing.sort(key=lambda name: (first.index(name) if name in first else len(first), name))
    return [
        Group(name, {n: config.get(n) for n in differing}, tuple(sorted(group, key=_by_seed)))
        for name, config, group in zip(_names(configs, differing), configs, ordered, strict=True)
    ]


def baseline_of(groups: Sequence[Group], name: str | None = None) -> dict[str, Group]:
    """Choose what each group is compared with.

    Args:
        groups: All of them.
        name: Of the group that all others are compared with; None: the dense learner with the
            most options in common; without one, the first group.

    Returns:
        `{name of a group: its baseline}`, without the baselines themselves.

    Raises:
        ConfigError: No group has that name.
    """
    if name is not None:
        chosen = [group for group in groups if group.name == name]
        if not chosen:
            known = ", ".join(repr(group.name) for group in groups)
            raise ConfigError(f"there is no group {name!r} to compare with; there are: {known}.")
    else:
        chosen = [group for group in groups if group.method == "dense"] or list(groups[:1])
    pairs = {}
    for group in groups:
        same_data = [b for b in chosen if _same(b, group, "dataset")]
        if same_data and group not in chosen:
            pairs[group.name] = max(
                same_data, key=lambda b: sum(_same(b, group, option) for option in group.options)
            )
    return pairs


def option_text(value: Any) -> str:
    """Write an option's value for people, short."""
    if value is None:
        return "default"
    text = f"{value:g}" if isinstance(value, float) else printable(str(value))
    text = text.replace("\n", " ")
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 1]}…"


def _same(one: Group, other: Group, option: str) -> bool:
    return _of(one.runs[0].config, option) == _of(other.runs[0].config, option)


def _by_seed(run: Run) -> tuple[int, str]:
    return run.seed, str(run.path)


def _of(config: Mapping[str, Any], option: str) -> str:
    """Return what tells values of an option apart; weights are what they are, wherever."""
    same = option == "pretrained" and config.get("pretrained_digest")
    return _key(same or config.get(option))


def _key(value: Any) -> str:
    return repr(float(value) if type(value) is int and abs(value) < 2**53 else value)


def _names(configs: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[str]:
    """Name each by as few of the differing options as tell all apart, defaults unsaid."""
    usual = {option: _key(value) for option, value in option_defaults().items()}
    distinguishing: list[str] = []
    apart = 1
    for option in differing:
        keys = {tuple(_of(c, o) for o in [*distinguishing, option]) for c in configs}
        if len(keys) > apart:
            distinguishing, apart = [*distinguishing, option], len(keys)
    names = []
    for config in configs:
        told = [
            option_text(config.get(option))
            if option in _BARE
            else f"{option.replace('_', '-')} {option_text(config.get(option))}"
            for option in distinguishing or ["method"]
            if option in _BARE or _key(config.get(option)) != usual.get(option)
        ]
        names.append(", ".join(told) or "defaults")
    # Two long values may look alike once they are cut.
    return [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]
