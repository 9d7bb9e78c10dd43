"""The learner of a run, found again without the run's data; and the file that holds one alone."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from alprune import models
from alprune.data.safe_io import read_whole
from alprune.errors import AlpruneError, DataError, PruneError, StoreError, quoted
from alprune.loop.checkpoint import load_checkpoint
from alprune.loop.config import RunConfig
from alprune.loop.event_log import kind_of, read_events, resume_command
from alprune.loop.rebuild import rebuilt_network
from alprune.loop.run_folder import CONFIG
from alprune.loop.saved_learner import saved_learner
from alprune.loop.trust import check_trust, code_name, trusting
from alprune.models.memory import check_memory
from alprune.pruning import Plan, rebuild
from alprune.training.classifier import Classifier
from alprune.training.input_spec import INPUTS, Inputs
from alprune.training.state import weights_file

_PLAN = "plan.json"
_WEIGHTS = "model.safetensors"
Builder = Callable[[Inputs], nn.Module]
_CHANNELS_FREE = 16  # of images: more of them have to show in the shape of a weight
_TEXT_MOST = 2**25  # bytes of a plan, or of inputs
_KEY = "alprune.learner"  # in the metadata of a file that `to_bytes` made
_FORMAT = 1  # of what is there


@dataclass(frozen=True)
class Learned:
    """A trained learner, with all that making it again takes.

    Attributes:
        classifier: Its network as it was trained, BatchNorms and weight masks in place.
        model: Name of the unpruned network.
        plan: What stayed of it.
        state: Of when it is, in words: "the end of the run".
        notes: What its users should know.
        config: The run's options; None where it comes from a file of its own.
        details: What an export has made of it, for the file of labels, JSON values.
    """

    classifier: Classifier
    model: str
    plan: Plan
    state: str
    notes: tuple[str, ...] = ()
    config: RunConfig | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def warn(self) -> None:
        """Give the notes as warnings."""
        for note in self.notes:
            warnings.warn(note, stacklevel=3)


def load_learner(
    path: str | Path, model: nn.Module | None = None, *, trust_code: bool = False
) -> Classifier:
    """Load a trained learner, ready to classify; its data are not needed.

    Args:
        path: A run folder, or a file made by `alprune export --format safetensors`.
        model: The unpruned network, as your builder makes it, for a network of your own. No code
            that a file names is run.
        trust_code: Whether the builder that a run folder names (`module:function`) may be
            imported, instead of giving `model`.

    Returns:
        A module that maps images `(n, h, w, c)` to probabilities `(n, classes)`, in eval mode.

    Raises:
        StoreError: No learner is there, or it is damaged.
        ModelError: Its network cannot be built.
        ConfigError: The run's options cannot be read, or it has a network of your own and neither
            `model` nor `trust_code` was given.
    """
    with trusting(trust_code):
        found = find_learner(path, model)
    found.warn()
    return found.classifier


def find_learner(path: str | Path, model: nn.Module | None = None) -> Learned:
    """Return what `load_learner` loads, and what is known of it; as there."""
    path = Path(path)
    if path.is_dir():
        return _of_run(path, model)
    if path.exists():
        return _of_file(path, model)
    raise StoreError(f"there is no run folder or file {str(path)!r}.")


def _of_run(path: Path, model: nn.Module | None) -> Learned:
    if not (path / CONFIG).exists():
        raise StoreError(f"{path} holds no run, whose learner could be taken: {CONFIG} is missing.")
    config = RunConfig.from_toml(path / CONFIG, trust_code=True)
    if model is None:  # nothing else that the options name is used here
        check_trust({"model": config.model}, path / CONFIG)

    def unpruned(inputs: Inputs) -> nn.Module:
        if model is not None:
            return model
        return _built(config.model, inputs, config.seed)

    events = read_events(path)
    last: Mapping[str, Any] = events[-1] if events else {"event": "none"}
    reason = str(last.get("reason", ""))
    if last["event"] == "end" and not reason.startswith("error") and (path / _WEIGHTS).exists():
        return _of_end(path, config, last, unpruned)
    return _of_checkpoint(path, config, events, unpruned)


def _of_end(path: Path, config: RunConfig, end: Mapping[str, Any], unpruned: Builder) -> Learned:
    try:
        state = load_file(path / _WEIGHTS)
        plan = Plan.from_json(read_whole(path / _PLAN, _TEXT_MOST).decode())
    except PruneError as error:
        raise StoreError(f"{path / _PLAN} cannot be read: {error}") from error
    except Exception as error:  # safetensors has an error of its own
        raise StoreError(f"the learner in {path} cannot be read: {error}.") from error
    inputs = _inputs(path)
    _check_together(inputs, plan, state)
    network = _fitting(path, lambda: _rebuilt(unpruned(inputs), plan, state))
    classifier = Classifier(network, inputs, _temperature(end.get("temperature")))
    notes: tuple[str, ...] = ()
    if end["reason"] in ("interrupted", "stopped"):
        notes = (
            f"the run in {path} was {end['reason']}: this is its learner as it was then. To go on: "
            f"{resume_command(path)}",
        )
    return Learned(classifier, config.model, plan, "the end of the run", notes, config)


def _of_checkpoint(
    path: Path, config: RunConfig, events: Sequence[Mapping[str, Any]], unpruned: Builder
) -> Learned:
    saved = saved_learner(load_checkpoint(path) or {})
    if saved is None or not saved.trained:
        raise StoreError(
            f"{path} holds no learner that was trained. To train it: {resume_command(path)}"
        )
    inputs = saved.inputs
    _check_together(inputs, saved.plan, saved.weights)
    network, plan = _fitting(path, lambda: rebuilt_network(config, inputs, saved, unpruned))
    kind, reason = kind_of(path), str(events[-1].get("reason", "")) if events else ""
    when = kind.moment.format(step=saved.step)
    notes: tuple[str, ...] = ()
    if kind.ends:
        why = f"has ended with an {reason}" if reason else "has not ended, or was killed"
        if reason and not reason.startswith("error"):
            why = f"has ended ({reason}), but without its weights"
        notes = (f"the run in {path} {why}: this is its learner of {when}.",)
    changes = _changes(events, saved.renames)
    inputs, merged = _fitting(path, lambda: _renamed(inputs, changes))
    notes += tuple(
        f"class {name!r} was merged into {into!r} after this learner was trained, which still "
        f"tells them apart. To train it anew: {resume_command(path)}"
        for name, into in merged.items()
    )
    classifier = Classifier(network, inputs, _temperature(saved.temperature))
    return Learned(classifier, config.model, plan, when, notes, config)


def _changes(events: Sequence[Mapping[str, Any]], seen: int) -> list[Mapping[str, Any]]:
    """Return the changes of names after the first `seen`; what removes and adds classes since."""
    found, count = [], 0
    for event in events:
        count += event["event"] == "rename_class"
        if event["event"] == "rename_class" and count > seen:
            found.append(event)
        elif event["event"] in ("remove_class", "classes", "tell") and count >= seen:
            found.append(event)
    return found


def _renamed(inputs: Inputs, changes: Sequence[Mapping[str, Any]]) -> tuple[Inputs, dict[str, str]]:
    """Give the outputs the names that people gave their classes since; return what they merged."""
    names = list(inputs.classes)
    merged: dict[str, str] = {}
    removed: set[str] = set()
    for event in changes:
        if event["event"] in ("classes", "tell"):  # a removed class may be there again
            removed -= {*event.get("added", ()), *(a["label"] for a in event.get("answers", ()))}
            continue
        of = event["of"]
        if of not in names or of in merged or of in removed:
            continue
        if event["event"] == "remove_class":
            removed.add(of)
            continue
        to = event["to"]
        if to in names and to not in merged and to not in removed:
            merged[of] = to
            continue
        place = names.index(of)
        if to in merged:  # the freed name of an output that was merged, which takes this one's
            names[names.index(to)], merged[of] = of, merged.pop(to)
        elif to in removed:
            names[names.index(to)] = of
            removed = removed - {to} | {of}
        names[place] = to
        merged = {name: to if into == of else into for name, into in merged.items()}
    return replace(inputs, classes=tuple(names)), merged


def _built(name: str, inputs: Inputs, seed: int = 0) -> nn.Module:
    """Build an unpruned network; one of the libraries' only after a look at its size."""
    classes, shape = len(inputs.classes), inputs.image_shape
    build = partial(models.build, name, classes, shape, seed)
    if code_name("model", name) is None:
        check_memory(build, shape, classes, f"the learner {name!r}")
    return build()


