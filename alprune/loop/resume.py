"""Resume a run that was interrupted, killed or has reached its end."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alprune.acquisition import Acquisition, find_acquisition, recorded_name, snapshots_of
from alprune.data import Splits
from alprune.errors import AlpruneError, DataError, StoreError
from alprune.loop import Oracle, RunResult, Session
from alprune.loop.checkpoint import SLOTS, load_checkpoint
from alprune.loop.config import RunConfig, given
from alprune.loop.csv_tables import read_labels
from alprune.loop.defaults import ResolvedRun
from alprune.loop.event_log import RUN, first_event, kind_of, read_events, resume_command
from alprune.loop.events import Observer
from alprune.loop.pool import LabelPool
from alprune.loop.rebuild import rebuilt_learner
from alprune.loop.recipe import read_recipe
from alprune.loop.run_folder import CONFIG, NullRunFolder, RunFolder
from alprune.loop.saved_learner import saved_learner
from alprune.loop.setup import complete, load_splits, open_session, simulation
from alprune.loop.trust import check_trust, trusting
from alprune.training.device import pick_device
from alprune.training.distributed import ALONE, Team, join

# Options that may differ from those the run was started with.
# `_check_same` compares what the data are, not where they are.
# What the weights are, `pretrained_digest` says.
_FREE = {"budget", "steps", "out", "data_root", "dataset", "device", "cache", "cuda_graphs"} | {
    "pretrained"
}


def resume(
    path: str | Path,
    *,
    acquisition: Acquisition | None = None,
    observer: Observer | None = None,
    budget: float | None = None,
    steps: int | None = None,
    trust_code: bool = False,
) -> RunResult:
    """Resume a run from its last checkpoint, at most one step back.

    Without a budget, on a CPU, it ends exactly as if it had never been interrupted. An acquisition
    function that remembers something between steps needs `state_dict` and `load_state_dict` for it.

    Args:
        path: The run folder.
        acquisition: Your own function, if the run was started with one.
        observer: Receives events as they happen.
        budget: A new budget in seconds, those already spent included, to extend the run.
        steps: A new number of steps, those already made included, to extend the run. An extended
            run does its last step again, to the new end.
        trust_code: Whether code that the folder names (`module:function`) may be imported.

    Returns:
        How the run ended, as from `run`. A run that had ended already is left as it is.

    Raises:
        AlpruneError: No run is there, another process writes to it, it was changed, or its data
            was; and as from `run`.
    """
    path = Path(path)
    with trusting(trust_code):
        ended = finished(path, budget, steps)
        if ended is not None:
            return ended
        with join(options(path).sync_batchnorm) as team:
            session, oracle = reopen(path, acquisition, observer, budget, steps, team=team)
            return session.run(oracle)


def options(path: Path, budget: float | None = None, steps: int | None = None) -> ResolvedRun:
    """Return the options of the run in a folder, with a new budget or steps if given."""
    if not (path / CONFIG).exists():
        raise StoreError(f"{path} holds no run to resume; start one with --out {path}.")
    if kind_of(path) is not RUN:
        raise StoreError(f"{path} holds no run. To resume what it holds: {resume_command(path)}.")
    record = read_recipe(path / CONFIG)
    check_trust(record, path / CONFIG)
    new = {"budget": budget, "steps": steps, "out": str(path)}
    config = RunConfig.from_toml(path / CONFIG, trust_code=True, **given(new))
    return complete(config, new=False)


def finished(path: Path, budget: float | None, steps: int | None) -> RunResult | None:
    """Return how a run ended and warn how to extend it; None if it can be resumed."""
    config = options(path, budget, steps)
    events = read_events(path) if (path / "events.jsonl").exists() else []
    last: dict[str, Any] = events[-1] if events else {"event": "none"}
    if last["event"] != "end" or last["reason"].startswith(("interrupted", "stopped", "error")):
        return None
    if last["reason"] == "budget" and (config.budget or 0) > last["elapsed_s"]:
        return None
    if last["reason"] == "steps" and (config.steps or 0) > (last["steps"] or 0):
        return None
    how = {
        "budget": f"give a --budget of more than {last['elapsed_s']:.0f} seconds",
        "steps": f"give --steps of more than {last['steps']}",
    }.get(last["reason"], "nothing is left to do; start a new run")
    warnings.warn(
        f"the run in {path} has ended ({last['reason']}). To go further, {how}.", stacklevel=3
    )
    return RunResult(
        path=path,
        reason=last["reason"],
        elapsed_s=last["elapsed_s"],
        labelled=last["labelled"],
        steps=last["steps"],
        test_accuracy=last["test_accuracy"],
    )


def reopen(
    path: Path,
    acquisition: Acquisition | None = None,
    observer: Observer | None = None,
    budget: float | None = None,
    steps: int | None = None,
    load: Callable[[RunConfig], Splits] = load_splits,
    team: Team = ALONE,
    where: Mapping[str, Any] | None = None,
) -> tuple[Session, Oracle]:
    """Return a session that resumes a run, and where its labels come from.

    A run that was killed before its first checkpoint begins again. `load` returns its data, and
    `team` makes the run from here on, of whatever size the one before was. `where` holds options
    that say where data and weights are now.

    Raises:
        AlpruneError: As from `resume`.
    """
    folder = RunFolder(path, resume=True) if team.rank == 0 else NullRunFolder(path)
    try:
        config = replace(options(path, budget, steps), **(where or {}))
        state = load_checkpoint(path)
        if state is None:
            _check_nothing_lost(path)
        try:
            splits = load(config)
        except DataError as error:
            raise DataError(
                f"{error} If the data of the run have moved, say where they are at `dataset` or "
                f"`data_root` in {path / CONFIG}."
            ) from error
        if state is None:
            first = first_event(path)
            if "acquisition" in first:
                _check_function(config, acquisition, first["acquisition"])
            why = first.get("chosen_because")
            session = open_session(config, splits, acquisition, observer, folder, team, reason=why)
        else:
            session = _restored(config, splits, acquisition, observer, folder, state, team)
        return session, simulation(config, splits.train)
    except BaseException:
        folder.close()
        raise


def _check_nothing_lost(path: Path) -> None:
    """Refuse to begin again without a checkpoint where the run had got further."""
    steps = sum(event["event"] == "step" for event in read_events(path))
    later = sum(step > 0 for _, step in read_labels(path).values())
    if steps or later:
        raise StoreError(
            f"{path} has no checkpoint left, but a record of {steps} steps and {later} labels that "
            f"were acquired. Bring {SLOTS[0]} and {SLOTS[1]} back (were they left out of a copy?), "
            "or start a new run with another --out. Nothing was changed."
        )


def _restored(
    config: ResolvedRun,
    splits: Splits,
    acquisition: Acquisition | None,
    observer: Observer | None,
    folder: RunFolder,
    state: Mapping[str, Any],
    team: Team,
) -> Session:
    train, asked = splits.train, config.acquisition if acquisition is None else acquisition
    try:
        chosen, told = find_acquisition(asked), recorded_name(asked)
        _check_same(config, splits.digest, state)
        _check_function(config, acquisition, state["acquisition"])
        saved = saved_learner(state)
        if saved is None:
            raise KeyError("learner")
        kept = saved.inputs  # what it has learnt to read, whatever this version says
        if (train.mean, train.std) != (kept.mean, kept.std):
            train = replace(train, mean=kept.mean, std=kept.std)
            test = replace(splits.test, mean=kept.mean, std=kept.std)
            splits = replace(splits, train=train, test=test)
        learner = rebuilt_learner(config, train, saved, snapshots_of(chosen), team)
        pool = LabelPool(len(train), len(train.classes))
        session = Session(config, splits, pool, learner, saved.plan, folder, chosen, told, observer)
        session.restore(state)
    except AlpruneError:
        raise
    except Exception as error:  # what a state that belongs elsewhere leads to
        raise StoreError(
            f"the checkpoint in {folder.path} does not fit the run: {error!r}. It was written by "
            "another version of alprune, of the learner or of the acquisition function."
        ) from error
    return session


def _check_same(config: RunConfig, digest: str, state: Mapping[str, Any]) -> None:
    now, then = given(asdict(config)), state["config"]
    changed = [k for k in sorted({*now, *then} - _FREE) if now.get(k) != then.get(k)]
    if changed:
        told = ", ".join(f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in changed)
        raise StoreError(
            f"{config.out}/{CONFIG} was changed since the run began: {told}. Put it back, or "
            f"start a new run with --recipe {config.out}/{CONFIG} and another --out."
        )
    if digest != state["data_digest"]:
        raise DataError(
            f"the data of {config.dataset!r} are not those that the run began with (digest "
            f"{digest}, was {state['data_digest']}). Put the old ones back, or start a new run."
        )
    device = pick_device(config.device).type
    if device != state["device"]:
        raise StoreError(
            f"the run was computed on {state['device']!r}, and its random draws cannot be "
            f"continued on {device!r}. Resume it where it was; where there are both, put device = "
            f'"{state["device"]}" into {config.out}/{CONFIG}; or start a new run.'
        )


def _check_function(config: ResolvedRun, acquisition: Acquisition | None, recorded: str) -> None:
    """Refuse a function that is not the one that chose the points so far.

    One that was passed may have moved to another module.
    """
    told = recorded_name(config.acquisition if acquisition is None else acquisition)
    passed, name = acquisition is not None, recorded.partition(":")[2]
    moved = passed and name != "" and name == told.partition(":")[2]
    if recorded != told and not moved:
        raise StoreError(
            f"the run chose its points by {recorded!r}, not by {told!r}. Pass that function: "
            "alprune.resume(path, acquisition=...)."
        )
