"""Say what pruning did: what went, what stayed and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from alprune.pruning.api import Pruned

_SHOWN = 4  # layers, or reasons, in one line


def describe(pruned: Pruned) -> str:
    """Return about ten lines: the reductions, the layers most narrowed, and what stayed and why."""
    found = figures(pruned)
    rows = [
        (name, found[f"{key}_before"], found[f"{key}_after"], found[f"{key}_reduction"])
        for name, key in (("FLOPs", "flops"), ("parameters", "params"), ("channels", "channels"))
        if found[f"{key}_before"]
    ]
    lines = [
        f"{pruned.method}, {pruned.prune_s:.2f} s",
        f"{'':10}  {'before':>15}  {'after':>15}  removed",
        *(
            f"{name:10}  {before:>15,}  {after:>15,}  {gone:7.1%}"
            for name, before, after, gone in rows
        ),
    ]
    if pruned.plan.kind == "masks":
        lines.append(f"masked: {pruned.plan.sparsity:.1%} of the weights; this saves no time")
    return "\n".join([*lines, *_layers(pruned), *_pinned(pruned)])


def figures(pruned: Pruned) -> dict[str, Any]:
    """Return all that `describe` is made of, as JSON values."""
    before, after = sum(pruned.widths_before.values()), sum(pruned.widths.values())
    return {
        "flops_before": 2 * pruned.macs_before,
        "flops_after": 2 * pruned.macs_after,
        "flops_reduction": pruned.flops_reduction,
        "params_before": pruned.params_before,
        "params_after": pruned.params_after,
        "params_reduction": pruned.params_reduction,
        "channels_before": before,
        "channels_after": after,
        "channels_reduction": 1 - after / before if before else 0.0,
        "widths_before": pruned.widths_before,
        "widths": pruned.widths,
        "floored": list(pruned.plan.floored),
        "pinned": list(pruned.pinned),
        "pinned_share": pruned.pinned_share,
    }


def _layers(pruned: Pruned) -> list[str]:
    """Name the layers that were narrowed most, those at their floor and those left whole."""
    before, after = pruned.widths_before, pruned.widths
    gone = {name: 1 - after[name] / width for name, width in before.items() if width}
    narrowed = sorted((name for name in gone if gone[name] > 0), key=lambda name: -gone[name])
    wider = [name for name in gone if gone[name] < 0]
    stuck = {text.partition(": ")[0] for text in pruned.pinned}
    whole = [n for n in gone if gone[n] == 0 and n not in stuck and n not in pruned.plan.floored]
    lines = []
    if narrowed:
        shown = [f"{name} {before[name]} to {after[name]}" for name in narrowed[:_SHOWN]]
        lines.append(f"narrowed: {len(narrowed)} of {len(gone)} layers, most {', '.join(shown)}")
        least = min(narrowed, key=lambda name: after[name])
        lines.append(f"narrowest: {least} with {after[least]} channels")
    if wider:
        lines.append(f"widened: {_some(wider)}")
    if pruned.plan.floored:
        lines.append(f"at the minimum width: {_some(pruned.plan.floored)}")
    if whole:
        lines.append(f"whole, by their scores or by what was asked: {_some(whole)}")
    return lines


def _pinned(pruned: Pruned) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for text in pruned.pinned:
        name, _, reason = text.partition(": ")
        by_reason.setdefault(_kind(reason), []).append(name)
    if not by_reason:
        return []
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [f"cannot be pruned: {pruned.pinned_share:.1%} of the channels"]
    lines += [f"  {reason}: {_some(names)}" for reason, names in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"  {len(ordered) - _SHOWN} more reasons; --json lists all")
    return lines


def _kind(reason: str) -> str:
    """Cut off which share of a layer's channels a reason holds for."""
    share, _, rest = reason.partition(" channels: ")
    return rest if rest and " of " in share else reason


def _some(names: Sequence[str] | Mapping[str, Any]) -> str:
    shown = list(names)[:_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
