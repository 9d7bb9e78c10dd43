"""Change one piece of the package at a time: does a test notice?

    python tests/stress/mutants.py                    all of mutant_table.py
    python tests/stress/mutants.py --only pruning/    those of files with this in their path

Each mutant is made in a copy of the package, and the tests named beside its file are run on it. One
that they let pass is printed, and the exit code is 1. A mutant that no longer fits its file is an
error: mend the list.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import pkgutil
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from mutant_table import MUTANTS

ROOT = Path(__file__).parents[2]
WAIT_S = 900


def import_others() -> None:
    """Import what the package and its tests import, which takes longer than most tests do.

    The package itself is forgotten again: each mutant's process imports its own copy.
    """
    sys.path.insert(0, str(ROOT))
    import alprune

    for module in pkgutil.walk_packages(alprune.__path__, "alprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("hypothesis", "scipy.stats", "sklearn.cluster", "timm", "torch.export"):
        importlib.import_module(name)
    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.partition(".")[0] == "alprune"]:
        del sys.modules[name]


def run_tests(place: Path, tests: list[str], log: Path, changed: bool) -> None:
    """Run tests of the copy in this process, and end it with pytest's exit code."""
    os.chdir(place)
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = str(place)
    if changed:  # what is compiled of the others is kept, which saves seconds
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        options = ["-q", "-x", "-n0", "-p", "no:cacheprovider", "--no-header"]
        code = pytest.main([*options, *(f"tests/{name}" for name in tests)])
    os._exit(int(code))


def passes(place: Path, tests: list[str], changed: bool = False) -> bool:
    """Run tests on the copy of the package; one that hangs does not pass."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_tests, args=(place, tests, place / "log", changed))
    process.start()
    process.join(WAIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def survives(place: Path, file: str, old: str, new: str, tests: list[str]) -> bool:
    """Return whether the tests pass though a piece is changed."""
    path = place / "alprune" / file
    sound = path.read_text()
    if old not in sound:
        raise SystemExit(f"{file} has no {old!r} any more: mend the list of mutants.")
    path.write_text(sound.replace(old, new, 1))
    try:
        return passes(place, tests, changed=True)
    finally:
        path.write_text(sound)


def main() -> None:
    """Try the mutants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="part of a file's path")
    chosen = [entry for entry in MUTANTS if parser.parse_args().only in entry[0]]
    import_others()
    alive = total = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for part in ("alprune", "tests", "recipes"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, place / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", place)
        for file, tests, changes in chosen:
            if not passes(place, tests.split()):
                log = (place / "log").read_text()[-2000:]
                raise SystemExit(f"{log}\n{tests} fails without any mutant: nothing to learn.")
            for old, new in changes:
                lives = survives(place, file, old, new, tests.split())
                alive, total = alive + lives, total + 1
                state = "SURVIVED" if lives else "killed"
                print(f"{state} {file}: {old!r} -> {new!r}", flush=True)
    print(f"{total - alive} of {total} killed")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
