"""`alprune watch`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from alprune.cli.options import Command, Duration


@click.command("watch", cls=Command)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--wait",
    "wait_s",
    type=Duration(least=0),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long to wait for a run to start there.",
)
@click.option(
    "--every",
    "every_s",
    type=Duration(least=0.05),
    default="1s",
    show_default=True,
    metavar="TIME",
    help="Time between two updates.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
def watch_command(path: Path, wait_s: float, every_s: float, as_json: bool) -> None:
    """Follow a run of another process until it ends, without disturbing it.

    The exit code is 1 if the run was killed, or if none starts.
    """
    from alprune.runs.watch import Watcher, follow, unseen

    watcher = Watcher(sys.stdout)
    seen: list[dict[str, Any]] = []
    try:
        for course in follow(path, wait_s=wait_s, every_s=every_s):
            if as_json:
                for event in unseen(seen, course.events):
                    click.echo(json.dumps(event))
                seen = course.events
            else:
                watcher.show(course)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("No longer watching; the run continues.") from None
