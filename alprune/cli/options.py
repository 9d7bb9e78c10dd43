"""Options of a run on the command line: in groups, common ones first; the rest by --set, too."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import cloup
from cloup.formatting import HelpFormatter

from alprune.errors import ConfigError, quoted
from alprune.loop.config import OPTIONS, is_duration, read_option
from alprune.loop.defaults import default_text
from alprune.loop.option import CHOICES, GROUPS, option_type
from alprune.loop.option_text import seconds_of
from alprune.loop.trust import TRUSTED, trusting
from alprune.registry import unknown

METAVARS = {
    "budget": "TIME",
    "out": "DIR",
    "data_root": "DIR",
    "cache": "DIR",
    "device": "|".join(CHOICES["device"]),
}
_NUMBERS: dict[type, str] = {int: "N", float: "X", str: "NAME"}
_ALL = "alprune.cli.help_all"  # key in a context's meta: whether help shows all options

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Option(cloup.Option):
    """An option of a run.

    Args:
        rare: Whether only --help-all shows it, where a command has that.
    """

    def __init__(self, *args: Any, rare: bool = False, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.rare = rare


class Command(cloup.Command):
    """A command whose help shows its options in groups; with --help-all, rare ones only there."""

    def format_params(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups that have something to show."""
        groups, ungrouped = self.option_groups, self.ungrouped_options
        has_all = any(parameter.name == "help_all" for parameter in self.params)
        if has_all and not ctx.meta.get(_ALL):
            self.option_groups = [part for group in groups if (part := _common(group)).options]
            self.ungrouped_options = _common_of(ungrouped)
        try:
            super().format_params(ctx, formatter)
        finally:
            self.option_groups, self.ungrouped_options = groups, ungrouped


def _common(group: cloup.OptionGroup) -> cloup.OptionGroup:
    part = cloup.OptionGroup(group.title)
    part.options = _common_of(group.options)
    return part


def _common_of(options: Sequence[click.Option]) -> list[click.Option]:
    return [option for option in options if not getattr(option, "rare", False)]


def run_options(
    names: Sequence[str] | None = None,
    helps: Mapping[str, str] | None = None,
    *,
    labelling: bool = False,
    settings: bool = True,
) -> Decorator:
    """Make a click option of each option of a run, or of those named; and --recipe and --set.

    Args:
        names: Of options; None: all.
        helps: Texts of options that mean something else to this command.
        labelling: Whether the defaults are those of labelling.
        settings: Whether to add --set.
    """
    chosen = [name for name in OPTIONS if names is None or name in names]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        groups = {name: cloup.OptionGroup(name.capitalize()) for name in GROUPS}
        function = click.option(
            "--help-all",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_help_all,
            help="Show all options and exit.",
        )(function)
        for name in reversed(chosen):
            text = (helps or {}).get(name, OPTIONS[name].metadata["help"])
            group = groups[OPTIONS[name].metadata["group"]]
            function = _option(name, text, default_text(name, labelling), group)(function)
        if settings:
            function = cloup.option(
                "--set",
                "settings",
                multiple=True,
                type=Setting(chosen),
                help="Set any option of --help-all, as in --set lr=0.1; may be repeated.",
            )(function)
        function = trust_option(function)
        return cloup.option(
            "--recipe",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file of options; those on the command line win.",
        )(function)

    return decorate


def given_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a command line sets, those of --set among them.

    Raises:
        ConfigError: One is set twice.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.pop("settings", ()):
        if name in found:
            raise ConfigError(f"{name} is set twice. Give it once, as an option or by --set.")
        found[name] = value
    return found


def flags_of(given: Mapping[str, Any]) -> list[str]:
    """Return what was typed for the options that a command line sets."""
    names = [name for name, value in given.items() if value is not None and value != ()]
    return ["--" + name.replace("settings", "set").replace("_", "-") for name in names]


def _option(name: str, text: str, default: str, group: cloup.OptionGroup) -> Decorator:
    kind, _ = option_type(OPTIONS[name])
    flag = "--" + name.replace("_", "-")
    if default and "[default: " not in text:
        text += f" [default: {default}]"
    # The default stays None: only what is given on the command line may win over a recipe.
    shared: dict[str, Any] = {
        "cls": Option,
        "default": None,
        "group": group,
        "help": text,
        "rare": not OPTIONS[name].metadata["common"],
    }
    if kind is bool:
        return cloup.option(f"{flag}/--no-{flag[2:]}", name, **shared)
    choices = None if name == "device" else CHOICES.get(name)
    words = OPTIONS[name].metadata["words"]
    param: Any = NumberOr(words) if words else click.Choice(choices) if choices else kind
    metavar = METAVARS.get(name, None if choices else _NUMBERS[kind])
    return cloup.option(
        flag, name, type=Duration() if is_duration(name) else param, metavar=metavar, **shared
    )


def _help_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


class NumberOr(click.ParamType):
    """A number, or one of some words."""

    name = "number"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        """Read a number; leave words as they are."""
        if value in self._words:
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{quoted(value)} is neither a number nor {' or '.join(self._words)}.")


class Duration(click.ParamType):
    """A duration in seconds, written as in "90s", "10m" or "2h"."""

    name = "time"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        try:
            seconds = seconds_of(str(value), param.opts[0] if param else "it")
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        if not seconds >= self._least and self._least:
            self.fail(f"{value} is less than {self._least:g} seconds.", param, ctx)
        return seconds


class Setting(click.ParamType):
    """One option of some by name, as in "lr=0.1"."""

    name = "option=value"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Read it."""
        name, equals, text = value.partition("=")
        if not equals:
            raise ConfigError(f"--set takes OPTION=VALUE, as in --set lr=0.1; got {value!r}.")
        name = name.strip().lstrip("-").replace("-", "_")
        if name not in self._names:
            raise unknown("option", name, self._names)
        return name, read_option(name, text.strip())


def _trust(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.with_resource(trusting(value))


trust_option = cloup.option(
    "--trust-code",
    cls=Option,
    rare=True,
    is_flag=True,
    expose_value=False,
    callback=_trust,
    help="Import the code that a recipe or run folder names (module:function). "
    f"${TRUSTED} lists modules that need no such option.",
)
"""For commands that read a recipe or a run folder and may import what is named there."""


def log_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --log and --tensorboard, which come as `log`, a tuple of names."""

    @functools.wraps(function)
    def call(*args: Any, log: tuple[str, ...], tensorboard: bool, **options: Any) -> Any:
        return function(*args, log=(*log, *["tensorboard"] * tensorboard), **options)

    option = cloup.option(
        "--log",
        cls=Option,
        rare=True,
        multiple=True,
        type=click.Choice(["tensorboard", "mlflow", "trackio", "wandb"]),
        help="Log to an experiment tracker; may be repeated.",
    )
    short = cloup.option(
        "--tensorboard", cls=Option, rare=True, is_flag=True, help="The same as --log tensorboard."
    )
    return option(short(call))


FORMATTING = HelpFormatter.settings(max_width=96, col2_min_width=40)
"""How wide help may get."""
