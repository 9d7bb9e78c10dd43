"""`alprune compare`."""

import json
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from alprune.cli.options import Command, Option, flags_of, log_options, run_options
from alprune.errors import AlpruneError, ConfigError, printable, shell_word
from alprune.loop.config import RunConfig
from alprune.loop.signals import Signals, Stopped
from alprune.loop.trust import check_trust

if TYPE_CHECKING:
    from alprune.runs.compare import Cell, Outcome, Resources

ENGINES = ("processes", "ray", "slurm")
_AXES = {"methods": "method", "models": "model", "acquisitions": "acquisition"}
_EXAMPLES = """\b
Without a download:  alprune compare --methods dense,3sp-ca --seeds 3 --dataset digits
                     --model resnet20 --budget 30s --out outputs/cmp
After a reboot:      alprune compare --resume outputs/cmp
"""


_RESOURCES = (
    cloup.option(
        "--cpus-per-run",
        cls=Option,
        rare=True,
        type=int,
        metavar="N",
        help="Processors of each run or share, with --engine.",
    ),
    cloup.option(
        "--gpus-per-run",
        cls=Option,
        rare=True,
        type=int,
        metavar="N",
        help="GPUs of each run or share, with --engine.",
    ),
    cloup.option(
        "--engine-option",
        "engine_options",
        cls=Option,
        rare=True,
        multiple=True,
        metavar="NAME=VALUE",
        help="Option of the engine, such as slurm_partition=gpu or timeout_min=240; may be "
        "repeated.",
    ),
)


def resource_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of what an engine gives to each run or share."""
    for option in reversed(_RESOURCES):
        command = option(command)
    return command


@click.command("compare", cls=Command, epilog=_EXAMPLES)
@click.option("--methods", metavar="A,B", help="Methods to compare.")
@click.option("--models", metavar="A,B", help="Learners to compare.")
@click.option("--acquisitions", metavar="A,B", help="Acquisition functions to compare.")
@click.option(
    "--seeds", metavar="N|A,B", help="Number of seeds, from 0; or the seeds, with commas."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="OPTION=V1,V2",
    help="Vary any other option of --help-all; may be repeated.",
)
@click.option("--jobs", type=int, default=1, show_default=True, help="Runs at the same time.")
@click.option(
    "--resume",
    "path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Resume the comparison in DIR.",
)
@cloup.option(
    "--engine",
    cls=Option,
    rare=True,
    metavar="NAME",
    help=f"What starts the runs: {', '.join(ENGINES)}.",
)
@resource_options
@click.option("--dry-run", is_flag=True, help="List the runs without starting any.")
@log_options
@click.option("--json", "as_json", is_flag=True, help="Print the result of each run as JSON.")
@run_options(settings=False)
def compare_command(
    recipe: Path | None,
    path: Path | None,
    jobs: int,
    engine: str | None,
    cpus_per_run: int | None,
    gpus_per_run: int | None,
    engine_options: tuple[str, ...],
    dry_run: bool,
    log: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Make the runs of a grid one after another, and compare them in a report.

    Each run has a folder of its own in --out. Finished runs are kept, interrupted ones are
    resumed, and a run that fails does not stop the others. Options of `alprune run` apply to
    every run; a recipe may have a [grid] table: lists of values by option name.
    """
    from alprune.runs.compare import MANIFEST, compare, plan, read_manifest
    from alprune.runs.compare.progress import Overview

    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    resources = resources_of(engine, cpus_per_run, gpus_per_run, engine_options)
    if path is None:
        config, grid, path = _asked(recipe, chosen)
    else:
        _refuse_beside_resume(path, {"recipe": recipe} | given)
        config, grid = read_manifest(path)
    if dry_run:
        _list(plan(config, grid, path), as_json)
        return
    with Signals() as signals:
        try:
            outcomes = compare(
                config,
                grid,
                path,
                jobs=jobs,
                monitor=Overview(signals),
                log=log,
                engine=engine,
                resources=resources,
            )
        except KeyboardInterrupt as stopped:
            if not (path / MANIFEST).exists():
                raise
            number = getattr(stopped, "signum", signal.SIGINT)
            raise Stopped(number, f"Stopped at once. {_how_to_resume(path)}") from None
    over = [o.path for o in outcomes if o.state in ("done", "kept", "failed")]
    page = _report(over, path) if over else None
    if as_json:
        click.echo(_json(path, outcomes, page))
    else:
        click.echo(_text(outcomes, page))
        if any(outcome.state in ("done", "kept") for outcome in outcomes):
            click.echo(_next(path))
    _exit(signals, path, outcomes)


