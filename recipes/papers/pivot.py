"""Final accuracies of run folders as a table, one option down and another across.

    python recipes/papers/pivot.py outputs/table1 --down method after_pruning \
        --across params_reduction

Prints Markdown: mean test accuracy in percent, its standard error over the seeds, and how many runs
that is; the share of the FLOPs and of the parameters that is left, if asked for by `--cost`. Runs
that have not ended are counted below the table and left out.
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from alprune import RunHistory, load_run

Key = tuple[str, ...]


def ended_runs(folder: Path) -> tuple[list[RunHistory], int]:
    """Return the runs in a folder that have come to their own end, and how many have not."""
    runs = [load_run(path.parent) for path in sorted(folder.glob("*/events.jsonl"))]
    ended = [run for run in runs if run.end.get("test_accuracy") is not None and _whole(run)]
    return ended, len(runs) - len(ended)


def _whole(run: RunHistory) -> bool:
    return run.reason is not None and not run.reason.startswith(("error", "interrupted"))


def told(run: RunHistory, option: str) -> str:
    value = run.config.get(option)
    return f"{value:g}" if isinstance(value, float) else str("-" if value is None else value)


def in_order(keys: Sequence[Key]) -> list[Key]:
    """Sort by number where all are numbers, otherwise leave the order."""
    unique = list(dict.fromkeys(keys))
    try:
        return sorted(unique, key=lambda key: tuple(float(part) for part in key))
    except ValueError:
        return unique


def mean_and_error(values: Sequence[float], digits: int = 1) -> str:
    """Write a mean, its standard error and the number of values."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"
    return f"{text} ({len(values)})"


def cell(runs: Sequence[RunHistory], cost: bool) -> str:
    if not runs:
        return ""
    text = mean_and_error([100 * run.end["test_accuracy"] for run in runs])
    if cost:
        for unit in ("macs", "params"):
            left = [run.prune[f"{unit}_after"] / run.prune[f"{unit}_before"] for run in runs]
            text += f", {statistics.mean(left):.1%} of {unit}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the run folders, as alprune compare makes it")
    parser.add_argument("--down", nargs="+", default=["method"], metavar="OPTION")
    parser.add_argument("--across", nargs="*", default=[], metavar="OPTION")
    parser.add_argument("--cost", action="store_true", help="say what is left of the network")
    asked = parser.parse_args()
    runs, missing = ended_runs(asked.folder)
    if not runs:
        parser.error(f"{asked.folder} holds no ended run ({missing} that have not ended).")
    if unknown := set(asked.down + asked.across) - set().union(*(run.config for run in runs)):
        parser.error(f"no run has the option {', '.join(sorted(unknown))}.")
    table: dict[tuple[Key, Key], list[RunHistory]] = defaultdict(list)
    for run in runs:
        down, across = (
            tuple(told(run, option) for option in options) for options in (asked.down, asked.across)
        )
        table[down, across].append(run)
    columns = in_order([across for _, across in table])
    heads = [" ".join(key) or "test accuracy" for key in columns]
    print(f"| {' '.join(asked.down)} | {' | '.join(heads)} |")
    print("| --- " * (len(columns) + 1) + "|")
    for down in in_order([down for down, _ in table]):
        cells = [cell(table.get((down, across), []), asked.cost) for across in columns]
        print(f"| {' '.join(down)} | {' | '.join(cells)} |")
    if missing:
        print(f"\nRuns that have not ended: {missing}.")


if __name__ == "__main__":
    main()
