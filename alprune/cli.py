"""The command line: options from RunConfig, errors as one message, exit codes."""

import contextlib
import json
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

import alprune
from alprune.acquire import summaries
from alprune.bench import BenchSettings, bench, table
from alprune.config import RunConfig, default_of, option_type
from alprune.data import DATASETS
from alprune.device import DEVICES, PRECISIONS
from alprune.display import observer_for, prune_line
from alprune.errors import AlpruneError, ConfigError, printable
from alprune.experiment import (
    PRUNE_OPTIONS,
    complete,
    first_labels,
    load_splits,
    open_run,
    prune_learner,
)
from alprune.loop import RunResult
from alprune.models import MODELS
from alprune.prune import AFTER_PRUNING, METHODS, Pruned, find_method
from alprune.reopen import finished, options, reopen
from alprune.report import plot_curves
from alprune.rerun import Comparison, again, compare
from alprune.signals import Signals, how_to_resume
from alprune.start import STARTS
from alprune.train import SCHEDULES

_CHOICES = {
    "after_pruning": tuple(AFTER_PRUNING),
    "precision": PRECISIONS,
    "schedule": tuple(SCHEDULES),
}
_METAVARS = {"budget": "SECONDS", "out": "DIR", "data_root": "DIR", "device": "|".join(DEVICES)}
_PRUNE_ONLY = (
    *PRUNE_OPTIONS,
    *"method after_pruning prune_batch prune_batches dataset data_root skip_unreadable".split(),
    *"follow_links model image_size initial seed device".split(),
    *"start imbalance label_noise hold_out".split(),
)


