"""Imports point one way, and every public name is where the package says."""

import ast
from pathlib import Path

import alprune

PACKAGE = Path(alprune.__file__).parent

# A part may import parts of its own level or of the levels before it.
LEVELS = [
    {"errors", "files", "names", "config", "clock", "device", "team"},
    {"data", "inputs", "augment", "pool", "models", "cost", "metrics"},
    {"prune", "train"},
    {"acquire", "classifier", "oracle", "start", "testing"},
    {"store", "loop", "observers", "signals"},
    {"experiment", "learned", "nearby", "reopen", "estimator", "tensorboard", "asking"},
    {"rerun", "report", "bench", "export", "history", "labelling", "prediction"},
    {"compare", "display", "follow"},
    {"overview", "cli"},
]


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alprune."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "alprune":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("alprune."):
                    yield name.name.split(".")[1]


def test_imports_point_one_way():
    level_of = {part: number for number, level in enumerate(LEVELS) for part in level}
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        if part == "__init__" or part == "__main__":
            continue
        assert part in level_of, f"{path} has no level: add it to LEVELS"
        for other in imported_parts(path):
            if other in level_of:
                assert level_of[other] <= level_of[part], f"{path} imports {other}"


def test_the_public_names_exist_and_are_sorted():
    assert sorted(alprune.__all__) == alprune.__all__
    assert all(hasattr(alprune, name) for name in alprune.__all__)


def test_no_file_grows_past_bounds():
    longest = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert max(longest.values()) <= 400, max(longest, key=longest.get)
