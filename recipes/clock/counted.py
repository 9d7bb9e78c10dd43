"""Networks against each other at equal time, on a clock that counts their work.

    python recipes/clock/counted.py measure --dataset npz:cifar10.npz --rows vgg19,vgg19-90
    python recipes/clock/counted.py run --dataset npz:cifar10.npz --rows vgg19,vgg19-90 --seeds 110
    python recipes/clock/counted.py table
    python recipes/clock/counted.py curves --eval-every 10                 # at equal labels

`measure` times a training step, a scored chunk and a re-estimation of statistics of each network,
with nothing else running, and writes outputs/counted/speeds.json. `run` makes real runs whose
budget is spent by these times for each batch that they train on and each chunk that they score, so
that they may share a machine and still give the same numbers again; a run that is finished is not
made again, unless its folder is moved away. What a step does beside the work of the network, some
0.015 s, is not counted. `curves` compares at the same numbers of labels what was run with
`--eval-every 10` (tests no further apart than 1,000 labels). `--lagging` keeps the running
averages of a young network instead of re-estimating its BatchNorm statistics.
"""

import argparse
import copy
import json
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alprune import RunConfig
from alprune.data import Splits
from alprune.loop import Session
from alprune.loop.run_folder import NullRunFolder
from alprune.loop.setup import complete, load_splits, open_session, simulation
from alprune.models import MODELS
from alprune.models.cost import cost
from alprune.training import Learner
from alprune.training.interface import Trainable

_CA: dict[str, Any] = {"method": "3sp-ca"}
_PLAIN: dict[str, Any] = {"method": "dense"}
_REINIT: dict[str, Any] = _PLAIN | {"after_pruning": "reinit"}
ROWS: dict[str, dict[str, Any]] = {
    "vgg19-94-warm": {"model": "vgg19", "flops_reduction": 0.94, "warmup_batches": 200} | _CA,
    "vgg19-uniform-96": {"model": "vgg19", "method": "uniform", "flops_reduction": 0.96},
    "vgg19-quarter": {"model": "recipes.networks:vgg19_quarter"} | _REINIT,
    "wrn-16-1": {"model": "recipes.networks:wrn_16_1"} | _REINIT,
    "mobilenet-half": {"model": "recipes.networks:mobilenet_v2_half"} | _REINIT,
    "resnet9-precrop": {"model": "resnet9", "method": "precrop-flops", "flops_reduction": 0.935},
    "resnet9-iterative": {"model": "resnet9", "method": "3sp-iterative", "flops_reduction": 0.935},
    "resnet9-local-93.5": {"model": "resnet9", "local": True, "flops_reduction": 0.935} | _CA,
}
"""What a model's name, and a percentage to remove by 3sp-ca, do not say."""
OUT = Path("outputs/counted")


def options_of(row: str) -> dict[str, Any]:
    """Return the options of a row.

    One of ROWS, MODEL, or MODEL-PERCENT with -local, -r16 (widths in multiples of 16) between; with
    -fp32 or -bf16 at its end, in that precision.
    """
    for precision in ("fp32", "bf16"):
        if row.endswith(f"-{precision}"):
            return options_of(row.removesuffix(f"-{precision}")) | {"precision": precision}
    if row in ROWS:
        return ROWS[row]
    if row in MODELS:
        return {"model": row} | _PLAIN
    model, _, percent = row.rpartition("-")
    options = _CA | {"flops_reduction": float(percent) / 100}
    while model not in MODELS:
        model, _, change = model.rpartition("-")
        options |= {"local": True} if change == "local" else {"round_to": int(change[1:])}
    return options | {"model": model}


def config_of(row: str, args: argparse.Namespace, **changes: Any) -> RunConfig:
    """Return the options of a run."""
    return RunConfig(dataset=args.dataset, **options_of(row), **changes)


