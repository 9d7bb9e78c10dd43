"""compare.toml: what a comparison varies and what it holds fixed, so that it can be resumed."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from alprune.data import atomic_io
from alprune.errors import ConfigError, StoreError, quoted
from alprune.loop.config import RunConfig, given
from alprune.loop.recipe import read_recipe
from alprune.loop.trust import check_trust
from alprune.runs.compare.grid import Grid

MANIFEST = "compare.toml"


def read_grid_recipe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe with or without a `[grid]` table.

    Returns:
        Its options and its grid, `{option: values}`.

    Raises:
        ConfigError: It cannot be read, or holds an option both fixed and in its grid.
    """
    record = read_recipe(path)
    grid = record.pop("grid", {})
    if not isinstance(grid, dict):
        raise ConfigError(
            f"recipe {path}: grid is {quoted(grid)}; it must be a table: a line [grid], then "
            "lists of values by option name."
        )
    if both := sorted(record.keys() & grid.keys()):
        raise ConfigError(f"recipe {path} fixes {both[0]!r} and varies it in its [grid].")
    return record, grid


def merged(
    recipe: tuple[Mapping[str, Any], Mapping[str, Any]],
    given: Mapping[str, Any],
    axes: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let what is given on the command line win over a recipe.

    Args:
        recipe: Options and grid, as from `read_grid_recipe`.
        given: Options that are fixed on the command line.
        axes: `{option: values}` of the command line.

    Returns:
        Options and grid; what one of them was given for leaves the other.

    Raises:
        ConfigError: An option is both fixed and varied on the command line.
    """
    if both := sorted(given.keys() & axes.keys()):
        raise ConfigError(f"{both[0]} is both fixed and varied. Give it once.")
    options, grid = recipe
    options = {name: value for name, value in options.items() if name not in axes}
    grid = {name: values for name, values in grid.items() if name not in given}
    return options | dict(given), grid | dict(axes)


def write_manifest(out: Path, config: RunConfig, grid: Grid) -> None:
    """Write compare.toml, whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    fixed = {k: v for k, v in given(asdict(config)).items() if k not in ("out", *grid)}
    text = tomli_w.dumps(fixed | {"grid": {name: list(values) for name, values in grid.items()}})
    try:
        atomic_io.replace(out / MANIFEST, text)
    except OSError as error:
        raise StoreError(f"cannot write {out / MANIFEST}: {error}.") from error


def read_manifest(out: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Return the options and the grid of a comparison.

    Raises:
        StoreError: There is none.
        ConfigError: compare.toml is damaged, or names code that the user did not allow.
    """
    path = out / MANIFEST
    if not path.exists():
        raise StoreError(
            f"{out} holds no comparison to resume. Start one: alprune compare --out {out} "
            "--methods ... --seeds ..."
        )
    options, grid = read_grid_recipe(path)
    check_trust(options | grid, path)
    try:
        return RunConfig.from_mapping(options), grid
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
