"""One run's options: a frozen record that reads and writes TOML recipes."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

import tomli_w

from alprune.data.safe_io import read_whole
from alprune.errors import ConfigError, quoted
from alprune.loop.trust import check_trust, trusting
from alprune.registry import unknown

# Names that the rooms which compute know by their registries; here, as no import of these is light.
CHOICES = {
    "after_pruning": ("inherit", "reinit", "rescale"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16"),
    "schedule": ("constant", "linear", "cosine"),
}

# Some hundred lines. Keys of many parts (a.b.c) take a parser time and memory with their square.
_RECIPE_BYTES = 32 * 1024
_LINE_DOTS = 128


def _option(default: Any, help: str, **extra: Any) -> Any:
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options of one run; every one is also an option of `alprune run` and a recipe key.

    An option that is None takes the data set's or the method's own default, see `resolved`.
    """

    budget: float | None = _option(None, "Seconds on the clock (3600, unless --steps is given).")
    steps: int | None = _option(
        None,
        "Acquisition steps at most, instead of or beside --budget; 0: train on the first points "
        "only.",
    )
    method: str = _option("3sp-ca", "How the learner is pruned; `alprune list` names all.")
    flops_reduction: float | None = _option(
        None, "Share of the FLOPs to remove (3sp and uniform: 0.5, 3sp-ca: 0.9)."
    )
    params_reduction: float | None = _option(
        None, "Share of the parameters to remove instead (of the weights, for weight masks)."
    )
    channels_reduction: float | None = _option(
        None, "Share of the channels to remove instead (the papers' percentile p)."
    )
    latency_reduction: float | None = _option(
        None, "Share of the latency to remove instead, measured on this machine."
    )
    latency_batch: int = _option(1, "Examples a forward pass where latency is measured.")
    latency_aware: bool = _option(False, "Divide scores by a channel's measured latency.")
    prune_at: str | None = _option(
        None, "With method epi: 'epi' (when the structure rests), an epoch, or 'random'."
    )
    epi_criterion: str = _option("taylor", "With method epi: taylor or magnitude.")
    prune_batch: int = _option(32, "Labelled examples whose loss decides what is pruned.")
    prune_batches: int = _option(1, "Such batches; their scores are accumulated.")
    smoothing: float | None = _option(
        None, "Lambda of 3SP+CA: larger listens less to the cost (0.05; 0.01 for our models)."
    )
    channel_cost: str | None = _option(
        None,
        "A channel's cost to 3SP+CA, 'made' (FLOPs of making it, as published) or 'step' (what a "
        "training step spends on it) (made; step for our models).",
    )
    temperature: float = _option(200.0, "Divides the logits in structured-grasp.")
    rounds: int = _option(10, "Rounds of 3sp-iterative.")
    min_channels: int | None = _option(
        None,
        "Channels that every layer keeps at least (0: a sixteenth of its own, at least 4; 4 where "
        "nothing is narrowed before training).",
    )
    round_to: int | None = _option(
        None,
        "Make widths multiples of this (0: of 8 in wide layers and less in narrow ones; 1 where "
        "nothing is narrowed before training).",
    )
    ignore: str | None = _option(
        None,
        "Layers that keep all their channels: names or patterns, such as 'stem,layer4.*', by "
        "commas.",
    )
    local: bool = _option(
        False, "Rank channels within each layer, so that all layers lose the same share."
    )
    after_pruning: str | None = _option(
        None,
        "Weights after the cut: inherit, reinit or rescale (reinit; inherit for your own model and "
        "with --pretrained).",
    )
    dataset: str = _option(
        "cifar10",
        "cifar10, cifar100, mnist, fashion-mnist, digits, npz:PATH, folder:PATH, shards:PATH.",
    )
    data_root: str | None = _option(None, "Folder for downloads ($ALPRUNE_DATA or ~/.cache).")
    cache: str | None = _option(
        None, "Folder that decoded images are kept in ($ALPRUNE_CACHE or ~/.cache/alprune)."
    )
    skip_unreadable: bool = _option(False, "Leave out images that do not decode.")
    follow_links: bool = _option(False, "Read images behind links that lead out of the folder.")
    imbalance: float = _option(
        1.0, "Long-tail the pool: times as many points of the first class as of the last."
    )
    label_noise: float = _option(0.0, "Share of the pool for which the answer is a wrong label.")
    model: str = _option("vgg19", "The learner; `alprune list` names all, module:function works.")
    learner: str | None = _option(
        None,
        "trained: the network learns; frozen: only a head does, on a pretrained network (trained; "
        "where people label photographs: frozen).",
    )
    pretrained: str | None = _option(
        None,
        "Weights to start from: imagenet (of efficientnet-lite0, torchvision:NAME, timm:NAME), or "
        "a file of tensors, .safetensors or .pt; they are pruned, never re-initialised.",
    )
    pretrained_digest: str | None = _option(
        None, "Hash that the file of --pretrained must have; a run writes it down."
    )
    init: str = _option("he", "Initialisation: he, default (PyTorch's), vs-x (Glorot), ...")
    image_size: int | None = _option(
        None, "Resize images to this square, whole, not cropped (the learner's own size)."
    )
    acquisition: str = _option("entropy", "What is labelled next; module:function works.")
    start: str | None = _option(
        None,
        "How the first points are chosen: balanced, random, typiclust or module:function "
        "(balanced; random with --imbalance).",
    )
    initial: int | None = _option(None, "Points labelled at the start (1000).")
    sync_batchnorm: bool = _option(
        False, "Normalise over the batches of all processes, under torchrun."
    )
    hold_out: int = _option(
        0, "Of these, points that are not trained on; a temperature is fitted to them at the end."
    )
    query_size: int | None = _option(None, "Points acquired a step (50).")
    score_subset: int | None = _option(
        None, "Score a fresh random subset of the pool of this size a step (see --score-share)."
    )
    score_share: float = _option(
        0.25,
        "Under a budget, score as many as take this share of a step; 1: always the whole pool.",
    )
    initial_epochs: float | None = _option(None, "Passes over the first points before step 1.")
    epochs: float | None = _option(None, "Passes over the labelled points a step.")
    batch_size: int | None = _option(None, "Examples a training batch (64).")
    lr: float | None = _option(None, "Peak learning rate (0.05; 0.01 with --pretrained).")
    momentum: float = _option(0.9, "Nesterov momentum of SGD.")
    weight_decay: float = _option(5e-4, "Weight decay of SGD.")
    label_smoothing: float = _option(0.0, "Share of the target spread over all classes.")
    warmup_batches: int | None = _option(None, "Batches over which the rate climbs.")
    schedule: str = _option("linear", "Fall of the rate over the run: constant, linear, cosine.")
    averaging: float = _option(0.99, "Decay of the weights' average that scores and is tested.")
    flip: bool | None = _option(None, "Mirror images at random (what the data set allows).")
    pad: int = _option(4, "Pixels of padding for the random crop.")
    eval_every: int | None = _option(
        None,
        "Test after every so many steps, never on the clock (every one; under a budget as often "
        "as a tenth of the time on the clock allows).",
    )
    stop_labels: int | None = _option(None, "Ask for labels until so many are known, then stop.")
    stop_accuracy: float | None = _option(None, "Stop once a test finds this accuracy, 0 to 1.")
    stop_uncertainty: float | None = _option(
        None, "Stop once the scored points' mean entropy is below this (nats)."
    )
    stop_plateau: int | None = _option(None, "Stop after so many tests without a better one.")
    seed: int = _option(0, "Seed of everything that is drawn.")
    device: str = _option("auto", "auto, cpu or cuda.")
    precision: str = _option("auto", "auto, fp32 or bf16 (auto: bf16 where hardware has it).")
    cuda_graphs: bool = _option(
        True, "On a GPU, record training and scoring steps and launch each at once."
    )
    out: str | None = _option(None, "Run folder (outputs/<dataset>-<method>-seed<seed>).")

    def __post_init__(self) -> None:
        for entry in fields(self):
            if isinstance(getattr(self, entry.name), os.PathLike):
                object.__setattr__(self, entry.name, os.fspath(getattr(self, entry.name)))
            _check_type(entry, getattr(self, entry.name))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"{name} must be at least {least:g}, got {value:g}.")
        if self.seed >= 2**63 - 8:  # a run draws from the seeds that follow, too
            raise ConfigError(f"seed must be less than 2^63 - 8, got {self.seed}.")
        if self.out == "":
            raise ConfigError("out must name a folder, got an empty name.")
        if not 0 < self.score_share <= 1:
            raise ConfigError(f"score_share must be in (0, 1], got {self.score_share:g}.")
        for name in ("stop_accuracy", "label_noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is a share: it must be in [0, 1], got {value:g}.")
        for name in ("budget", "epochs", "initial_epochs", "lr", "imbalance", "stop_uncertainty"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be more than 0 and finite, got {value:g}.")

    @classmethod
    def from_toml(
        cls, path: str | Path, *, trust_code: bool = False, **overrides: Any
    ) -> "RunConfig":
        """Read a recipe; `overrides` win over it.

        Args:
            path: The file.
            trust_code: Whether the file may name code (`module:function`), which a run imports.
            **overrides: Options by name; code that they name needs no trust.

        Raises:
            ConfigError: The file is missing or no TOML, holds an unknown key, or names code
                without `trust_code`.
        """
        record = read_recipe(path)
        if "grid" in record:
            raise ConfigError(
                f"recipe {path} holds a [grid], the options of many runs; run it with alprune "
                f"compare --recipe {path}."
            )
        with trusting(trust_code):
            check_trust({k: v for k, v in record.items() if k not in overrides}, path, overrides)
        try:
            return cls.from_mapping(record | overrides)
        except ConfigError as error:
            raise ConfigError(f"recipe {path}: {error}") from error

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any]) -> "RunConfig":
        """Build from a mapping of option names; unknown ones are refused."""
        known = {entry.name: entry for entry in fields(cls)}
        for key in record:
            if key not in known:
                raise unknown("option", key, known)
        return cls(**record)

    def to_toml(self) -> str:
        """Return the options that are set, as a recipe."""
        return tomli_w.dumps(given(asdict(self)))

    def resolved(self, defaults: Mapping[str, Any]) -> "RunConfig":
        """Fill the options left open from `defaults`, by option name."""
        known = {entry.name for entry in fields(self)}
        filled = {k: v for k, v in defaults.items() if k in known and getattr(self, k) is None}
        return replace(self, **filled)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that are None."""
    return {name: value for name, value in options.items() if value is not None}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe as it is, its options unchecked.

    Raises:
        ConfigError: The file is missing, too long or no TOML.
    """
    try:
        text = read_whole(path, _RECIPE_BYTES).decode()
        if any(line.count(".") > _LINE_DOTS for line in text.split("\n")):
            raise ValueError(f"a line has more than {_LINE_DOTS} dots")
        record: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise ConfigError(
            f"recipe {path} is nested too deep; a recipe is a list of option = value."
        ) from error
    except ValueError as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise ConfigError(f"recipe {path} is no valid TOML: {error}.") from error
    return record


