"""`alprune cache`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alprune.cli.options import Command
from alprune.errors import DataError, counted

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
    """List or remove what is kept of images: decoded images, and their embeddings."""


@cache_command.command("list", cls=Command)
@_WHERE
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_command(where: Path | None, as_json: bool) -> None:
    """List decoded images with their folder, embeddings with their number, and their sizes.

    Embeddings are what a network of --learner frozen has seen of images, of all folders.
    """
    from alprune.data.image_cache.store import caches_folder, list_caches
    from alprune.data.image_cache.vectors import list_stores, store_folder
    from alprune.data.memmap import gigabytes

    images, embeddings = list_caches(where), list_stores(where)
    found = [*images, *embeddings]
    if as_json:
        click.echo(json.dumps([_record(one) for one in found]))
        return
    width = max((len(one.path.name) for one in found), default=0)
    for title, folder, some in (
        ("decoded images", caches_folder(where), images),
        ("embeddings", store_folder("", where), embeddings),
    ):
        click.echo(f"{title} in {folder}:")
        for one in some:
            size, of = gigabytes(one.disk_bytes), one.root or "cannot be read"
            if one.embeddings is not None:
                of = counted(one.embeddings, "image", "images")
                of = of if one.embeddings else "none that can be read"
            click.echo(f"  {one.path.name:<{width}}  {size:>9}  {of}")
        if not some:
            click.echo("  nothing")


@cache_command.command("remove", cls=Command)
@_WHERE
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all of them.")
def remove_command(where: Path | None, names: tuple[str, ...], everything: bool) -> None:
    """Remove caches by name; images are decoded and embedded again when they are needed.

    What is being written or cannot be removed stays, and the exit code is 1; the others are
    removed.
    """
    from alprune.data.image_cache.store import caches_folder, list_caches, remove_cache
    from alprune.data.image_cache.vectors import list_stores, remove_store
    from alprune.data.memmap import gigabytes

    if bool(names) == everything:
        raise click.UsageError("give either the names of caches, as alprune cache list, or --all.")
    known = {one.path.name: (one.path, remove_cache) for one in list_caches(where)}
    known |= {one.path.name: (one.path, remove_store) for one in list_stores(where)}
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise DataError(
                f"there is no cache {name!r} in {caches_folder(where).parent}; it has {listed}."
            )
    kept = []
    for name in names or known:
        path, remove = known[name]
        try:
            click.echo(f"{name}: {gigabytes(remove(path))} freed")
        except DataError as error:
            kept.append(str(error))
    if kept:
        raise DataError(" ".join(kept))


def _record(one: "CacheInfo") -> dict[str, object]:
    return {
        "name": one.path.name,
        "kind": "images" if one.embeddings is None else "embeddings",
        "path": str(one.path),
        "root": one.root and str(one.root),
        "size": one.size,
        "disk_bytes": one.disk_bytes,
        "embeddings": one.embeddings,
    }
