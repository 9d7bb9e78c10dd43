"""The command line: options from RunConfig, errors as one message, exit codes."""

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

import alprune
from alprune.acquire import ACQUISITIONS
from alprune.config import RunConfig, default_of, option_type
from alprune.data import DATASETS
from alprune.device import DEVICES, PRECISIONS
from alprune.display import observer_for, prune_line
from alprune.errors import AlpruneError, ConfigError
from alprune.experiment import (
    PRUNE_OPTIONS,
    complete,
    first_labels,
    load_splits,
    prune_learner,
    run,
)
from alprune.models import MODELS
from alprune.prune import AFTER_PRUNING, METHODS, Pruned, find_method
from alprune.report import plot_curves
from alprune.session import RunResult
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
    *"model image_size initial seed device".split(),
)


class _Command(click.Command):
    """A command that prints an AlpruneError as a message and exits 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlpruneError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted before the first step.", err=True)
            ctx.exit(130)


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
"""


@main.command("run", cls=_Command, epilog=_RUN_EXAMPLES)
@_options()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run_command(recipe: Path | None, as_json: bool, **given: Any) -> None:
    """Label, train, score and acquire until the budget ends."""
    config = complete(_config(recipe, given))
    result = run(config, observer=observer_for(config))
    with contextlib.suppress(KeyboardInterrupt):  # the record is written; the picture may wait
        plot_curves([result.path], result.path / "curve.png")
    click.echo(_result_json(result) if as_json else _result_table(result))
    if result.reason == "interrupted":
        click.echo(
            f"Interrupted. The record in {result.path} is whole; run again with another --out, "
            "the same --seed and a longer --budget to go further.",
            err=True,
        )
        sys.exit(130)


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
    """Name all methods, models, data sets and acquisition functions."""
    known = {
        "methods": {name: entry.summary for name, entry in METHODS.items()},
        "models": {name: entry.summary for name, entry in MODELS.items()},
        "datasets": {name: entry.summary for name, entry in DATASETS.items()},
        "acquisitions": {name: _first_line(entry) for name, entry in ACQUISITIONS.items()},
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


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def _config(recipe: Path | None, given: dict[str, Any]) -> RunConfig:
    chosen = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        return RunConfig.from_mapping(chosen)
    return RunConfig.from_toml(recipe, **chosen)


def _first_line(entry: Callable[..., Any]) -> str:
    return (entry.__doc__ or "").strip().split("\n")[0]


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
