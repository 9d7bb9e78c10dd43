"""The command line: a file for each family of commands, all of them thin."""

import warnings

import click

import alprune
from alprune.cli.ask import ask_command, tell_command
from alprune.cli.bench import bench_command
from alprune.cli.cache import cache_command
from alprune.cli.common import show_warning
from alprune.cli.compare import compare_command
from alprune.cli.export import export_command
from alprune.cli.label import label_command
from alprune.cli.listing import list_command
from alprune.cli.predict import predict_command
from alprune.cli.prune import prune_command
from alprune.cli.report import report_command
from alprune.cli.run import rerun_command, run_command
from alprune.cli.watch import watch_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(alprune.__version__, prog_name="alprune")
def main() -> None:
    """Active learning under a wall-clock budget, with learners pruned before training."""
    warnings.showwarning = show_warning


for _command in (
    run_command,
    ask_command,
    tell_command,
    label_command,
    watch_command,
    compare_command,
    report_command,
    rerun_command,
    prune_command,
    export_command,
    predict_command,
    list_command,
    cache_command,
    bench_command,
):
    main.add_command(_command)

__all__ = ["main"]
