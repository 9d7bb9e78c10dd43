"""`alprune run` and `alprune rerun`."""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from alprune.cli.common import config_of
from alprune.cli.options import Command, Option, flags_of, log_options, run_options, trust_option
from alprune.errors import StoreError, shell_word
from alprune.loop.config import RunConfig
from alprune.loop.observers import Observer

if TYPE_CHECKING:
    from alprune.loop import RunResult
    from alprune.loop.defaults import ResolvedRun
    from alprune.loop.signals import Signals
    from alprune.runs.rerun import Comparison
    from alprune.training.distributed import Team

_RUN_EXAMPLES = """\b
Without a download:      alprune run --dataset digits --budget 1m
The paper's experiment:  alprune run --budget 1h --method 3sp-ca
After a reboot:          alprune run --resume outputs/cifar10-3sp-ca-seed0
"""


@click.command("run", cls=Command, epilog=_RUN_EXAMPLES)
@run_options()
@click.option(
    "--resume",
    "path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Resume the run in DIR with its options; --budget or --steps extend it.",
)
@log_options
@cloup.option(
    "--verbose", cls=Option, rare=True, is_flag=True, help="List the layers at their minimum width."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run_command(
    recipe: Path | None,
    path: Path | None,
    log: tuple[str, ...],
    verbose: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Label, train, score and acquire until the budget ends.

    The learner is pruned once, on the first labelled points. Everything is recorded in the run
    folder, and an interrupted run can be resumed. For one run on several processes or GPUs:
    torchrun --nproc-per-node N -m alprune run ...
    """
    from alprune.loop.setup import complete
    from alprune.loop.signals import Signals, how_to_resume
    from alprune.training.distributed import helps

    with Signals() as signals:
        if path is None:
            config = config_of(recipe, given)
            with _team(config) as team:
                shown = _observer(whole := team.same(complete(config)), log, verbose)
                result = _run(signals, whole, shown, team)
        else:
            result = _resume(signals, path, {"recipe": recipe} | given, log, verbose)
        if helps():
            return
        _draw(result.path)
        click.echo(_result_json(result) if as_json else _result_table(result))
        if result.reason == "interrupted":
            click.echo(f"Interrupted. {how_to_resume(result.path)}", err=True)
            sys.exit(signals.exit_code or 130)


def _draw(path: Path) -> None:
    """Draw the picture, if that goes: the record is written, and the picture may wait."""
    from alprune.runs.report import plot_curve

    try:
        plot_curve(path, path / "curve.png")
    except StoreError as error:
        warnings.warn(str(error), stacklevel=2)
    except KeyboardInterrupt:
        pass


def _team(config: RunConfig) -> "Team":
    from alprune.training.distributed import helps, join

    team = join(config.sync_batchnorm)
    if helps():
        warnings.simplefilter("ignore")  # the first process says the same
    return team


def _run(
    signals: "Signals", config: "ResolvedRun", observer: Observer, team: "Team | None" = None
) -> "RunResult":
    from alprune.loop.setup import open_run
    from alprune.training.distributed import ALONE

    session, oracle = open_run(config, observer=observer, team=team or ALONE)
    signals.end(session)
    return session.run(oracle)


def _observer(config: "ResolvedRun", log: tuple[str, ...] = (), verbose: bool = False) -> Observer:
    from alprune.loop.progress import observer_for
    from alprune.loop.trackers import require_trackers, tracked
    from alprune.training.distributed import helps

    if helps():
        return Observer()
    require_trackers(log)
    return tracked(observer_for(config, verbose=verbose), Path(config.out), log)


def _resume(
    signals: "Signals", path: Path, given: dict[str, Any], log: tuple[str, ...], verbose: bool
) -> "RunResult":
    from alprune.loop.resume import finished, options, reopen

    limits = {name: given.pop(name) for name in ("budget", "steps")}
    others = flags_of(given)
    if others:
        raise click.UsageError(
            f"with --resume only --budget and --steps may be given, not {', '.join(others)}: the "
            f"run in {path} keeps all other options."
        )
    ended = finished(path, **limits)
    if ended is not None:
        return ended
    signals.going_on(path)
    config = options(path, **limits)
    with _team(config) as team:
        observer = _observer(config, log, verbose)
        session, oracle = reopen(path, None, observer, **limits, team=team)
        signals.end(session)
        return session.run(oracle)


@click.command("rerun", cls=Command)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="NEW",
    help="Folder of the second run [default: DIR-rerun].",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def rerun_command(path: Path, out: Path | None, as_json: bool) -> None:
    """Repeat a run that has ended, with the same options, and compare the two.

    Runs limited by --steps alone, on a CPU, must be equal: the exit code is 1 if they differ.
    """
    from alprune.loop.signals import Signals, how_to_resume
    from alprune.runs.rerun import again, compare

    with Signals() as signals:
        config = again(path, out)
        result = _run(signals, config, _observer(config))
        if result.reason == "interrupted":
            click.echo(f"Interrupted. {how_to_resume(result.path)}", err=True)
            sys.exit(signals.exit_code or 130)
    found = compare(path, result.path)
    click.echo(json.dumps(asdict(found)) if as_json else _comparison_table(found, result.path))
    if found.exact and not found.equal:
        sys.exit(1)


def _result_json(result: "RunResult") -> str:
    record = {name: getattr(result, name) for name in result.__dataclass_fields__}
    return json.dumps(record | {"path": str(result.path)})


def _result_table(result: "RunResult") -> str:
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
    where = shell_word(str(result.path))
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    if result.reason != "interrupted":
        commands = [f"alprune report {where}", f"alprune predict {where} IMAGES"]
        lines.append(f"Next: {', '.join(commands)} or alprune export {where}")
    return "\n".join(lines)


def _comparison_table(found: "Comparison", second: Path) -> str:
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
