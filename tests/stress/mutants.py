"""Change one line of the package at a time: does a test notice?

    python tests/stress/mutants.py              all of them
    python tests/stress/mutants.py --only plan  those of files with `plan` in their path

Each mutant is made in a copy of the package, and the tests named beside it are run on it. One that
they let pass is printed, and the exit code is 1: a line that no test holds, or a line too many. A
mutant that no longer fits its file is an error: mend the list.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# File below alprune/, line as it is, line as it should not be, tests that should notice.
MUTANTS: list[tuple[str, str, str, str]] = [
    ("acquisition/probcover.py", "unit=True", "unit=False", "acquisition/test_probcover.py"),
    ("acquisition/probcover.py", "(1 - purity)", "purity", "acquisition/test_probcover.py"),
    ("data/names.py", '"NFC", name', '"NFD", name', "data/test_layout.py"),
    ("data/names.py", "if len(found) == 1:", "if found:",
     "labelling/test_check_answers.py data/test_layout.py"),
    ("data/shards/tar.py", "member.size < 0", "False", "untrusted/test_bombs.py"),
    ("data/shards/tar.py", "0 <= size <= _LONGEST_HEADER", "True", "untrusted/test_bombs.py"),
    ("data/shards/tar.py", "len(tar.pax_headers) > _MOST_RECORDS", "False",
     "untrusted/test_bombs.py"),
    ("labelling/check_answers.py", "len(alike := names.alike(label)) > 1",
     "len(alike := names.alike(label)) > 9", "labelling/test_check_answers.py"),
    ("labelling/web/connections.py", "len(server.active_channels) >= _CONNECTIONS", "False",
     "labelling/test_connections.py"),
    ("labelling/web/connections.py", "max_request_body_size=REQUEST_BYTES + 1",
     "max_request_body_size=2**40", "labelling/test_connections.py"),
    ("labelling/web/connections.py", "> _REQUEST_S", "> 9e9", "labelling/test_connections.py"),
    ("loop/trust.py", "if name is None or text in own:", "if name is None or own:",
     "untrusted/test_trust.py"),
    ("loop/trust.py", 'option == "acquisition" and head in WRAPPERS', "head in WRAPPERS",
     "untrusted/test_trust.py"),
    ("loop/trust.py", "_trusting.set(allowed or _trusting.get())", "_trusting.set(True)",
     "untrusted/test_trust.py"),
    ("loop/stopping.py", ">= ", "> ", "loop/test_stopping.py"),
    ("models/memory.py", "weights > _WEIGHTS_MOST", "False", "untrusted/test_bombs.py"),
    ("models/memory.py", "taken > _TENSOR_MOST", "False", "untrusted/test_bombs.py"),
    ("pruning/criteria/three_sp.py", "smoothing", "0 * smoothing", "pruning/test_scores.py"),
    ("pruning/layer_limits.py", "(rows(axis) < 0).all(0).any()", "(rows(axis) < 0).all(0).all()",
     "pruning/test_limits.py"),
    ("pruning/layer_limits.py", "descending=True", "descending=False",
     "pruning/test_limits.py pruning/test_plan.py"),
    ("pruning/plan.py", "<= goal + 1e-9", "< goal - 1e-9", "pruning/test_plan.py"),
    ("pruning/plan.py", "low = middle + 1", "low = middle + 2", "pruning/test_plan.py"),
    ("pruning/plan.py", "if sizes != dict(self.sizes):", "if not sizes:", "pruning/test_plan.py"),
    ("pruning/precrop/crop.py", "if after > most:", "if False:", "untrusted/test_bombs.py"),
    ("runs/load.py", "if model is None:", "if False:", "untrusted/test_trust.py"),
    ("runs/load.py", "plan.example_shape != inputs.image_shape", "False", "runs/test_load.py"),
    ("runs/report/page.py", "autoescape=True", "autoescape=False",
     "runs/report/test_report_write.py"),
    ("runs/report/sentences.py", "low <= 0 <= high", "False", "runs/report/test_report_write.py"),
    ("runs/report/sentences.py", "if sooner > 1", "if sooner < 1",
     "runs/report/test_report_write.py"),
    ("runs/report/statistics.py", "pairs < FEW_PAIRS", "pairs > FEW_PAIRS",
     "runs/report/test_report_statistics.py"),
    ("runs/report/statistics.py", "stdtrit(freedom, 0.975)", "stdtrit(freedom, 0.95)",
     "runs/report/test_report_statistics.py"),
    ("runs/report/statistics.py", "values[(x < at[0]) | (x > end)]", "values[x > end]",
     "runs/report/test_report_statistics.py"),
    ("runs/report/statistics.py", "np.append(at[at < until_s], until_s)", "np.append(at, until_s)",
     "runs/report/test_report_statistics.py"),
    ("runs/report/statistics.py", "[0.025, 0.975]", "[0.05, 0.95]",
     "runs/report/test_report_statistics.py"),
    ("runs/watch.py", "Timeout:\n        return True", "Timeout:\n        return None",
     "runs/test_watch.py"),
    ("runs/watch.py", "if not lock.is_file():", "if False:", "runs/test_watch.py"),
    ("training/budget.py", "if self._since is None:\n            self._since = ",
     "if True:\n            self._since = ", "training/test_budget.py"),
    ("training/budget.py", "if running:\n", "if True:\n", "training/test_budget.py"),
    ("training/device.py", "enabled=precision == torch.float16", "enabled=False",
     "training/test_device.py"),
    ("training/metrics.py", "mean(", "sum(", "training/test_metrics.py"),
    ("training/state.py", "learner.scaler.load_state_dict(dict(scaler))", "pass",
     "training/test_device.py"),
]  # fmt: skip


def passes(place: Path, tests: str) -> bool:
    """Run tests on a copy of the package; one that hangs does not pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider"]
    more = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command += [f"tests/{name}" for name in tests.split()]
    try:
        done = subprocess.run(
            command, cwd=place, env=os.environ | more, capture_output=True, timeout=900
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def survives(place: Path, file: str, old: str, new: str, tests: str) -> bool:
    """Tell whether the tests pass though a line is changed."""
    path = place / "alprune" / file
    sound = path.read_text()
    if old not in sound:
        raise SystemExit(f"{file} has no {old!r} any more: mend the list of mutants.")
    path.write_text(sound.replace(old, new, 1))
    try:
        return passes(place, tests)
    finally:
        path.write_text(sound)


def main() -> None:
    """Try the mutants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="part of a file's path")
    chosen = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant[0]]
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for part in ("alprune", "tests", "recipes"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, place / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", place)
        for tests in sorted({mutant[3] for mutant in chosen}):
            if not passes(place, tests):
                raise SystemExit(f"{tests} fails without any mutant: nothing could be learnt.")
        for number, mutant in enumerate(chosen, start=1):
            lives = survives(place, *mutant)
            alive += lives
            file, old, new, _ = mutant
            state = "SURVIVED" if lives else "killed"
            print(f"{number}/{len(chosen)} {state} {file}: {old!r} -> {new!r}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} killed")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
