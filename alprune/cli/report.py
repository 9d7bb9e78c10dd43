"""`alprune report`."""

import json
from pathlib import Path

import click

from alprune.cli.options import Command


@click.command("report", cls=Command)
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("outputs/report"),
    show_default=True,
    help="Folder for the report; an earlier report there is replaced.",
)
@click.option(
    "--baseline",
    metavar="GROUP",
    help="Name of the group to compare the others with [default: the dense learner].",
)
@click.option(
    "--images/--no-images",
    default=True,
    help="Show the acquired images; this loads the data set, but never downloads it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the files that were written as JSON.")
def report_command(
    paths: tuple[Path, ...], out: Path, baseline: str | None, images: bool, as_json: bool
) -> None:
    """Compare runs: write a page, Markdown, a CSV file and pictures.

    DIR is a run folder, or a folder of run folders. Unfinished runs and runs of earlier versions
    can be read, too.
    """
    from alprune.runs.report import write_report

    page = write_report(paths, out, baseline=baseline, images=images)
    files = {"page": page, "markdown": page.with_suffix(".md"), "summary": out / "summary.csv"}
    shown = {name: str(path) for name, path in files.items()}
    click.echo(json.dumps(shown) if as_json else page)