def _report(runs: list[Path], path: Path) -> Path | None:
    from alprune.runs.report import write_report

    try:
        return write_report(runs, path)
    except AlpruneError as error:  # the runs are made, and `alprune report` can be called again
        warnings.warn(f"there is no report: {error}", stacklevel=2)
        return None


def resources_of(
    engine: str | None, cpus: int | None, gpus: int | None, settings: tuple[str, ...]
) -> "Resources | None":
    """Return what each run or share gets; None without an engine.

    Raises:
        click.UsageError, ConfigError: The options do not go together.
    """
    from alprune.runs.compare import Resources

    if engine is None:
        if cpus is not None or gpus is not None or settings:
            raise click.UsageError(
                "--cpus-per-run, --gpus-per-run and --engine-option need an --engine."
            )
        return None
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--engine-option takes NAME=VALUE, got {setting!r}.")
        options[name.strip()] = int(text) if text.strip().isdecimal() else text.strip()
    return Resources(1 if cpus is None else cpus, gpus or 0, options)


def _asked(
    recipe: Path | None, chosen: dict[str, Any]
) -> tuple[RunConfig, dict[str, list[Any]], Path]:
    """Read what is to be compared off the command line and the recipe."""
    from alprune.runs.compare import merged, read_grid_recipe, seeds_of, values_of

    axes = {option: values_of(option, chosen.pop(a)) for a, option in _AXES.items() if a in chosen}
    if "seeds" in chosen:
        axes["seed"] = seeds_of(chosen.pop("seeds"))
    for setting in chosen.pop("settings", ()):
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes OPTION=V1,V2, got {setting!r}.")
        name = name.strip().replace("-", "_")
        if name in axes:
            raise ConfigError(f"{name} is varied twice. Give all its values at once.")
        axes[name] = values_of(name, text)
    from_recipe = read_grid_recipe(recipe) if recipe else ({}, {})
    options, grid = merged(from_recipe, chosen, axes)
    if recipe is not None:
        check_trust(options | grid, recipe, chosen | axes)
    if "out" not in options:
        raise ConfigError("no folder is named for the runs: give --out outputs/NAME.")
    out = Path(options.pop("out"))
    return RunConfig.from_mapping(options), grid, out


def _refuse_beside_resume(path: Path, given: dict[str, Any]) -> None:
    if flags := flags_of(given):
        raise click.UsageError(
            f"with --resume no other options of runs may be given, not {', '.join(flags)}: the "
            f"comparison in {path} keeps the options it began with."
        )


def _list(planned: "list[tuple[Cell, str]]", as_json: bool) -> None:
    if as_json:
        rows = [{"name": c.name, "values": c.values, "state": s} for c, s in planned]
        click.echo(json.dumps({"runs": rows}))
        return
    width = max(len(cell.name) for cell, _ in planned)
    for cell, state in planned:
        click.echo(printable(f"{cell.name:{width}}  {state}"))
    click.echo(f"{len(planned)} runs")


def _json(path: Path, outcomes: "list[Outcome]", page: Path | None) -> str:
    report = None if page is None else str(page)
    rows = [outcome.record() for outcome in outcomes]
    return json.dumps({"path": str(path), "report": report, "runs": rows})


def _text(outcomes: "list[Outcome]", page: Path | None) -> str:
    from alprune.runs.compare import summary_table

    lines = [summary_table(outcomes)]
    lines += [f"{o.name} FAILED: {o.error}" for o in outcomes if o.state == "failed"]
    if page is not None:
        lines.append(f"report: {page}")
    return printable("\n".join(lines))


def _next(path: Path) -> str:
    run = shell_word(str(path / "RUN"))
    return f"Next: open the report; alprune predict {run} IMAGES or alprune export {run}"


def _exit(signals: Signals, path: Path, outcomes: "list[Outcome]") -> None:
    if any(outcome.state in ("interrupted", "waiting") for outcome in outcomes):
        click.echo(f"Interrupted. {_how_to_resume(path)}", err=True)
        sys.exit(signals.exit_code or 130)
    if any(outcome.state == "failed" for outcome in outcomes):
        click.echo(f"Some runs failed. To retry: {_command(path)}", err=True)
        sys.exit(1)


def _how_to_resume(path: Path) -> str:
    return f"To resume: {_command(path)}"


def _command(path: Path) -> str:
    return f"alprune compare --resume {shell_word(str(path))}"
