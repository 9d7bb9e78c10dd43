"""Change one piece of the package at a time: does a test notice?

    python tests/stress/mutants.py                         all of mutant_table.py
    python tests/stress/mutants.py --only pruning/ loop/   files with one of these in their path
    python tests/stress/mutants.py --record tried.jsonl    skips those that the record calls killed

Each mutant is made in a copy of the package. Of the tests named beside its file, those that run
the changed lines are run on it, the shortest first; all of them, if none seems to (in another
process, for example). A mutant is killed where a test fails (pytest's exit code 1). Where they take
far longer than without it, or pytest cannot run them at all (a file that cannot be imported, a name
that is none: any other exit code), it is "undecided" and counts as neither. A mutant that they let
pass, or that is undecided, makes the exit code 1. One that no longer fits its file, or is no
Python, is an error: mend the list.

Score: 499 mutants, each tried at least once, in this version or an earlier one. All were killed,
but for two that change nothing that a processor shows (whether five pairs are enumerated or drawn;
how recurrent weights lie in memory) and at most ten in loop/, for most of which tests were written
since. Files that changed since theirs were tried may let some pass: try them again.
"""

import argparse
import ast
import contextlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mutant_table import MUTANTS

ROOT = Path(__file__).parents[2]
TraceFunction = Callable[[FrameType, str, Any], Any]
STATES = {0: "SURVIVED", 1: "killed"}  # by pytest's exit code
UNDECIDED = "undecided"
WAIT_S = 1800  # for tests without a mutant; with one, they may take much longer than without


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


