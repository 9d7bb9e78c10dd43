"""The bench's table: one row a ratio, with its target beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safetensors.torch import save as to_safetensors

from alprune.runs.bench.pools import PART, PoolCost
from alprune.runs.bench.rounds import Speeds
from alprune.runs.bench.subjects import Subject

BARE, PLAIN = "bare ", "plain "
"""Prefixes of the works that are not alprune's own."""

# What a reduction of the FLOPs by at least so much is to bring, as times faster or smaller.
_TARGETS = {
    0.795: {"training": 4.0, "scoring": 4.0, "one image": 5.0, "model file": 20.0},
    0.495: {"training": 2.0, "scoring": 2.0, "one image": 3.0},
}


@dataclass(frozen=True)
class Row:
    """One measured ratio.

    Attributes:
        what: What was measured.
        method: Of which learner.
        value: The ratio.
        detail: The figures behind it.
        least: Target: at least this; None if there is none.
        most: Target: at most this; None if there is none.
    """

    what: str
    method: str
    value: float
    detail: str
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None without a target."""
        if self.least is None and self.most is None:
            return None
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)

    @property
    def target(self) -> str:
        """The target in words; empty without one."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"met": self.met}


def against_bare(what: str, it: Subject, speeds: Speeds) -> Row:
    """Compare a learner with the bare loop over the same network."""
    ours, bare = speeds.median(it.method), speeds.median(BARE + it.method)
    return Row(
        f"{what} / bare loop",
        it.method,
        speeds.ratio(it.method, BARE + it.method),
        f"{ours:.0f} against {bare:.0f} images/s",
        least=0.95,
    )


def against_dense(
    it: Subject, dense: Subject, speeds: dict[str, Speeds], plain: Speeds
) -> Iterator[Row]:
    """Compare a pruned learner with the dense one.

    Args:
        it: The pruned learner.
        dense: The dense learner.
        speeds: Of "training", "scoring" and "one image", of all learners.
        plain: Of "one image", by networks that are not folded.
    """
    removed = it.pruned.flops_reduction
    targets = next((t for least, t in _TARGETS.items() if removed >= least), {})
    for what, measured in speeds.items():
        yield Row(
            f"{what}, times as fast as dense",
            it.method,
            measured.ratio(it.method, dense.method),
            _figures(measured, it.method, dense.method, what == "one image"),
            least=targets.get(what),
        )
    names = PLAIN + it.method, PLAIN + dense.method
    figures = _figures(plain, *names, True)
    yield Row("one image, BatchNorm not folded", it.method, plain.ratio(*names), figures)
    sizes = [file_bytes(subject) for subject in (it, dense)]
    yield Row(
        "model file, times as small",
        it.method,
        sizes[1] / sizes[0],
        f"{sizes[0] / 1e6:.2f} against {sizes[1] / 1e6:.2f} MB",
        least=targets.get("model file"),
    )
    ours, theirs = it.pruned, dense.pruned
    yield Row(
        "parameters, times fewer",
        it.method,
        theirs.params_after / ours.params_after,
        f"{ours.params_after:,} against {theirs.params_after:,}",
    )
    yield Row(
        "FLOPs, times fewer",
        it.method,
        theirs.macs_after / ours.macs_after,
        f"{2 * ours.macs_after:,} against {2 * theirs.macs_after:,}",
    )


def own_share(it: Subject, share: float, detail: str) -> Row:
    """State what the loop itself takes."""
    return Row("loop's own share of a run", it.method, share, detail, most=0.01)


def pool_rows(it: Subject, cost: PoolCost) -> Iterator[Row]:
    """State what a pool in a file takes."""
    pool = f"pool of {cost.points:,} in a file"
    yield Row(
        f"{pool}, times the time of a {PART}th",
        it.method,
        cost.growth,
        f"{cost.seconds:.1f} s, {cost.points / cost.seconds:.0f} images/s",
        least=0.9 * PART,
        most=1.1 * PART,
    )
    if cost.added_bytes is not None:
        added = cost.added_bytes / 1e6
        yield Row(f"{pool}, MB of memory added", it.method, added, "at its peak", most=500)


def file_bytes(it: Subject) -> int:
    """Return the size of the learner's model.safetensors."""
    weights = {k: v.cpu().contiguous() for k, v in it.learner.averaged.state_dict().items()}
    return len(to_safetensors(weights))


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as text."""
    head = ("", "learner", "measured", "target", "met", "")
    met = {None: "", True: "yes", False: "NO"}
    cells = [head] + [
        (row.what, row.method, _short(row.value), row.target, met[row.met], row.detail)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.3f}"


def _figures(speeds: Speeds, ours: str, theirs: str, latency: bool) -> str:
    figures = [speeds.median(ours), speeds.median(theirs)]
    if latency:
        return "{:.2f} against {:.2f} ms".format(*(1e3 / speed for speed in figures))
    return "{:.0f} against {:.0f} images/s".format(*figures)