class Counted:
    """A clock that moves by what a learner does.

    Args:
        speed: Of its network, from `measure`.

    Attributes:
        spent: Seconds by what they were spent on.
    """

    def __init__(self, speed: dict[str, float]) -> None:
        self.speed = speed
        self.spent = dict.fromkeys(("train_s", "score_s", "statistics_s"), 0.0)

    def watch(self, learner: Trainable) -> None:
        """Count what this learner does from now on."""
        assert isinstance(learner, Learner)
        for network, name in (
            (learner.model, "train_s"),
            (learner.network, "score_s"),
            (learner.averaged, "statistics_s"),
        ):
            network.register_forward_hook(self._adding(name))

    def _adding(self, name: str) -> Any:
        def add(network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.spent[name] += self.speed[name] * len(inputs[0])

        return add

    def __call__(self) -> float:
        """Return the time in seconds."""
        return sum(self.spent.values())


def session_of(
    config: RunConfig, splits: Splits, clock: Counted | None = None, kept: bool = True
) -> Session:
    """Open a run."""
    whole = complete(config)
    folder = None if kept else NullRunFolder(Path(whole.out))
    now = time.monotonic if clock is None else clock
    return open_session(whole, splits, folder=folder, now=now)


def seconds_of(work: Callable[[], object], images: int, repeats: int = 2) -> float:
    """Return the least time an image of some repetitions, the first of which does not count."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times[1:]) / images


def speed_of(session: Session) -> dict[str, float]:
    """Time a learner once: seconds an image, and the multiply-accumulates of one."""
    learner, pool, images = session.learner, session.pool, session.splits.train
    assert isinstance(learner, Learner)
    learner.batches = 10**6  # no longer young: its statistics are not re-estimated
    draws = torch.Generator().manual_seed(0)
    chosen, size = pool.trained_on, 10 * learner.settings.batch_size
    labels, rows = pool.label_of(chosen), torch.arange(2000)
    inputs = torch.randn(256, *images.image_shape)
    batches = [batch for batch in inputs.split(learner.settings.batch_size)]
    twin = copy.deepcopy(learner.averaged).train().requires_grad_(False)
    return {
        "train_s": seconds_of(lambda: learner.fit(chosen, labels, size / len(chosen), draws), size),
        "score_s": seconds_of(lambda: learner.logits(images.x, rows), len(rows)),
        "statistics_s": seconds_of(lambda: [twin(batch) for batch in batches], len(inputs)),
        "macs": cost(learner.model, inputs[:2]).macs,
    }


def measure(args: argparse.Namespace) -> None:
    """Time every row's network, in turns; of each time the least counts."""
    splits = load_splits(complete(config_of(args.rows[0], args)))
    path = OUT / "speeds.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    sessions = {
        row: session_of(config_of(row, args, seed=1), splits, kept=False) for row in args.rows
    }
    for row in args.rows:
        found.pop(row, None)
    for _ in range(args.rounds):
        for row, session in sessions.items():
            speed = speed_of(session)
            before = found.get(row, speed)
            found[row] = {name: min(value, before[name]) for name, value in speed.items()}
    for row in args.rows:
        print(row, {name: f"{1 / value:,.0f}/s" for name, value in found[row].items()}, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


def run(args: argparse.Namespace) -> None:
    """Make the runs that are not there yet, and print each."""
    path = OUT / "speeds.json"
    speeds = json.loads(path.read_text()) if path.exists() else {}
    if missing := [row for row in args.rows if row not in speeds]:
        rows = ",".join(missing)
        raise SystemExit(f"first, with nothing else running: counted.py measure --rows {rows}")
    splits = load_splits(complete(config_of(args.rows[0], args)))
    for seed in args.seeds:
        for row in args.rows:
            label = "-".join([row, *["lagging"] * args.lagging, *map("=".join, args.set)])
            name = f"{label}-{args.acquisition}-{args.epochs:g}-{args.budget:g}-{seed}"
            if (OUT / name / "done").exists():
                made = RunConfig.from_toml(OUT / name / "config.toml")
                for key in ("dataset", "eval_every"):
                    if (before := getattr(made, key)) != getattr(args, key):
                        raise SystemExit(f"{OUT / name} has {key} {before}: move it away")
                continue
            options = {key: getattr(args, key) for key in ("budget", "acquisition", "epochs")}
            options |= {key: float(value) for key, value in args.set}
            config = config_of(
                row, args, out=str(OUT / name), seed=seed, eval_every=args.eval_every, **options
            )
            clock = Counted(speeds[row])
            session = session_of(config, splits, clock)
            clock.watch(session.learner)
            if args.lagging:
                assert isinstance(session.learner, Learner)
                session.learner._young = 0
            result = session.run(simulation(complete(config), splits.train))
            (OUT / name / "done").touch()
            shares = {kind: f"{value / clock():.1%}" for kind, value in clock.spent.items()}
            print(
                name, f"{result.test_accuracy:.2%}", session.pool.labelled_count, shares, flush=True
            )


def finished() -> dict[tuple[str, ...], list[tuple[int, list[dict[str, Any]]]]]:
    """Return seed and events of the finished runs, by row, acquisition, epochs and budget."""
    found: dict[tuple[str, ...], list[tuple[int, list[dict[str, Any]]]]] = {}
    for done in sorted(OUT.glob("*/done")):
        name, epochs, budget, seed = done.parent.name.rsplit("-", 3)
        lines = (done.parent / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        acquisition = events[0]["config"]["acquisition"]  # may hold hyphens, as a row may
        row = name.removesuffix(f"-{acquisition}"), acquisition, epochs, budget
        found.setdefault(row, []).append((int(seed), events))
    return found


def curves(args: argparse.Namespace) -> None:
    """Print accuracies at each thousand labels, between the tests before and after it."""
    for row, runs in finished().items():
        for seed, events in runs:
            tests = [event for event in events if event.get("test_accuracy") is not None]
            labels = [test["labelled"] for test in tests]
            at = [n for n in range(2000, 50_001, 1000) if labels[0] <= n <= labels[-1]]
            at = [n for n in at if np.diff(labels)[bisect_left(labels, n) - 1] <= 1000]
            values = np.interp(at, labels, [100 * test["test_accuracy"] for test in tests])
            shown = ", ".join(f"{n}: {v:.1f}" for n, v in zip(at, values, strict=True))
            print(f"| {' | '.join(row)} | {seed} | {shown} |")


def table(args: argparse.Namespace) -> None:
    """Print what the runs ended with, by row."""
    for row, runs in finished().items():
        ends = [(s, events[-1]["test_accuracy"], events[-1]["labelled"]) for s, events in runs]
        accuracies = [100 * accuracy for _, accuracy, _ in ends]
        shown = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        labels = statistics.mean(labelled for *_, labelled in ends)
        print(f"| {' | '.join(row)} | {shown} | {statistics.mean(accuracies):.1f} | {labels:.0f} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("measure", "run", "table", "curves"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=["vgg19-90"],
        help="MODEL, MODEL-PERCENT removed, or a name from this file",
    )
    parser.add_argument("--budget", type=float, default=450.0)
    parser.add_argument("--acquisition", default="entropy")
    parser.add_argument("--epochs", type=float, default=0.5, help="passes over the labels per step")
    parser.add_argument(
        "--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[110]
    )
    parser.add_argument("--eval-every", type=int, default=1000, help="steps between tests")
    parser.add_argument(
        "--set",
        type=lambda text: text.split("="),
        action="append",
        default=[],
        metavar="OPTION=NUMBER",
        help="an option of all runs, such as score_share=0.1; may be repeated",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of measuring")
    parser.add_argument("--lagging", action="store_true", help="re-estimate no statistics")
    args = parser.parse_args()
    {"measure": measure, "run": run, "table": table, "curves": curves}[args.command](args)


if __name__ == "__main__":
    main()
