"""What a step does besides training and scoring, at 100 million points: time and memory.

    python recipes/bench/scale.py                       # 100,000,000 points, a query of 1000
    python recipes/bench/scale.py --points 1000000      # a hundredth: what grows with the pool?

No images are involved: scores are drawn at random. Timed are the label store (`LabelPool`) and
the choice of the best scores (`alprune.acquisition`), as a session calls them, and the merging of
the best of each of --ranks shards, as processes that scored a share each would do it. Memory is
what the process holds more than before.

Measured, one core of an Intel Xeon at 2.3 GHz, torch 2.15: the label store 0.3 s and 0.8 GB,
candidates 1.6 s, a query labelled 0.05 s, the best of all 0.6 s, of 64 shards 0.3 s.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import peak_bytes, timed

from alprune.acquisition.base import top
from alprune.loop.pool import LabelPool


def merged(scores: torch.Tensor, count: int, ranks: int) -> torch.Tensor:
    """Take the best of the best of each shard: the exact best of all."""
    best, where = [], []
    for rank, shard in enumerate(scores.chunk(ranks)):
        values, places = shard.topk(min(count, shard.numel()))
        best.append(values)
        where.append(places + rank * -(-scores.numel() // ranks))
    return torch.cat(where)[torch.cat(best).topk(count).indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000_000)
    parser.add_argument("--query", type=int, default=1000)
    parser.add_argument("--labelled", type=int, default=1_000_000)
    parser.add_argument("--subset", type=int, default=5_000_000, help="candidates drawn a step")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n, generator = options.points, torch.Generator().manual_seed(0)
    if options.labelled + options.subset > n:
        options.labelled, options.subset = n // 100, n // 20
    rows: dict[str, tuple[float, float]] = {}

    def row(name: str, work: Callable[[], Any]) -> Any:
        before = peak_bytes() / 1e6
        seconds, result = timed(work)
        rows[name] = seconds, peak_bytes() / 1e6 - before
        print(f"{name:44} {seconds:9.3f} s {rows[name][1]:9.0f} MB more", flush=True)
        return result

    print(f"{n:,} points, {options.labelled:,} labelled, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    pool = row("the label store is made", lambda: LabelPool(n, 1000))
    first = row("first points are drawn", lambda: pool.draw(options.labelled, generator))
    labels = torch.randint(1000, (first.numel(),), generator=generator)
    row("they are labelled", lambda: pool.label(first, labels, 0))
    drawn = row("candidates of a step are drawn", lambda: pool.draw(options.subset, generator))
    query = drawn[: options.query]
    row("a query is labelled", lambda: pool.label(query, query % 1000, 1))
    row("labelled points are listed", lambda: pool.labelled)
    everything = row("all without a label are listed", lambda: pool.unlabelled)
    scores = row("scores of all (the simulation's own)", lambda: torch.rand(everything.numel()))
    chosen = row("the best of all are chosen", lambda: top(scores, options.query, generator))
    exact = row(
        f"the same from {options.ranks} shards",
                lambda: merged(scores, options.query, options.ranks))  # fmt: skip
    same = scores[chosen].sort().values.equal(scores[exact].sort().values)
    print(f"both choose equally good points: {same}")
    if options.json:
        content = {"options": vars(options) | {"json": None}, "rows": rows, "same": same}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