def _rebuilt(fresh: nn.Module, plan: Plan, state: Mapping[str, Tensor]) -> nn.Module:
    return rebuild(fresh, plan, state).eval()


def _check_together(inputs: Inputs, plan: Plan, state: Mapping[str, Tensor]) -> None:
    """Refuse what does not belong together before a network of any size is built for it."""
    classes = len(inputs.classes)
    if not any(tensor.ndim and len(tensor) == classes for tensor in state.values()):
        raise StoreError(f"no layer has an output for each of the {classes:,} classes.")
    channels = inputs.image_shape[0]
    sides = (side for t in state.values() if t.ndim > 1 for side in t.shape)
    if channels > _CHANNELS_FREE and not any(side % channels == 0 for side in sides):
        raise StoreError(f"no layer takes images of {channels:,} channels.")
    if plan.example_shape != inputs.image_shape:
        raise StoreError(
            f"the plan is for images {plan.example_shape}, and the learner takes "
            f"{inputs.image_shape}."
        )


def _fitting(path: Path, make: Any) -> Any:
    """Call `make`; whatever a state that belongs elsewhere leads to is a StoreError."""
    try:
        return make()
    except AlpruneError:
        raise
    except Exception as error:
        raise StoreError(
            f"the learner in {path} does not fit its network: {error!r}. It was written by another "
            "version of alprune or of the network."
        ) from error


