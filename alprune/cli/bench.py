"""`alprune bench`."""

import json
from typing import Any

import click

from alprune.cli.common import tell
from alprune.cli.options import METAVARS, Command
from alprune.loop.defaults import BENCH
from alprune.loop.option import CHOICES


@click.command("bench", cls=Command)
@click.option(
    "--methods",
    default=",".join(BENCH["methods"]),
    show_default=True,
    help="Pruning methods to compare, with commas; with dense, ratios to it are shown.",
)
@click.option("--model", default=BENCH["model"], show_default=True, help="The network.")
@click.option(
    "--batch-size",
    default=BENCH["batch_size"],
    show_default=True,
    metavar="N",
    help="Examples per training batch.",
)
@click.option(
    "--round-to",
    type=int,
    metavar="N",
    help="Multiple of widths [default: as in a run].",
)
@click.option(
    "--dataset",
    default=BENCH["dataset"],
    show_default=True,
    help="synthetic (random images, no download) or what `alprune run` takes.",
)
@click.option("--data-root", metavar="DIR", help="Folder for downloads.")
@click.option("--seconds", default=BENCH["seconds"], show_default=True, help="For each comparison.")
@click.option(
    "--pool",
    default=BENCH["pool"],
    show_default=True,
    help="Images in a memory-mapped file to score; 0 for none.",
)
@click.option("--device", default="auto", metavar=METAVARS["device"])
@click.option("--precision", default="auto", type=click.Choice(CHOICES["precision"]))
@click.option("--seed", default=BENCH["seed"], show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench_command(methods: str, as_json: bool, **given: Any) -> None:
    """Measure the throughput of this machine, as ratios to plain PyTorch loops and to dense."""
    from alprune.runs.bench import BenchSettings, bench, table

    names = tuple(name.strip() for name in methods.split(","))
    result = bench(BenchSettings(names, **given), tell=tell)
    tell("")
    if as_json:
        click.echo(json.dumps(result.record()))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    click.echo(table(result.rows))
