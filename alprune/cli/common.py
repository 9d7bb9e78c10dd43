"""What the commands share: options made of RunConfig, errors as one message, exit codes."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from cloup import Command

from alprune.errors import AlpruneError, printable
from alprune.loop.config import CHOICES, RunConfig, default_of, given, option_type
from alprune.loop.trust import TRUSTED, trusting

METAVARS = {
    "budget": "SECONDS",
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
    names: Sequence[str] | None = None, helps: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a click option of each field of RunConfig, or of those named.

    Args:
        names: Of fields; None: all.
        helps: Texts of options that mean something else to this command.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for entry in reversed(fields(RunConfig)):
            if names is None or entry.name in names:
                function = _option(entry, (helps or {}).get(entry.name))(function)
        return click.option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="TOML file of options; those given on the command line win.",
        )(trust_option(function))

    return decorate


def _option(entry: Any, told: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind, _ = option_type(entry)
    flag = "--" + entry.name.replace("_", "-")
    text = entry.metadata["help"]
    default = default_of(entry)
    # The default stays None: only what is given on the command line may win over a recipe.
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", entry.name, default=None, help=text)
    if told is not None:
        text = told
    elif default is not None:
        text = f"{text} [default: {default}]"
    choices = None if entry.name == "device" else CHOICES.get(entry.name)
    param: Any = click.Choice(choices) if choices else kind
    metavar = METAVARS.get(entry.name)
    return click.option(flag, entry.name, type=param, default=None, metavar=metavar, help=text)


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
    "run_options",
    "show_warning",
    "tell",
    "trust_option",
]