_LEAST: dict[str, float] = {
    "steps": 0,
    "min_channels": 0,
    "round_to": 0,
    "rounds": 1,
    "latency_batch": 1,
    "initial": 1,
    "prune_batch": 2,
    "prune_batches": 1,
    "query_size": 1,
    "score_subset": 1,
    "batch_size": 2,
    "warmup_batches": 0,
    "pad": 0,
    "eval_every": 1,
    "imbalance": 1,
    "hold_out": 0,
    "stop_labels": 1,
    "stop_plateau": 1,
    "weight_decay": 0,
    "smoothing": 0,
    "seed": 0,
}


def option_type(entry: Field[Any]) -> tuple[type, bool]:
    """Return an option's plain type and whether None is allowed."""
    hint: Any = entry.type
    if isinstance(hint, UnionType):
        plain = [kind for kind in get_args(hint) if kind is not NoneType]
        return plain[0], True
    return hint, False


def default_of(entry: Field[Any]) -> Any:
    """Return an option's default value."""
    return None if entry.default is MISSING else entry.default


def _check_type(entry: Field[Any], value: Any) -> None:
    kind, optional = option_type(entry)
    if value is None and optional:
        return
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    right = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise ConfigError(
            f"{entry.name} must be {kind.__name__}, got {quoted(value)} ({type(value).__name__})."
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(
            f"{entry.name} must be less than 2^63, got a number of {value.bit_length()} bits."
        )
    # Names of files and folders: neither a file system nor a recipe could hold these.
    if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        raise ConfigError(f"{entry.name} must be text (UTF-8, no null), got {quoted(value)}.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, as Python reads bytes that are no UTF-8
        return False
    return True
