"""`alprune bench`."""

import json
from typing import Any

import click

from alprune.cli.common import METAVARS, Command, tell
from alprune.loop.config import CHOICES
from alprune.loop.defaults import BENCH


@click.command("bench", cls=Command)
@click.option(
    "--methods",
    default=",".join(BENCH["methods"]),
    show_default=True,
    help="Learners to compare, with commas; dense among them for ratios to it.",
)
@click.option("--model", default=BENCH["model"], show_default=True, help="The network.")
@click.option("--batch-size", default=BENCH["batch_size"], show_default=True)
@click.option("--round-to", type=int, help="Widths after pruning are multiples of this (8).")
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
    """Measure throughput here, as ratios to bare PyTorch loops and to the dense network."""
    from alprune.runs.bench import BenchSettings, bench, table

    result = bench(BenchSettings(tuple(methods.split(",")), **given), tell=tell)
    tell("")
    if as_json:
        click.echo(json.dumps(result.record()))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    click.echo(table(result.rows))