def _inputs(path: Path) -> Inputs:
    try:
        text = read_whole(path / INPUTS, _TEXT_MOST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path / INPUTS}: {error}.") from error
    try:
        return Inputs.from_json(text)
    except DataError as error:
        raise StoreError(f"{path / INPUTS} cannot be read: {error}") from error


def _temperature(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise StoreError(f"the temperature must be a number above 0, got {quoted(value)}.")
    return float(value)


def to_bytes(learned: Learned) -> bytes:
    """Pack a learner into a safetensors file that needs no run folder beside it.

    Its metadata hold the names of the classes as a JSON list ("classes") and what else is needed
    to make the network again.
    """
    classifier = learned.classifier
    record = {
        "format": _FORMAT,
        "model": learned.model,
        "inputs": classifier.inputs.record(),
        "temperature": classifier.temperature,
        "plan": learned.plan.to_json(),
        "state": learned.state,
    }
    classes = json.dumps(classifier.classes)
    return weights_file(classifier.network, {_KEY: json.dumps(record), "classes": classes})


def _of_file(path: Path, model: nn.Module | None) -> Learned:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {})[_KEY]
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if len(text) > 2 * _TEXT_MOST:
            raise ValueError(f"it has {len(text):,} characters of metadata")
        record = json.loads(text)
        if record["format"] != _FORMAT:
            raise ValueError(f"its format is {quoted(record['format'])}, and {_FORMAT} is read")
        name, when, told = str(record["model"]), str(record["state"]), str(record["plan"])
        inputs, plan = Inputs.from_record(record["inputs"]), Plan.from_json(told)
        temperature = _temperature(record["temperature"])
    except Exception as error:  # safetensors, JSON, anything in an untrusted file
        raise StoreError(
            f"{path} is not a learner that alprune has exported as safetensors: "
            f"{str(error).rstrip('.')}."
        ) from error
    if model is None and not models.is_listed(name):
        raise StoreError(
            f"{path} holds a network of your own, {quoted(name)}, and no code that a file names is "
            "run. Build it and pass it: alprune.load_learner(path, model=...)."
        )
    _check_together(inputs, plan, state)
    network = _fitting(path, lambda: _rebuilt(model or _built(name, inputs), plan, state))
    return Learned(Classifier(network, inputs, temperature), name, plan, when)
