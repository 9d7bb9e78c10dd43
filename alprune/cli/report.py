"""`alprune report`."""

from pathlib import Path

import click

from alprune.cli.common import Command


@click.command("report", cls=Command)
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("outputs/report"),
    show_default=True,
    help="Folder for the report; an earlier one there is replaced.",
)
@click.option(
    "--baseline",
    metavar="GROUP",
    help="Name of the group that the others are compared with (the dense learner's).",
)
@click.option(
    "--images/--no-images",
    default=True,
    help="Show the acquired images; for that the data set is loaded, never downloaded.",
)
def report_command(paths: tuple[Path, ...], out: Path, baseline: str | None, images: bool) -> None:
    """Compare runs: a page, Markdown, a CSV file and pictures.

    DIR is a run folder, or a folder of run folders; old and unfinished runs are read too.
    """
    from alprune.runs.report import write_report

    click.echo(write_report(paths, out, baseline=baseline, images=images))