class _Command(click.Command):
    """A command that prints an AlpruneError as a message and exits 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlpruneError as error:
            click.echo(printable(f"{type(error).__name__}: {error}"), err=True)
            ctx.exit(1)
        except KeyboardInterrupt as interrupt:
            click.echo(str(interrupt) or "Interrupted.", err=True)
            ctx.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


def _options(
    names: Sequence[str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a click option of each field of RunConfig, or of those named."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for entry in reversed(fields(RunConfig)):
            if names is None or entry.name in names:
                function = _option(entry)(function)
        return click.option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="TOML file of options; those given on the command line win.",
        )(function)

    return decorate


def _option(entry: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind, _ = option_type(entry)
    flag = "--" + entry.name.replace("_", "-")
    text = entry.metadata["help"]
    default = default_of(entry)
    # The default stays None: only what is given on the command line may win over a recipe.
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", entry.name, default=None, help=text)
    if default is not None:
        text = f"{text} [default: {default}]"
    choices = _CHOICES.get(entry.name)
    param: Any = click.Choice(choices) if choices else kind
    metavar = _METAVARS.get(entry.name)
    return click.option(flag, entry.name, type=param, default=None, metavar=metavar, help=text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(alprune.__version__, prog_name="alprune")
def main() -> None:
    """Active learning under a wall-clock budget, with learners pruned before training."""
    warnings.showwarning = _show_warning


_RUN_EXAMPLES = """\b
Without a download:      alprune run --dataset digits --budget 60
The paper's experiment:  alprune run --budget 3600 --method 3sp-ca
After a reboot:          alprune run --resume outputs/cifar10-3sp-ca-seed0
"""


@main.command("run", cls=_Command, epilog=_RUN_EXAMPLES)
@_options()
@click.option(
    "--resume",
    "path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the run in DIR; beside it only --budget and --steps, to extend that run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run_command(recipe: Path | None, path: Path | None, as_json: bool, **given: Any) -> None:
    """Label, train, score and acquire until the budget ends."""
    with Signals() as signals:
        if path is None:
            result = _run(signals, complete(_config(recipe, given)))
        else:
            result = _resume(signals, path, {"recipe": recipe} | given)
        with contextlib.suppress(KeyboardInterrupt):  # the record is written; the picture may wait
            plot_curves([result.path], result.path / "curve.png")
        click.echo(_result_json(result) if as_json else _result_table(result))
        if result.reason == "interrupted":
            click.echo(f"Interrupted. {how_to_resume(result.path)}", err=True)
            sys.exit(signals.exit_code or 130)


def _run(signals: Signals, config: RunConfig) -> RunResult:
    session, oracle = open_run(config, observer=observer_for(config))
    signals.end(session)
    return session.run(oracle)


def _resume(signals: Signals, path: Path, given: dict[str, Any]) -> RunResult:
    limits = {name: given.pop(name) for name in ("budget", "steps")}
    others = ["--" + name.replace("_", "-") for name, value in given.items() if value is not None]
    if others:
        raise click.UsageError(
            f"with --resume only --budget and --steps may be given, not {', '.join(others)}: all "
            f"else is as the run in {path} began."
        )
    ended = finished(path, **limits)
    if ended is not None:
        return ended
    session, oracle = reopen(path, None, observer_for(options(path, **limits)), **limits)
    signals.end(session)
    return session.run(oracle)


@main.command("rerun", cls=_Command)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="NEW", help="Folder (DIR-rerun).")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def rerun_command(path: Path, out: Path | None, as_json: bool) -> None:
    """Run the options of a run that has ended once more, and compare.

    Exits with 1 if two runs differ that had to be equal: by --steps alone and on a CPU.
    """
    with Signals() as signals:
        result = _run(signals, again(path, out))
        if result.reason == "interrupted":
            click.echo(f"Interrupted. {how_to_resume(result.path)}", err=True)
            sys.exit(signals.exit_code or 130)
    found = compare(path, result.path)
    click.echo(json.dumps(asdict(found)) if as_json else _comparison_table(found, result.path))
    if found.exact and not found.equal:
        sys.exit(1)


@main.command("prune", cls=_Command)
@_options(_PRUNE_ONLY)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def prune_command(recipe: Path | None, as_json: bool, **given: Any) -> None:
    """Prune a learner before training and print what that did; nothing is written."""
    config = complete(_config(recipe, given))
    if find_method(config.method).early:
        raise ConfigError(
            f"method {config.method!r} prunes during training: there is nothing to show before a "
            "run. Try alprune run."
        )
    splits = load_splits(config)
    pool, first = first_labels(config, splits.train)
    pruned = prune_learner(config, splits.train, first, pool.labels[first])
    click.echo(json.dumps(_prune_record(pruned)) if as_json else _prune_table(pruned))


@main.command("list", cls=_Command)
@click.option("--json", "as_json", is_flag=True, help="Print names and summaries as JSON.")
def list_command(as_json: bool) -> None:
    """Name all methods, models, data sets, acquisition functions and ways to start."""
    known = {
        "methods": {name: entry.summary for name, entry in METHODS.items()},
        "models": {name: entry.summary for name, entry in MODELS.items()},
        "datasets": {name: entry.summary for name, entry in DATASETS.items()},
        "acquisitions": summaries(),
        "starts": {name: (do.__doc__ or "").partition("\n")[0] for name, do in STARTS.items()},
    }
    if as_json:
        click.echo(json.dumps(known))
        return
    for family, entries in known.items():
        click.echo(f"{family}:")
        width = max(map(len, entries))
        for name, summary in entries.items():
            click.echo(f"  {name:<{width}}  {summary}")
    click.echo("Wherever a name is accepted, package.module:function is too.")


@main.command("bench", cls=_Command)
@click.option(
    "--methods",
    default=",".join(BenchSettings.methods),
    show_default=True,
    help="Learners to compare, with commas; dense among them for ratios to it.",
)
@click.option("--model", default=BenchSettings.model, show_default=True, help="The network.")
@click.option("--batch-size", default=BenchSettings.batch_size, show_default=True)
@click.option("--round-to", default=1, help="Widths after pruning are multiples of this.")
@click.option(
    "--dataset",
    default=BenchSettings.dataset,
    show_default=True,
    help="synthetic (random images, no download) or what `alprune run` takes.",
)
@click.option("--data-root", metavar="DIR", help="Folder for downloads.")
@click.option(
    "--seconds", default=BenchSettings.seconds, show_default=True, help="For each comparison."
)
@click.option(
    "--pool",
    default=BenchSettings.pool,
    show_default=True,
    help="Images in a memory-mapped file to score; 0 for none.",
)
@click.option("--device", default="auto", metavar=_METAVARS["device"])
@click.option("--precision", default="auto", type=click.Choice(PRECISIONS))
@click.option("--seed", default=BenchSettings.seed, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench_command(methods: str, as_json: bool, **given: Any) -> None:
    """Measure throughput here, as ratios to bare PyTorch loops and to the dense network."""
    result = bench(BenchSettings(tuple(methods.split(",")), **given), tell=_tell)
    _tell("")
    if as_json:
        click.echo(json.dumps(result.record()))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    click.echo(table(result.rows))


def _tell(text: str) -> None:
    """Show progress: in place on a terminal, where an empty text clears it; else as lines."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
    elif text:
        click.echo(text, err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(printable(f"Warning: {message}"), err=True)


def _config(recipe: Path | None, given: dict[str, Any]) -> RunConfig:
    chosen = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        return RunConfig.from_mapping(chosen)
    return RunConfig.from_toml(recipe, **chosen)


def _result_json(result: RunResult) -> str:
    record = {name: getattr(result, name) for name in result.__dataclass_fields__}
    return json.dumps(record | {"path": str(result.path)})


def _result_table(result: RunResult) -> str:
    accuracy = "not tested" if result.test_accuracy is None else f"{result.test_accuracy:.2%}"
    rows = {
        "ended by": result.reason,
        "elapsed": f"{result.elapsed_s:.1f} s",
        "steps": result.steps,
        "labelled": result.labelled,
        "test accuracy": accuracy,
        "record": result.path,
        "picture": result.path / "curve.png",
    }
    return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def _comparison_table(found: Comparison, second: Path) -> str:
    accuracies = ["not tested" if a is None else f"{a:.2%}" for a in found.test_accuracy]
    verdict = "equal" if found.equal else "different"
    verdict += " (and had to be equal)" if found.exact else f" (need not be equal: {found.why_not})"
    rows = {
        "outcome": verdict,
        "steps": "{} and {}".format(*found.steps),
        "labelled": "{} and {}".format(*found.labelled),
        "test accuracy": " and ".join(accuracies),
        "acquired": (
            "the same points" if found.parted is None else f"different from step {found.parted} on"
        ),
        "weights": (
            "of different shapes" if found.weights is None else f"{found.weights:.3g} apart at most"
        ),
        "record": second,
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    return "\n".join(lines + [f"{'changed':<14} {text}" for text in found.changed])


def _prune_record(pruned: Pruned) -> dict[str, Any]:
    return {
        "method": pruned.method,
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "params_before": pruned.params_before,
        "params_after": pruned.params_after,
        "flops_reduction": pruned.flops_reduction,
        "params_reduction": pruned.params_reduction,
        "sparsity": pruned.plan.sparsity,
        "widths": pruned.widths,
        "floored": list(pruned.plan.floored),
        "pinned": list(pruned.pinned),
        "prune_s": pruned.prune_s,
    }


def _prune_table(pruned: Pruned) -> str:
    sizes = {name: len(kept) for name, kept in pruned.plan.kept.items()}
    width = max([len(name) for name in sizes] + [10])
    lines = [prune_line(_prune_record(pruned))]
    lines += [
        f"{'':{width}}  {'before':>13}  {'after':>13}",
        f"{'FLOPs':{width}}  {2 * pruned.macs_before:>13,}  {2 * pruned.macs_after:>13,}",
        f"{'parameters':{width}}  {pruned.params_before:>13,}  {pruned.params_after:>13,}",
    ]
    for name, size in pruned.plan.sizes.items():
        lines.append(f"{name:{width}}  {size:>13,}  {sizes[name]:>13,}")
    return "\n".join(lines)