class Lines:
    """A pytest plugin: notes which lines of a file each test runs, and how long it takes.

    What a test's set-up runs counts for all tests of its file, which may share a fixture.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._now, self._shared = str(file), set[int](), dict[str, set[int]]()
        self._tests: dict[str, tuple[float, set[int]]] = {}

    def _look(self, frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        return self._note if frame.f_code.co_filename == self._file else None

    def _note(self, frame: FrameType, event: str, arg: object) -> TraceFunction:
        self._now.add(frame.f_lineno)
        return self._note

    @contextlib.contextmanager
    def _noting(self, lines: set[int]) -> Iterator[None]:
        self._now = lines
        threading.settrace(self._look)
        sys.settrace(self._look)
        yield
        sys.settrace(None)
        threading.settrace(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self._noting(self._shared.setdefault(str(item.path), set())):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        lines, begin = set[int](), time.monotonic()
        with self._noting(lines):
            result = yield
        self._tests[item.nodeid] = time.monotonic() - begin, lines
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        shared = {str(Path(p).relative_to(session.config.rootpath)): s
                  for p, s in self._shared.items()}  # fmt: skip
        found = {
            test: [seconds, sorted(lines | shared[test.partition("::")[0]])]
            for test, (seconds, lines) in self._tests.items()
        }
        Path("lines.json").write_text(json.dumps(found))


def run_tests(place: Path, tests: list[str], plugin: Lines | None) -> None:
    """Run tests of the copy in this process, and end it with pytest's exit code."""
    os.chdir(place)
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = str(place)
    if plugin is None:  # what is compiled of the others is kept, which saves seconds
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
    with (
        open("log", "w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        options = ["-q", "-x", "-n0", "-p", "no:cacheprovider", "--no-header", "--timeout=0"]
        code = pytest.main([*options, *tests], plugins=[plugin] if plugin else [])
    os._exit(int(code))


def outcome(place: Path, tests: list[str], wait_s: float, plugin: Lines | None = None) -> str:
    """Run tests on the copy of the package; return "killed", "SURVIVED" or "undecided"."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_tests, args=(place, tests, plugin))
    process.start()
    process.join(wait_s)
    if process.is_alive():
        process.kill()
        process.join()
        return UNDECIDED
    return STATES.get(process.exitcode, UNDECIDED)


@dataclass(frozen=True)
class Usual:
    """What the tests of a file do without a mutant: their seconds, and the lines that each runs."""

    seconds: dict[str, float]
    lines: dict[str, set[int]]

    def reaching(self, sound: str, old: str) -> list[str]:
        """Return the tests that run a piece of the file, the shortest first; all if none does."""
        first = sound[: sound.index(old)].count("\n") + 1
        piece = set(range(first, first + old.count("\n") + 1))
        tests = [test for test, lines in self.lines.items() if lines & piece] or [*self.lines]
        return sorted(tests, key=lambda test: self.seconds[test])


def usual(place: Path, file: str, tests: str) -> Usual:
    """Run the tests on the sound package, which they have to pass."""
    if outcome(place, named(tests), WAIT_S, Lines(place / "alprune" / file)) != STATES[0]:
        log = (place / "log").read_text()[-2000:]
        raise SystemExit(f"{log}\n{tests} fails without any mutant: nothing to learn.")
    found = json.loads((place / "lines.json").read_text())
    seconds, lines = ({t: pair[n] for t, pair in found.items()} for n in (0, 1))
    return Usual(seconds, {test: set(numbers) for test, numbers in lines.items()})


def named(tests: str) -> list[str]:
    return [f"tests/{name}" for name in tests.split()]


def tried(place: Path, file: str, change: tuple[str, str], without: Usual) -> str:
    """Change a piece of a file of the copy, run the tests, and undo it; return their outcome."""
    path = place / "alprune" / file
    sound = path.read_text()
    tests = without.reaching(sound, change[0])
    path.write_text(sound.replace(*change, 1))
    try:
        return outcome(place, tests, 60 + 5 * sum(without.seconds[test] for test in tests))
    finally:
        path.write_text(sound)


def copied(place: Path) -> None:
    """Copy the package and its tests."""
    for part in ("alprune", "tests", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, place / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", place)


def unusable(place: Path) -> list[str]:
    """Return the mutants whose piece is no longer in its file, or that are no Python."""
    found = []
    for file, _, changes in MUTANTS:
        sound = (place / "alprune" / file).read_text()
        for change in changes:
            if change[0] not in sound:
                found.append(f"{file}: {change[0]!r} is gone")
            else:
                try:
                    ast.parse(sound.replace(*change, 1))
                except SyntaxError as error:
                    found.append(f"{file}: {change[0]!r} -> {change[1]!r}: {error}")
    return found


def killed_before(record: Path | None) -> set[tuple[str, str, str]]:
    """Read which mutants a record calls killed: `(file, old, new)`."""
    lines = record.read_text().splitlines() if record and record.exists() else []
    before = map(json.loads, lines)
    return {(t["file"], t["old"], t["new"]) for t in before if t["state"] == "killed"}


def main() -> None:
    """Try the mutants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[""], help="parts of files' paths, in order")
    parser.add_argument("--record", type=Path, help="file of outcomes, read and appended to")
    options = parser.parse_args()
    chosen = {id(e): e for part in options.only for e in MUTANTS if part in e[0]}
    done = killed_before(options.record)
    import_others()
    found = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        copied(place)
        if odd := unusable(place):
            raise SystemExit("Mend the list of mutants:\n" + "\n".join(odd))
        for file, tests, changes in chosen.values():
            left = [change for change in changes if (file, *change) not in done]
            without = usual(place, file, tests) if left else Usual({}, {})
            for change in left:
                begin = time.monotonic()
                state = tried(place, file, change, without)
                found[state] += 1
                seconds = time.monotonic() - begin
                print(f"{state} {file}: {change[0]!r} -> {change[1]!r} {seconds:.0f} s", flush=True)
                if options.record:
                    old, new = change
                    line = {"file": file, "old": old, "new": new, "state": state}
                    with options.record.open("a") as record:
                        record.write(json.dumps(line) + "\n")
    print(f"{found['killed']} of {found.total()} killed, {found[UNDECIDED]} undecided")
    sys.exit(found["killed"] < found.total())


if __name__ == "__main__":
    main()
