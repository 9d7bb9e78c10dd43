"""`alprune watch`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from alprune.cli.common import Command


@click.command("watch", cls=Command)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a run to begin there.",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events as they come, one JSON a line.")
def watch_command(path: Path, wait_s: float, every_s: float, as_json: bool) -> None:
    """Follow a run, of another process, until it ends; it is not disturbed.

    Exits with 1 if the run was killed, or none begins.
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
        raise KeyboardInterrupt("No longer watching; the run goes on.") from None
