"""Accuracy by the epoch of pruning, and what each policy loses (When to Prune, fig. 3, table 1).

    alprune compare --recipe recipes/papers/when-to-prune.toml --out outputs/when
    python recipes/papers/when_to_prune.py outputs/when --png when.png
    python recipes/papers/when_to_prune.py outputs/when --tickets

Reads run folders of method epi. For each pruning epoch it prints the final accuracy, mean and
standard error over the seeds, and the FLOPs left; then, as in table 1, by how many points each
policy falls short of the best epoch of the grid: at random (the mean over the epochs of the first
third, from which the paper draws), at initialisation (epoch 0), the predefined one (a third of the
training; the grid's nearest), and EPI. A difference can be negative: EPI may choose an epoch that
the grid does not hold. The outcome is in recipes/papers/README.md.

`--tickets` trains each run's pruned network once more, from the weights that its channels had at
the start: the lottery tickets of figure 3, as many trainings as there are runs.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from pivot import ended_runs, mean_and_error

from alprune import RunHistory
from alprune.loop.learner import fit_settings
from alprune.loop.resume import options
from alprune.loop.setup import first_labels, load_splits
from alprune.models import INITS, MODELS, build
from alprune.pruning import Plan, rebuild
from alprune.training import Learner


def accuracies(runs: list[RunHistory]) -> list[float]:
    return [100 * run.end["test_accuracy"] for run in runs]


def shortfalls(by_epoch: dict[int, float], epi: float | None, epochs: float) -> dict[str, float]:
    """Return what each policy loses against the best epoch, in points.

    Args:
        by_epoch: Mean accuracy in percent by pruning epoch.
        epi: Mean accuracy where EPI chose; None if it was not run.
        epochs: Of the whole training.
    """
    best = max(by_epoch.values())
    early = [value for epoch, value in by_epoch.items() if epoch <= epochs / 3]
    nearest = min(by_epoch, key=lambda epoch: abs(epoch - epochs / 3))
    found = {"random": best - statistics.mean(early)}
    if 0 in by_epoch:
        found["at initialisation"] = best - by_epoch[0]
    found[f"predefined (epoch {nearest})"] = best - by_epoch[nearest]
    if epi is not None:
        found["EPI"] = best - epi
    return found


def ticket(run: RunHistory) -> float:
    """Train the channels that a run kept from their first weights; return the test accuracy."""
    config = options(run.path)
    splits = load_splits(config)
    train, generator = splits.train, torch.Generator().manual_seed(config.seed)
    model = build(config.model, len(train.classes), train.image_shape, config.seed)
    if config.model in MODELS:
        INITS[config.init](model, generator)
    plan = Plan.from_json((run.path / "plan.json").read_text())
    settings = fit_settings(config, train)
    learner = Learner(rebuild(model, plan), train, settings, torch.device("cpu"), torch.float32)
    pool, first = first_labels(config, train)
    epochs, labels = config.initial_epochs, pool.label_of(first)
    learner.fit(first, labels, epochs, generator, progress=lambda done: done)
    return 100 * learner.evaluate(splits.test).accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the run folders, as alprune compare makes it")
    parser.add_argument("--png", help="where to draw the accuracies")
    parser.add_argument("--tickets", action="store_true", help="train the lottery tickets, too")
    asked = parser.parse_args()
    runs, missing = ended_runs(asked.folder)
    groups: dict[str, list[RunHistory]] = defaultdict(list)
    for run in runs:
        if run.config["method"] == "epi":
            groups[str(run.config["prune_at"])].append(run)
    fixed = {int(name): group for name, group in groups.items() if name.isdecimal()}
    if not groups:
        parser.error(f"{asked.folder} holds no ended run of method epi.")
    for epoch in sorted(fixed):
        print(
            f"epoch {epoch:3}  {mean_and_error(accuracies(fixed[epoch]), 2)}{_left(fixed[epoch])}"
        )
    for run in groups.get("epi", []):
        pruned = run.prune.get("epoch", "none")
        [accuracy] = accuracies([run])
        share = run.config.get("channels_reduction", "")
        print(
            f"epi, {run.config['epi_criterion']} {share}, seed {run.config['seed']}: "
            f"epoch {pruned}, {accuracy:.2f}{_left([run])}"
        )
        indicator = ", ".join(f"{v:.3f}" for v in run.prune.get("epi", []) if v is not None)
        print(f"  indicator {indicator}")
    if not fixed:
        return
    for epoch in sorted(fixed) if asked.tickets else ():
        found = mean_and_error([ticket(run) for run in fixed[epoch] if run.prune], 2)
        print(f"lottery tickets of epoch {epoch:3}  {found}", flush=True)
    means = {epoch: statistics.mean(accuracies(group)) for epoch, group in fixed.items()}
    epi = statistics.mean(accuracies(groups["epi"])) if groups.get("epi") else None
    epochs = float(runs[0].config["initial_epochs"])
    for policy, points in shortfalls(means, epi, epochs).items():
        print(f"{policy:24} {points:+.2f} points below the best epoch of the grid")
    if missing:
        print(f"{missing} runs have not ended.")
    if asked.png:
        draw(fixed, groups.get("epi", []), asked.png)


def _left(runs: list[RunHistory]) -> str:
    left = [r.prune["macs_after"] / r.prune["macs_before"] for r in runs if r.prune]
    return f"  {statistics.mean(left):.1%} of the FLOPs left" if left else "  not pruned"


def draw(fixed: dict[int, list[RunHistory]], epi: list[RunHistory], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs = sorted(fixed)
    axes.plot(epochs, [statistics.mean(accuracies(fixed[e])) for e in epochs], "o-", label="fixed")
    for epoch in epochs:
        axes.plot([epoch] * len(fixed[epoch]), accuracies(fixed[epoch]), ".", color="0.5", ms=4)
    chosen = [(run.prune["epoch"], accuracies([run])[0]) for run in epi if run.prune]
    if chosen:
        axes.plot(*zip(*chosen, strict=True), "D", color="#D55E00", label="chosen by EPI")
    axes.set(xlabel="pruning epoch", ylabel="final test accuracy (%)")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
