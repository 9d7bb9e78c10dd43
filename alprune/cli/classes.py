"""`alprune classes`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.options import Command, trust_option
from alprune.errors import StoreError, printable
from alprune.loop.run_folder import CONFIG

if TYPE_CHECKING:
    from alprune.labelling import Asking

_EXAMPLES = """\b
List:    alprune classes birds
Rename:  alprune classes birds --rename haron heron
Merge:   alprune classes birds --merge egret heron
Remove:  alprune classes birds --remove strok
"""
_PAIR: dict[str, Any] = {"nargs": 2, "multiple": True}


@click.command("classes", cls=Command, epilog=_EXAMPLES)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--rename", "renamed", metavar="OLD NEW", help="Rename a class.", **_PAIR)
@click.option("--merge", "merged", metavar="A B", help="Give the labels of A to B.", **_PAIR)
@click.option("--remove", "removed", metavar="X", multiple=True, help="Remove an unused class.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the classes as JSON.")
def classes_command(
    path: Path,
    renamed: tuple[tuple[str, str], ...],
    merged: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    as_json: bool,
) -> None:
    """List, rename, merge or remove the classes of a folder of alprune label or ask.

    Changes are recorded like answers: the labels are kept under the new name. The labels that are
    listed are those that people gave. Several changes are made in the order rename, merge, remove,
    up to the first one that is refused.
    """
    from alprune.labelling import open_asking
    from alprune.labelling.classes import merge_classes, remove_class, rename_class

    if not (path / CONFIG).exists():
        raise StoreError(
            f"{path} is not a folder of alprune label or alprune ask (looked in {Path.cwd()})."
        )
    with open_asking(path) as asking:
        for old, new in renamed:
            rename_class(asking, old, new)
        for name, into in merged:
            merge_classes(asking, name, into)
        for name in removed:
            remove_class(asking, name)
        rows = _rows(asking)
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max((len(printable(row["name"])) for row in rows), default=0)
    for row in rows:
        labels = f"{row['labels']:>7,} {'label ' if row['labels'] == 1 else 'labels'}"
        click.echo(f"{printable(row['name']):<{width}}  {labels}  {row['key']}")
    if not rows:
        click.echo("No class yet. Name some: alprune label DIR --classes A,B,C")


def _rows(asking: "Asking") -> list[dict[str, Any]]:
    from alprune.labelling.classes import keys_of

    counts = asking.journal.counts
    return [
        {"name": name, "labels": counts[name], "key": key}
        for name, key in keys_of(asking.journal).items()
    ]
