"""The events of a run: what each of them says, for the run folder and the observer."""

import contextlib
import json
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alprune import __version__
from alprune.data import Splits
from alprune.loop.config import RunConfig, given
from alprune.loop.event_log import Fields, read_events
from alprune.loop.machine_load import MachineLoad
from alprune.loop.observers import Observer
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import CONFIG, RunFolder
from alprune.pruning import Plan, Pruned
from alprune.pruning.epi import EarlyPruner
from alprune.training import Diverged, FitReport
from alprune.training.budget import Budget
from alprune.training.device import hardware
from alprune.training.input_spec import INPUTS, Inputs
from alprune.training.interface import Trainable
from alprune.training.state import weights_file


class Record:
    """Writes a run's events, plan, labels and learner.

    Args:
        folder: Takes the files.
        observer: Receives the events.
        budget: The clock whose `elapsed_s` is in every event.
    """

    def __init__(self, folder: RunFolder, observer: Observer, budget: Budget) -> None:
        self.folder, self.observer, self.budget = folder, observer, budget
        self._is_pruned_early = False
        self._method = ""
        self._ended = False
        self._load = MachineLoad()
        self._has_budget = False

    def start(
        self,
        config: RunConfig,
        splits: Splits,
        pool: LabelPool,
        learner: Trainable,
        acquisition: str,
        reason: str | None = "",
    ) -> None:
        """Record all that the run depends on, the function's name and the reason of `begin`."""
        self._method, self._has_budget = config.method, config.budget is not None
        self.folder.write(CONFIG, config.to_toml())
        self.folder.rewind(0)
        self._event(
            "start",
            config=given(asdict(config)),
            **_machine(learner),
            **self._load.now(),
            acquisition=acquisition,
            seed=config.seed,
            data_digest=splits.digest,
            pool=len(pool),
            labelled=pool.labelled_count,
            initial=pool.labelled.tolist(),
            chosen_because=reason,
        )
        self.labels(pool, splits.train.classes)

    def resume(
        self,
        config: RunConfig,
        step: int,
        events_bytes: int,
        events_digest: str,
        learner: Trainable,
    ) -> None:
        """Record that a run is resumed, after what it wrote since its checkpoint is cut off.

        Args:
            config: The options; the budget and the steps may be new.
            step: Where it resumes.
            events_bytes: Length of events.jsonl at the checkpoint.
            events_digest: Its hash then.
            learner: As it was at the checkpoint.

        Raises:
            StoreError: The record is not that one, or cannot be written.
        """
        self.folder.rewind(events_bytes, events_digest)
        self.folder.write(CONFIG, config.to_toml())
        self._is_pruned_early = learner.early is not None and learner.early.pruned_in is not None
        self._method, self._has_budget = config.method, config.budget is not None
        now = _machine(learner)
        limits = {"budget": config.budget, "steps": config.steps}
        self._event("resume", step=step, **limits, **now, **self._load.now())
        start = next(iter(read_events(self.folder.path)), Fields())
        if moved := moved_between(start, now):
            self.warning(
                step,
                "another machine",
                f"the run is resumed where it did not begin ({moved}). From here on its "
                "numbers may differ in the last digits from those of a run that stayed.",
            )

    def makeup(self, splits: Splits, plan: Plan) -> None:
        """Write what a learner takes, and what was left of its network before training."""
        self.folder.write(INPUTS, Inputs.of(splits.train).to_json())
        self.folder.write("plan.json", plan.to_json())

    def pruned(self, pruned: Pruned, early: bool, reason: str | None = "") -> None:
        """Record what pruning before training did; why so much, if the program chose that."""
        if early:
            return  # recorded by the step in which it is done
        why = {"chosen_because": reason} if reason else {}
        self._event("prune", **pruning_fields(pruned), **why)

    def _pruned_early(self, early: EarlyPruner | None) -> None:
        """Record, once, what pruning during training did, when it is done."""
        if early is None or early.pruned_in is None or self._is_pruned_early:
            return
        self._is_pruned_early = True
        graph, everything = early.unpruned, early.unpruned.all_kept()
        self._event(
            "prune",
            method=self._method,
            macs_before=graph.macs(everything),
            macs_after=graph.macs(early.keep),
            params_before=graph.params(everything),
            params_after=graph.params(early.keep),
            flops_reduction=1 - graph.macs(early.keep) / graph.macs(everything),
            sparsity=0.0,
            prune_s=None,
            widths=graph.widths(early.keep),
            floored=list(early.floored),
            pinned=[f"{p.name}: {p.reason}" for p in graph.pinned],
            epoch=early.pruned_in,
            epi=early.epi,
        )

    def step(
        self,
        *,
        step: int,
        pool: LabelPool,
        learner: Trainable,
        acquired: Tensor,
        tested: Mapping[str, Any],
        uncertainty: float | None,
        report: FitReport,
        scored: int,
        fitted_s: float,
        seconds: Mapping[str, float],
    ) -> None:
        """Record one step.

        Args:
            step: Its number; 0 fits the first points.
            pool: The labels known when it began.
            learner: As it was fitted.
            acquired: `(k,)` absolute indices that will be labelled next.
            tested: What a test after the fit showed, `test_accuracy` among it; None each if it
                was not tested.
            uncertainty: Mean entropy of the candidates, in nats; None if nothing computed it.
            report: Of the fit.
            scored: Candidates that were looked at.
            fitted_s: The clock when the fit ended.
            seconds: What the parts of the step took, by name.
        """
        self._pruned_early(learner.early)
        self._event(
            "step",
            step=step,
            labelled=pool.labelled_count,
            told=_labels_by_class(pool, step),
            acquired=acquired.tolist(),
            **tested,
            uncertainty=None if uncertainty is None else round(uncertainty, 5),
            train_loss=None if report.loss is None else round(report.loss, 5),
            epochs=round(report.epochs, 3),
            batches=report.batches,
            scored=scored,
            fitted_s=round(fitted_s, 3),
            **{name: round(spent, 4) for name, spent in seconds.items()},
        )

    def step_back(self, step: int, error: Diverged, lr: float) -> None:
        """Record that a step is repeated from its checkpoint, at a lower rate."""
        points = error.points
        self._event("step_back", step=step, batch=error.batch, points=points, lr=lr, why=str(error))

    def warning(self, step: int, about: str, message: str) -> None:
        """Record a warning, and give it."""
        self._event("warning", step=step, about=about, message=message)
        warnings.warn(message, stacklevel=3)

    def end(self, learner: Trainable, summary: Mapping[str, Any]) -> None:
        """Write the summary and the last event; the first call counts.

        Args:
            learner: Whose device's memory is looked at.
            summary: JSON values, with `reason`, `labelled`, `steps` and `test_accuracy`.
        """
        if self._ended:
            return
        self.folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
        said = {name: value for name, value in summary.items() if name != "elapsed_s"}
        load = self._load.ended()
        self._event("end", **said, **_peak_memory(learner.device), **load)
        self._ended = True
        doubt = self._load.doubt(load["others_share"]) if self._has_budget else None
        if doubt is not None:
            warnings.warn(doubt, stacklevel=2)

    def network(self, learner: Trainable) -> None:
        """Write the learner, and its plan if training changed it."""
        if learner.early is not None:
            self.folder.write("plan.json", learner.early.plan.to_json())
        write_learner(self.folder, learner)

    def labels(
        self,
        pool: LabelPool,
        classes: tuple[str, ...],
        spare: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        """Write labels.csv.

        Args:
            pool: The labels in use.
            classes: Names.
            spare: `{index: (label, step)}`, answers that are known but not yet in use.
        """
        known = pool.labelled
        columns = (known.tolist(), pool.label_of(known).tolist(), pool.step_of[known].tolist())
        rows = [(i, y, classes[y], step) for i, y, step in zip(*columns, strict=True)]
        rows += [(i, y, classes[y], step) for i, (y, step) in (spare or {}).items()]
        self.folder.write_labels(rows)

    def labelled(
        self, indices: Tensor, labels: Tensor, step: int, classes: tuple[str, ...]
    ) -> None:
        """Add labels to labels.csv as they come."""
        pairs = zip(indices.tolist(), labels.tolist(), strict=True)
        self.folder.append_labels([(i, y, classes[y], step) for i, y in pairs])

    def _event(self, name: str, **fields: Any) -> None:
        elapsed_s = self.budget.elapsed_s
        self.folder.event(name, elapsed_s, **fields)
        self.observer.event(name, fields | {"elapsed_s": elapsed_s})


def write_learner(folder: RunFolder, learner: Trainable) -> None:
    """Write the weights of the network that predicts."""
    folder.write("model.safetensors", weights_file(learner.averaged))


def pruning_fields(pruned: Pruned) -> dict[str, Any]:
    """Return what the event "prune" says of pruning before training, JSON values."""
    return {
        "method": pruned.method,
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "params_before": pruned.params_before,
        "params_after": pruned.params_after,
        "flops_reduction": pruned.flops_reduction,
        "sparsity": pruned.plan.sparsity,
        "prune_s": round(pruned.prune_s, 4),
        "widths": pruned.widths,
        "floored": list(pruned.plan.floored),
        "pinned": list(pruned.pinned),
    }


def _labels_by_class(pool: LabelPool, step: int) -> list[int]:
    """Count the points of each class whose labels came after the step before this one."""
    known = pool.labelled
    new = known[pool.step_of[known] == step]
    return torch.bincount(pool.label_of(new), minlength=pool.classes).tolist()


def _machine(learner: Trainable) -> dict[str, Any]:
    """Say with which versions, on what and in which precision a run computes."""
    return {
        "versions": {
            "alprune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),  # its import takes a second
        },
        "hardware": hardware(learner.device),
        "device": learner.device.type,
        "precision": str(learner.precision).removeprefix("torch."),
    }


def moved_between(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Say what differs between two events' versions, hardware and precision; empty if nothing."""
    names = ("versions", "hardware", "precision")
    changed = [n for n in names if first.get(n) != second.get(n)]
    return "; ".join(f"{n}: {first.get(n)} then, {second.get(n)} now" for n in changed)


def _peak_memory(device: torch.device) -> dict[str, int | None]:
    """Return the most memory that this process has held, in bytes; None where it isn't known."""
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": peak_resident(), "peak_device_bytes": on_device}


def peak_resident() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None where not known."""
    with contextlib.suppress(OSError, StopIteration):  # getrusage counts the parent's memory, too
        lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
