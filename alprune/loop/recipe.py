"""Recipes: TOML files of options, as they are written."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alprune.data.safe_io import read_whole
from alprune.errors import ConfigError
from alprune.loop.trust import check_trust, trusting

# Some hundred lines. Keys of many parts (a.b.c) take a parser time and memory with their square.
_RECIPE_BYTES = 32 * 1024
_LINE_DOTS = 128


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe as it is, its options unchecked.

    Raises:
        ConfigError: The file is missing, too long or no TOML.
    """
    try:
        text = read_whole(path, _RECIPE_BYTES).decode()
        if any(line.count(".") > _LINE_DOTS for line in text.split("\n")):
            raise ValueError(f"a line has more than {_LINE_DOTS} dots")
        record: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise ConfigError(
            f"recipe {path} is nested too deep; a recipe is a list of option = value."
        ) from error
    except ValueError as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise ConfigError(f"recipe {path} is not valid TOML: {error}.") from error
    return record


def trusted_recipe(
    path: str | Path, trust_code: bool, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the recipe of one run, its options unchecked.

    Args:
        path: The file.
        trust_code: Whether the file may name code.
        overrides: Options that win over those in the file, whose code needs no trust.

    Raises:
        ConfigError: As from `read_recipe`; or it holds many runs, or names code without
            `trust_code`.
    """
    record = read_recipe(path)
    if "grid" in record:
        raise ConfigError(
            f"recipe {path} holds a [grid], the options of many runs; run it with alprune "
            f"compare --recipe {path}."
        )
    with trusting(trust_code):
        check_trust({k: v for k, v in record.items() if k not in overrides}, path, overrides)
    return record
