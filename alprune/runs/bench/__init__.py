"""Measure throughput on this machine: ratios, each taken between works that ran in turns.

The limit is a bare loop of plain PyTorch over tensors that lie ready: the same network, batch
size, precision and fused optimiser, and for scoring the folded network in the chunks that suit it.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alprune.data import Splits
from alprune.errors import ConfigError
from alprune.loop.config import RunConfig
from alprune.loop.defaults import BENCH
from alprune.loop.setup import complete, load_splits
from alprune.models import MODELS
from alprune.runs.bench.loop import own_time
from alprune.runs.bench.pools import PART, score_a_pool
from alprune.runs.bench.rounds import Speeds, Tell, Work, take_turns
from alprune.runs.bench.rows import (
    BARE,
    PLAIN,
    Row,
    against_bare,
    against_dense,
    own_share,
    pool_rows,
)
from alprune.runs.bench.rows import table as table
from alprune.runs.bench.subjects import (
    Subject,
    bare_fitting,
    bare_scoring,
    fitting,
    one_image,
    scoring,
    subject,
)
from alprune.training.device import hardware, pick_device

_CLASSES, _TRAIN, _TEST = 10, 5000, 500  # of the synthetic data


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes:
        methods: Pruning methods to compare; "dense" among them for ratios to dense.
        model: Name of the learner.
        batch_size: Of training.
        round_to: Widths after pruning are multiples of this; None: as in a run.
        dataset: "synthetic" for random images of the learner's size, or a data set's name.
        data_root: Folder for downloads.
        seconds: For training and for scoring; half of it for the loop's own time, a quarter for
            single images.
        pool: Points of the memory-mapped pool; 0 leaves it out.
        device: As for a run.
        precision: As for a run.
        seed: Of weights and first points.

    Raises:
        ConfigError: A value that makes no sense.
    """

    methods: Sequence[str] = BENCH["methods"]
    model: str = BENCH["model"]
    batch_size: int = BENCH["batch_size"]
    round_to: int | None = None
    dataset: str = BENCH["dataset"]
    data_root: str | None = None
    seconds: float = BENCH["seconds"]
    pool: int = BENCH["pool"]
    device: str = "auto"
    precision: str = "auto"
    seed: int = BENCH["seed"]

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods must be distinct names, got {', '.join(self.methods)!r}.")
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"seconds must be more than 0, got {self.seconds:g}.")
        if self.pool and self.pool < PART:
            raise ConfigError(f"pool must be 0 or at least {PART} points, got {self.pool}.")


@dataclass(frozen=True)
class BenchResult:
    """What was measured, on what.

    Attributes:
        rows: One a ratio.
        settings: As asked for.
        machine: Hardware with its threads, torch's version and the precision computed in.
    """

    rows: tuple[Row, ...]
    settings: BenchSettings
    machine: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = [row.record() for row in self.rows]
        return {**self.machine, "settings": asdict(self.settings), "rows": rows}


def bench(settings: BenchSettings, tell: Tell = lambda text: None) -> BenchResult:
    """Measure everything; less than four minutes with the defaults on two cores.

    Args:
        settings: What to measure.
        tell: Receives progress messages.

    Raises:
        AlpruneError: Something in the settings or the data is not usable.
    """
    with tempfile.TemporaryDirectory(prefix="alprune-bench-", ignore_cleanup_errors=True) as name:
        config = _config(settings, Path(name))
        splits = load_splits(complete(config, new=False))
        subjects = []
        for method in settings.methods:
            tell(f"pruning: {method}")
            subjects.append(subject(config, splits, method))
        rows = tuple(_measure(settings, config, splits, subjects, tell))
    machine = {
        "hardware": hardware(pick_device(settings.device)),
        "torch": torch.__version__,
        "precision": str(subjects[0].learner.precision).removeprefix("torch."),
    }
    return BenchResult(rows, settings, machine)


def _measure(
    settings: BenchSettings,
    config: RunConfig,
    splits: Splits,
    subjects: list[Subject],
    tell: Tell,
) -> Iterator[Row]:
    smallest = min(subjects, key=lambda it: it.pruned.macs_after)
    if settings.pool:  # first, while the process is small
        yield from pool_rows(smallest, score_a_pool(smallest, settings.pool, tell))
    seconds = settings.seconds
    training = _compare("training", {"": fitting, BARE: bare_fitting}, subjects, seconds, tell)
    scored = _compare("scoring", {"": scoring, BARE: bare_scoring}, subjects, seconds, tell)
    images = _compare(
        "one image",
        {"": lambda it: one_image(it, True), PLAIN: lambda it: one_image(it, False)},
        subjects,
        seconds / 4,
        tell,
    )
    for it in subjects:
        yield against_bare("training", it, training)
    for it in subjects:
        yield against_bare("scoring", it, scored)
    run_s = max(1.0, seconds / 2)
    tell(f"a run of {run_s:g} s")
    own = own_time(replace(config, method=smallest.method), splits, run_s)
    if own is None:
        tell(f"no step ended in {run_s:g} s: the loop's own time is left out")
    else:
        yield own_share(smallest, *own)
    dense = next((it for it in subjects if it.method == "dense"), None)
    speeds = {"training": training, "scoring": scored, "one image": images}
    for it in subjects:
        if dense is not None and it is not dense:
            yield from against_dense(it, dense, speeds, images)


def _compare(
    title: str,
    kinds: Mapping[str, Callable[[Subject], Work]],
    subjects: list[Subject],
    seconds: float,
    tell: Tell,
) -> Speeds:
    tell(f"{title}: preparing")
    works = {kind + it.method: make(it) for it in subjects for kind, make in kinds.items()}
    turn_s = min(0.5, seconds / 10)
    return take_turns(works, seconds, turn_s, tell=lambda text: tell(f"{title}: {text}"))


def _config(settings: BenchSettings, folder: Path) -> RunConfig:
    """Return the options of a run, at a rate at which no network diverges on random labels."""
    dataset = settings.dataset
    if dataset == "synthetic":
        dataset = f"npz:{_synthetic(settings, folder)}"
    return RunConfig(
        dataset=dataset,
        data_root=settings.data_root,
        model=settings.model,
        batch_size=settings.batch_size,
        round_to=settings.round_to,
        lr=1e-3,
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
        out=str(folder / "run"),
    )


def _synthetic(settings: BenchSettings, folder: Path) -> Path:
    """Write random images of the learner's size, with random labels."""
    entry = MODELS.get(settings.model)
    c, h, w = (3, 32, 32) if entry is None else entry.input_shape
    draws = np.random.default_rng(settings.seed)
    images = draws.integers(256, size=(_TRAIN + _TEST, h, w, c), dtype=np.uint8)
    labels = np.arange(len(images)) % _CLASSES
    path = folder / "synthetic.npz"
    np.savez(
        path,
        x_train=images[:_TRAIN],
        y_train=labels[:_TRAIN],
        x_test=images[_TRAIN:],
        y_test=labels[_TRAIN:],
    )
    return path
