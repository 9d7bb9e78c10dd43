"""Recipes parse, and the scripts beside them say what they reproduce and how they are called."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alprune.compare import read_grid_recipe
from alprune.compare.grid import cells
from alprune.config import RunConfig

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SCRIPTS = sorted((ROOT / "recipes" / "science").glob("*.py"))


def by_name(path: Path) -> str:
    return path.name


def test_there_are_recipes_and_scripts():
    assert RECIPES
    assert SCRIPTS


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_recipe_is_a_valid_configuration_or_a_grid_of_them(recipe):
    options, grid = read_grid_recipe(recipe)
    config = RunConfig.from_mapping(options)
    assert not grid or cells(config, grid, Path("outputs"))


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_recipe_says_on_top_what_it_does_and_the_command(recipe):
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert any(f"recipes/{recipe.name}" in line for line in header)


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_script_says_on_top_what_it_reproduces_and_the_command(script):
    header = ast.get_docstring(ast.parse(script.read_text()))
    assert header is not None
    title, *rest = header.splitlines()
    assert title.endswith((".", "?"))
    assert any(line.strip().startswith(f"python recipes/science/{script.name}") for line in rest)


@pytest.mark.parametrize(
    "name",
    [
        "snip_picture.py",
        *(pytest.param(path.name, marks=pytest.mark.slow) for path in SCRIPTS),
    ],
)
def test_script_answers_help(name):
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    answer = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "science" / name), "--help"],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert name in answer.stdout
