"""`alprune cache`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alprune.cli.options import Command
from alprune.errors import DataError

if TYPE_CHECKING:
    from alprune.data.image_cache.store import CacheInfo

_WHERE = click.option(
    "--cache",
    "where",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the caches [default: $ALPRUNE_CACHE, or ~/.cache/alprune].",
)


@click.group("cache")
def cache_command() -> None:
    """List or remove decoded images that are kept for folder:PATH, shards:PATH and others."""


@cache_command.command("list", cls=Command)
@_WHERE
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_command(where: Path | None, as_json: bool) -> None:
    """List each cache, the folder of its images and its size."""
    from alprune.data.image_cache.store import caches_folder, list_caches
    from alprune.data.memmap import gigabytes

    found = list_caches(where)
    if as_json:
        click.echo(json.dumps([_record(one) for one in found]))
        return
    click.echo(f"in {caches_folder(where)}:")
    width = max((len(one.path.name) for one in found), default=0)
    for one in found:
        size = gigabytes(one.disk_bytes)
        click.echo(f"  {one.path.name:<{width}}  {size:>9}  {one.root or 'cannot be read'}")
    if not found:
        click.echo("  nothing")


@cache_command.command("remove", cls=Command)
@_WHERE
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all of them.")
def remove_command(where: Path | None, names: tuple[str, ...], everything: bool) -> None:
    """Remove caches by name; images are decoded again when they are needed."""
    from alprune.data.image_cache.store import caches_folder, list_caches, remove_cache
    from alprune.data.memmap import gigabytes

    if bool(names) == everything:
        raise click.UsageError("give either the names of caches, as alprune cache list, or --all.")
    known = {one.path.name: one for one in list_caches(where)}
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise DataError(
                f"there is no cache {name!r} in {caches_folder(where)}; it has {listed}."
            )
    for name in names or known:
        click.echo(f"{name}: {gigabytes(remove_cache(known[name].path))} freed")


def _record(one: "CacheInfo") -> dict[str, object]:
    return {
        "name": one.path.name,
        "path": str(one.path),
        "root": one.root and str(one.root),
        "size": one.size,
        "disk_bytes": one.disk_bytes,
    }
