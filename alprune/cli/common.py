"""What the commands share: how they end, what they show on the way, and a configuration."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from alprune.cli.options import given_options
from alprune.errors import AlpruneError, printable
from alprune.loop.config import RunConfig
from alprune.loop.recipe import read_recipe
from alprune.loop.trust import check_trust

# A folder of another user, a disk that fails, a file of the network that is gone.
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


@contextmanager
def ending() -> Iterator[None]:
    """End the program on an AlpruneError with its message and 1, on a signal with 128 + number."""
    try:
        yield
    except AlpruneError as error:
        click.echo(printable(f"Error: {error}"), err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None or error.errno not in _NOT_OURS:
            raise
        click.echo(printable(f"Error: {error.filename}: {error.strerror}."), err=True)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        click.echo(str(interrupt) or "Interrupted.", err=True)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


FINE_TUNED_FROM = 300
"""Labels from which it is worth a try; at 450 it gained 5 points, see recipes/labelling."""


def fine_tuning_hint(where: str, labels: int, learner: str | None) -> str:
    """Return a line that names fine-tuning where there are labels enough for it, or nothing."""
    if learner != "frozen" or labels < FINE_TUNED_FROM:
        return ""
    return f"\nMore accurate, perhaps: alprune export {where} --fine-tune --format safetensors"


def tell(text: str) -> None:
    """Show progress: in place on a terminal, where an empty text clears it; else as lines."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
    elif text:
        click.echo(text, err=True)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, above a progress bar, as `warnings.showwarning`."""
    from tqdm import tqdm

    text = printable(f"Warning: {message}")
    if sys.stderr.isatty():
        tqdm.write(f"\r\033[K{text}", file=sys.stderr)
    else:
        click.echo(text, err=True)


def config_of(recipe: Path | None, given: dict[str, Any]) -> RunConfig:
    """Make a configuration of a recipe and of the options given, which win.

    Args:
        recipe: Its file, or None.
        given: All options that the command takes; None or () where one is not given.

    Raises:
        ConfigError: As from `RunConfig.from_toml`.
    """
    if recipe is None:
        return RunConfig.from_mapping(given_options(given))
    chosen = given_options(given)
    record = {name: value for name, value in read_recipe(recipe).items() if name not in chosen}
    check_trust(record, recipe, chosen, takes=given)
    return RunConfig.from_toml(recipe, trust_code=True, **chosen)
