"""Change one piece of the package at a time: does a test notice?

    python tests/stress/mutants.py                         all of mutant_table.py
    python tests/stress/mutants.py --only pruning/ loop/   files with one of these in their path
    python tests/stress/mutants.py --record tried.jsonl    skips those that the record calls killed

Each mutant is made in a copy of the package, and the tests named beside its file are run on it. A
mutant that they let pass is printed, and the exit code is 1. A mutant that no longer fits its file
is an error: mend the list.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mutant_table import MUTANTS

ROOT = Path(__file__).parents[2]
WAIT_S = 900  # for tests without a mutant; with one, they may take much longer than without


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


def passes(place: Path, tests: list[str], changed: bool = False, wait_s: float = WAIT_S) -> bool:
    """Run tests on the copy of the package; a test that hangs does not pass."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_tests, args=(place, tests, place / "log", changed))
    process.start()
    process.join(wait_s)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def survives(place: Path, path: Path, change: tuple[str, str], tests: str, wait_s: float) -> bool:
    """Return whether the tests pass though a piece of a file of the copy is changed."""
    sound = path.read_text()
    path.write_text(sound.replace(*change, 1))
    try:
        return passes(place, tests.split(), changed=True, wait_s=wait_s)
    finally:
        path.write_text(sound)


def copied(place: Path) -> None:
    """Copy the package and its tests."""
    for part in ("alprune", "tests", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, place / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", place)


def seconds_without(place: Path, tests: str) -> float:
    """Return how long the tests take on the sound package, which they have to pass."""
    begin = time.monotonic()
    if not passes(place, tests.split()):
        log = (place / "log").read_text()[-2000:]
        raise SystemExit(f"{log}\n{tests} fails without any mutant: nothing to learn.")
    return time.monotonic() - begin


def missing(place: Path) -> list[str]:
    """Return the mutants whose piece is no longer in its file."""
    return [
        f"{file}: {old!r}"
        for file, _, changes in MUTANTS
        for old, _ in changes
        if old not in (place / "alprune" / file).read_text()
    ]


def killed_before(record: Path | None) -> set[tuple[str, str, str]]:
    """Read which mutants a record calls killed: `(file, old, new)`."""
    lines = record.read_text().splitlines() if record and record.exists() else []
    tried = map(json.loads, lines)
    return {(t["file"], t["old"], t["new"]) for t in tried if t["state"] == "killed"}


def main() -> None:
    """Try the mutants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[""], help="parts of files' paths, in order")
    parser.add_argument("--record", type=Path, help="file of outcomes, read and appended to")
    options = parser.parse_args()
    chosen = {id(e): e for part in options.only for e in MUTANTS if part in e[0]}
    done = killed_before(options.record)
    import_others()
    alive = total = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        copied(place)
        if gone := missing(place):
            raise SystemExit("Mend the list of mutants, these are gone:\n" + "\n".join(gone))
        for file, tests, changes in chosen.values():
            left = [change for change in changes if (file, *change) not in done]
            usual_s = seconds_without(place, tests) if left else 0
            for change in left:
                begin = time.monotonic()
                lives = survives(place, place / "alprune" / file, change, tests, 60 + 5 * usual_s)
                alive, total = alive + lives, total + 1
                state = "SURVIVED" if lives else "killed"
                seconds = time.monotonic() - begin
                print(f"{state} {file}: {change[0]!r} -> {change[1]!r} {seconds:.0f} s", flush=True)
                if options.record:
                    old, new = change
                    line = {"file": file, "old": old, "new": new, "state": state}
                    with options.record.open("a") as record:
                        record.write(json.dumps(line) + "\n")
    print(f"{total - alive} of {total} killed")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
