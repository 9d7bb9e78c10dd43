"""Accuracy against FLOPs left, PreCrop-FLOPs beside SynFlow's masks (PreCrop, figure 5b).

    alprune compare --recipe recipes/papers/precrop-params.toml --out outputs/precrop
    alprune compare --recipe recipes/papers/precrop-flops.toml --out outputs/precrop
    python recipes/papers/precrop_flops.py outputs/precrop

A masked network runs as many products as before; as in the paper, those with a masked weight are
counted as saved, layer by layer, which only special hardware would do. Means and standard errors
over the seeds. The outcome is in recipes/papers/README.md.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from pivot import ended_runs, mean_and_error
from safetensors import safe_open

from alprune import RunHistory
from alprune.models import MODELS, build
from alprune.models.cost import cost


def kept_shares(path: Path) -> dict[str, float]:
    """Return the share of the weights that a masked run kept, by layer."""
    found = {}
    with safe_open(path / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118, it is not a dict
            layer, marker, _ = key.partition(".parametrizations.weight.0.mask")
            if marker:
                found[layer] = file.get_tensor(key).double().mean().item()
    return found


def flops_left(run: RunHistory) -> float:
    """Return the share of the products of a forward pass that is left."""
    if not run.prune["sparsity"]:
        return run.prune["macs_after"] / run.prune["macs_before"]
    name = run.config["model"]
    size = run.config.get("image_size") or MODELS[name].input_shape[1]
    shape = (MODELS[name].input_shape[0], size, size)
    by_layer = cost(build(name, 10, shape), torch.zeros(1, *shape)).by_layer
    kept = kept_shares(run.path)
    return sum(macs * kept[name] for name, macs in by_layer.items()) / sum(by_layer.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the run folders of both recipes")
    asked = parser.parse_args()
    runs, missing = ended_runs(asked.folder)
    if not runs:
        parser.error(f"{asked.folder} holds no ended run ({missing} that have not ended).")
    groups: dict[tuple[str, str, float], list[RunHistory]] = defaultdict(list)
    for run in runs:
        by_flops = run.config.get("flops_reduction")
        amount = run.config.get("params_reduction", 0.0) if by_flops is None else by_flops
        groups[run.config["model"], run.config["method"], amount].append(run)
    print("| network | method | removed as asked | FLOPs left | parameters left | test accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (model, method, amount), group in sorted(groups.items()):
        left = statistics.mean(flops_left(run) for run in group)
        unit = "FLOPs" if group[0].config.get("flops_reduction") is not None else "parameters"
        sizes = [
            (1 - run.prune["sparsity"]) * run.prune["params_after"] / run.prune["params_before"]
            for run in group
        ]
        accuracy = mean_and_error([100 * run.end["test_accuracy"] for run in group])
        print(
            f"| {model} | {method} | {amount:.0%} of the {unit} | {left:.1%} | "
            f"{statistics.mean(sizes):.1%} | {accuracy} |"
        )
    if missing:
        print(f"\nRuns that have not ended: {missing}.")


if __name__ == "__main__":
    main()
