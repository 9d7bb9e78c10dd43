"""Recipes parse, and the scripts beside them say what they reproduce and how they are called."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from alprune.cli import main
from alprune.loop.config import RunConfig
from alprune.loop.setup import complete
from alprune.pruning import trace
from alprune.pruning.unstructured.masks import masks_of
from alprune.runs.compare import read_grid_recipe
from alprune.runs.compare.grid import cells

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
SCRIPTS = sorted((ROOT / "recipes" / "papers").glob("*.py"))
PROGRAMS = sorted(  # peers_run.py is started by peers.py alone
    path
    for folder in ("recipes", "tests/stress")
    for path in (ROOT / folder).rglob("*.py")
    if "\nif __name__ == " in path.read_text() and path.name != "peers_run.py"
)


def by_name(path: Path) -> str:
    return path.name


def test_there_are_recipes_and_scripts():
    assert RECIPES
    assert set(SCRIPTS) <= set(PROGRAMS)


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_recipe_is_a_valid_configuration_or_a_grid_of_them(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)  # where modules that a recipe names are looked for
    options, grid = read_grid_recipe(recipe)
    config = RunConfig.from_mapping(options)
    if grid:
        assert len(cells(config, grid, Path("outputs"))) > 1
    else:
        assert complete(config).out


def commands_of(recipe: Path) -> list[list[str]]:
    """Return the words of each `alprune` command in a recipe's header."""
    lines = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(line.lstrip("# ").removeprefix("Run:").strip() for line in lines)
    joined = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in joined if line.startswith("alprune ")]


def reduced(recipe: Path, name: str) -> str:
    """Return the options of the reduced experiment under a name in a recipe's header."""
    found = re.search(rf"^# {name}: (.*(?:\n# {{7}}.*)*)", recipe.read_text(), re.MULTILINE)
    assert found
    return found[1].replace("\n#", " ")


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_the_commands_in_a_recipe_s_header_can_be_given(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    commands = commands_of(recipe)
    assert commands
    if "# Reduced, as measured:" in recipe.read_text():
        size = reduced(recipe, "SIZE").split()
        compared = [command for command in commands if command[0] == "compare"]
        commands += [[*command, *size, "--seeds", "3"] for command in compared]
        commands.append([*compared[0], *size, *reduced(recipe, "CELLS").split()])
    for verb, *words in commands:
        if verb == "compare":
            done = CliRunner().invoke(main, [verb, *words, "--dry-run", "--out", str(tmp_path)])
            assert done.exit_code == 0, done.output
            assert done.output.endswith(" runs\n")
        else:
            main.get_command(None, verb).make_context(verb, words)  # parses and begins nothing


@pytest.mark.slow
def test_the_commands_of_the_papers_contents_can_be_given(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "recipes" / "papers" / "README.md").read_text().replace("\\\n", " ")
    lines = []
    for line in map(str.strip, text.splitlines()):
        recipe = re.search(r"--recipe (\S+) SIZE ", line)
        size = reduced(ROOT / recipe[1], "SIZE") if recipe else ""
        lines.append(line.replace(" SIZE ", f" {size} "))
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("alprune ")]
    assert len(commands) > 20
    for _, verb, *words in commands:
        if verb == "compare":
            done = CliRunner().invoke(main, [verb, *words, "--dry-run", "--out", str(tmp_path)])
            assert done.exit_code == 0, (words, done.output)
        else:
            main.get_command(None, verb).make_context(verb, words)
    scripts = [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]
    for _, script, *_ in scripts:
        assert (ROOT / script).is_file()
    unnamed = {path.name for path in SCRIPTS} - {Path(script).name for _, script, *_ in scripts}
    assert not unnamed


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_recipe_says_on_top_what_it_does_and_the_command(recipe):
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert any(str(recipe.relative_to(ROOT)) in line for line in header)


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_script_says_on_top_what_it_reproduces_and_the_command(script):
    header = ast.get_docstring(ast.parse(script.read_text()))
    assert header is not None
    title, *rest = header.splitlines()
    assert title.endswith((".", "?"))
    assert any(line.strip().startswith(f"python recipes/papers/{script.name}") for line in rest)


def test_a_lottery_ticket_has_its_first_weights_where_the_trained_ones_are_largest(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes" / "papers")
    lottery = importlib.import_module("lottery_ticket")
    start = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    after = [torch.tensor([[0.1, -4.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.3], [-0.2, 5.0]])]

    def train(model, *about):
        with torch.no_grad():
            for layer, weight in zip(model, after, strict=True):
                stored = layer.parametrizations.weight.original if masks_of(model) else layer.weight
                stored.copy_(weight)
        return model, 0.0

    monkeypatch.setattr(lottery, "trained", train)
    for rounds in (1, 2):
        found = lottery.ticket(start, None, 0.5, rounds, 1, None, 0)
        kept = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 0], [0, 1]])  # |4|, |3|, |2|, |5|
        for layer, first, mask in zip(found, start, kept, strict=True):
            assert torch.equal(layer.weight, first.weight * mask)


def test_shuffled_scores_keep_the_structure_and_rescaled_ones_change_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes" / "papers")
    same = importlib.import_module("same_structure")
    model = nn.Sequential(
        nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2)
    )
    graph = trace(model, torch.zeros(2, 3))
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(graph.channels, generator=generator)

    def kept(scores):
        return [int((scores[g.channels] >= scores.median()).sum()) for g in graph.groups]

    found = same.shuffled(scores, graph, generator)
    assert kept(found) == kept(scores) and not torch.equal(found, scores)
    assert torch.equal(found.sort().values, scores.sort().values)
    other = same.rescaled(scores, graph, generator, spread=2.0)
    assert kept(other) != kept(scores)
    for group in graph.groups:  # within a group the order stays
        assert torch.equal(other[group.channels].argsort(), scores[group.channels].argsort())


def test_the_counted_runs_are_grouped_by_acquisition_functions_whose_names_hold_hyphens(
    monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(ROOT / "recipes" / "clock")
    counted = importlib.import_module("counted")
    monkeypatch.setattr(counted, "OUT", tmp_path)
    for acquisition in ("margin", "cluster-margin"):
        run = tmp_path / f"vgg19-95-{acquisition}-0.5-450-151"
        run.mkdir()
        event = {"event": "start", "config": {"acquisition": acquisition}}
        (run / "events.jsonl").write_text(json.dumps(event) + "\n")
        (run / "done").touch()
    assert set(counted.finished()) == {
        ("vgg19-95", acquisition, "0.5", "450") for acquisition in ("margin", "cluster-margin")
    }


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=() if quick else pytest.mark.slow)
        for path in PROGRAMS
        for quick in [path.name == "snip_picture.py"]
    ],
)
def test_program_answers_help(script):
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    answer = subprocess.run(
        [sys.executable, str(script), "--help"],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert script.name in answer.stdout
