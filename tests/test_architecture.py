"""The rooms of the package, in their order; no import points up, and none goes round."""

import ast
from pathlib import Path

import alprune

PACKAGE = Path(alprune.__file__).parent
ROOT = PACKAGE.parent

# A room imports from itself and from the rooms before it.
ROOMS = [
    "errors",
    "registry",
    "data",
    "models",
    "pruning",
    "training",
    "acquisition",
    "loop",
    "labelling",
    "runs",
    "cli",
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported_modules(path, typing_too=True):
    """Yield the package's modules that a file imports, wherever in the file it does."""
    tree = ast.parse(path.read_text())
    skipped = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                skipped |= {id(part) for branch in node.body for part in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alprune":
            assert node.level == 0
            for entry in node.names:
                whole = f"{node.module}.{entry.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (entry.name for entry in node.names if entry.name in MODULES)


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_imports_between_rooms_point_one_way():
    for module, path in MODULES.items():
        room = room_of(module)
        if module == "alprune" or room == "__main__":
            continue
        assert room in ROOMS, f"{path} is in no room"
        for other in imported_modules(path):
            if other == "alprune":  # for the version alone
                continue
            assert ROOMS.index(room_of(other)) <= ROOMS.index(room), f"{module} imports {other}"


def test_the_face_imports_nothing_of_the_package_before_it_is_used():
    assert not list(imported_modules(PACKAGE / "__init__.py", typing_too=False))


def test_no_import_goes_round():
    arrows = {
        module: {other for other in imported_modules(path, typing_too=False) if other != module}
        for module, path in MODULES.items()
    }
    done, trail = set(), []

    def visit(module):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        trail.append(module)
        for other in sorted(arrows[module]):
            visit(other)
        trail.pop()
        done.add(module)

    for module in sorted(arrows):
        visit(module)


def test_the_root_of_the_package_stays_small():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 15, sorted(path.name for path in entries)


def test_the_public_names_exist_and_are_sorted():
    assert sorted(alprune.__all__) == alprune.__all__
    assert all(hasattr(alprune, name) for name in alprune.__all__)
    assert set(alprune._MODULES) == set(alprune.__all__)


def test_no_file_grows_past_bounds():
    longest = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(longest.values()) <= 420, max(longest, key=longest.get)


def test_libraries_that_take_a_second_are_imported_only_where_they_are_used():
    slow = {"cleanlab", "matplotlib", "onnx", "pandas", "timm", "torchvision"}
    for path in MODULES.values():
        for node in ast.parse(path.read_text()).body:
            names = [entry.name for entry in getattr(node, "names", [])]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not slow & {name.partition(".")[0] for name in names}, path


def test_the_list_of_mutants_fits_the_package(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "stress"))
    from mutants import unusable

    assert unusable(ROOT) == []
