"""What the commands share: options made of RunConfig, errors as one message, exit codes."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from cloup import Command

from alprune.errors import AlpruneError, ConfigError, printable
from alprune.loop.config import CHOICES, OPTIONS, RunConfig, given, is_duration
from alprune.loop.defaults import default_text
from alprune.loop.option import option_type
from alprune.loop.option_text import seconds_of
from alprune.loop.trust import TRUSTED, trusting

METAVARS = {
    "budget": "TIME",
    "out": "DIR",
    "data_root": "DIR",
    "cache": "DIR",
    "device": "|".join(CHOICES["device"]),
}


@contextmanager
def ending() -> Iterator[None]:
    """End the program on an AlpruneError with its message and 1, on a signal with 128 + number."""
    try:
        yield
    except AlpruneError as error:
        click.echo(printable(f"{type(error).__name__}: {error}"), err=True)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        click.echo(str(interrupt) or "Interrupted.", err=True)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


def run_options(
    names: Sequence[str] | None = None,
    helps: Mapping[str, str] | None = None,
    labelling: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a click option of each option of a run, or of those named.

    Args:
        names: Of fields; None: all.
        helps: Texts of options that mean something else to this command.
        labelling: Whether the defaults are those of labelling.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(OPTIONS):
            if names is None or name in names:
                text = (helps or {}).get(name, OPTIONS[name].metadata["help"])
                function = _option(name, text, default_text(name, labelling))(function)
        return click.option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="TOML file of options; those given on the command line win.",
        )(trust_option(function))

    return decorate


def _option(
    name: str, text: str, default: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind, _ = option_type(OPTIONS[name])
    flag = "--" + name.replace("_", "-")
    text += f" [default: {default}]" if default else ""
    # The default stays None: only what is given on the command line may win over a recipe.
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    choices = None if name == "device" else CHOICES.get(name)
    param: Any = click.Choice(choices) if choices else kind
    if is_duration(name):
        param = Duration()
    metavar = METAVARS.get(name)
    return click.option(flag, name, type=param, default=None, metavar=metavar, help=text)


class Duration(click.ParamType):
    """A duration in seconds, written as in "90s", "10m" or "2h"."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return seconds_of(value, param.opts[0] if param else "a duration")
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _trust(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.with_resource(trusting(value))


trust_option = click.option(
    "--trust-code",
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

    option = click.option(
        "--log",
        multiple=True,
        type=click.Choice(["tensorboard", "mlflow", "trackio", "wandb"]),
        help="Enter the run in an experiment tracker; may be given several times.",
    )
    short = click.option("--tensorboard", is_flag=True, help="The same as --log tensorboard.")
    return option(short(call))


def tell(text: str) -> None:
    """Show progress: in place on a terminal, where an empty text clears it; else as lines."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
    elif text:
        click.echo(text, err=True)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, as `warnings.showwarning`."""
    click.echo(printable(f"Warning: {message}"), err=True)


def config_of(recipe: Path | None, options: dict[str, Any]) -> RunConfig:
    """Make a configuration of a recipe and of the options given, which win."""
    chosen = given(options)
    if recipe is None:
        return RunConfig.from_mapping(chosen)
    return RunConfig.from_toml(recipe, **chosen)


__all__ = [
    "METAVARS",
    "Command",
    "config_of",
    "ending",
    "log_options",
    "run_options",
    "show_warning",
    "tell",
    "trust_option",
]
