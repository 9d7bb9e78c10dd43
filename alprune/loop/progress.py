"""How a run shows itself: a progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from alprune.loop.config import RunConfig
from alprune.loop.events import Observer


def observer_for(
    config: RunConfig, stream: TextIO | None = None, verbose: bool = False
) -> Observer:
    """Return what fits the stream (stderr if None): a bar on a terminal, lines elsewhere.

    Args:
        config: Complete options of the run.
        stream: Where to write.
        verbose: Whether to list the layers at their minimum width.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        return Bar(config, stream, verbose=verbose)
    return Lines(stream, verbose=verbose)


class Bar(Observer):
    """A tqdm bar over the budget, or over the steps where there is no budget.

    Args:
        config: Complete options of the run.
        stream: A terminal.
        title: Stands in front of the bar.
        notes: Returns what else to show beside it.
        verbose: See `prune_line`.
    """

    def __init__(
        self,
        config: RunConfig,
        stream: TextIO,
        title: str = "",
        notes: Callable[[], dict[str, str]] = dict,
        verbose: bool | None = None,
    ) -> None:
        self._notes, self._verbose = notes, verbose
        self._by_clock = config.budget is not None
        self._total = float(config.budget or config.steps or 0)
        unit = "{n:.0f}/{total:.0f} s" if self._by_clock else "step {n:.0f}/{total:.0f}"
        self._stream = stream
        self._bar = tqdm(
            total=self._total,
            file=stream,
            desc=title or None,
            bar_format="{desc}{percentage:3.0f}%|{bar}| " + unit + "{postfix}",
            mininterval=0.2,
            dynamic_ncols=True,
        )
        self._fields: dict[str, str] = {}

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Show labelled points and accuracy after a step; close at the end."""
        if name == "start":
            self._bar.write(f"Writing to {fields['config']['out']}", file=self._stream)
        if name == "resume":
            self._bar.write(f"Resuming at step {fields['step']}", file=self._stream)
        if name == "prune":
            self._bar.write(prune_line(fields, self._verbose), file=self._stream)
        if name == "step":
            self._fields["labelled"] = str(fields["labelled"])
            if fields["test_accuracy"] is not None:
                self._fields["accuracy"] = f"{fields['test_accuracy']:.1%}"
            self._move(fields["elapsed_s"], fields["step"])
        if name == "end":
            self._bar.close()

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Move with the clock and show how far the fit is."""
        self._fields["fit"] = f"{done}/{planned}"
        if self._by_clock:
            self._move(elapsed_s, 0)

    def _move(self, elapsed_s: float, step: int) -> None:
        # A run may overstep its budget by a batch; tqdm would drop the bar past its total.
        self._bar.n = min(elapsed_s if self._by_clock else step, self._total)
        self._bar.set_postfix(self._fields | self._notes(), refresh=False)
        self._bar.update(0)


class Lines(Observer):
    """One line for the pruning and one every few seconds, for logs."""

    def __init__(self, stream: TextIO, every_s: float = 10.0, verbose: bool | None = None) -> None:
        self._stream, self._every_s, self._verbose = stream, every_s, verbose
        self._last_s = float("-inf")

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Write a line if one is due."""
        if name == "start":
            print(f"Writing to {fields['config']['out']}", file=self._stream, flush=True)
        if name == "resume":
            print(f"Resuming at step {fields['step']}", file=self._stream, flush=True)
        if name == "prune":
            print(prune_line(fields, self._verbose), file=self._stream, flush=True)
        now = time.monotonic()
        if name != "step" or now - self._last_s < self._every_s:
            return
        self._last_s = now
        accuracy = fields["test_accuracy"]
        tested = "not tested" if accuracy is None else f"accuracy {accuracy:.1%}"
        loss = "-" if fields["train_loss"] is None else f"{fields['train_loss']:.3f}"
        print(
            f"{fields['elapsed_s']:8.1f} s  step {fields['step']:4d}  "
            f"labelled {fields['labelled']:6d}  {tested}  loss {loss}",
            file=self._stream,
            flush=True,
        )


def prune_line(fields: dict[str, Any], verbose: bool | None = None) -> str:
    """Say in a line what pruning did.

    Args:
        fields: Of the event "prune".
        verbose: Whether to list the layers at their minimum width; None where no option does.
    """
    took = "during training" if fields["prune_s"] is None else f"in {fields['prune_s']:.2f} s"
    chosen = f" (chosen: {fields['chosen_because']})" if "chosen_because" in fields else ""
    if fields["sparsity"]:
        return (
            f"{fields['method']}: {fields['sparsity']:.1%} of the weights masked {took}; this "
            "saves no FLOPs and no time"
        )
    if fields["macs_after"] == fields["macs_before"]:
        return f"{fields['method']}: {2 * fields['macs_before']:,} FLOPs, nothing pruned{chosen}"
    return (
        f"{fields['method']}: {fields['flops_reduction']:.1%} of the FLOPs and "
        f"{1 - fields['params_after'] / fields['params_before']:.1%} of the parameters removed "
        f"{took}{chosen}" + _at_minimum(fields, verbose)
    )


def _at_minimum(fields: dict[str, Any], verbose: bool | None) -> str:
    floored, layers = fields["floored"], len(fields.get("widths") or fields["floored"])
    if not floored:
        return ""
    said = f"; minimum width reached in {len(floored)} of {layers} layers"
    if verbose:
        return f"{said}: {', '.join(floored)}"
    return said if verbose is None else f"{said}; --verbose lists them"


def span(seconds: float) -> str:
    """Write a duration in its two largest units."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    if minutes < 100 * 365 * 1440:
        return f"{minutes // 1440} d {minutes % 1440 // 60} h"
    return "100 years or more"
