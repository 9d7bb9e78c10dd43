"""A grid: which runs a comparison makes, what they are called and whether their options fit."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from alprune.errors import AlpruneError, ConfigError, quoted
from alprune.loop.config import RunConfig, known_option, read_option
from alprune.loop.defaults import ResolvedRun
from alprune.loop.setup import complete, data_options
from alprune.loop.unused import refuse_unused, without_refused
from alprune.models import check_name

MOST_RUNS = 1_000
Grid = Mapping[str, Sequence[Any]]

_PLAIN = ("dataset", "model", "method", "acquisition")  # whose values speak for themselves
_NAME_MOST = 48  # characters of a value in the name of a run


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: Of its folder, made of `values`.
        values: The options that the grid sets, by name.
        config: All options, complete.
        chosen: Why its flops_reduction was chosen; empty where it was not.
    """

    name: str
    values: dict[str, Any]
    config: ResolvedRun
    chosen: str = ""

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.config.out)

    @property
    def kind(self) -> str:
        """What the run has in common with those that differ from it only in their seed."""
        return name_of({k: v for k, v in self.values.items() if k != "seed"}) or "all"


def cells(config: RunConfig, grid: Grid, out: Path) -> list[Cell]:
    """Return the runs of a grid, in the order in which they are made.

    Runs that share their data follow one another, so that it is loaded once; within these the
    first seed of all comes before the second, so that what is there can always be compared.

    Args:
        config: Options of every run; those left open are filled for each run.
        grid: `{option: values}`.
        out: Folder of all runs.

    Raises:
        ConfigError: An option or a value is not usable, or two runs would be the same.
    """
    _check_axes(grid)
    found: dict[str, Cell] = {}
    points = [dict(zip(grid, chosen, strict=True)) for chosen in product(*grid.values())]
    asked = [_asked(config, values) for values in points]
    refuse_unused(asked)
    for values, options in zip(points, asked, strict=True):
        cell = _cell(options, values, out)
        if (other := found.setdefault(cell.name.lower(), cell)) is not cell:
            raise ConfigError(
                f"two runs would be called {cell.name!r}: {other.values} and {values}. Compare "
                "them one after the other, with different --out folders."
            )
    keys = [str(data_options(cell.config)) for cell in found.values()]
    ordered = sorted(
        zip(keys, found.values(), strict=True),
        key=lambda pair: (keys.index(pair[0]), _place(grid, "seed", pair[1])),
    )
    return [cell for _, cell in ordered]


def values_of(name: str, text: str) -> list[Any]:
    """Read the values of an option from text, separated by commas.

    Args:
        name: Of the option, with - or _.
        text: As in "0.1,0.2".

    Raises:
        ConfigError: No such option, or a value of another type.
    """
    name = name.replace("-", "_")
    known_option(name)
    return [_value(name, part.strip()) for part in text.split(",")]


def seeds_of(text: str) -> list[int]:
    """Read --seeds: "5" means 0 to 4, "3,7" these two and "3," the one."""
    if "," not in text:
        [count] = values_of("seed", text)
        if not 1 <= count <= MOST_RUNS:
            raise ConfigError(
                f"--seeds must be how many (1 to {MOST_RUNS:,}), or the seeds themselves with "
                f"commas, as in 3,7; got {text!r}."
            )
        return list(range(count))
    return values_of("seed", text.strip().removesuffix(","))


def name_of(values: Mapping[str, Any]) -> str:
    """Return the name of a run: data, model, method, other values, and the seed at the end."""
    others = [name for name in values if name not in (*_PLAIN, "seed")]
    parts = []
    for name in [*_PLAIN, *others, "seed"]:
        if name in values:
            value = values[name]
            text = f"{value:g}" if isinstance(value, float) else str(value)
            text = text.lower() if isinstance(value, bool) else text
            text = re.sub(r"[^\w.+-]+", "-", text).strip("-.")[-_NAME_MOST:] or "_"
            parts.append(text if name in _PLAIN else f"{name.replace('_', '-')}{text}")
    return "-".join(parts)


def _asked(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    try:
        return replace(config, **values)
    except ConfigError as error:
        raise ConfigError(f"run {name_of(values)}: {error}") from error


def _cell(config: RunConfig, values: dict[str, Any], out: Path) -> Cell:
    name = name_of(values)
    try:
        whole = complete(replace(without_refused(config, values), out=str(out / name)), new=False)
        check_name(whole.model)
    except AlpruneError as error:
        raise type(error)(f"run {name}: {error}") from error
    return Cell(name, values, whole)


def _check_axes(grid: Grid) -> None:
    if not grid:
        raise ConfigError(
            "nothing is varied: name what to compare, for example --methods dense,3sp-ca "
            "--seeds 3, or --set lr=0.02,0.05; in a recipe, a [grid] table."
        )
    for name, values in grid.items():
        known_option(name)
        if name == "out":
            raise ConfigError("out cannot be varied: each run gets a folder of its own within it.")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(
                f"{name} is varied, so it takes a list of values with at least one; got "
                f"{quoted(values)}."
            )
        if None in values:
            raise ConfigError(
                f"{name} lists None, which cannot be recorded. Give the value that it "
                "means, or make those runs without the option, in a folder of their own."
            )
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ConfigError(f"{name} lists {quoted(twice[0])} twice.")
    count = math.prod(len(values) for values in grid.values())
    if count > MOST_RUNS:
        raise ConfigError(f"the grid has {count:,} runs; at most {MOST_RUNS:,} are made.")


def _place(grid: Grid, option: str, cell: Cell) -> int:
    return list(grid[option]).index(cell.values[option]) if option in grid else 0


def _value(name: str, text: str) -> Any:
    if not text:
        raise ConfigError(f"{name} lists an empty value; separate values by single commas.")
    return read_option(name, text)
