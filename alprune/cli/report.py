"""`alprune report`."""

from pathlib import Path

import click

from alprune.cli.common import Command
from alprune.report import plot_curves


@click.command("report", cls=Command)
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=Path("report.png"),
    show_default=True,
    help="The picture; its suffix says which kind (.png, .svg, .pdf).",
)
def report_command(paths: tuple[Path, ...], out: Path) -> None:
    """Draw accuracy and labelled points of run folders against time."""
    plot_curves(paths, out)
    click.echo(out)
