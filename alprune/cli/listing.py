"""`alprune list`."""

import json

import click

from alprune.cli.options import Command


@click.command("list", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print names and summaries as JSON.")
def list_command(as_json: bool) -> None:
    """List all methods, models, data sets, acquisition functions and ways to start.

    Beside a method is what it removes unless --flops-reduction or another reduction is given.
    """
    from alprune import acquisition, pruning
    from alprune.acquisition.initial import STARTS
    from alprune.data import DATASETS
    from alprune.models import MODELS

    known = {
        "methods": {name: text + _removes(name) for name, text in pruning.summaries().items()},
        "models": {name: entry.summary for name, entry in MODELS.items()},
        "datasets": {name: entry.summary for name, entry in DATASETS.items()},
        "acquisitions": acquisition.summaries(),
        "starts": {name: (do.__doc__ or "").partition("\n")[0] for name, do in STARTS.items()},
    }
    if as_json:
        click.echo(json.dumps(known))
        return
    for family, entries in known.items():
        click.echo(f"{family}:")
        width = max(map(len, entries))
        for name, summary in entries.items():
            click.echo(f"  {name:<{width}}  {summary}")
    click.echo("Wherever a name is accepted, package.module:function is too.")
    click.echo("A model may also be torchvision:NAME or timm:NAME, any classifier of theirs.")


def _removes(method: str) -> str:
    """Say what a method removes by default; nothing of a criterion from another package."""
    from alprune.pruning import METHODS

    reductions = METHODS[method].reductions if method in METHODS else {}
    parts = [f"{share:.0%} of the {name}" for name, share in reductions.items() if share]
    said = " and ".join(parts).replace("flops", "FLOPs").replace("params", "parameters")
    return f"; removes {said}" if said else ""
